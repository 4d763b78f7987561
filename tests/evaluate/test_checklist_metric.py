"""Failure rates of MultiCheckList: by case, test and capability; which answers count as the same."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.checklist import CaseId, normalise
from xtr.errors import DataError
from xtr.evaluate.metrics import METRICS
from xtr.evaluate.metrics.checklist import failure_rates

METRIC = METRICS["failure_rate"]
PLACES = st.builds(
    CaseId, st.sampled_from(["Vocabulary", "Taxonomy"]), st.sampled_from(["a", "b"]), st.integers(1, 3),
    st.integers(1, 2), st.integers(1, 2),
)  # fmt: skip
EXAMPLES = st.lists(st.tuples(PLACES, st.booleans()), min_size=1, max_size=20, unique_by=lambda example: example[0])


def rates(examples, order=None):
    """Of examples (id, whether it is answered rightly), in the order of a permutation."""
    examples = [examples[n] for n in order or range(len(examples))]
    predictions = ["yes" if right else None for _, right in examples]
    golds, ids = [["no", "yes"]] * len(examples), [str(place) for place, _ in examples]
    return METRIC.values(predictions, golds, ids=ids, language="en", no_answer="")


def test_a_case_fails_with_one_of_its_answers():
    right = {
        CaseId("Vocabulary", "a", 1, 1, 1): True, CaseId("Vocabulary", "a", 1, 2, 1): False,
        CaseId("Vocabulary", "a", 2, 1, 1): True, CaseId("Vocabulary", "a", 2, 2, 1): True,
        CaseId("Vocabulary", "a", 3, 1, 1): True, CaseId("Vocabulary", "a", 4, 1, 1): True,
        CaseId("Taxonomy", "b", 1, 1, 1): False,
        CaseId("Taxonomy", "c", 1, 1, 1): True, CaseId("Taxonomy", "c", 2, 1, 1): True,
    }  # fmt: skip
    values = {name: value for name, (value, _) in rates(list(right.items())).items()}
    assert values == {
        "failure_rate": (25 + 100 + 0) / 3, "failure_rate/Vocabulary": 25, "failure_rate/Vocabulary/a": 25,
        "failure_rate/Taxonomy": 50, "failure_rate/Taxonomy/b": 100, "failure_rate/Taxonomy/c": 0,
    }  # fmt: skip
    assert not METRIC.higher_is_better


@given(EXAMPLES, st.randoms())
def test_rates_are_means_of_contributions_in_any_order(examples, random):
    order = random.sample(range(len(examples)), len(examples))
    values, shuffled = rates(examples), rates(examples, order)
    cases = {}
    for place, right in examples:
        cases.setdefault(place[:3], []).append(right)
    tests = {}
    for case, rights in cases.items():
        tests.setdefault("/".join(case[:2]), []).append(not all(rights))
    expected = {f"failure_rate/{test}": 100 * np.mean(failed) for test, failed in tests.items()}
    for capability in {place.capability for place, _ in examples}:
        own = [rate for name, rate in expected.items() if name.startswith(f"failure_rate/{capability}/")]
        expected[f"failure_rate/{capability}"] = np.mean(own)
    expected["failure_rate"] = np.mean([rate for name, rate in expected.items() if name.count("/") == 2])
    assert values.keys() == shuffled.keys() == expected.keys()
    for name, (value, contributions) in values.items():
        assert value == pytest.approx(expected[name], abs=1e-9) and 0 <= value <= 100
        assert shuffled[name][0] == pytest.approx(value, abs=1e-12)
        assert contributions.dtype == np.float64 and (contributions >= 0).all()
        assert contributions.mean() == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(shuffled[name][1], contributions[order], rtol=1e-12)


@pytest.mark.parametrize(
    "language, answer, gold, same",
    [
        ("en", "The dog.", "a dog", False),  # case counts, of articles too
        ("en", "the dog.", "a dog", True),
        ("en", "dog and van", "dog", False),
        ("de", "einen Hund", "Hund", True),
        ("de", "einem Hund", "Hund", False),
        ("fr", "l'ours", "ours", False),
        ("tl", "Si Mark", "Mark", True),
        ("ar", "القط", "قط", True),
        ("zh", "一只狗", "狗", False),
        ("pl", "„aktor”", "aktor", True),
        ("ur", "\u200fنیا", "نیا", True),
        ("hi", "एक कुत्ता", "कुत्ता", True),
        ("ru", "собака,", "собака", True),
        ("xx", " a b. ", "a b", True),  # a language without rules
        ("xx", "a b", "ab", False),
    ],
)
def test_articles_and_the_punctuation_around_an_answer_do_not_count(language, answer, gold, same):
    assert (normalise(answer, language) == normalise(gold, language)) is same
    name = str(CaseId("A", "b", 1, 1, 1))
    assert METRIC([answer], [["other", gold]], ids=[name], language=language)[0] == (0 if same else 100)


@given(st.text(max_size=12), st.sampled_from(["ar", "de", "en", "pl", "ta", "zz"]))
def test_an_answer_is_its_own(text, language):
    name = str(CaseId("A", "b", 1, 1, 1))
    assert METRIC([text], [[text]], ids=[name], language=language)[0] == 0
    assert METRIC([None], [[text]], ids=[name], language=language)[0] == 100


@given(PLACES)
def test_ids_are_read_as_they_are_written(place):
    assert CaseId.parse(str(place)) == place


@pytest.mark.parametrize(
    "wrong", ["", "q0", "A/b/1/1", "A/b/1/1/x", "A/b/1/1/-1", "/b/1/1/1", "A/b/1/1/1/1", "A/b/٣/1/1"]
)
def test_an_id_of_no_case_is_an_error(wrong):
    with pytest.raises(DataError, match=re.escape(repr(wrong))):
        failure_rates(["a"], [["a"]], ids=[wrong], language="en")


def test_what_cannot_be_scored_is_an_error():
    name = str(CaseId("A", "b", 1, 1, 1))
    for predictions, golds, ids, message in (
        ([], [], [], "no examples"),
        (["a"], [["a"], ["b"]], [name] * 2, "1 predictions for 2"),
        (["a"], [["a"]], [], "0 predictions for 1"),
        (["a"], [[]], [name], "one or more answers"),
        (["a"], ["a"], [name], "one or more answers"),
    ):
        with pytest.raises(DataError, match=message):
            failure_rates(predictions, golds, ids=ids, language="en")
