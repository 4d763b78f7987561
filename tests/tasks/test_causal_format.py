"""The causal format: what is asked, what continues it, and that both are the tokens of one text; every kind renders."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data import cache_writer
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.data.formats import FORMATS, UNANSWERABLE, format_of
from xtr.data.tag_text import parse_tags
from xtr.data.vocabulary import read_vocabulary
from xtr.tasks.examples import Answer, Classification, MultipleChoice, Pair, Retrieval, SpanQA, Tagging, Text
from xtr.tasks.formats import causal, form_of, has_eos

NLI = ("entailment", "neutral", "contradiction")
UPOS = ("NOUN", "PROPN", "X")
TEXTS = ["plain", "", "a\u00a0b", "line\nbreak\u2028", "\U0001f468\u200d\U0001f469 e\u0301", " (spaced) ", ".", "</s>"]


def examples(a: str, b: str) -> list:
    """(style, example) of every kind whose answer is text, of any two texts."""
    pair = [("nli", Classification("0", a, b, i, NLI)) for i in range(3)]
    pair += [(style, Classification("0", a, b, i, ("n", "y"))) for style in ("paws", "qqp") for i in range(2)]
    choices = [("", MultipleChoice("0", a, b, (b, f" {a}", "c"), i)) for i in range(3)]
    answers = [("", SpanQA("0", f"{b} {a}", b, (Answer(a, len(b) + 1),), True)), ("", SpanQA("0", a, b, (), False))]
    tags = [
        ("", Tagging("0", (a, b, "c"), ("PROPN", "NOUN", "X"))),
        ("mt5_spans", Tagging("0", (a, b), ("O", "B-LOC"))),
    ]
    return [*pair, *choices, *answers, *tags]


def render(format: str, style: str, example):
    return form_of(type(example), format, style).rendering.function(example)


def test_the_prompts():
    """Two of them whole, so that a change is seen."""
    rendered = causal.nli(Classification("7", "It rains.", "It is wet.", 1, NLI))
    assert rendered.inputs == (
        "It rains.\nStatement: It is wet.\nIs the statement true, given the text above it? Yes, No or Maybe. Answer:"
    )
    assert rendered.targets == " Maybe"
    assert rendered.meta == {"id": "7", "choices": [" Yes", " Maybe", " No"], "label": 1}
    rendered = causal.multiple_choice(MultipleChoice("7", "It rains.", "Why?", ("clouds", "sun"), 0))
    assert (rendered.inputs, rendered.targets) == ("It rains. Why?\nA. clouds\nB. sun\nBest choice:", " A")
    assert rendered.meta == {"id": "7", "choices": [" A", " B"], "label": 0}


@pytest.mark.parametrize("style", ["paws", "qqp"])
def test_yes_means_the_same(style):
    for label, word in enumerate((" No", " Yes")):
        assert render("causal", style, Classification("7", "A", "B", label, ("no", "yes"))).targets == word


def test_answers_are_the_passages_own_text():
    rendered = causal.question_answering(SpanQA("q", "In the U.S.", "Where?", (Answer("U.S.", 7),), True))
    assert (rendered.inputs, rendered.targets) == ("In the U.S.\nQuestion: Where?\nAnswer:", " U.S.")
    rendered = causal.question_answering(SpanQA("q", "In the U.S.", "When?", (), False))
    assert rendered.targets == f" {UNANSWERABLE}"
    assert rendered.meta == {
        "id": "q",
        "answers": [],
        "answer_starts": [],
        "context": "In the U.S.",
        "answerable": False,
    }


def test_tags_come_back():
    tags = ("PROPN", "X", "NOUN")
    rendered = causal.tagging(Tagging("7", ("Ada", "1:", "math"), tags))
    assert (rendered.inputs, rendered.targets) == ("Words: 1: Ada 2: 1: 3: math\nTags:", " 1 PROPN 2 X 3 NOUN")
    assert parse_tags(rendered.targets, 3, UPOS) == (list(tags), {})


@pytest.mark.parametrize("format", ["text2text", "causal"])
@pytest.mark.parametrize("a", TEXTS)
@pytest.mark.parametrize("b", TEXTS)
def test_every_text_is_rendered(format, a, b):
    for style, example in examples(a, b):
        rendered = render(format, style, example)
        meta = json.loads(rendered.meta_json())
        assert meta["id"] == "0"
        if "choices" in meta:
            assert rendered.targets == meta["choices"][example.label]
            assert len(set(meta["choices"])) == len(meta["choices"])
        if isinstance(example, Classification):
            assert rendered.inputs.index(a) <= rendered.inputs.rindex(b)
        if format == "causal":
            assert rendered.inputs.endswith(":") and rendered.targets.startswith(" ")


def test_which_kinds_have_a_form():
    kinds = {Classification: "nli", MultipleChoice: "", SpanQA: "", Tagging: "", Retrieval: "", Text: ""}
    for format in ("text2text", "causal"):
        assert all(form_of(kind, format, style) for kind, style in kinds.items())
        assert form_of(Pair, format) is None and form_of(Classification, format) is None
    assert form_of(Tagging, "text2text", "mt5_spans").rendering != form_of(Tagging, "text2text").rendering
    assert form_of(Tagging, "causal", "mt5_spans") == form_of(Tagging, "causal")


def test_the_model_says_which_format():
    assert [format_of(names) for names in (("seq2seq", "denoise"), ("causal",), ("classify",), ("mlm",), ())] == [
        "text2text", "causal", "encoder", "encoder", "encoder",
    ]  # fmt: skip
    assert FORMATS == ("text2text", "causal", "encoder")
    assert [(form, name) for form in FORMATS for name in ("inputs", "targets") if not has_eos(form, name)] == [
        ("causal", "inputs")
    ]


texts = st.text(
    st.one_of(st.sampled_from(" \n.,()|:AaIéß中न्ع…،0'\u00a0\u200d\U0001f600"), st.characters(codec="utf-8")),
    max_size=12,
)


@pytest.fixture(scope="module")
def bloom(small_vocabularies):
    return read_vocabulary(small_vocabularies["bpe"])


@settings(max_examples=200)
@given(a=texts, b=texts)
def test_prompt_and_target_are_the_tokens_of_one_text(bloom, a, b):
    for style, example in examples(a, b):
        rendered = render("causal", style, example)
        apart = bloom.encode(rendered.inputs) + bloom.encode(rendered.targets)
        assert apart == bloom.encode(rendered.inputs + rendered.targets)
        for choice in rendered.meta.get("choices", ()):
            assert bloom.encode(rendered.inputs) + bloom.encode(choice) == bloom.encode(rendered.inputs + choice)


def test_a_cached_prompt_is_continued_by_its_target(official_files, small_vocabularies, bloom, tmp_path, monkeypatch):
    """No EOS between prompt and target, one behind it; retrieval has none; text has one."""
    # The writer, a process of its own in life, sets the environment of its process.
    for name in ("XTR_DATA_DIR", "XTR_CACHE_DIR", "XTR_VOCABULARY_PATH", "XTR_FORMAT", "XTR_TFDS_TASKS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    request = {
        "names": ["xnli.qaz", "squad_v1", "tatoeba", "text.corpus.en"], "task_modules": [],
        "vocabulary_path": str(small_vocabularies["bpe"]), "data_dir": str(official_files), "cache_dir": str(tmp_path),
        "format": "causal",
    }  # fmt: skip
    directories = cache_writer.write(request)["tasks"]
    tasks = {name: CachedTask.open(tmp_path / directory) for name, directory in directories.items()}
    first, _ = eval_examples(tasks["xnli.qaz"], "validation")
    expected = causal.nli(Classification("0", "A\u2028B\u0085 C", "D", 1, NLI))
    joined = bloom.encode(expected.inputs + expected.targets)
    np.testing.assert_array_equal(np.concatenate([first["inputs"], first["targets"]]), [*joined, bloom.eos_id])
    assert first["meta"] == expected.meta and tasks["xnli.qaz"].info["format"] == "causal"
    code = tasks["xnli.qaz"].info["code"]
    assert {"xtr.tasks/formats/causal.py", "xtr.tasks/formats/text2text.py"} <= set(code)
    assert any(name.endswith("xtr/data/tag_text.py") for name in code)
    answer = eval_examples(tasks["squad_v1"], "validation")[0]
    assert bloom.decode(answer["targets"]) == " 1999" and bloom.eos_id not in answer["inputs"]
    query = eval_examples(tasks["tatoeba.zh"], "queries")[1]
    np.testing.assert_array_equal(query["inputs"], bloom.encode("Thanks."))
    text = eval_examples(tasks["text.corpus.en"], "train")[0]
    np.testing.assert_array_equal(text["targets"], [*bloom.encode("first document"), bloom.eos_id])
