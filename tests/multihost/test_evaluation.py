"""Evaluation by two processes with real networks between them: the same files as one process writes, also after a stop
that only one of them was asked for and after the death of one."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from xtr.evaluate.results import ResultStore

PROGRAM = Path(__file__).parent / "tiny_evaluations.py"
_spec = importlib.util.spec_from_file_location("tiny_evaluations", PROGRAM)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

NAMES = {"mt5.rank": "t5", "mt5.nearest": "t5", "mt5.greedy": "t5", "mt5.sample": "t5", "xlmr.span": "xlmr"}
MORE = {"bloom.rank": "bpe", "bloom.greedy": "bpe", "mt5.beam": "t5", "xlmr.tag": "xlmr", "mbert.choose": "wordpiece",
        "mt5.score": "t5", "xlmr.mined": "xlmr", "xlmr.ranked": "xlmr", "mbert.dual": "wordpiece"}  # fmt: skip
COUNT = 90


def started(processes: int, devices: int, arguments: list) -> list[subprocess.Popen]:
    """The program in so many processes with so many devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "XTR_COORDINATOR": f"127.0.0.1:{port}",
        "XTR_NUM_PROCESSES": str(processes),
    }
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=environment | {"XTR_PROCESS_ID": str(number)}, **pipes)
        for number in range(processes)
    ]


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


def compare(two: Path, one: Path, single: Path, name: str) -> float:
    """Two processes' files against one's of as many devices; the greatest deviation from a single device's."""
    assert files(two / name) == files(one / name) and files(two / name)
    rows = [ResultStore(where / name).read() for where in (two, one)]
    assert rows[0].equals(rows[1])
    assert (two / name / "DONE").exists() and not list((two / name).rglob("*.partial"))
    greatest = 0.0
    for place in (store := ResultStore(two / name)).places():
        pairs = zip(store.read_predictions(*place), ResultStore(single / name).read_predictions(*place), strict=True)
        for a, b in pairs:
            assert a["id"] == b["id"]
            if not isinstance(a["prediction"], float):
                assert a["prediction"] == b["prediction"] and a["contributions"] == b["contributions"]
            for field in ("log_prob", "score", "span_logit", "null_logit"):
                if field in a:
                    greatest = max(greatest, abs(a[field] - b[field]) / max(1.0, abs(a[field])))
    return greatest


def test_two_processes_evaluate_as_one_does(worlds, tmp_path):
    folder, out = worlds(NAMES), {way: tmp_path / way for way in ("two", "one", "single")}
    settings = {"examples_per_shard": 30, "shard_rows": 30, "index_dir": str(tmp_path / "index")}

    # The second process alone is asked to stop in the first evaluation; the first one dies in the next.
    arguments = [folder, out["two"], "mt5.rank,mt5.nearest", json.dumps(settings | {"stop": 1, "die": 2})]
    first, second = started(2, 1, arguments)
    assert first.communicate(timeout=300)[0].count("preempted mt5.rank") == 1 and first.returncode == -9
    second.kill()
    assert second.communicate()[0].count("preempted mt5.rank") == 1

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
    found = {name: compare(*out.values(), name) for name in NAMES}
    print("deviation of two processes from one device:", found)
    assert max(found.values()) < 1e-5


@pytest.mark.slow
def test_two_processes_with_two_devices_each(worlds, tmp_path):
    names = NAMES | MORE
    folder, out = worlds(names), {way: tmp_path / way for way in ("two", "one", "single")}
    evaluated(2, 2, folder, out["two"], names)
    evaluated(1, 4, folder, out["one"], names)
    evaluated(1, 1, folder, out["single"], names)
    assert max(compare(*out.values(), name) for name in names) < 1e-5
