"""What a number must not depend on: batch size, buckets, devices, the order of examples and of choices.

Every predictor through the whole engine. What is not the same to the bit is the same prediction, by scores that float32
rounds differently where a matrix product has other shapes; the deviations are printed.
"""

import importlib.util
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from xtr.evaluate import batching, engine, index, predictor
from xtr.evaluate.metrics import METRICS
from xtr.evaluate.results import ResultStore
from xtr.parallel.mesh import MeshConfig, make_mesh

_PATH = Path(__file__).parent.parent / "multihost" / "tiny_evaluations.py"
_spec = importlib.util.spec_from_file_location("tiny_evaluations", _PATH)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

VOCABULARIES = {"mt5": "t5", "bloom": "bpe", "xlmr": "xlmr", "mbert": "wordpiece"}
COUNT = 512  # as few as have batches of 64 rows
# Rows of a batch, buckets, tasks, mesh and its devices; the first is what the others are held against.
WAYS = {
    "64": (64, (32,), "plain", MeshConfig(), 1),
    "1": (1, (32,), "plain", MeshConfig(), 1),
    "7, other buckets, other orders": (7, (8, 20, 32), "shuffled", MeshConfig(), 1),
    "64 on 2 devices, other orders": (64, (32,), "shuffled", MeshConfig(), 2),
    "7 on 8 devices, other buckets": (7, (16, 32), "plain", MeshConfig(2, 2, 2), 8),
}
FAST = ["mt5.rank", "bloom.greedy", "mt5.beam", "mt5.sample", "mbert.choose", "xlmr.classify", "bloom.tag", "xlmr.span",
        "mt5.nearest", "xlmr.mined", "mbert.dual"]  # fmt: skip
SLOW = ["bloom.rank", "mt5.score", "bloom.score", "mt5.greedy", "bloom.beam", "bloom.sample", "mt5.classify",
        "bloom.classify", "mbert.classify", "mt5.choose", "bloom.choose", "mt5.tag", "xlmr.tag", "mt5.span",
        "bloom.span", "xlmr.ranked", "bloom.nearest", "mt5.mined", "mt5.dual", "bloom.dual"]  # fmt: skip
ALL = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture
def world(tmp_path, small_vocabularies):
    """A function: (name of an evaluation, number of examples) -> the folder of what it reads."""

    def made(name: str, count: int) -> Path:
        family, what = name.split(".")
        return tiny.write_world(tmp_path, family, what, small_vocabularies[VOCABULARIES[family]], count)

    return made


def records_of(out: Path) -> dict[str, dict]:
    """The graded records of the scored split, by id."""
    store = ResultStore(out)
    (place,) = [place for place in store.places() if place.split in ("test", "queries")]
    return {record["id"]: record for record in store.read_predictions(*place)}


def by_choice(record: dict) -> dict:
    """A record whose scores name their choices, in whatever order these are."""
    if "choices" not in record:
        return record
    order = sorted(range(len(record["choices"])), key=record["choices"].__getitem__)
    lists = {name: [record[name][c] for c in order] for name in ("choices", "scores", "tokens") if name in record}
    return {**record, **lists, "label": order.index(record["label"]), "input": None}


