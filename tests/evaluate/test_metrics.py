"""Metrics against the official programs' numbers (XTR_ORACLES) and on cases small enough to check by hand."""

import gzip
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.evaluate.metrics import METRICS, accuracy, exact_match, f1, nearest, unpad_answer

ORACLES = Path(os.environ.get("XTR_ORACLES", "")) / "metrics"
needs_oracles = pytest.mark.skipif(
    not os.environ.get("XTR_ORACLES"), reason="XTR_ORACLES does not name the folder of official metric values"
)


def load(name):
    path = ORACLES / f"{name}.json"
    if not path.exists():
        path = ORACLES / f"{name}.json.gz"
        return json.loads(gzip.decompress(path.read_bytes()))
    return json.loads(path.read_bytes())


XQUAD, TYDIQA = ["ar", "en", "es", "hi", "th", "zh"], ["ar", "en", "ko", "te"]
SQUAD = ["squad_v1", *(f"xquad_{x}" for x in XQUAD), *(f"tydiqa_{x}" for x in TYDIQA)]


@needs_oracles
@pytest.mark.parametrize("name", SQUAD)
def test_squad_equals_the_official_script(name):
    oracle = load(name)
    paragraphs = [p for article in oracle["inputs"]["data"] for p in article["paragraphs"]]
    golds = {qa["id"]: [a["text"] for a in qa["answers"]] for p in paragraphs for qa in p["qas"]}
    predictions = [oracle["inputs"]["predictions"].get(i) for i in golds]
    assert None in predictions or name == "squad_v1"
    for metric, key in ((exact_match, "exact_match"), (f1, "f1")):
        value, contributions = metric(predictions, list(golds.values()))
        assert value == pytest.approx(oracle["expected"]["official"][key], rel=1e-9)
        assert value == pytest.approx(contributions.mean(), rel=1e-12)
        wanted = [100 * oracle["expected"]["per_question"][i][key] for i in golds]
        np.testing.assert_allclose(contributions, wanted, rtol=1e-9)


@needs_oracles
def test_accuracy_equals_the_official_script():
    oracle = load("accuracy")
    checked = 0
    for case in oracle["inputs"]["cases"]:
        expected = oracle["expected"][case["name"]]
        sides = [case["label_file"], case["prediction_file"]]
        read = (lambda line: json.loads(line)["label"]) if case["task"] == "xcopa" else str.strip
        golds, predictions = ([read(x) for x in side.removesuffix("\n").split("\n")] for side in sides)
        if "error" in expected["official"]:
            with pytest.raises(DataError):
                accuracy(predictions, golds)
        else:
            value, contributions = accuracy(predictions, golds)
            assert value == pytest.approx(expected["official"]["accuracy"], rel=1e-9), case["name"]
            assert contributions.mean() == pytest.approx(value)
        checked += 1
    assert checked == 20


@needs_oracles
@pytest.mark.parametrize("language", ["deu", "cmn"])
def test_tatoeba_retrieval_equals_the_official_script(language):
    expected = load("tatoeba_retrieval")["expected"][language]
    arrays = np.load(ORACLES / "tatoeba_embeddings.npz")
    foreign, english, gold = (arrays[f"{language}_{name}"] for name in ("x", "y", "gold"))
    rows = nearest(english, foreign)
    assert rows.tolist() == expected["predictions"]
    value, contributions = accuracy(rows.tolist(), gold.tolist())
    assert value == pytest.approx(expected["official_accuracy"], rel=1e-9)
    assert contributions.sum() / 100 == expected["correct"]


@needs_oracles
@pytest.mark.parametrize("name", ["render_xquad", "render_squad", "render_tydiqa"])
@pytest.mark.parametrize("rendering", ["mt5_xquad", "t5_squad"])
def test_a_perfect_padded_target_scores_100_after_unpadding(name, rendering):
    oracle = load(name)
    raw = oracle["inputs"]["examples_tfds"]
    if rendering not in oracle["expected"]:
        pytest.skip(f"{name} has no {rendering}")
    rendered = oracle["expected"][rendering]
    assert [e["id"] for e in rendered] == [e["id"] for e in raw]
    predictions = [unpad_answer(e["targets"], r["context"]) for e, r in zip(rendered, raw, strict=True)]
    golds = [r["answers"]["text"] for r in raw]
    value, contributions = exact_match(predictions, golds)
    wrong = [x for x, c in zip(zip(rendered, predictions, golds, strict=True), contributions, strict=True) if not c]
    assert value == 100, wrong
    assert f1(predictions, golds)[0] == 100
    assert exact_match([e["targets"] for e in rendered], golds)[0] < 100


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
    assert set(METRICS) == {"accuracy", "em", "f1"}


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
