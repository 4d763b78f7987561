import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.tag_text import parse_tags
from xtr.tasks.examples import Answer, Classification, MultipleChoice, Retrieval, SpanQA, Tagging, Text
from xtr.tasks.formats import text2text

ENTITIES = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")


def test_nli():
    example = Classification("7", "P  p", "H", 2, ("entailment", "neutral", "contradiction"))
    rendered = text2text.nli(example)
    assert (rendered.inputs, rendered.targets) == ("xnli: premise: P  p hypothesis: H", "2")
    assert json.loads(rendered.meta_json()) == {"id": "7", "choices": ["0", "1", "2"], "label": 2}


@pytest.mark.parametrize(
    ("render", "labels", "inputs"),
    [
        (text2text.paws, ("different_meaning", "paraphrase"), "paws sentence1: A  a sentence2: B"),
        (text2text.qqp, ("not_duplicate", "duplicate"), "qqp question1: A  a question2: B"),
    ],
)
def test_paraphrases(render, labels, inputs):
    for label, name in enumerate(labels):
        rendered = render(Classification("7", "A  a", "B", label, labels))
        assert (rendered.inputs, rendered.targets) == (inputs, name)
        assert rendered.meta == {"id": "7", "choices": list(labels), "label": label}


@pytest.mark.parametrize(
    ("context", "question", "prompt"),
    [("It rained.", "Why?", "It rained. Why?"), ("It rained.", "", "It rained."), ("", "Why?", "Why?"), ("", "", "")],
)
def test_multiple_choice(context, question, prompt):
    rendered = text2text.multiple_choice(MultipleChoice("7", context, question, ("a b", " c", "choice1: d"), 1))
    assert rendered.inputs == f"choose choice1: a b choice2:  c choice3: choice1: d prompt: {prompt}"
    assert rendered.targets == "choice2"
    assert rendered.meta == {"id": "7", "choices": ["choice1", "choice2", "choice3"], "label": 1}


def test_question_answering_pads_punctuation_and_keeps_raw_text_for_evaluation():
    example = SpanQA("q", "In the U.S.\u00a0today", "Where?", (Answer("U.S.", 7), Answer("the U.S.", 3)), True)
    rendered = text2text.question_answering(example)
    assert rendered.inputs == "question: Where ? context: In the U . S . \u00a0 today"
    assert rendered.targets == "U . S . "
    assert rendered.meta == {
        "id": "q", "answers": ["U.S.", "the U.S."], "answer_starts": [7, 3], "context": "In the U.S.\u00a0today",
        "answerable": True,
    }  # fmt: skip


def test_a_question_without_an_answer():
    rendered = text2text.question_answering(SpanQA("q", "C.", "Q?", (), False))
    assert (rendered.inputs, rendered.targets) == ("question: Q ? context: C . ", "unanswerable")
    assert rendered.meta == {"id": "q", "answers": [], "answer_starts": [], "context": "C.", "answerable": False}


def test_tags_keep_their_places():
    words, tags = ("Ada", "12", "$$", "a:b", "c\u00a0d", ""), ("B-PER", "O", "B-ORG", "I-ORG", "O", "O")
    rendered = text2text.tagging(Tagging("7", words, tags))
    assert rendered.inputs == "tag: 1: Ada 2: 12 3: $$ 4: a:b 5: c\u00a0d 6: "
    assert rendered.targets == "1 B-PER 3 B-ORG 4 I-ORG"
    assert rendered.meta == {"id": "7", "tokens": list(words), "tags": list(tags)}
    assert text2text.tagging(Tagging("8", ("of",), ("O",))).targets == "None"


sentences = st.lists(st.tuples(st.text(max_size=5), st.sampled_from(ENTITIES)), max_size=20)


@given(sentences)
def test_no_word_disturbs_the_tags(sentence):
    words, tags = (tuple(part) for part in zip(*sentence, strict=True)) if sentence else ((), ())
    rendered = text2text.tagging(Tagging("7", words, tags))
    assert parse_tags(rendered.targets, len(rendered.meta["tokens"]), ENTITIES) == (list(tags), {})


@pytest.mark.parametrize(
    ("tags", "targets"),
    [
        ("B-PER I-PER O B-LOC", "PER: a b $$ LOC: d"),
        ("B-PER B-PER I-LOC I-LOC", "PER: a $$ PER: b $$ LOC: c d"),
        ("I-PER O I-PER I-PER", "PER: a $$ PER: c d"),
        ("B-PER I-LOC I-PER O", "PER: a $$ LOC: b $$ PER: c"),
        ("O O O O", "None"),
    ],
)
def test_entities_as_multilingual_t5_writes_them(tags, targets):
    rendered = text2text.entity_texts(Tagging("7", ("a", "b", "c", "d"), tuple(tags.split())))
    assert (rendered.inputs, rendered.targets) == ("tag: a b c d", targets)
    assert rendered.meta == {"id": "7", "target": targets}


@given(sentences)
def test_every_word_of_an_entity_is_in_the_target(sentence):
    """Where no word holds ' $$ ' or ': ' all of them are told apart again, in order."""
    sentence = [(f"w{i}", tag) for i, (_, tag) in enumerate(sentence)]
    words, tags = (tuple(part) for part in zip(*sentence, strict=True)) if sentence else ((), ())
    target = text2text.entity_texts(Tagging("7", words, tags)).targets
    spans = [span.split(": ") for span in target.split(" $$ ")] if target != "None" else []
    found = [(word, kind) for kind, text in spans for word in text.split(" ")]
    assert found == [(word, tag[2:]) for word, tag in sentence if tag != "O"]
    assert len(spans) >= sum(tag[0] == "B" for tag in tags)


def test_retrieval_and_text():
    assert text2text.retrieval(Retrieval("3", "a  b.", ("3",))).meta == {"id": "3", "gold": "3"}
    assert text2text.retrieval(Retrieval("3", "a  b.", ("3", "4"))) == text2text.Rendered(
        inputs="a  b.", meta={"id": "3", "gold": ["3", "4"]}
    )
    assert text2text.plain_text(Text("0", "a\nb")) == text2text.Rendered(inputs="", targets="a\nb")


def test_white_space_is_what_re2_says_it_is():
    assert text2text.pad_punctuation("a\t\n b\u3000c\u000bd_e") == "a b \u3000 c \u000b d_e"
    assert text2text.pad_punctuation("nai\u0308ve \u0928\u092e\u094d\u200d\u0938 \u00bd") == (
        "nai\u0308ve \u0928\u092e\u094d \u200d \u0938 \u00bd"
    )
