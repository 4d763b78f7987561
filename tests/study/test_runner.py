"""The runner on stages that only write files: order, failures, leases of others, takeovers, preemption, pruning."""

import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import pytest

from xtr import preemption, rundir
from xtr.checkpoints.index import ARRAYS
from xtr.checkpoints.manager import INDEX
from xtr.errors import Preempted, UserError
from xtr.parallel import watchdog
from xtr.study import lease, protocol, runner
from xtr.study.graph import Stage
from xtr.study.jobs import FAILED, Job
from xtr.study.prune import removable, remove
from xtr.study.runner import StageFailed, chosen, lease_place, run_jobs
from xtr.study.state import remaining, retry, states

QUICK = {"poll": 0.05, "heartbeat": 0.05, "expiry": 1.0}


@dataclasses.dataclass(frozen=True)
class Run:
    """What the runner and the states ask of a run."""

    directory: str
    train_steps: int = 4


def job_of(stage: Stage, root: Path, address: str) -> Job:
    directory = root / "stages" / f"{stage.name}-{address}"
    return Job(stage, Run(str(directory)), {}, ("data",), address, directory)


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    """nli -> (xnli, xquad) -> their evaluations, and an evaluation that nothing is trained for."""
    made: list[Job] = []

    def add(parent=None, **fields):
        made.append(job_of(Stage(model="m", parent=parent, **fields), tmp_path, f"{len(made)}"))
        return made[-1].stage

    nli = add(kind="intermediate", intermediate="nli")
    ends = [add(nli, kind="target", intermediate="nli", target=target) for target in ("xnli", "xquad")]
    for end in ends:
        add(end, kind="evaluate", intermediate="nli", target=end.target)
    add(None, kind="evaluate", target="tatoeba")
    return made


def save(directory: Path, step: int) -> Path:
    """A checkpoint that counts as complete, of a thousand bytes."""
    index = directory / "checkpoints" / str(step) / INDEX / ARRAYS
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_bytes(bytes(1000))
    return directory / "checkpoints" / str(step)


class Work:
    """Stands for training and evaluation: counts its calls, fails where told to, waits where told to."""

    def __init__(self, fails=(), during=None):
        self.fails, self.during, self.calls, self.lock = fails, during, [], threading.Lock()

    def __call__(self, run, texts):
        name = Path(run.directory).name.rpartition("-")[0]
        with self.lock:
            self.calls.append(name)
        if self.during:
            self.during(name, run)
        if name in self.fails:
            raise ValueError(f"{name} cannot be")
        if not name.startswith("evaluate"):
            save(Path(run.directory), run.train_steps)
        rundir.mark_done(run.directory, {"seconds": 2.0})


@pytest.fixture
def go(jobs):
    """A function: work, and which jobs (all) -> the outcome of a pass."""

    def run(work, only=None, **settings):
        return run_jobs(only or jobs, None, work, work, plan=jobs, **(QUICK | settings))

    return run


@pytest.fixture(autouse=True)
def no_gin(monkeypatch):
    monkeypatch.setattr(runner, "gin_texts", lambda job, configure: {})


@pytest.mark.parametrize("workers", [1, 3])
def test_each_stage_is_run_once_after_its_parent(go, jobs, workers):
    work = Work()
    outcome = go(work, workers=workers)
    assert sorted(work.calls) == sorted(job.stage.name for job in jobs)
    for job in jobs:
        if job.stage.parent:
            assert work.calls.index(job.stage.parent.name) < work.calls.index(job.stage.name)
    assert (outcome.ran, outcome.reused, outcome.failed) == (6, 0, {})
    again = go(work, workers=workers)
    assert (again.ran, again.reused, len(work.calls)) == (0, 6, 6)
    said = json.loads((jobs[0].directory / "stage.json").read_text())
    assert said["stage"] == jobs[0].stage.name and said["data"] == ["data"] and said["code"]["xtr"]


def test_a_failed_stage_says_why_and_the_rest_goes_on_until_it_is_retried(go, jobs):
    failing = "target.m.nli.xquad.seed0"
    outcome = go(Work(fails=(failing,)))
    assert outcome.ran == 4
    assert outcome.failed == {
        failing: f"ValueError: {failing} cannot be",
        "evaluate.m.nli.xquad.seed0": f"its parent {failing} failed",
    }
    detail = json.loads((jobs[2].directory / FAILED).read_text())
    assert detail["error"] == f"ValueError: {failing} cannot be" and "Traceback" in detail["traceback"]
    assert detail["host"] and detail["time"] and not list(jobs[2].directory.glob("DONE"))
    found = {state.job.stage.name: state for state in states(jobs)}
    assert found[failing].state == "failed" and "cannot be" in found[failing].why
    assert found["evaluate.m.nli.xquad.seed0"].state == "blocked"
    # A second run leaves the failure alone, so that two runners do not try it in turns.
    work = Work()
    assert list(go(work).failed) == list(outcome.failed) and not work.calls
    with pytest.raises(UserError, match="no stage 'target.m.nli.xquat.seed0'.*Did you mean target.m.nli.xquad.seed0"):
        retry(jobs, ["target.m.nli.xquat.seed0"])
    with pytest.raises(UserError, match="is done, not failed; failed are: target.m.nli.xquad.seed0"):
        retry(jobs, [failing, "target.m.nli.xnli.seed0"])
    assert (jobs[2].directory / FAILED).exists()
    assert retry(jobs, ["evaluate.m.nli.xquad.seed0"]) == [failing]  # what a blocked stage waits for
    assert go(work).ran == 2 and retry(jobs) == []


