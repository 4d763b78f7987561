"""Evaluation by two processes with real networks between them: the same files as one process writes, also after a stop
that only one of them was asked for and after the death of one."""

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from xtr.evaluate.results import ResultStore

PROGRAM = Path(__file__).parent / "tiny_evaluations.py"
_spec = importlib.util.spec_from_file_location("tiny_evaluations", PROGRAM)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

# Evaluations, and the kinds of their vocabularies.
NAMES = {"mt5.rank": "t5", "mt5.nearest": "t5", "mt5.greedy": "t5", "xlmr.span": "xlmr"}
MORE = {
    **dict.fromkeys(("mt5.sample", "mt5.beam", "mt5.score"), "t5"),
    **dict.fromkeys(("bloom.rank", "bloom.greedy"), "bpe"),
    **dict.fromkeys(("xlmr.tag", "xlmr.mined", "xlmr.ranked"), "xlmr"),
    **dict.fromkeys(("mbert.choose", "mbert.dual"), "wordpiece"),
}
COUNT = 90


def started(processes: int, devices: int, arguments: list) -> list[subprocess.Popen]:
    """The program in so many processes with so many devices each."""
    return tiny.launch(PROGRAM, processes, devices, arguments)


def said(running: list[subprocess.Popen]) -> list[list[str]]:
    """What each process printed, once all have ended well."""
    lines = []
    try:
        for process in running:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            lines.append([line for line in out.split("\n") if line.startswith(("evaluated", "preempted"))])
    finally:
        for process in running:
            process.kill()
    return lines


def evaluated(processes: int, devices: int, worlds: Path, out: Path, names, **settings) -> None:
    arguments = [worlds, out, ",".join(names), json.dumps(settings)]
    assert said(started(processes, devices, arguments)) == [[f"evaluated {name}" for name in names]] * processes


def files(out: Path) -> dict[str, bytes]:
    """All prediction files."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("predictions/*/*.jsonl"))}


@pytest.fixture
def worlds(tmp_path, small_vocabularies):
    """A function: evaluations and their vocabularies -> the folder of what they read."""

    def made(names) -> Path:
        for name, kind in names.items():
            tiny.write_world(tmp_path / "worlds", *name.split("."), small_vocabularies[kind], COUNT)
        return tmp_path / "worlds"

    return made


def check_same(one: Path, other: Path, name: str) -> None:
    """That an evaluation gave the same files."""
    assert files(one / name) == files(other / name) and files(one / name)
    rows = [ResultStore(where / name).read() for where in (one, other)]
    assert rows[0].equals(rows[1])
    for where in (one, other):
        assert (where / name / "DONE").exists() and not list((where / name).rglob("*.partial"))


def deviation(one: Path, other: Path, name: str) -> float:
    """The greatest deviation of a score, where all predictions are the same."""
    greatest, store = 0.0, ResultStore(one / name)
    for place in store.places():
        records = store.read_predictions(*place), ResultStore(other / name).read_predictions(*place)
        for a, b in zip(*records, strict=True):
            assert a["id"] == b["id"] and a["contributions"] == b["contributions"]
            if not isinstance(a["prediction"], float):
                assert a["prediction"] == b["prediction"]
            for field in {"scores", "log_prob", "score", "span_logit", "null_logit"} & a.keys():
                x, y = np.array(a[field]), np.array(b[field])
                greatest = max(greatest, float((np.abs(x - y) / np.maximum(1.0, np.abs(x))).max()))
    return greatest


def test_two_processes_evaluate_as_one_does(worlds, tmp_path):
    folder, out = worlds(NAMES), {way: tmp_path / way for way in ("two", "one", "single")}
    settings = {"examples_per_shard": 30, "shard_rows": 30, "index_dir": str(tmp_path / "index")}

    # The second process alone is asked to stop in the first evaluation; the first one dies in the next.
    arguments = [folder, out["two"], "mt5.rank", json.dumps(settings | {"stop": 1})]
    assert said(started(2, 1, arguments)) == [["preempted mt5.rank"]] * 2
    first, second = started(2, 1, [folder, out["two"], "mt5.nearest", json.dumps(settings | {"die": 2})])
    first.communicate(timeout=300)
    second.kill()
    second.communicate()
    assert first.returncode == -9

    # What was written is used: marks in it are found again.
    (journal,) = (out["two"] / "mt5.rank").rglob("*.partial")
    head, *shards = journal.read_text().removesuffix("\n").split("\n")
    shards = [json.loads(line) for line in shards]
    assert 0 < len(shards) < 3
    kept = {record["id"] for shard in shards for record in shard["records"]}
    for shard in shards:
        for record in shard["records"]:
            record["kept"] = True
    journal.write_text("\n".join([head, *(json.dumps(shard, ensure_ascii=False) for shard in shards), ""]))
    embedded = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.npy")}
    assert len(embedded) == 2

    evaluated(2, 1, folder, out["two"], NAMES, **settings)
    for path, written in embedded.items():
        assert path.stat().st_mtime_ns == written
    (path,) = (out["two"] / "mt5.rank").rglob("*.jsonl")
    records = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert {record["id"] for record in records if record.pop("kept", False)} == kept
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

    evaluated(1, 2, folder, out["one"], NAMES, **settings | {"index_dir": None})
    evaluated(1, 1, folder, out["single"], NAMES, examples_per_shard=1000)
    for name in NAMES:
        check_same(out["two"], out["one"], name)
    found = {name: deviation(out["two"], out["single"], name) for name in NAMES}
    print("\ndeviation of two processes from one device:", found)
    assert max(found.values()) < 1e-5


@pytest.mark.slow
def test_two_processes_with_two_devices_each(worlds, tmp_path):
    """Four devices add up in another order where they are in one process: the same predictions, by rounded scores."""
    names = NAMES | MORE
    folder, out = worlds(names), {way: tmp_path / way for way in ("two", "one", "single")}
    evaluated(2, 2, folder, out["two"], names)
    evaluated(1, 4, folder, out["one"], names)
    evaluated(1, 1, folder, out["single"], names)
    for other in ("one", "single"):
        found = {name: deviation(out["two"], out[other], name) for name in names}
        print(f"\ndeviation from {other}:", found)
        assert max(found.values()) < 1e-5
