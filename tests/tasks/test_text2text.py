import json

from xtr.tasks.examples import Answer, Classification, Retrieval, SpanQA, Text
from xtr.tasks.formats import text2text


def test_nli():
    example = Classification("7", "P  p", "H", 2, ("entailment", "neutral", "contradiction"))
    rendered = text2text.nli(example)
    assert (rendered.inputs, rendered.targets) == ("xnli: premise: P  p hypothesis: H", "2")
    assert json.loads(rendered.meta_json()) == {"id": "7", "choices": ["0", "1", "2"], "label": 2}


def test_question_answering_pads_punctuation_and_keeps_raw_text_for_evaluation():
    example = SpanQA("q", "In the U.S.\u00a0today", "Where?", (Answer("U.S.", 7), Answer("the U.S.", 3)), True)
    rendered = text2text.question_answering(example)
    assert rendered.inputs == "question: Where ? context: In the U . S . \u00a0 today"
    assert rendered.targets == "U . S . "
    assert rendered.meta == {
        "id": "q", "answers": ["U.S.", "the U.S."], "answer_starts": [7, 3], "context": "In the U.S.\u00a0today",
        "answerable": True,
    }  # fmt: skip


def test_retrieval_and_text():
    assert text2text.retrieval(Retrieval("3", "a  b.", ("3",))).meta == {"id": "3", "gold": "3"}
    assert text2text.retrieval(Retrieval("3", "a  b.", ("3", "4"))) == text2text.Rendered(
        inputs="a  b.", meta={"id": "3", "gold": ["3", "4"]}
    )
    assert text2text.plain_text(Text("0", "a\nb")) == text2text.Rendered(targets="a\nb")


def test_white_space_is_what_re2_says_it_is():
    assert text2text.pad_punctuation("a\t\n b\u3000c\u000bd_e") == "a b \u3000 c \u000b d_e"
    assert text2text.pad_punctuation("nai\u0308ve \u0928\u092e\u094d\u200d\u0938 \u00bd") == (
        "nai\u0308ve \u0928\u092e\u094d \u200d \u0938 \u00bd"
    )
