"""Lengths, cuts and packing of cached tasks, against counting by hand and against the batches themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.formats import FORMATS
from xtr.data.pipeline import TrainData, train_batches
from xtr.data.statistics import (
    PERCENTILES,
    mixture_packing,
    objective_of,
    packing,
    quantiles,
    statistics,
    token_lengths,
    truncated,
)
from xtr.errors import UserError


def _pairs(lengths) -> list[dict]:
    return [{"inputs": np.arange(2, a + 2), "targets": np.arange(2, b + 2)} for a, b in lengths]


def _info(**more) -> dict:
    return {"kind": "text2text", "language": "en", "format": "text2text", "features": ["inputs", "targets"]} | more


@pytest.fixture
def task(task_writer):
    lengths = np.random.default_rng(0).integers(1, 40, (300, 2))
    splits = {"train": _pairs(lengths), "test": _pairs([(5, 1), (50, 2), (7, 0), (7, 3)])}
    return task_writer("own", splits, rate=2.0, **_info())


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=300))
def test_a_percentile_is_the_smallest_length_that_so_many_do_not_exceed(lengths):
    found = quantiles(np.array(lengths))
    assert found.pop("max") == max(lengths)
    for percent, length in zip(PERCENTILES, found.values(), strict=True):
        enough = [n for n in sorted(set(lengths)) if sum(m <= n for m in lengths) * 100 >= percent * len(lengths)]
        assert length == enough[0]


def test_counts_percentiles_and_cuts(task):
    facts = statistics(task, {"inputs": 7, "targets": 2})
    test = facts["splits"]["test"]
    assert (facts["task"], facts["objective"], test["examples"], test["rows"]) == ("own", "seq2seq", 4, 4)
    assert test["tokens"]["inputs"] == {"50%": 7, "90%": 50, "95%": 50, "99%": 50, "max": 50}
    assert test["truncated"] == {"inputs": 0.25, "targets": 0.25}


def test_without_lengths_nothing_is_said_of_cuts_and_rows(task):
    facts = statistics(task, {})
    assert set(facts["splits"]["test"]) == {"examples", "tokens"} and "packing" not in facts


def test_packing_is_that_of_the_batches(task):
    lengths = {"inputs": 64, "targets": 48}
    found = packing([task], "train", "seq2seq", lengths)
    batches = train_batches(TrainData((task,), lengths, batch_size=1, epochs=1), prefetch=0)
    assert sum(1 for _ in batches) == batches.stats()["rows"]
    stats = batches.stats()
    assert found["density"]["inputs"] == pytest.approx(stats["encoder_density"])
    assert found["density"]["targets"] == pytest.approx(stats["decoder_density"])
    assert found["examples_a_row"] == pytest.approx(stats["examples"] / stats["rows"])
    assert found["slots"] == lengths
    assert found["binding"] == max(found["density"], key=found["density"].get)
    assert found["density"][found["binding"]] <= found["least_rows"] <= 1


def test_a_causal_row_holds_both_features(task):
    found = packing([task], "train", "causal", {"inputs": 64, "targets": 48})
    assert found["slots"] == {"inputs": 112} and 0.5 < found["density"]["inputs"] <= 1
    assert truncated(task, "train", "causal", {"inputs": 39, "targets": 39})["truncated"] == {
        "inputs": 0.0, "targets": 0.0,
    }  # fmt: skip


def test_a_mixture_is_packed_at_its_rates(task, task_writer):
    other = task_writer("short", {"train": _pairs([(2, 1)] * 300)}, rate=2.0, **_info())
    lengths = {"inputs": 64, "targets": 64}
    mixed = mixture_packing([task, other], lengths)["examples_a_row"]
    alone = [packing([one], "train", "seq2seq", lengths)["examples_a_row"] for one in (task, other)]
    assert alone[0] < mixed < alone[1]
    assert mixture_packing([task], lengths) is None and mixture_packing([task, other], {}) is None


def test_a_choice_is_measured_by_itself(task_writer):
    example = {"inputs": np.arange(2, 11), "choice_lengths": np.array([4, 5]), "meta": b"{}"}
    task = task_writer("choices", {"test": [example] * 3}, shards=1, **_info(kind="multiple_choice", format="encoder"))
    assert sorted(token_lengths(task, "test")["inputs"]) == [4, 4, 4, 5, 5, 5]


def test_what_cannot_be_trained_on_is_said_instead(task):
    facts = statistics(task, {"inputs": 8})
    assert "give positive lengths for inputs and targets" in facts["packing"]["why"]
    assert "why" in facts["splits"]["train"] and facts["splits"]["train"]["examples"] == 300
    with pytest.raises(UserError):
        packing([task], "train", "seq2seq", {"inputs": 8})


def test_every_kind_has_an_objective_in_every_format():
    from xtr.tasks.examples import KINDS

    none = {(f, k) for f in FORMATS for k in KINDS.values() if not objective_of(f, k)}
    assert none == {(f, "retrieval") for f in FORMATS}
