"""The encoder format: ids and token types of texts and pairs are those of each family's reference tokenizer."""

import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtr.data import tagging
from xtr.data.vocabulary import read_vocabulary
from xtr.errors import DataError
from xtr.tasks.examples import Answer, Classification, MultipleChoice, Pair, Retrieval, SpanQA, Tagging
from xtr.tasks.formats import encoder

KINDS = ("t5", "xlmr", "wordpiece", "bpe")
LABELS = ("entailment", "neutral", "contradiction")
PAIRS = [
    ("The quick brown fox", "jumps over the lazy dog."),
    ("Zwölf Boxkämpfer", ""),
    ("", "人人生而自由"),
    (" two  spaces ", "</s> [SEP] <s> are text\n"),
]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def vocabulary(kind, small_vocabularies):
    return read_vocabulary(small_vocabularies[kind])


def rendered(a, b, vocabulary):
    return encoder.classification(Classification("7", a, b, 2, LABELS), vocabulary)


def test_one_text_is_hugging_faces(kind, vocabulary, small_vocabularies, hugging_face):
    theirs = hugging_face(kind, small_vocabularies[kind])
    for text, _ in PAIRS[:3]:
        ours = encoder.one_text(Classification("7", text, "", 1, LABELS), vocabulary)
        if kind == "t5":
            expected = [*theirs.convert_tokens_to_ids(theirs.tokenize(text)), 1]
        else:
            expected = theirs(text)["input_ids"]
        assert ours.inputs == expected and not any(ours.token_types) and ours.label == 1
        assert ours.inputs[slice(*ours.text_spans)] == vocabulary.encode(text)


def test_a_pair_is_hugging_faces(kind, vocabulary, small_vocabularies, hugging_face):
    theirs = hugging_face(kind, small_vocabularies[kind])
    for a, b in PAIRS[:3]:
        ours = rendered(a, b, vocabulary)
        if kind == "bpe":  # BLOOM's tokenizer puts nothing between two texts, where we put a newline
            separator = vocabulary.encode("\n")
            assert len(separator) == 1
            expected = [*theirs(a)["input_ids"], *separator, *theirs(b)["input_ids"]]
        elif kind == "t5":  # its reference is the plain SentencePiece tokenizer, which knows no pairs
            ids = [theirs.convert_tokens_to_ids(theirs.tokenize(text)) for text in (a, b)]
            expected = [*ids[0], 1, *ids[1], 1]
        else:
            # As a batch: called with an empty second text alone it makes no pair.
            encoded = theirs([a], [b], return_token_type_ids=True)
            (expected,) = encoded["input_ids"]
            if kind == "wordpiece":
                assert [ours.token_types] == encoded["token_type_ids"] and 1 in ours.token_types
        assert ours.inputs == expected, (a, b)
        assert len(ours.token_types) == len(ours.inputs) and (kind == "wordpiece" or set(ours.token_types) <= {0})


def test_spans_hold_the_texts_tokens(vocabulary):
    special = {vocabulary.eos_id, vocabulary.bos_id, vocabulary.pad_id}
    for a, b in PAIRS:
        ours = rendered(a, b, vocabulary)
        first, end, second, last = ours.text_spans
        assert ours.inputs[first:end] == vocabulary.encode(a) and ours.inputs[second:last] == vocabulary.encode(b)
        between = [*ours.inputs[:first], *ours.inputs[end:second], *ours.inputs[last:]]
        assert not special & set(ours.inputs[first:end]) and (vocabulary.kind == "bpe" or set(between) <= special)


def test_what_evaluation_needs(vocabulary):
    ours = rendered("a", "b", vocabulary)
    assert ours.label == 2 and ours.meta == {"id": "7", "choices": list(LABELS), "label": 2}
    assert ours.meta_json() == '{"id":"7","choices":["entailment","neutral","contradiction"],"label":2}'


def test_a_text_alone(vocabulary):
    ours = encoder.retrieval(Retrieval("3", "The fox", ("3",)), vocabulary)
    start, end = ours.text_spans
    assert ours.inputs == vocabulary.with_special_tokens(vocabulary.encode("The fox"))[0]
    assert ours.inputs[start:end] == vocabulary.encode("The fox")
    assert ours.meta == {"id": "3", "gold": "3"}


def test_every_choice_is_a_pair_with_the_prompt(vocabulary):
    choices = ("jumps over", "", " the lazy dog", "人人")
    for context, question, prompt in (
        ("The fox", "What next?", "The fox What next?"),
        ("The fox ", "", "The fox "),
        ("", "What?", "What?"),
        ("", "", ""),
    ):
        ours = encoder.multiple_choice(MultipleChoice("5", context, question, choices, 2), vocabulary)
        assert len(ours.choice_lengths) == 4 and len(ours.text_spans) == 16
        ends = np.cumsum(ours.choice_lengths).tolist()
        assert ends[-1] == len(ours.inputs) == len(ours.token_types)
        for i, choice in enumerate(choices):
            pair, own = rendered(prompt, choice, vocabulary), slice(ends[i] - ours.choice_lengths[i], ends[i])
            assert ours.inputs[own] == pair.inputs and ours.token_types[own] == pair.token_types
            assert ours.text_spans[4 * i : 4 * i + 4] == pair.text_spans
        assert ours.label == 2 and ours.meta == {"id": "5", "choices": list(choices), "label": 2}


