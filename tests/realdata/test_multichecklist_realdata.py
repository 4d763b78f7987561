"""MultiCheckList's published table: every language, every format, and what simple predictors get."""

import functools
import itertools
from collections import Counter

import pytest

from xtr.data import checklist
from xtr.data.vocabulary import read_vocabulary
from xtr.evaluate.metrics import METRICS, unpad_answer
from xtr.tasks.datasets import Sources
from xtr.tasks.datasets.multichecklist import CASES, NAMES, find_multichecklist
from xtr.tasks.formats import causal, encoder, text2text

ROUND = 32  # examples of one case of each test
ROWS = ROUND * CASES
# What is dropped of a language, counted in the table by hand.
BROKEN = {
    "az": {"other slots than in English": 2 * CASES},  # one of two contexts
    "gu": {"other slots than in English": 4 * CASES + CASES},  # two of six contexts; a question
    "kk": {"question with several answers": 4 * CASES},
    "qu": {"answer not in the context": 2 * CASES},  # an answer in each of two contexts
}


@pytest.fixture(scope="module")
def datasets(data_dir):
    found = find_multichecklist(Sources((data_dir,))).datasets
    if not found:
        pytest.skip("multichecklist/checklist_templates.tsv is not there")
    return {dataset.language: dataset for dataset in found}


def read(dataset, number=None):
    tally = Counter()
    split = dataset.splits["test"]
    return list(itertools.islice(split.read(split.files, tally), number)), tally


def dropped(tally):
    return {what.removeprefix("dropped: "): n for what, n in tally.items() if what.startswith("dropped: ")}


@pytest.fixture(scope="module")
def english(datasets):
    return read(datasets["en"])[0]


def test_english_has_every_case_of_every_test(english):
    tests = Counter(checklist.CaseId.parse(example.id)[:2] for example in english)
    assert tests == {
        ("Vocabulary", "comparisons"): 2 * CASES, ("Vocabulary", "intensifiers"): 12 * CASES,
        ("Taxonomy", "properties"): 2 * CASES, ("Taxonomy", "profession_vs_nationality"): 8 * CASES,
        ("Taxonomy", "animal_vs_vehicle"): 4 * CASES, ("Taxonomy", "animal_vs_vehicle_v2"): 4 * CASES,
    }  # fmt: skip
    assert len({(e.context, e.question) for e in english}) > 0.95 * ROWS


@pytest.mark.parametrize("language", BROKEN)
def test_what_is_broken_in_the_table_is_dropped(datasets, language):
    examples, tally = read(datasets[language])
    assert dropped(tally) == BROKEN[language] and len(examples) == ROWS - sum(BROKEN[language].values())


@pytest.mark.slow
def test_every_language_gives_an_example_or_a_reason(datasets, english):
    ids = {example.id for example in english}
    for language, dataset in datasets.items():
        examples, tally = read(dataset)
        assert tally["rows"] == ROWS == len(examples) + sum(dropped(tally).values()), language
        assert {example.id for example in examples} <= ids and len(examples) > 0.8 * ROWS


@pytest.mark.parametrize("some", [("ar", "ja", "th", "tl"), pytest.param(None, marks=pytest.mark.slow)])
def test_every_format_shows_every_language(data_dir, datasets, some):
    path = data_dir / "tokenizers/xlmr/sentencepiece.bpe.model"
    vocabulary = read_vocabulary(path) if path.is_file() else None
    for language in some or datasets:
        examples, _ = read(datasets[language], ROUND)
        for example in examples:
            rendered = text2text.question_answering(example)
            # The perfect output of a model that writes is right.
            given = unpad_answer(rendered.targets, example.context)
            same = functools.partial(checklist.normalise, language=language)
            assert same(given) == same(example.answers[0].text), (language, example)
            assert causal.question_answering(example).targets == f" {example.answers[0].text}"
            if vocabulary:
                question = encoder.span_qa(example, vocabulary)
                first, last = question.answer
                found = example.context[question.starts[first] : question.ends[last]]
                assert example.answers[0].text in found, (language, example)


def test_simple_predictors(english):
    def rates(predictions):
        golds, ids = [[e.answers[0].text] for e in english], [e.id for e in english]
        values = METRICS["failure_rate"].values(predictions, golds, ids=ids, language="en")
        return {name: value for name, (value, _) in values.items()}

    assert set(rates([e.answers[0].text for e in english]).values()) == {0}
    assert set(rates([e.answers[0].text.removeprefix("a ") + "." for e in english]).values()) == {0}
    # Of every pair of questions one has another answer than the first name.
    first = [min((n for n in NAMES if n in e.context), key=e.context.index, default="") for e in english]
    assert set(rates(first).values()) == {100}
    # Right wherever properties are asked for, and nowhere else.
    half = [e.answers[0].text if "/properties/" in e.id else "" for e in english]
    values = rates(half)
    assert (values["failure_rate/Taxonomy/properties"], values["failure_rate/Vocabulary"]) == (0, 100)
    assert values["failure_rate/Taxonomy"] == 75 and values["failure_rate"] == pytest.approx(500 / 6)