def deviation(a, b, where: str = "") -> float:
    """The greatest difference between the floats of two values, relative to these; all else must be equal."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) / max(1.0, abs(a))
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), where
        return max((deviation(a[key], b[key], f"{where}.{key}") for key in a), default=0.0)
    if isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), where
        return max((deviation(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True))), default=0.0)
    assert a == b and type(a) is type(b), f"{where}: {a!r}, {b!r}"
    return 0.0


@pytest.mark.parametrize("name", ALL)
def test_a_number_depends_on_nothing_but_the_example(name, world, tmp_path, monkeypatch):
    folder, expected, values, found = world(name, COUNT), None, None, {}
    spread, planned = predictor.spread_batch, batching.rows_per_batch
    for number, (way, (size, buckets, tasks, mesh, devices)) in enumerate(WAYS.items()):
        rows = set()
        on_these = make_mesh(mesh, jax.devices()[:devices])
        monkeypatch.setattr(predictor, "make_mesh", lambda _, mesh=on_these: mesh)
        monkeypatch.setattr(predictor, "spread_batch", lambda a, m, rows=rows: rows.add(len(a[0])) or spread(a, m))
        if name.endswith("greedy"):  # the slots that go on decoding
            monkeypatch.setattr(batching, "rows_per_batch", lambda *a, rows=rows: rows.add(planned(*a)) or planned(*a))
        graded = tiny.evaluate(tiny.run_of(folder, tmp_path / str(number), size, buckets), tasks)
        assert devices > 1 or size in rows, rows
        own = {key: by_choice(record) for key, record in records_of(tmp_path / str(number)).items()}
        own_values = {row.metric: row.value for row in graded}
        if expected is None:
            expected, values = own, own_values
            assert len(own) == COUNT and len({str(record["prediction"]) for record in own.values()}) > 1
            continue
        assert own.keys() == expected.keys()
        # The same numbers summed in another order; but a threshold is a difference of scores.
        for metric in values:
            assert math.isclose(own_values[metric], values[metric], rel_tol=1e-5 if "threshold" in metric else 1e-12)
        found[way] = max(deviation(expected[key], own[key], key) for key in expected)
    print(f"\n{name}: greatest deviations {found}")
    assert max(found.values()) < 1e-5


def test_the_threshold_of_no_answer_comes_from_the_development_set(world, tmp_path):
    folder = world("mbert.span", 60)
    rows = tiny.evaluate(tiny.run_of(folder, tmp_path / "out", 8))
    values = {(row.split, row.metric): row.value for row in rows}
    assert {metric for split, metric in values if split == "test"} == {"squad2_em", "squad2_f1"}
    threshold, store = values["validation", "null_threshold"], ResultStore(tmp_path / "out")

    def by_rule(split: str, threshold: float) -> list[float]:
        """F1 of each example, where the greater difference means no answer."""
        (place,) = [place for place in store.places() if place.split == split]
        scores = []
        for record in store.read_predictions(*place):
            text = "" if record["null_logit"] - record["span_logit"] > threshold else record["span"]
            assert split == "validation" or record["prediction"] == text
            scores.append(float(not text) if not record["gold"] else squad_f1(text, record["gold"]))
        return scores

    def squad_f1(text: str, golds: list[str]) -> float:
        return METRICS["f1"]([text], [golds])[0] / 100 if text else 0.0

    found = 100 * np.mean(by_rule("validation", threshold))
    assert found == pytest.approx(values["validation", "squad2_f1"])
    (place,) = [place for place in store.places() if place.split == "validation"]
    differences = [r["null_logit"] - r["span_logit"] for r in store.read_predictions(*place)]
    others = [100 * np.mean(by_rule("validation", other)) for other in [-1e9, *differences]]
    assert found == pytest.approx(max(others)) and min(differences) <= threshold <= max(differences)
    assert 100 * np.mean(by_rule("test", threshold)) == pytest.approx(values["test", "squad2_f1"])
    # Graded again, from records alone.
    run = tiny.run_of(folder, tmp_path / "again", 8)
    again = {(row.split, row.metric): row.value for row in engine.regrade(run, str(tmp_path / "out"))}
    assert again == values


def test_a_killed_retrieval_goes_on_behind_its_last_whole_shard(world, tmp_path, monkeypatch):
    folder, texts = world("mt5.mined", 90), []
    monkeypatch.setattr(index, "SHARD_ROWS", 20)
    embed = predictor.Predictor.embed
    monkeypatch.setattr(predictor.Predictor, "embed", lambda *a, **k: texts.append(len(a[1])) or embed(*a, **k))
    tiny.evaluate(tiny.run_of(folder, tmp_path / "whole", 8))
    total, write = sum(texts), index._write

    def dies(directory, manifest, shard, *more):
        if "validation" not in str(directory) and shard == 3:
            raise KeyboardInterrupt
        write(directory, manifest, shard, *more)

    monkeypatch.setattr(index, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        tiny.evaluate(tiny.run_of(folder, tmp_path / "killed", 8))
    monkeypatch.setattr(index, "_write", write)
    before = sum(texts) - total
    tiny.evaluate(tiny.run_of(folder, tmp_path / "killed", 8))
    # What was embedded, but not written any more, is embedded twice: one shard.
    assert sum(texts) - total == total + 20 and before < total
    assert records_of(tmp_path / "killed") == records_of(tmp_path / "whole")
    assert not (tmp_path / "killed" / "index").exists()
