"""Words, tags and sub-tokens: nothing is lost, and tags are read where a model can know them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.tagging import align, sub_tokens, tags_of_words
from xtr.data.vocabulary import read_vocabulary
from xtr.errors import UserError

KINDS = ("t5", "xlmr", "wordpiece", "bpe")
WORDS = [
    "The",
    "quick",
    "brown-ish",
    "Boxkämpfer",
    "人人生而自由",
    ",",
    "Съешь",
    "ทุกคนเกิดมา",
    "\u200b",
    " ",
    "fox",
    "0123",
]


class Letters:
    """A token a letter; special tokens as XLM-R's, or none."""

    kind, unk_id, eos_id = "xlmr", 3, 2

    def __init__(self, special: bool):
        self.special = special

    def encode(self, text):
        return [10 + ord(c) for c in text]

    def with_special_tokens(self, ids_a):
        ids = [0, *ids_a, 2] if self.special else list(ids_a)
        return ids, [0] * len(ids)


def aligned(vocabulary, words, tags=None, **options):
    """`align` of words."""
    subs = sub_tokens(vocabulary, words)
    ids = [token for own in subs for token in own]
    return align(vocabulary, ids, [len(own) for own in subs], tags, **options)


@pytest.fixture(scope="module")
def vocabularies(small_vocabularies):
    return {kind: read_vocabulary(small_vocabularies[kind]) for kind in KINDS}


sentences = st.lists(st.text(st.sampled_from("abc"), min_size=0, max_size=9), max_size=12)


@settings(max_examples=300)
@given(words=sentences, special=st.booleans(), causal=st.booleans(), room=st.integers(1, 12), data=st.data())
def test_counts_in_are_counts_out(words, special, causal, room, data):
    vocabulary, max_length = Letters(special), room + 2 * special
    tags = data.draw(st.lists(st.integers(0, 16), min_size=len(words), max_size=len(words)))
    subs = sub_tokens(vocabulary, words)
    pieces = aligned(vocabulary, words, tags, causal=causal, max_length=max_length)
    # Every word once, in order, and its tag back.
    assert [n for piece in pieces for n in piece.words] == list(range(len(words)))
    np.testing.assert_array_equal(tags_of_words(pieces, [piece.labels for piece in pieces]), tags)
    # Every sub-token is in a row or counted as cut; only words longer than a row are cut.
    own = sum(len(piece.tokens) - 2 * special for piece in pieces)
    assert own + sum(piece.cut_tokens for piece in pieces) == sum(map(len, subs))
    assert sum(piece.cut_tokens for piece in pieces) == sum(max(0, len(s) - room) for s in subs)
    for piece in pieces:
        assert len(piece.tokens) <= max_length
        assert piece.weights.sum() == len(piece.words) > 0
        np.testing.assert_array_equal(np.flatnonzero(piece.weights), piece.positions)
        assert (piece.labels[piece.weights == 0] == 0).all()
        for number, at in zip(piece.words, piece.positions, strict=True):
            assert piece.tokens[at] == subs[number][-1 if causal else 0]
    # No piece could have held the first word of the next one.
    for piece, after in zip(pieces, pieces[1:], strict=False):
        assert len(piece.tokens) - 2 * special + min(len(subs[after.words[0]]), room) > room


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_every_kind_of_vocabulary(kind, causal, vocabularies):
    vocabulary = vocabularies[kind]
    (piece,) = aligned(vocabulary, WORDS, range(len(WORDS)), causal=causal, max_length=512)
    subs = sub_tokens(vocabulary, WORDS)
    assert all(subs) and max(map(len, subs)) > 1
    joined, _ = vocabulary.with_special_tokens([token for ids in subs for token in ids])
    assert piece.tokens.tolist() == joined
    np.testing.assert_array_equal(piece.labels[piece.positions], range(len(WORDS)))
    ends = np.cumsum([len(ids) for ids in subs])
    starts = ends - [len(ids) for ids in subs]
    before = joined.index(subs[0][0])
    np.testing.assert_array_equal(piece.positions, before + (ends - 1 if causal else starts))


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_tokenised_as_the_sentence_is(kind, vocabularies):
    words = ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    vocabulary = vocabularies[kind]
    assert [token for ids in sub_tokens(vocabulary, words) for token in ids] == vocabulary.encode(" ".join(words))


def test_a_long_sentence_is_split_between_words():
    pieces = aligned(Letters(True), ["abc", "de", "f", "ghij"], [1, 2, 3, 4], causal=False, max_length=7)
    assert [p.words.tolist() for p in pieces] == [[0, 1], [2, 3]]
    assert [p.positions.tolist() for p in pieces] == [[1, 4], [1, 2]]
    assert [p.labels.tolist() for p in pieces] == [[0, 1, 0, 0, 2, 0, 0], [0, 3, 4, 0, 0, 0, 0]]


def test_without_tags_the_places_are_told_all_the_same():
    (piece,) = aligned(Letters(True), ["ab", "c"], causal=True, max_length=9)
    assert (piece.weights.tolist(), piece.labels.tolist()) == ([0, 0, 1, 1, 0], [0] * 5)
    padded = np.array([9, 9, 5, 6, 9, 9, 9])
    assert tags_of_words([piece], [padded]).tolist() == [5, 6]


def test_a_sentence_without_words():
    assert aligned(Letters(True), [], [], causal=False, max_length=8) == []
    assert tags_of_words([], []).tolist() == []


def test_refusals():
    with pytest.raises(UserError, match="2 words has 1 tags"):
        aligned(Letters(True), ["a", "b"], [1], causal=False, max_length=8)
    with pytest.raises(UserError, match="rows of 2 tokens beside 2 special"):
        aligned(Letters(True), ["a"], [1], causal=False, max_length=2)
