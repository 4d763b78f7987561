"""Retrieval tasks as records: what they hold, each layer's values of them alone, thresholds of mining."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.cached_task import CachedTask
from xtr.errors import DataError, UserError
from xtr.evaluate import index, retrieve
from xtr.evaluate.metrics import METRICS, mining, retrieval
from xtr.evaluate.retrieve import Side


@dataclasses.dataclass(frozen=True)
class Config:
    num_layers: int = 2


CONFIG = Config()
QUERIES = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
CANDIDATES = np.array([[1, 0, 0.1], [0, 1, 0.1], [0, 1, 0.2], [1, 0, 0.3]], np.float32)
SIDES = (
    Side(["q0", "q1"], {0: QUERIES[::-1], 1: QUERIES}),
    Side(["a", "b", "c", "d"], {0: CANDIDATES, 1: CANDIDATES}),
)  # fmt: skip


def regraded(records):
    return json.loads(json.dumps(records, ensure_ascii=False, allow_nan=False))


def test_ranked_lists_of_the_chosen_layer_and_the_worth_of_every_layer():
    golds = ["d", ["b", "c"]]
    records = retrieve.ranked(*SIDES, golds, ["map@20"], chosen=1)
    assert [record["prediction"] for record in records] == [["a", "d", "b", "c"], ["b", "c", "a", "d"]]
    assert [record["gold"] for record in records] == golds
    cosine = QUERIES @ (CANDIDATES / np.linalg.norm(CANDIDATES, axis=1, keepdims=True)).T
    for record, row in zip(records, cosine, strict=True):
        np.testing.assert_allclose(record["scores"], np.sort(row)[::-1], atol=1e-6)
    value, _ = METRICS["map@20"]([record["prediction"] for record in records], golds)
    values = retrieve.layer_values(regraded(records))
    assert values == {"map@20/layer_0": pytest.approx((25 + 100 * (1 / 3 + 2 / 4) / 2) / 2), "map@20/layer_1": value}
    assert value == pytest.approx(75)
    few = retrieve.ranked(*SIDES, golds, ["map@20"], chosen=1, k=2)
    assert [record["prediction"] for record in few] == [["a", "d"], ["b", "c"]]


def test_nearest_candidates_are_bare_ids():
    records = retrieve.nearest(*SIDES, ["a", "c"], ["accuracy"], chosen=1)
    assert [record["prediction"] for record in records] == ["a", "b"]
    assert retrieve.layer_values(regraded(records)) == {"accuracy/layer_0": 0, "accuracy/layer_1": 50}


def test_one_layer_alone_has_no_layers_beside_it():
    sides = [Side(side.ids, {1: side.layers[1]}) for side in SIDES]
    records = retrieve.ranked(*sides, ["a", "b"], ["map@20"], chosen=1)
    assert all("layers" not in record for record in records) and retrieve.layer_values(records) == {}
    with pytest.raises(UserError, match="layer 0"):
        retrieve.ranked(*sides, ["a", "b"], ["map@20"], chosen=0)
    with pytest.raises(DataError, match="2 vectors of 1 texts"):
        Side(["a"], {0: QUERIES})


def test_layers_are_held_where_they_fit():
    for chosen, layer in ((-1, 4), (4, 4), (0, 0), (-5, 0), (-4, 1)):
        assert retrieve.layers_held(chosen, 4, 10, 8, 4 * 10 * 8 * 5) == ((0, 1, 2, 3, 4), None)
        held, message = retrieve.layers_held(chosen, 4, 10, 8, 4 * 10 * 8 * 5 - 1, "lareqa.de")
        assert held == (layer,)
        assert message == (
            f"lareqa.de: only layer {layer} is scored. All 5 layers of 10 vectors take 1,600 bytes, and they may take "
            "1,599."
        )
    for chosen in (5, -6):
        with pytest.raises(UserError, match=f"embedding_layer is {chosen}; .* 0 .* to 4"):
            retrieve.layers_held(chosen, 4, 10, 8, 10**9)


def test_queries_without_a_right_candidate_are_counted():
    assert retrieve.absent_golds(["a", "z", ["z", "b"], ["y", "z"], []], ["a", "b"]) == 3


def test_an_index_is_of_these_weights_and_this_task(tmp_path):
    facts = {
        "params": {"w": np.ones(3, np.float32)}, "model": CONFIG, "task": CachedTask("t.en", 1.0, "/cache/t-12ab", {}),
        "split": "candidates", "layers": (0, 1), "pooling": "mean", "length": 64,
    }  # fmt: skip
    other = {
        "params": {"w": np.full(3, 2, np.float32)}, "model": dataclasses.replace(CONFIG, num_layers=9),
        "task": CachedTask("t.en", 1.0, "/elsewhere/t-34cd", {}), "split": "validation_candidates", "layers": (1,),
        "pooling": "head", "length": 32,
    }  # fmt: skip
    vectors = np.ones((4, 2), np.float32)
    known = retrieve.index_identity(**facts)
    index.open_or_build(tmp_path, known, 4, lambda rows: vectors[rows.start : rows.stop])
    moved = {**facts, "task": CachedTask("t.en", 1.0, "/moved/t-12ab", {})}
    assert index.open_index(tmp_path, retrieve.index_identity(**moved)).shape == (4, 2)
    for field, value in other.items():
        with pytest.raises(UserError, match="the candidate index of something else"):
            index.open_index(tmp_path, retrieve.index_identity(**{**facts, field: value}))


def collections(rng, pairs, others):
    """Sources and targets with `pairs` translations and others, layers [noise, good]; a text comes twice."""
    shared = rng.normal(size=(pairs, 8))
    sides = []
    for own in range(2):
        vectors = np.concatenate([shared + 0.3 * rng.normal(size=shared.shape), rng.normal(size=(others, 8))])
        vectors = np.concatenate([vectors, vectors[:1]])
        ids = [f"{'st'[own]}{n}" for n in range(len(vectors))]
        texts = [*ids[:-1], ids[0]]
        sides.append((Side(ids, {0: rng.normal(size=vectors.shape), 1: vectors}), texts))
    golds = [f"t{n}" if n < pairs else [] for n in range(len(sides[0][0].ids))]
    (sources, source_texts), (targets, target_texts) = sides
    return sources, targets, source_texts, target_texts, golds


@given(rng=st.integers(0, 2**32 - 1).map(np.random.default_rng), pairs=st.integers(2, 12), others=st.integers(0, 8))
def test_mined_pairs_with_the_threshold_of_other_data(rng, pairs, others):
    dev, test = collections(rng, pairs, others), collections(rng, pairs, others)
    dev_records, thresholds = retrieve.mined(*dev, chosen=1)
    records, same = retrieve.mined(*test, chosen=1, thresholds=thresholds)
    assert same == thresholds
    sources, targets, source_texts, target_texts, golds = test
    for layer in (0, 1):
        found = mining.mine_pairs(
            sources.ids, source_texts, sources.layers[layer], targets.ids, target_texts, targets.layers[layer]
        )
        taken = {s: [t] for s, t, score in found if score >= thresholds[layer]}
        predictions = [taken.get(name, []) for name in sources.ids]
        value, _ = METRICS["bucc_f1"](predictions, golds)
        assert retrieve.layer_values(regraded(records))[f"bucc_f1/layer_{layer}"] == pytest.approx(value)
        if layer == 1:
            assert [record["prediction"] for record in records] == predictions
    # Of the records alone: the threshold, and with it the predictions.
    again = retrieve.best_threshold(regraded(dev_records))
    assert again == thresholds[1]
    bare = [{k: v for k, v in record.items() if k != "prediction"} for record in regraded(records)]
    assert [r["prediction"] for r in retrieve.above(bare, again)] == [r["prediction"] for r in records]
    assert records[0]["mined"] == records[-1]["mined"] == []  # a text that comes twice has no id


def test_mining_development_data_without_gold_is_an_error():
    sides = collections(np.random.default_rng(0), 3, 0)[:4]
    with pytest.raises(DataError, match="there are none"):
        retrieve.mined(*sides, [[] for _ in sides[0].ids], chosen=1)


@given(rng=st.integers(0, 2**32 - 1).map(np.random.default_rng))
def test_chosen_rows_are_those_of_the_array(rng):
    vectors = rng.normal(size=(9, 4))
    rows = rng.integers(9, size=12)
    some = retrieval.Rows(vectors, rows)
    assert tuple(some.shape) == (12, 4) and len(some) == 12
    np.testing.assert_array_equal(some[3:7], vectors[rows][3:7])
    found = retrieval.top_k(some, some, 3)
    wanted = retrieval.top_k(vectors[rows], vectors[rows], 3)
    np.testing.assert_array_equal(found[0], wanted[0])