def test_two_runners_share_the_stages(go, jobs):
    work, outcomes = Work(during=lambda name, run: time.sleep(0.1)), []
    threads = [threading.Thread(target=lambda: outcomes.append(go(work, expiry=60))) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(work.calls) == sorted(job.stage.name for job in jobs)
    assert sum(outcome.ran for outcome in outcomes) == 6
    assert all(o.ran + o.elsewhere + o.reused == 6 and not o.failed for o in outcomes)


def test_a_stage_that_a_silent_runner_holds_is_waited_for_and_taken_over(go, jobs):
    silent = lease.Holder("r", "other", 1, "other", "")
    started = time.monotonic()
    theirs = lease.acquire(lease_place(jobs[0]), silent)
    assert [state.state for state in states(jobs)][:2] == ["running", "waiting"]
    assert go(Work(), expiry=1.0).ran == 6
    assert time.monotonic() - started > 0.9
    with pytest.raises(lease.LeaseLost):
        theirs.check()


@pytest.fixture
def robbery(jobs):
    """A function: has another take the first stage's lease, who ends that stage a while later."""

    def rob():
        place = lease_place(jobs[0])
        (place / "99").mkdir()
        theirs = lease.Lease(place, 99, lease.this_runner())
        theirs.beat()

        def end():
            time.sleep(0.3)
            save(jobs[0].directory, 4)
            rundir.write_atomic(jobs[0].directory / "DONE", json.dumps({"seconds": 1.0, "by": "the other"}))
            theirs.release()

        threading.Thread(target=end).start()

    return rob


def test_who_lost_a_stage_does_not_end_it_and_waits_for_the_other(go, jobs, robbery, capsys):
    """While the stage works, another takes its lease and ends it."""

    def during(name, run):
        if name.startswith("intermediate"):
            robbery()

    outcome = go(Work(during=during), expiry=60)
    assert (outcome.ran, outcome.elsewhere) == (5, 1)
    assert rundir.done_summary(jobs[0].directory)["by"] == "the other"
    assert "was taken over" in capsys.readouterr().err


def test_who_lost_a_stage_stops_working_at_it_and_at_nothing_else(go, jobs, robbery):
    stopped, went_on = threading.Event(), []

    def during(name, run):
        with watchdog.watch(run.directory) as watch:
            if name.startswith("intermediate"):
                robbery()
                end = time.monotonic() + 20
                try:
                    while time.monotonic() < end:
                        watch.beat("at it")
                        time.sleep(0.01)
                finally:
                    stopped.set()
            elif name == "evaluate.m.none.tatoeba":
                assert stopped.wait(40)
                watch.beat("at it")
            went_on.append(name)

    outcome = go(Work(during=during), expiry=60, workers=2)
    assert (outcome.ran, outcome.elsewhere, outcome.failed) == (5, 1, {})
    assert jobs[0].stage.name not in went_on and "evaluate.m.none.tatoeba" in went_on
    assert rundir.done_summary(jobs[0].directory)["by"] == "the other" and jobs[0].failure is None


@pytest.fixture
def several(monkeypatch):
    """This process is the first of two, as the runner sees it."""
    monkeypatch.setattr(watchdog, "processes", lambda: 2)


def test_in_several_processes_a_stage_that_fails_says_why_and_ends_the_pass(go, jobs, several):
    failing = jobs[0].stage.name
    with pytest.raises(StageFailed, match=f"{failing}: ValueError: {failing} cannot be"):
        go(Work(fails=(failing,)))
    assert "cannot be" in jobs[0].failure["error"] and "Traceback" in jobs[0].failure["traceback"]
    assert lease.look(lease_place(jobs[0])) is None
    # Started by itself it ends at once; the same command goes on with the rest.
    with pytest.raises(UserError, match=f"{failing} failed on .*cannot be.*`xtr study retry {failing}`"):
        chosen(jobs, [failing])
    outcome = go(Work())
    assert outcome.ran == 1 and failing in outcome.failed


@pytest.mark.parametrize("error, kept", [(RuntimeError, False), (UserError, True)])
def test_in_several_processes_a_lost_one_is_no_failure_of_the_stage(go, jobs, several, error, kept):
    def during(name, run):
        raise error("[Gloo] Connection closed by peer")

    with pytest.raises(StageFailed if kept else error, match="Gloo"):
        go(Work(during=during))
    assert (jobs[0].failure is not None) == kept
    assert lease.look(lease_place(jobs[0])) is None


def test_of_several_processes_the_first_alone_writes_why_a_stage_failed(go, jobs, several, monkeypatch):
    monkeypatch.setattr(runner._Pass, "claim", lambda self, job, taken: (runner.OURS, ""))  # as the others are told
    monkeypatch.setattr(runner, "FIRST_WRITES", 0.0)
    with pytest.raises(StageFailed, match="cannot be"):
        go(Work(fails=(jobs[0].stage.name,)))
    assert not jobs[0].directory.exists()


def test_in_several_processes_a_lost_lease_ends_the_pass(go, jobs, robbery, several):
    def during(name, run):
        if name.startswith("intermediate"):
            robbery()

    with pytest.raises(lease.LeaseLost):
        go(Work(during=during), expiry=60)
    assert jobs[0].failure is None


def test_preemption_gives_the_leases_back(go, jobs):
    def stop(name, run):
        if name.startswith("target"):
            raise Preempted(f"saved {name}")

    with pytest.raises(Preempted, match="saved target.m.nli.xnli.seed0"):
        go(Work(during=stop), workers=1)
    assert all(lease.look(lease_place(job)) is None for job in jobs)
    assert [state.state for state in states(jobs)][:3] == ["done", "ready", "ready"]
    assert go(Work()).ran >= 4


def test_a_runner_that_waits_for_another_stops_when_asked(go, jobs, monkeypatch):
    for job in jobs:
        lease.acquire(lease_place(job), lease.Holder("r", "other", 1, "other", ""))
    asked = iter([False] * 3)
    monkeypatch.setattr(preemption, "requested", lambda: next(asked, True))
    with pytest.raises(Preempted, match="no stage was begun any more"):
        go(Work(), expiry=60)


def test_some_stages_alone(go, jobs):
    with pytest.raises(UserError, match="no stage 'target.m.nli.xnil.seed0'.*Did you mean target.m.nli.xnli.seed0"):
        chosen(jobs, ["target.m.nli.xnil.seed0"])
    with pytest.raises(UserError, match="starts from intermediate.m.nli.seed0, which is not done"):
        chosen(jobs, ["target.m.nli.xnli.seed0"])
    work = Work()
    assert go(work, chosen(jobs, ["intermediate.m.nli.seed0"])).ran == 1
    assert go(work, chosen(jobs, ["target.m.nli.xnli.seed0", "evaluate.m.nli.xnli.seed0"])).ran == 2
    assert len(work.calls) == 3


def test_the_rest_is_estimated_by_what_is_like_it(go, jobs):
    go(Work(), chosen(jobs, ["intermediate.m.nli.seed0", "target.m.nli.xnli.seed0"]))
    rundir.create(jobs[2].directory, {}, {})
    left = remaining(states(jobs))
    # xquad's training is like xnli's (2 s each); of the three evaluations none is done.
    assert (left.stage_seconds, left.unmeasured, left.at_a_time) == (2.0, 3, 1)


def test_pruning_keeps_results_leases_and_what_stages_start_from(go, jobs, tmp_path):
    old = tmp_path / "stages" / "target.m.nli.old.seed0-xyz"
    save(old, 4)
    scored = tmp_path / "stages" / "evaluate.m.nli.old.seed0-xyz"
    scored.mkdir()
    (scored / "results.parquet").write_bytes(b"rows")
    held = tmp_path / "stages" / "target.m.nli.held.seed0-xyz"
    held.mkdir()
    lease.acquire(tmp_path / "leases" / held.name, lease.this_runner())
    done = ["intermediate.m.nli.seed0", "target.m.nli.xnli.seed0", "evaluate.m.nli.xnli.seed0"]
    go(Work(), chosen(jobs, done))
    out, kept = removable(tmp_path, jobs, checkpoints=True)
    ends = jobs[1].directory / "checkpoints" / "4"
    assert {item.path: item.size for item in out} == {old: 1000, ends: 1000}
    assert {item.path for item in kept} == {scored, held, jobs[0].directory / "checkpoints" / "4"}
    assert [item.path for item in removable(tmp_path, jobs)[0]] == [old]
    remove(out)
    assert not old.exists() and not ends.exists() and (scored / "results.parquet").exists() and held.exists()
    # Nothing starts from what was pruned: it is not made anew.
    work = Work()
    assert go(work).ran == 3 and jobs[1].stage.name not in work.calls


def test_a_pruned_checkpoint_is_made_anew_where_the_study_has_grown(go, jobs):
    some = [job for job in jobs if job.stage.target != "xquad"]
    go(Work(), some)
    out, _ = removable(jobs[0].directory.parent.parent, some, checkpoints=True)
    remove(out)
    with pytest.raises(UserError, match="has no checkpoint any more"):
        chosen(jobs, ["target.m.nli.xquad.seed0"])
    work = Work()
    assert go(work).ran == 3
    assert sorted(work.calls) == ["evaluate.m.nli.xquad.seed0", "intermediate.m.nli.seed0", "target.m.nli.xquad.seed0"]


def test_stages_whose_data_is_not_here_are_never_pruned(jobs, tmp_path):
    (tmp_path / "stages" / "old").mkdir(parents=True)
    unknown = [dataclasses.replace(job, address="?") for job in jobs]
    out, kept = removable(tmp_path, unknown)
    assert not out and "not here" in kept[0].why
    assert {state.state for state in states(unknown)} == {"unknown"}
    assert os.path.isdir(tmp_path / "stages" / "old")


def one_by_one(go, jobs, work, names) -> None:
    for name in names:
        assert go(work, chosen(jobs, [name])).ran == 1


def all_together(go, jobs, work, names) -> None:
    assert go(work).ran == len(names)


@pytest.mark.parametrize("way", [one_by_one, all_together])
def test_all_that_a_grown_study_lacks_is_made_anew(go, jobs, tmp_path, way):
    """All checkpoints were pruned; then a stage is added below one that starts from another."""
    go(Work())
    remove(removable(tmp_path, jobs, checkpoints=True)[0])
    assert {state.state for state in states(jobs)} == {"done"}
    middle = jobs[2].stage
    jobs.append(job_of(Stage("evaluate", "m", "nli", "mlqa", parent=middle), tmp_path, "new"))
    names = [jobs[0].stage.name, middle.name, jobs[-1].stage.name]
    found = {state.job.stage.name: state.state for state in states(jobs)}
    assert [found[name] for name in names] == ["ready", "waiting", "waiting"]
    assert [state for name, state in found.items() if name not in names] == ["done"] * 4
    for name, parent in zip(names[1:], names, strict=False):
        with pytest.raises(UserError, match=f"{name} starts from {parent}, which is not done or has no checkpoint"):
            chosen(jobs, [name])
    work = Work()
    way(go, jobs, work, names)
    assert work.calls == names and {state.state for state in states(jobs)} == {"done"}


def test_pruning_keeps_what_a_grown_study_starts_from_again(go, jobs, tmp_path):
    go(Work())
    remove(removable(tmp_path, jobs, checkpoints=True)[0])
    jobs.append(job_of(Stage("evaluate", "m", "nli", "mlqa", parent=jobs[2].stage), tmp_path, "new"))
    assert go(Work(), chosen(jobs, [jobs[0].stage.name])).ran == 1
    out, kept = removable(tmp_path, jobs, checkpoints=True)
    assert out == [] and [item.path for item in kept] == [jobs[0].directory / "checkpoints" / "4"]
    assert "1 of 2 stages that start from it are not done" in kept[0].why


def test_a_look_at_all_stages_reads_each_once(go, jobs, tmp_path, monkeypatch):
    go(Work())
    remove(removable(tmp_path, jobs, checkpoints=True)[0])
    looked, done = [], Job.done.fget
    monkeypatch.setattr(Job, "done", property(lambda job: looked.append(job.stage.name) or done(job)))
    states(jobs)
    assert sorted(looked) == sorted(job.stage.name for job in jobs)


def test_of_two_first_runs_with_different_protocols_one_is_refused(tmp_path, monkeypatch):
    """Both find no protocol, at one moment."""
    read, both, ends = protocol.read, threading.Barrier(2), []

    def found(study_dir):
        said = read(study_dir)
        if threading.current_thread() not in seen:
            seen.add(threading.current_thread())
            both.wait()
        return said

    def begin(limit):
        evaluations = {"m.xnli": {"limit": limit}}
        facts = {"format": 1, "study": "s", "protocol": {"evaluations": evaluations}, "vocabularies": {}, "data": {}}
        try:
            ends.append(protocol.settle(tmp_path, facts))
        except UserError as error:
            ends.append(str(error))

    seen: set[threading.Thread] = set()
    monkeypatch.setattr(protocol, "read", found)
    threads = [threading.Thread(target=begin, args=(limit,)) for limit in (1, 2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    refused = [end for end in ends if end]
    assert len(ends) == 2 and len(refused) == 1 and "measured otherwise: m.xnli.limit" in refused[0]
    assert lease.look(tmp_path / "leases" / "protocol") is None
