"""Handing ready stages over: order, never twice, preemption, failures, machines that go away."""

import dataclasses
import json
import shutil

import pytest

from xtr import preemption, rundir
from xtr.errors import Preempted
from xtr.study import lease
from xtr.study.graph import Stage
from xtr.study.handover import JOBS, hand_over, stage_argv
from xtr.study.jobs import FAILED, Job
from xtr.study.runner import lease_place
from xtr.study.state import retry

GIN = ["--gin_file=study.gin", "--gin.STUDY_DIR=/s"]


@dataclasses.dataclass(frozen=True)
class Run:
    train_steps: int = 4


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    """nli -> (xnli, xquad) -> their evaluations."""
    nli = Stage("intermediate", "m", "nli")
    ends = [Stage("target", "m", "nli", target, parent=nli) for target in ("xnli", "xquad")]
    stages = [nli, *ends, *(Stage("evaluate", "m", "nli", end.target, parent=end) for end in ends)]
    return [
        Job(stage, Run(), {}, (), f"{i}", tmp_path / "stages" / f"{stage.name}-{i}") for i, stage in enumerate(stages)
    ]


class Fake:
    """A launcher whose jobs take two looks, then end as `ends` says: stage name -> its ends, 'done' after them."""

    def __init__(self, jobs, ends=None):
        self.directories = {job.stage.name: job.directory for job in jobs}
        self.ends, self.submitted, self.looks, self.most = ends or {}, [], {}, 0

    def submit(self, stage_name, argv):
        assert argv == stage_argv(stage_name, GIN)
        alive = [job for job, looks in self.looks.items() if looks > 0]
        assert not [job for job in alive if job.startswith(f"{stage_name}/")], "submitted twice"
        self.submitted.append(stage_name)
        job = f"{stage_name}/{len(self.submitted)}"
        self.looks[job] = 2
        self.most = max(self.most, len(alive) + 1)
        return job

    def state(self, job):
        self.looks[job] -= 1
        if self.looks[job] > 0:
            return "running"
        name = job.partition("/")[0]
        end = self.ends[name].pop(0) if self.ends.get(name) else "done"
        if end == "done":
            (self.directories[name] / "checkpoints" / "4").mkdir(parents=True, exist_ok=True)
            rundir.mark_done(self.directories[name], {"seconds": 1.0})
        if end == "failed":
            detail = {"error": "no memory", "host": "h", "time": "t"}
            rundir.write_atomic(self.directories[name] / FAILED, json.dumps(detail))
        return "done" if end == "lost" else end

    def log(self, job):
        return f"/logs/{job}"


@pytest.mark.parametrize("at_a_time", [1, 5])
def test_each_stage_is_handed_over_once_after_its_parent(jobs, at_a_time):
    launcher = Fake(jobs)
    told = []
    handed = hand_over(jobs, GIN, launcher, at_a_time, poll=0, on_submit=lambda stage, job: told.append((stage, job)))
    assert (handed.done, handed.submitted, handed.failed) == (5, 5, {})
    assert sorted(launcher.submitted) == sorted(job.stage.name for job in jobs) and len(told) == 5
    for job in jobs[1:]:
        assert launcher.submitted.index(job.stage.parent.name) < launcher.submitted.index(job.stage.name)
    assert launcher.most == (1 if at_a_time == 1 else 2)  # no more than two are ever ready
    assert hand_over(jobs, GIN, Fake(jobs), at_a_time, poll=0).submitted == 0


def test_a_preempted_stage_is_handed_over_again_and_a_failed_one_is_not(jobs):
    nli, xnli = jobs[0].stage.name, jobs[1].stage.name
    launcher = Fake(jobs, {nli: ["preempted"] * 5, xnli: ["failed"]})
    handed = hand_over(jobs, GIN, launcher, 4, poll=0)
    assert launcher.submitted.count(nli) == 6 and launcher.submitted.count(xnli) == 1
    assert handed.done == 3
    assert (
        handed.failed[xnli].startswith("no memory")
        and "target.m.nli.xnli.seed0 failed" in handed.failed[jobs[3].stage.name]
    )


