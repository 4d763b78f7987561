"""Tags as text and back: exact for what is well-formed, total for whatever a model writes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.tag_text import number_words, parse_tags, render_tags
from xtr.data.vocabulary import read_vocabulary

ENTITIES = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
UPOS = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
        "SYM", "VERB", "X")  # fmt: skip
CCG = ("N", "(S[dcl]\\NP)/NP", ",", ".", ":")

label_sets = st.sampled_from([ENTITIES, UPOS, CCG])
pieces = st.one_of(
    st.sampled_from(
        [*ENTITIES, "NOUN", "None", "-1", "+2", "1.", "٣", "³", "१", "9" * 5000, "00", "1:B-PER", "\u00a0"]
    ),
    st.integers(0, 40).map(str),
    st.text(max_size=4),
)


@given(data=st.data(), label_names=label_sets)
def test_every_sequence_of_tags_comes_back(data, label_names):
    tags = data.draw(st.lists(st.sampled_from(label_names), max_size=60))
    assert parse_tags(render_tags(tags), len(tags), label_names) == (tags, Counter())


@given(text=st.one_of(st.text(), st.lists(pieces).map(" ".join)), n=st.integers(0, 30), label_names=label_sets)
def test_any_text_gives_a_tag_for_each_word_and_every_piece_is_accounted_for(text, n, label_names):
    tags, problems = parse_tags(text, n, label_names)
    assert len(tags) == n and set(tags) <= set(label_names)
    assert set(problems) <= {"stray", "unknown_tag", "out_of_range", "duplicate", "missing"}
    assert all(count > 0 for count in problems.values())
    # A piece is stray or one half of a number and its tag; of these pairs some are wrong, the others are read.
    pairs, odd = divmod(len(text.split()) - problems["stray"] if text.split() != ["None"] else 0, 2)
    read = pairs - sum(problems[name] for name in ("unknown_tag", "out_of_range", "duplicate"))
    assert odd == 0 and 0 <= read <= n
    if "O" in label_names:
        assert problems["missing"] == 0 and sum(tag != "O" for tag in tags) <= read
    else:
        assert problems["missing"] == n - read
    # What was read can be written, and is read as it was.
    assert parse_tags(render_tags(tags), n, label_names) == (tags, Counter())


@pytest.mark.parametrize(
    ("text", "n", "label_names", "tags", "problems"),
    [
        ("None", 3, ENTITIES, "O O O", {}),
        ("", 2, ENTITIES, "O O", {}),
        ("1 B-PER 3 B-LOC", 3, ENTITIES, "B-PER O B-LOC", {}),
        (" 3 B-LOC\n1 B-PER ", 3, ENTITIES, "B-PER O B-LOC", {}),
        ("2 O", 3, ENTITIES, "O O O", {}),
        ("1 B-PER 1 B-LOC", 1, ENTITIES, "B-PER", {"duplicate": 1}),
        ("0 B-PER 4 B-PER 99999999999 B-PER", 3, ENTITIES, "O O O", {"out_of_range": 3}),
        ("1 PER 2 B-per 3 B-PER", 3, ENTITIES, "O O B-PER", {"unknown_tag": 2}),
        ("B-PER 1 2 B-LOC 3", 3, ENTITIES, "O B-LOC O", {"stray": 3}),
        ("1 B-PER None", 2, ENTITIES, "B-PER O", {"stray": 1}),
        ("1 DET 3 NOUN", 3, UPOS, "DET X NOUN", {"missing": 1}),
        ("None", 2, UPOS, "X X", {"missing": 2}),
        ("1 N 2 ,", 3, CCG, "N , :", {"missing": 1}),
        ("1 B-PER", 0, ENTITIES, "", {"out_of_range": 1}),
    ],
)
def test_what_is_wrong_is_counted(text, n, label_names, tags, problems):
    assert parse_tags(text, n, label_names) == (tags.split(), problems)


def test_forms():
    assert number_words(["Ada", "12", "3:", "", "a\u00a0b"]) == "1: Ada 2: 12 3: 3: 4:  5: a\u00a0b"
    assert number_words([]) == ""
    assert render_tags(["B-PER", "I-PER", "O", "B-LOC"]) == "1 B-PER 2 I-PER 4 B-LOC"
    assert render_tags(["O", "O"]) == render_tags([]) == "None"
    assert render_tags(["DET", "NOUN"]) == "1 DET 2 NOUN"


@pytest.mark.parametrize("kind", ["t5", "bpe"])
@pytest.mark.parametrize("label_names", [ENTITIES, UPOS])
def test_a_vocabulary_gives_the_tags_back(kind, label_names, small_vocabularies):
    """What a writing model's vocabulary makes of a target can be read."""
    vocabulary = read_vocabulary(small_vocabularies[kind])
    tags = [label_names[(7 * i) % len(label_names)] for i in range(120)]
    decoded = vocabulary.decode(vocabulary.encode(render_tags(tags)))
    assert parse_tags(decoded, len(tags), label_names) == (tags, Counter())