def test_words_and_their_tags(vocabulary):
    words, tags = ("The", "quick", "\u200b", "fox", "\u00a0", "人人生"), ("DET", "ADJ", "X", "NOUN", "X", "NOUN")
    ours = encoder.tagging(Tagging("4", words, tags), vocabulary, ("ADJ", "DET", "NOUN", "X"))
    assert ours.tags == [1, 0, 3, 2, 3, 2] and ours.meta == {"id": "4"}
    assert len(ours.word_lengths) == 6 and min(ours.word_lengths) >= 1
    ends = np.cumsum(ours.word_lengths).tolist()
    by_word = [ours.inputs[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert by_word == tagging.sub_tokens(vocabulary, words) and ends[-1] == len(ours.inputs)


def test_tags_that_cannot_be(vocabulary):
    with pytest.raises(DataError, match=r"example '4', field 'tags\[1\]': 'B-X' is none of O, X"):
        encoder.tagging(Tagging("4", ("a", "b"), ("O", "B-X")), vocabulary, ("O", "X"))
    with pytest.raises(DataError, match="example '4', field 'tags': 1 tags for 2 words"):
        encoder.tagging(Tagging("4", ("a", "b"), ("O",)), vocabulary, ("O", "X"))


def question(context, *answers, answerable=True, name="7"):
    return SpanQA(name, context, "Which fox?", tuple(Answer(text, start) for text, start in answers), answerable)


def gold_text(ours):
    """What the tokens of the answer hold of the context."""
    first, last = ours.answer
    return ours.meta["context"][ours.starts[first] : ours.ends[last]]


def test_the_answer_is_the_first_ones_tokens(vocabulary):
    context = " The quick fox jumps over the lazy dog. The fox"
    ours = encoder.span_qa(question(context, ("fox jumps", 11), ("fox", 44)), vocabulary)
    assert gold_text(ours) == "fox jumps" and context[44:] == "fox"
    assert ours.question == vocabulary.encode("Which fox?")
    assert (ours.inputs, ours.starts, ours.ends) == vocabulary.encode_with_offsets(context)
    assert ours.meta == {
        "id": "7", "answers": ["fox jumps", "fox"], "answer_starts": [11, 44], "context": context, "answerable": True,
    }  # fmt: skip


def test_questions_without_an_answer(vocabulary):
    for answers in ((), (("fox", 4),)):  # SQuAD 2.0 has plausible answers to some
        ours = encoder.span_qa(question("The fox", *answers, answerable=False), vocabulary)
        assert ours.answer == [-1, -1] and not ours.meta["answerable"] and "noted" not in ours.meta
    with pytest.raises(DataError, match=r"example 'q9', field 'answers': 'dog' is not in the context at code point 4"):
        encoder.span_qa(question("The fox", ("dog", 4), name="q9"), vocabulary)


def test_an_answer_of_which_nothing_is_left_is_noted(kind, vocabulary):
    for context, start in (("The \u00a0 fox", 4), ("The \x00 fox", 4), (" ", 0)):
        ours = encoder.span_qa(question(context, (context[start : start + 1], start)), vocabulary)
        lost = ours.answer == [-1, -1]
        assert lost == ("noted" in ours.meta)
        if not lost:
            first, last = ours.answer
            assert ours.starts[first] <= start < ours.ends[last]
        elif kind == "bpe":
            pytest.fail("byte-level BPE keeps every character")
    ours = encoder.span_qa(question("The fox", ("", 3)), vocabulary)
    assert ours.answer == [-1, -1] and ours.meta["noted"] == "an answer has no tokens"


FAMILIAR = (
    "The fox\u00e9e\u0301\u00a0\n\u3002\u4eba\u0301\u093f\u0e33\u0e17\ufb01\u1100\u1161\u11a8½\u200b\u200d"
    "\U0001f469\U0001f3fd\uff76\uff9e"
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(context=st.text(st.sampled_from(FAMILIAR), min_size=1) | st.text(min_size=1), data=st.data())
def test_the_answers_tokens_hold_the_answer(vocabulary, context, data):
    start = data.draw(st.integers(0, len(context) - 1))
    text = context[start : data.draw(st.integers(start + 1, len(context)))]
    ours = encoder.span_qa(question(context, (text, start)), vocabulary)
    first, last = ours.answer
    spans = list(zip(ours.starts, ours.ends, strict=True))
    touched = [i for i, (a, b) in enumerate(spans) if a < start + len(text) and start < b]
    if first < 0:
        assert not touched and "noted" in ours.meta
        return
    # No token before or behind holds any of it, and both ends hold some.
    assert (first, last) == (touched[0], touched[-1])
    # What the tokens do not hold is white space, or a whole word that the vocabulary has nothing for.
    for place in (*range(start, ours.starts[first]), *range(ours.ends[last], start + len(text))):
        assert not any(a <= place < b for a, b in spans)
        normal = unicodedata.normalize("NFKC", context[place])[0]  # a mark, of a half-width sound mark
        assert context[place].isspace() or unicodedata.category(normal)[0] in "CZMS", hex(ord(context[place]))


def test_a_query_and_its_positive(vocabulary):
    ours = encoder.pair(Pair("1", "Which fox?", "The quick fox", "g"), vocabulary)
    query, positive = (encoder.retrieval(Retrieval("", t, ()), vocabulary) for t in ("Which fox?", "The quick fox"))
    assert (ours.inputs, ours.token_types, ours.text_spans) == (query.inputs, query.token_types, query.text_spans)
    assert (ours.targets, ours.target_text_spans) == (positive.inputs, positive.text_spans)
    assert set(positive.token_types) <= {0} and ours.meta == {"id": "1"}


def test_groups_are_numbers_that_never_change(vocabulary):
    groups = [encoder.pair(Pair("1", "a", "b", group), vocabulary).group for group in ("g", "g", "", "人", "0", "1")]
    assert groups[0] == groups[1] == 6780290011007695670 and len(set(groups)) == 5
    assert all(g.dtype == np.int64 and 0 <= g < 2**63 for g in groups)