def test_a_stage_whose_machines_go_away_is_given_up_after_some_attempts(jobs):
    nli = jobs[0].stage.name
    handed = hand_over(jobs, GIN, Fake(jobs, {nli: ["lost", "lost"]}), 4, poll=0)
    assert handed.done == 5 and not handed.failed
    for job in jobs:
        (job.directory / "DONE").unlink()
    launcher = Fake(jobs, {nli: ["lost"] * 9})
    handed = hand_over(jobs, GIN, launcher, 4, poll=0)
    assert launcher.submitted == [nli] * 3
    why = f"3 jobs ended without a result; the last was {nli}/3 (done); its log is /logs/{nli}/3"
    assert handed.failed[nli].startswith(why) and jobs[0].failure["error"] == why
    assert lease.look(lease_place(jobs[0])) is None
    # It stays so until it is retried.
    launcher = Fake(jobs)
    handed = hand_over(jobs, GIN, launcher, 4, poll=0)
    assert launcher.submitted == [] and handed.failed[nli].startswith(why)
    assert retry(jobs) == [nli]
    assert hand_over(jobs, GIN, launcher, 4, poll=0).done == 5


def test_a_pruned_checkpoint_that_is_needed_again_is_handed_over(jobs):
    hand_over(jobs[:4], GIN, Fake(jobs), 4, poll=0)
    for job in jobs[:3]:
        shutil.rmtree(job.directory / "checkpoints")
    launcher = Fake(jobs)
    assert hand_over(jobs[:4], GIN, launcher, 4, poll=0).submitted == 0
    hand_over(jobs, GIN, launcher, 4, poll=0)
    assert launcher.submitted == [jobs[number].stage.name for number in (0, 2, 4)]


def test_a_stage_whose_settings_have_changed_is_another(jobs, capsys):
    """The job of what it was goes on by itself, and its record stays while it lives."""
    record = jobs[0].directory.parent.parent / JOBS
    before, gone = f"{jobs[0].stage.name}-before", "target.m.nli.gone.seed0-1"
    launcher = Fake(jobs)
    launcher.looks |= {"old/1": 99, "old/2": 1}
    launcher.directories["old"] = record.parent / "old"
    rundir.write_atomic(record, json.dumps({before: "old/1", gone: "old/2"}))
    assert hand_over(jobs, GIN, launcher, 4, poll=0).done == 5
    assert capsys.readouterr().err.count(f"{before} is no stage of this plan; its job old/1 goes on by itself") == 1
    assert json.loads(record.read_text()) == {before: "old/1"}


def test_what_a_runner_holds_is_waited_for(jobs, monkeypatch):
    ours = lease.acquire(lease_place(jobs[0]), lease.this_runner())
    looks = []

    def look():
        """Between the third look and the fourth the runner ends its stage."""
        looks.append(1)
        if len(looks) == 3:
            (jobs[0].directory / "checkpoints" / "4").mkdir(parents=True)
            rundir.mark_done(jobs[0].directory, {"seconds": 1.0})
            ours.release()
        return False

    monkeypatch.setattr(preemption, "requested", look)
    launcher = Fake(jobs)
    handed = hand_over(jobs, GIN, launcher, 4, poll=0)
    assert len(looks) > 3 and handed.done == 5
    assert handed.submitted == 4 and jobs[0].stage.name not in launcher.submitted


def test_a_request_to_stop_leaves_the_jobs_alone(jobs, monkeypatch):
    monkeypatch.setattr(preemption, "requested", lambda: True)
    with pytest.raises(Preempted, match="0 jobs that were handed over go on"):
        hand_over(jobs, GIN, Fake(jobs), 4, poll=0)


def test_a_new_process_watches_the_jobs_of_an_earlier_one(jobs, monkeypatch):
    launcher, looks = Fake(jobs), iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "requested", lambda: next(looks, True))
        with pytest.raises(Preempted, match="1 jobs that were handed over go on"):
            hand_over(jobs, GIN, launcher, 4, poll=0)
    assert launcher.submitted == [jobs[0].stage.name]
    handed = hand_over(jobs, GIN, launcher, 4, poll=0)
    assert handed.done == 5 and launcher.submitted.count(jobs[0].stage.name) == 1


def test_the_command_of_a_stage_is_one_that_xtr_knows():
    from xtr.cli.main import build_parser, split_gin

    rest, overrides = split_gin(stage_argv("target.m.nli.xnli.seed0", GIN))
    arguments = build_parser().parse_args(rest)
    assert (arguments.command, arguments.action, arguments.stage) == ("study", "run", ["target.m.nli.xnli.seed0"])
    assert overrides == ["STUDY_DIR=/s"]
