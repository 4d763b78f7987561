"""The tiny study through the command: it runs, a second run does nothing, and a killed one ends in the same bits."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from xtr.checkpoints.manager import committed_steps, read_index
from xtr.cli.main import run

XTR = [sys.executable, "-m", "xtr.cli.main"]


@pytest.fixture(scope="module")
def undisturbed(study_arguments, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "study"
    assert run(study_arguments(directory)) == 0
    return directory


def stage(directory: Path, name: str) -> Path:
    (found,) = directory.glob(f"stages/{name}-*")
    return found


def rows(directory: Path) -> pd.DataFrame:
    table = pd.read_parquet(directory / "results" / "results.parquet")
    return table.sort_values(list(table.columns[:12])).reset_index(drop=True)


def weights(directory: Path) -> dict[str, dict]:
    """Shape and digest of every array in every training stage's last checkpoint."""
    out = {}
    for path in sorted(directory.glob("stages/*/checkpoints")):
        last = path / str(committed_steps(path)[-1])
        out[path.parent.name], _ = read_index(last)
    return out


def test_a_study_leaves_what_it_promises(undisturbed):
    table = rows(undisturbed)
    assert set(table["target"]) == {"xnli", "xquad", "tatoeba"} and set(table["seed"]) == {0, 1}
    assert {"en", "qaa", "qab", "qac", "mean 4/4"} == set(table[table["target"] == "xnli"]["language"])
    page = (undisturbed / "report.html").read_text()
    assert "tiny" in page and "http-equiv" not in page and "src=\"http" not in page
    assert list(undisturbed.glob("tensorboard/**/events.out.tfevents.*"))
    run_dir = stage(undisturbed, "target.tiny.nli.xnli.seed0")
    for name in ("config.gin", "operative_config.gin", "overrides.gin", "environment.json", "DONE", "checkpoints/4"):
        assert (run_dir / name).exists(), name
    assert list(run_dir.glob("tensorboard/train/events.*"))


def test_a_second_run_does_nothing(undisturbed, study_arguments, capsys):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.glob("stages/**/*") if p.is_file()}
    assert run(study_arguments(undisturbed)) == 0
    assert "0 stages run" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in undisturbed.glob("stages/**/*") if p.is_file()}


def test_status_counts_stages(undisturbed, study_arguments, capsys):
    assert run([*study_arguments(undisturbed, "status"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    # 1 pretrained + 2 intermediates + 2 intermediates (none, nli) x 2 trained targets x 2 seeds, and the evaluations:
    # 8 of those, retrieval once without an intermediate and once a seed with one.
    assert len(facts) == 1 + 2 + 8 + 8 + 3 and {f["state"] for f in facts} == {"done"}


def wait_for(path_of, process: subprocess.Popen, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not path_of():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run did not get there in time"
        time.sleep(0.02)


MOMENTS = [
    pytest.param("in pretraining", marks=pytest.mark.slow),
    "in a target's training",
    pytest.param("in an evaluation", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again_gives_the_same_bits(moment, undisturbed, study_arguments, tmp_path):
    directory = tmp_path / "study"
    reached = {
        "in pretraining": lambda: list(directory.glob("stages/pretrain.*/checkpoints/[24]")),
        "in a target's training": lambda: list(directory.glob("stages/target.*nli*/checkpoints/[12]")),
        "in an evaluation": lambda: list(directory.glob("stages/evaluate.*/run.json")),
    }[moment]
    command = [*XTR, *study_arguments(directory)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(reached, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(study_arguments(directory)) == 0
    pd.testing.assert_frame_equal(rows(directory), rows(undisturbed), check_exact=True)
    assert weights(directory) == weights(undisturbed)
    for path in undisturbed.glob("stages/evaluate.*/predictions/**/*.jsonl"):
        assert (directory / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()


def test_sigterm_saves_and_exits_with_42(study_arguments, tmp_path):
    directory = tmp_path / "study"
    process = subprocess.Popen([*XTR, *study_arguments(directory)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(directory.glob("stages/pretrain.*/checkpoints/2")), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 42, stderr.decode()
    assert b"preempted: saved step" in stderr
