"""Accuracy, SQuAD's metrics and nearest neighbours on cases small enough to check by hand."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.evaluate.metrics import METRICS, accuracy, exact_match, f1, nearest, unpad_answer


def test_accuracy_by_hand():
    value, contributions = accuracy(["0", " 1", "2", None], ["0", "1", "1", "1"])
    assert value == 50
    assert contributions.tolist() == [100, 100, 0, 0]
    assert accuracy(["0"], [0])[0] == 0
    with pytest.raises(DataError, match="2 predictions for 1 golds"):
        accuracy(["0", "1"], ["0"])
    with pytest.raises(DataError, match="no examples"):
        accuracy([], [])


def test_squad_corner_cases():
    assert exact_match([None, "the U.S."], [["x"], ["US", "America"]])[1].tolist() == [0, 100]
    assert f1(["", "a b c"], [["The"], ["b c d", "c"]])[1].tolist() == pytest.approx([0, 80])
    assert exact_match([""], [["The"]])[0] == 100
    with pytest.raises(DataError, match="example 0: golds"):
        exact_match(["x"], [[]])
    with pytest.raises(DataError, match="example 0: golds"):
        f1(["x"], ["x"])
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("prediction", "context", "expected"),
    [
        ("U . S .", "He left the U.S. in 1999.", "U.S."),
        ("17 , 786 , 419", "a total of 17,786,419 people", "17,786,419"),
        (" ( NASA ) ", "The agency (NASA) is", "(NASA)"),
        ("1⁄2 cup", "add ½ cup of milk", "½ cup"),
        ("cafe", "the café is here", "cafe"),  # an accent is not padding
        ("art", "a party of art", "art"),
        ("par", "a party", "par"),
        ("new york", "New York", "new york"),  # nor is case
        ("U . S . Navy Seals", "The U.S. Navy won.", "U.S. Navy Seals"),
        ("17 , 786 , 420", "a total of 17,786,419 people", "17,786, 420"),
        ("1 , 5", "ab1 , 5 and 1,5", "1,5"),
        ("二十 。三", "在二十。三年", "二十。三"),
        ("", "anything", ""),
        (" . ", "no full stop here", "."),
        ("Pompeii . [ 39 ] \u200b ", "at Pompeii.[39]\u200b It", "Pompeii.[39]\u200b"),
        ("Pompeii . [ 39 ]", "at Pompeii.[39]\u200b It", "Pompeii.[39]"),
        ("می \u200c خواهم", "او می‌خواهم گفت", "می‌خواهم"),
        ("می خواهم", "او می‌خواهم گفت", "می‌خواهم"),
        ("nothing like it", "", "nothing like it"),
    ],
)
def test_unpad_answer(prediction, context, expected):
    assert unpad_answer(prediction, context) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1é.,-( )½\u0301\u200d", max_size=12), st.text(alphabet="ab1é.,-( )", max_size=12))
def test_unpadding_changes_only_white_space_and_character_forms(prediction, context):
    def letters(text):
        kept = [c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c)[0] not in "ZC"]
        return "".join(kept)

    assert letters(unpad_answer(prediction, context)) == letters(prediction)


def test_nearest_by_hand_and_across_blocks():
    assert nearest(np.array([[2.0, 0], [0, 1]]), np.array([[0, 3.0], [1, 0], [5, 0]])).tolist() == [1, 0]
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(2500, 8))
    order = rng.permutation(2500)
    assert nearest(candidates[order] * 3, candidates).tolist() == order.tolist()
    doubled = np.concatenate([candidates[:1200], candidates[:1200]])
    assert nearest(candidates[:1200], doubled).max() < 1200  # the lowest row among equals
    with pytest.raises(DataError, match=r"\[Q, D\]"):
        nearest(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(DataError, match="candidate 1"):
        nearest(np.zeros((1, 2)), np.array([[1.0, 0], [np.nan, 0]]))


def test_retrieval_accuracy_accepts_several_right_answers():
    value, contributions = accuracy(["a", "b", "c"], ["a", ["x", "b"], ["a", "b"]])
    assert value == pytest.approx(200 / 3)
    assert contributions.tolist() == [100, 100, 0]
    with pytest.raises(DataError, match="1 predictions for 2 golds"):
        accuracy(["a"], ["a", "b"])
