"""Retrieval tasks end to end: the official programs' vectors, over the mesh, to records, to the official values."""

import functools
import gzip
import json

import numpy as np
import pytest

from xtr.evaluate import index, retrieve, search
from xtr.evaluate.metrics import METRICS
from xtr.evaluate.retrieve import Side

FLOAT32 = 1e-4


@pytest.fixture
def load(oracles):
    """`load(name, vectors)`: an oracle's record and its arrays."""

    def read(name, vectors):
        path = oracles / "metrics" / f"{name}.json"
        packed = path.with_suffix(".json.gz")
        text = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
        with np.load(oracles / "metrics" / f"{vectors}.npz") as arrays:
            return json.loads(text), dict(arrays)

    return read


@pytest.fixture(params=["numpy", "devices"])
def find(request, monkeypatch):
    """The search, of small sides by NumPy as they would be, and over eight devices in small blocks."""
    if request.param == "devices":
        monkeypatch.setattr(search, "_SMALL", 0)
    return functools.partial(search.top_k, block_bytes=1_000_000)


def value_of(records, metric):
    return METRICS[metric]([record["prediction"] for record in records], [record["gold"] for record in records])[0]


def layered(ids, vectors):
    """A side whose layer 1 is the vectors, and layer 0 noise."""
    return Side(ids, {0: np.random.default_rng(list(ids[0].encode())).normal(size=vectors.shape), 1: vectors})


def test_tatoeba(load, find):
    record, arrays = load("tatoeba_retrieval", "tatoeba_embeddings")
    for language in record["inputs"]["languages"]:
        foreign, english, gold_Q = (arrays[f"{language}_{side}"] for side in ("x", "y", "gold"))
        names = [f"f{n}" for n in range(len(foreign))]
        golds = [names[n] for n in gold_Q]
        queries = layered([f"e{n}" for n in range(len(english))], english)
        records = retrieve.nearest(queries, layered(names, foreign), golds, ["accuracy"], 1, find)
        wanted = record["expected"][language]
        assert [r["prediction"] for r in records] == [names[n] for n in wanted["predictions"]]
        assert value_of(records, "accuracy") == pytest.approx(wanted["official_accuracy"], rel=1e-9)
        values = retrieve.layer_values(records)
        assert values["accuracy/layer_1"] == pytest.approx(wanted["official_accuracy"], rel=1e-9)
        assert values["accuracy/layer_0"] < 10


def test_mewslix_from_an_index_on_disk(load, find, tmp_path):
    record, arrays = load("mewslix_retrieval", "mewslix_embeddings")
    inputs, expected = record["inputs"], record["expected"]
    entities = arrays["candidates"]
    held = index.open_or_build(
        tmp_path, {"vectors": "mewslix"}, len(entities), lambda rows: entities[rows.start : rows.stop], shard_rows=77
    )
    candidates = Side(inputs["candidate_ids"], {1: held})
    for language in inputs["languages"]:
        names = inputs["example_ids"][language]
        queries = Side(names, {1: arrays[f"queries_{language}"]})
        golds = [inputs["gold"][language][name] for name in names]
        records = retrieve.ranked(queries, candidates, golds, ["map@20"], 1, find)
        assert {r["id"]: r["prediction"] for r in records} == expected["top20"][language]
        wanted = expected["per_language"][language]["map@20"]
        assert value_of(records, "map@20") == pytest.approx(wanted, rel=FLOAT32)


def test_lareqa(load, find):
    record, arrays = load("lareqa_retrieval", "lareqa_embeddings")
    expected = record["expected"]
    names = expected["question_uids"]
    golds = [expected["answers_by_xling_id"][name.rpartition("_")[0]] for name in names]
    candidates = layered(expected["candidate_uids"], arrays["candidates"])
    assert retrieve.absent_golds(golds, candidates.ids) == 0
    records = retrieve.ranked(layered(names, arrays["questions"]), candidates, golds, ["map@20"], 1, find)
    assert value_of(records, "map@20") == pytest.approx(100 * expected["mAP@20"], rel=FLOAT32)
    assert retrieve.layer_values(records)["map@20/layer_1"] == pytest.approx(100 * expected["mAP@20"], rel=FLOAT32)
    for r in records:
        wanted = 100 * expected["per_question_ap@20"][r["id"]]
        assert r["layers"]["map@20"][1] == pytest.approx(wanted, rel=FLOAT32)


def test_bucc(load, find):
    record, arrays = load("bucc_mining", "bucc_embeddings")
    thresholds = None
    for split in ("dev", "test"):
        inputs, wanted = record["inputs"][split], record["expected"][split]
        golds = {name: [] for name in inputs["src_id"]}
        for pair in inputs["gold"]:
            source, target = pair.split("\t")
            golds[source].append(target)
        sources, targets = (
            layered(inputs[f"{side}_id"], arrays[f"{split}_{key}"]) for side, key in (("src", "x"), ("trg", "y"))
        )
        records, thresholds = retrieve.mined(
            sources, targets, inputs["src_text"], inputs["trg_text"], list(golds.values()), 1, find, thresholds
        )
        best = record["expected"]["dev"]["bucc_eval"]["best-threshold"]
        assert thresholds[1] == pytest.approx(best, rel=FLOAT32)
        pairs = [f"{r['id']}\t{target}" for r in records for target in r["prediction"]]
        assert sorted(pairs) == sorted(wanted["predicted_pairs"])
        f1 = wanted["evaluate_py_bucc_f1"]["f1"]
        assert value_of(records, "bucc_f1") == pytest.approx(f1, rel=1e-9)
        assert retrieve.layer_values(records)["bucc_f1/layer_1"] == pytest.approx(f1, rel=1e-9)
