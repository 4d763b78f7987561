"""The tiny study through the command: it runs, a second run does nothing, and a killed one ends in the same bits."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from xtr.checkpoints.index import read_index
from xtr.checkpoints.manager import committed_steps
from xtr.cli.commands import load as load_command
from xtr.cli.main import build_parser, run, split_gin
from xtr.cli.study_load import load
from xtr.errors import UserError
from xtr.evaluate import engine
from xtr.study import lease
from xtr.study.handover import hand_over
from xtr.study.state import STATES

XTR = [sys.executable, "-m", "xtr.cli.main"]


@pytest.fixture(scope="module")
def undisturbed(study_arguments, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "study"
    assert run(study_arguments(directory)) == 0
    return directory


def stage(directory: Path, name: str) -> Path:
    (found,) = directory.glob(f"stages/{name}-*")
    return found


def gin_folder(study_arguments) -> Path:
    return Path(study_arguments("")[2].removeprefix("--gin_file=")).parent


def report(directory: Path) -> str:
    (page,) = directory.rglob("report.html")
    return page.read_text()


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
    page = report(undisturbed)
    assert "tiny" in page and "http-equiv" not in page and 'src="http' not in page
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
    assert facts["counts"] == {name: 0 for name in STATES} | {"done": 1 + 2 + 8 + 8 + 3}
    assert all(stage["seconds"] > 0 and stage["steps"] == stage["of"] for stage in facts["stages"])
    assert run([*study_arguments(undisturbed, "status"), "--watch"]) == 0  # ends where nothing is left
    assert "22 stages: 22 done" in capsys.readouterr().out


def test_a_plan_shows_the_graph_and_what_it_costs(undisturbed, study_arguments, tmp_path, capsys):
    assert run([*study_arguments(undisturbed, "plan"), "--json", "--price=2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    totals, stages = facts["totals"], {stage["stage"]: stage for stage in facts["stages"]}
    assert totals["states"] == {"done": 22} and totals["steps"] == 6 + 2 * 4 + 8 * 4
    assert totals["chip_hours_left"] == totals["price_left"] == totals["hours_all_at_once"] == 0
    assert totals["price"] == 2 * totals["chip_hours"] > 0
    assert stages["target.tiny.nli.xnli.seed0"]["parent"] == "intermediate.tiny.nli.seed0"
    assert stages["intermediate.tiny.nli.seed0"]["parent"] == "pretrain.tiny"
    assert all(Path(stage["directory"]).is_dir() for stage in stages.values())
    # Another study's directory: the same addresses, nothing done.
    assert run([*study_arguments(tmp_path / "other", "plan"), "--by=stage"]) == 0
    shown = capsys.readouterr().out
    assert "22 stages (1 ready, 21 waiting), 46 training steps" in shown
    assert stages["target.tiny.nli.xnli.seed0"]["address"] in shown and "An estimate" in shown
    assert not (tmp_path / "other").exists()


def test_a_plan_needs_neither_data_nor_vocabulary(study_arguments, capsys):
    gin_file = study_arguments("")[2]
    assert run(["study", "plan", gin_file, "--by=stage", "--gin.VOCAB_SIZE=512"]) == 0
    said = capsys.readouterr()
    assert said.out.count("unknown until its data is here") == 22 and "22 stages (22 unknown)" in said.out
    assert "assumed: VOCABULARY_PATH" in said.out and "not here: " in said.err


def test_targets_that_are_trained_alike_share_the_training(study_arguments, capsys):
    also = "{'xquad': 'targets/xquad.gin', 'mlqa': 'targets/mlqa.gin'}"
    arguments = [study_arguments("")[2], "--json", "--gin.VOCAB_SIZE=512", f"--gin.study.targets={also}"]
    plain = "--gin.study.overlaps=None"

    def planned(*more):
        assert run(["study", "plan", *arguments, plain, *more]) == 0
        return {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}

    found = planned()
    for end in ("none", "nli"):
        for seed in (0, 1):
            scored = [found[f"evaluate.tiny.{end}.{target}.seed{seed}"] for target in ("xquad", "mlqa")]
            assert [one["parent"] for one in scored] == [f"target.tiny.{end}.xquad.seed{seed}"] * 2
    assert not any(name.startswith("target.") and "mlqa" in name for name in found)
    # One step more for one of them, and each has its own.
    apart = planned("--gin.study.stage_overrides={'target.mlqa': {'TRAIN_STEPS': 5}}", "--gin.study.pretrain=()")
    assert apart["evaluate.tiny.nli.mlqa.seed1"]["parent"] == "target.tiny.nli.mlqa.seed1"


def test_another_protocol_or_other_data_is_refused(undisturbed, study_arguments, cache_dir, tmp_path, capsys):
    kept = json.loads((undisturbed / "protocol.json").read_text())
    assert kept["protocol"]["evaluations"]["tiny.tatoeba"]["embedding_layer"] == -1
    assert "last checkpoint" in kept["protocol"]["selection"] and len(kept["vocabularies"]["tiny"]) == 16
    assert {"tiny.mnli", "tiny.xnli.qaa", "tiny.squad_v1"} <= set(kept["data"])
    assert kept["code"][0]["xtr"] and kept["code"][0]["since"]
    before = sorted(undisturbed.rglob("*"))
    model = {"gin_file": str(gin_folder(study_arguments) / "tiny.gin"), "stage_overrides": {"evaluate": {"LIMIT": 5}}}
    other = f"--gin.study.models={{'tiny': {model!r}}}"
    with pytest.raises(UserError, match=r"measured otherwise: tiny.tatoeba.limit: None -> 5.*another STUDY_DIR"):
        run([*study_arguments(undisturbed), other])
    assert sorted(undisturbed.rglob("*")) == before
    # As if the data had been other ones at the first run.
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    kept["data"]["tiny.mnli"] = "mnli-other"
    (copy / "protocol.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="data tiny.mnli: mnli-other -> "):
        run(study_arguments(copy))
    # Another revision of the code is no other protocol: it is listed, and the report shows it.
    kept = json.loads((undisturbed / "protocol.json").read_text())
    kept["code"][0]["revision"] = "abc123"
    (copy / "protocol.json").write_text(json.dumps(kept))
    assert run(study_arguments(copy)) == 0
    assert [run_["revision"] for run_ in json.loads((copy / "protocol.json").read_text())["code"]][0] == "abc123"
    assert "abc123" in report(copy)
    # Rows that were made on other data.
    signed = stage(copy, "evaluate.tiny.nli.xnli.seed0") / "stage.json"
    signed.write_text(signed.read_text().replace("xnli", "other"))
    with pytest.raises(UserError, match="were made otherwise than this study makes them"):
        run(study_arguments(copy, "report"))


def test_a_failed_stage_is_shown_and_retried(undisturbed, study_arguments, tmp_path, capsys, monkeypatch):
    directory = shutil.copytree(undisturbed, tmp_path / "study")
    name = "evaluate.tiny.nli.xnli.seed0"
    (stage(directory, name) / "DONE").unlink()

    def fail(*_):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "evaluate", fail)
        assert run(study_arguments(directory)) == 1
    assert f"failed: {name}: RuntimeError: no memory left" in capsys.readouterr().out
    assert "no memory left" in report(directory)
    assert run(study_arguments(directory)) == 1  # it is left alone
    assert "`xtr study retry` clears it" in capsys.readouterr().out
    assert run(study_arguments(directory, "status")) == 0
    shown = capsys.readouterr().out
    assert "22 stages: 21 done, 1 failed" in shown and "no memory left" in shown
    with pytest.raises(UserError, match=f"{name} failed on .*no memory left.*`xtr study retry {name}` clears it"):
        run([*study_arguments(directory), f"--stage={name}"])
    with pytest.raises(UserError, match=f"Did you mean .*{name}"):
        run([*study_arguments(directory, "retry"), "evaluate.tiny.nli.xnli.seed"])
    assert run([*study_arguments(directory, "retry"), name]) == 0
    assert run([*study_arguments(directory), f"--stage={name}"]) == 0
    assert "1 stages run" in capsys.readouterr().out
    assert run(study_arguments(directory)) == 0
    pd.testing.assert_frame_equal(rows(directory), rows(undisturbed), check_exact=True)


def test_a_stage_that_fails_by_itself_is_not_to_be_tried_again(
    undisturbed, study_arguments, tmp_path, capsys, monkeypatch
):
    directory = shutil.copytree(undisturbed, tmp_path / "study")
    name = "evaluate.tiny.nli.xnli.seed0"
    (stage(directory, name) / "DONE").unlink()

    def fail(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(engine, "evaluate", fail)
    with pytest.raises(UserError, match=rf"{name} failed \(`xtr study retry` clears that\)"):
        run([*study_arguments(directory), f"--stage={name}"])
    assert f"failed: {name}: RuntimeError: no memory left" in capsys.readouterr().out


def test_pruning_lists_first_and_never_takes_results(undisturbed, study_arguments, tmp_path, capsys):
    directory = shutil.copytree(undisturbed, tmp_path / "study")
    smaller = "--gin.study.targets={'xquad': 'targets/xquad.gin', 'tatoeba': 'targets/tatoeba.gin'}"
    assert run([*study_arguments(directory, "prune"), "--gin.study.overlaps=None", smaller]) == 0
    shown = capsys.readouterr().out
    # XNLI's four training stages, with their leases; its evaluations hold results.
    assert "8 paths" in shown and "Nothing was deleted" in shown and shown.count("it holds results") == 4
    assert run([*study_arguments(directory, "prune"), "--checkpoints", "--yes"]) == 0
    assert not list(directory.glob("stages/target.*/checkpoints/*"))
    assert len(list(directory.glob("stages/target.*/DONE"))) == 8
    assert run(study_arguments(directory)) == 0
    assert "0 stages run" in capsys.readouterr().out
    pd.testing.assert_frame_equal(rows(directory), rows(undisturbed), check_exact=True)


def test_stages_are_named_as_they_are(undisturbed, study_arguments, tmp_path):
    with pytest.raises(
        UserError, match="no stage 'target.tiny.nli.xnil.seed0'.*Did you mean target.tiny.nli.xnli.seed0"
    ):
        run([*study_arguments(undisturbed), "--stage=target.tiny.nli.xnil.seed0"])
    with pytest.raises(UserError, match="starts from intermediate.tiny.nli.seed0, which is not done"):
        run([*study_arguments(tmp_path / "new"), "--stage=target.tiny.nli.xnli.seed0"])
    assert not (tmp_path / "new" / "stages").exists()


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


def endless(study_arguments, directory: Path, save_period: int) -> list[str]:
    """The command of a study whose pretraining lasts for longer than a test."""
    model = {"gin_file": str(gin_folder(study_arguments) / "tiny.gin")}
    model |= {"stage_overrides": {"pretrain": {"TRAIN_STEPS": 1_000_000, "SAVE_PERIOD": save_period}}}
    return [*XTR, *study_arguments(directory), f"--gin.study.models={{'tiny': {model!r}}}"]


def test_sigterm_saves_and_exits_with_42(study_arguments, tmp_path):
    directory = tmp_path / "study"
    command = endless(study_arguments, directory, save_period=2)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(map(committed_steps, directory.glob("stages/pretrain.*/checkpoints"))), process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 42, stderr.decode()
    assert b"preempted: saved step" in stderr
    assert {lease.look(place) for place in (directory / "leases").iterdir()} == {None}  # given back


@pytest.mark.slow
@pytest.mark.parametrize("save_period", [0, 50])
def test_a_training_whose_lease_is_lost_stops(save_period, study_arguments, tmp_path):
    """At its next step after a heartbeat, or before it saves; it keeps nothing then."""
    directory, log = tmp_path / "study", tmp_path / "log"
    with open(log, "w") as err:
        command = endless(study_arguments, directory, save_period)
        process = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(directory.glob("stages/pretrain.*/tensorboard/train/events.*")), process)
        (place,) = directory.glob("leases/pretrain.*")
        (place / "2").mkdir()
        other = lease.Holder("r", "other", 1, "other", "")
        lease.Lease(place, 2, other).beat()
        wait_for(lambda: "was taken over" in log.read_text(), process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    assert process.returncode == 42 and "no stage was begun any more" in log.read_text()
    assert save_period or not list(directory.glob("stages/pretrain.*/checkpoints/*"))
    assert not list(directory.glob("stages/*/FAILED"))
    assert lease.look(place).holder == other


@pytest.mark.slow
def test_of_two_runners_one_is_killed_and_the_other_ends_the_study(undisturbed, study_arguments, tmp_path):
    directory = tmp_path / "study"
    command = [*XTR, *study_arguments(directory), "--workers=1"]
    killed, other = (
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )

    def signed() -> set[str]:
        """The runners that have ended a stage."""
        ended = [path.with_name("stage.json") for path in directory.glob("stages/*/DONE")]
        return {json.loads(path.read_text())["runner"] for path in ended}

    def in_a_target() -> bool:
        held = [lease.look(place) for place in directory.glob("leases/target.*")]
        mine = [h.holder.runner for h in held if h and h.holder and h.holder.pid == killed.pid]
        return bool(mine) and mine[0] in signed() and bool(list(directory.glob("stages/target.*/checkpoints/[123]")))

    try:
        wait_for(in_a_target, killed, 600)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    out, err = other.communicate(timeout=600)
    assert other.returncode == 0, err
    assert "0 failed" in out and " by other runners" in out
    pd.testing.assert_frame_equal(rows(directory), rows(undisturbed), check_exact=True)
    assert weights(directory) == weights(undisturbed)
    assert len(signed()) == 2


@pytest.mark.slow
def test_stages_are_handed_over_to_processes(undisturbed, study_arguments, tmp_path):
    """A launcher that runs each stage's command as a process of this machine."""
    directory = tmp_path / "study"
    arguments = study_arguments(directory, "plan")

    class Processes:
        def __init__(self):
            self.jobs: list[subprocess.Popen] = []

        def submit(self, stage_name, argv):
            self.jobs.append(subprocess.Popen([sys.executable, "-m", "xtr.cli.main", *argv], stderr=subprocess.DEVNULL))
            return str(len(self.jobs) - 1)

        def state(self, job):
            code = self.jobs[int(job)].poll()
            return "running" if code is None else {0: "done", 42: "preempted"}.get(code, "failed")

        def log(self, job):
            return ""

    rest, overrides = split_gin(arguments)
    parsed = build_parser().parse_args(rest)
    parsed.overrides, parsed.search_paths = overrides, []
    spec, _ = load_command(parsed, "study")
    study = load(spec, parsed, tokenise=True)
    some = [job for job in study.jobs if job.stage.intermediate == "none" and job.stage.target != "xquad"]
    handed = hand_over(some, arguments[2:], Processes(), at_a_time=2, poll=0.5)
    assert handed.failed == {} and handed.done == handed.submitted == len(some) == 1 + 2 + 2 + 1
    mine = {name: found for name, found in weights(undisturbed).items() if name in weights(directory)}
    assert weights(directory) == mine and len(mine) == 3
