"""The encoder format: ids and token types of texts and pairs are those of each family's reference tokenizer."""

import pytest

from xtr.data.vocabulary import read_vocabulary
from xtr.tasks.examples import Classification, Retrieval
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
    assert (ours.meta, ours.label) == ({"id": "3", "gold": "3"}, None)
