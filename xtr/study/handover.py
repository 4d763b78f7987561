"""Hands ready stages to something that runs commands elsewhere: a cloud, a cluster, or processes here.

What a stage is run by is a command line, `xtr study run --stage=NAME ...`; leases in the study's directory, which all
must share, keep two of them off one stage. What is done is read from that directory, not from the launcher's word.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from xtr import preemption, rundir
from xtr.errors import Preempted
from xtr.progress import note, progress
from xtr.study import lease
from xtr.study.graph import Stage
from xtr.study.jobs import Job
from xtr.study.runner import lease_place, write_failure
from xtr.study.settled import children_of, is_settled
from xtr.study.state import StageState, states

POLL = 30.0  # seconds between two looks
JOBS = "jobs.json"  # below the study's directory: the jobs that live, each under the name of its stage's directory
LOST_AFTER = 3  # ends without a result, after which a stage is marked as failed

JobState = Literal["waiting", "running", "done", "failed", "preempted"]


class Launcher(Protocol):
    """What runs commands elsewhere. A job is a name that the launcher gives a submitted command."""

    def submit(self, stage_name: str, argv: Sequence[str]) -> str:
        """Has a command run, as `xtr *argv`; returns the job. Called again for the same stage after a preemption."""

    def state(self, job: str) -> JobState:
        """Where a job is, also one that an earlier process submitted ('failed' where nothing is known of it).
        'preempted': it ended by no fault of its own and may be submitted again."""

    def log(self, job: str) -> str:
        """Where what a job said can be read; '' where nowhere."""


@dataclasses.dataclass
class Handed:
    """What handing over came to.

    Attributes:
      done: stages that were done meanwhile.
      submitted: commands handed over, those after a preemption too.
      failed: stage name -> why.
    """

    done: int = 0
    submitted: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


def stage_argv(stage_name: str, gin_argv: Sequence[str]) -> list[str]:
    """The arguments of `xtr` that run one stage: `gin_argv` are those of gin, as they were given to this command."""
    return ["study", "run", f"--stage={stage_name}", *gin_argv]


def hand_over(
    jobs: Sequence[Job],
    gin_argv: Sequence[str],
    launcher: Launcher,
    at_a_time: int,
    *,
    poll: float = POLL,
    expiry: float = lease.EXPIRY,
    on_submit: Callable[[str, str], None] = lambda stage, job: None,
) -> Handed:
    """Submits every stage that is ready, until nothing is left or what is left cannot be done.

    A stage is never submitted while a job of it lives or a runner holds it, and not again once it has failed. Stages
    that other runners do are waited for. A job that ends without the stage being done or failed (its machine went away)
    is submitted again; after LOST_AFTER such ends the stage is marked as failed, until `retry` clears that. A preempted
    one is submitted again at no cost.

    Args:
      jobs: the study's stages, in order.
      gin_argv: the gin arguments of the study's command.
      launcher: what runs them.
      at_a_time: jobs that live at once, at most.
      poll, expiry: seconds, between looks and of leases.
      on_submit: is told (stage name, job).

    Raises:
      Preempted: after SIGTERM. Jobs that were handed over go on, and the same command watches them again.
    """
    handed, lost, children = Handed(), {}, children_of(jobs)
    live = _Live(jobs[0].directory.parent.parent / JOBS, jobs, launcher)
    planned = {job.stage.name: job for job in jobs}
    with progress("stages handed over", len(jobs)) as bar:
        while True:
            # The jobs before the directory: what a job left is there once it has ended.
            ended = live.take_ended(launcher)
            found = {state.job.stage.name: state for state in states(jobs, expiry)}
            _judge(ended, found, lost)
            bar.advance(sum(state.state == "done" for state in found.values()) - bar.done)
            open_ = [name for name, state in found.items() if _is_open(state, found)]
            if not open_:
                break
            if preemption.requested():
                raise Preempted(f"{len(live.jobs)} jobs that were handed over go on")
            for name in open_:
                if name in live.jobs or found[name].state != "ready":
                    continue
                if len(lost.get(name, ())) >= LOST_AFTER:
                    _give_up(planned[name], children, _verdict(lost.pop(name), launcher), expiry)
                elif len(live.jobs) < at_a_time:
                    live.add(name, launcher.submit(name, stage_argv(name, gin_argv)))
                    handed.submitted += 1
                    on_submit(name, live.jobs[name])
            preemption.wait(poll)
    handed.done = sum(state.state == "done" for state in found.values())
    for name, state in found.items():
        if state.state in ("failed", "blocked"):
            handed.failed.setdefault(name, state.why)
    return handed


class _Live:
    """The jobs that live: stage name -> job. A file keeps them, also those of stages that are not planned any more
    (their settings have changed), which are left alone."""

    def __init__(self, record: Path, jobs: Sequence[Job], launcher: Launcher):
        self.record, self.folders = record, {job.stage.name: job.directory.name for job in jobs}
        names = {folder: name for name, folder in self.folders.items()}
        kept = json.loads(record.read_text()) if record.exists() else {}
        self.jobs = {names[folder]: job for folder, job in kept.items() if folder in names}
        others = {folder: job for folder, job in kept.items() if folder not in names}
        self.others = {folder: job for folder, job in others.items() if _lives(launcher.state(job))}
        for folder, job in self.others.items():
            note(f"study: {folder} is no stage of this plan; its job {job} goes on by itself")

    def add(self, name: str, job: str) -> None:
        self.jobs[name] = job
        self._write()

    def take_ended(self, launcher: Launcher) -> dict[str, tuple[str, JobState]]:
        """The stages whose jobs have ended, with the job and how; they live no more."""
        now = {name: launcher.state(job) for name, job in self.jobs.items()}
        ended = {name: (self.jobs.pop(name), state) for name, state in now.items() if not _lives(state)}
        if ended:
            self._write()
        return ended

    def _write(self) -> None:
        kept = self.others | {self.folders[name]: job for name, job in self.jobs.items()}
        rundir.write_atomic(self.record, json.dumps(kept, indent=1) + "\n")


def _lives(state: JobState) -> bool:
    return state in ("waiting", "running")


def _is_open(state: StageState, found: Mapping[str, StageState]) -> bool:
    """Whether a stage may still come to be done."""
    stage = state.job.stage
    while stage is not None:
        if found[stage.name].state in ("failed", "blocked"):
            return False
        stage = stage.parent
    return state.state != "done"


def _judge(
    ended: Mapping[str, tuple[str, JobState]],
    found: Mapping[str, StageState],
    lost: dict[str, list[tuple[str, JobState]]],
) -> None:
    """Adds the jobs that ended without a result to those that did before, for each stage."""
    for name, (job, state) in ended.items():
        if found[name].state in ("done", "failed"):
            continue  # its directory says so
        if state == "preempted":
            note(f"study: {name}: job {job} was preempted; it is submitted again")
            continue
        lost.setdefault(name, []).append((job, state))


def _verdict(ends: Sequence[tuple[str, JobState]], launcher: Launcher) -> str:
    job, state = ends[-1]
    log = launcher.log(job)
    where = f"; its log is {log}" if log else ""
    return f"{len(ends)} jobs ended without a result; the last was {job} ({state}){where}"


def _give_up(job: Job, children: Mapping[Stage, Sequence[Job]], why: str, expiry: float) -> None:
    """Marks a stage as failed, unless a runner holds it, or has ended it."""
    ours = lease.acquire(lease_place(job), lease.this_runner(), expiry)
    if ours is None:
        return
    try:
        if not is_settled(job, children) and job.failure is None:
            write_failure(job, why)
    finally:
        ours.release()
