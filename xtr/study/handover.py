"""Hands ready stages to something that runs commands elsewhere: a cloud, a cluster, or processes here.

What a stage is run by is a command line, `xtr study run --stage=NAME ...`; leases in the study's directory, which all
must share, keep two of them off one stage. What is done is read from that directory, not from the launcher's word.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from xtr import preemption, rundir
from xtr.errors import Preempted
from xtr.progress import note, progress
from xtr.study import lease
from xtr.study.jobs import Job
from xtr.study.state import StageState, states

POLL = 30.0  # seconds between two looks
JOBS = "jobs.json"  # below the study's directory: the jobs that live
LOST_AFTER = 3  # ends without a result, after which a stage counts as failed

JobState = Literal["waiting", "running", "done", "failed", "preempted"]


class Launcher(Protocol):
    """What runs commands elsewhere. A job is a name that the launcher gives a submitted command."""

    def submit(self, stage_name: str, argv: Sequence[str]) -> str:
        """Has a command run, as `xtr *argv`; returns the job. Called again for the same stage after a preemption."""

    def state(self, job: str) -> JobState:
        """Where a job is, also one that an earlier process submitted ('failed' where nothing is known of it).
        'preempted': it ended by no fault of its own and may be submitted again."""


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
    is submitted again, as is a preempted one, which costs no attempt.

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
    record = jobs[0].directory.parent.parent / JOBS
    handed, attempts = Handed(), {}
    live = json.loads(record.read_text()) if record.exists() else {}
    with progress("stages handed over", len(jobs)) as bar:
        while True:
            # The jobs before the directory: what a job left is there once it has ended.
            ended = {name: (live.pop(name), state) for name, state in _ended(live, launcher).items()}
            if ended:
                rundir.write_atomic(record, json.dumps(live, indent=1) + "\n")
            found = {state.job.stage.name: state for state in states(jobs, expiry)}
            _judge(ended, found, attempts, handed)
            bar.advance(sum(state.state == "done" for state in found.values()) - bar.done)
            open_ = [name for name, state in found.items() if _is_open(state, handed, found)]
            if not open_:
                break
            if preemption.requested():
                raise Preempted(f"{len(live)} jobs that were handed over go on")
            for name in open_:
                if len(live) < at_a_time and name not in live and found[name].state == "ready":
                    live[name] = launcher.submit(name, stage_argv(name, gin_argv))
                    rundir.write_atomic(record, json.dumps(live, indent=1) + "\n")
                    handed.submitted += 1
                    on_submit(name, live[name])
            preemption.wait(poll)
    handed.done = sum(state.state == "done" for state in found.values())
    for name, state in found.items():
        if state.state in ("failed", "blocked"):
            handed.failed.setdefault(name, state.why)
    return handed


def _is_open(state: StageState, handed: Handed, found: dict[str, StageState]) -> bool:
    """Whether a stage may still come to be done."""
    stage = state.job.stage
    while stage is not None:
        if stage.name in handed.failed or found[stage.name].state in ("failed", "blocked"):
            return False
        stage = stage.parent
    return state.state != "done"


def _ended(live: dict[str, str], launcher: Launcher) -> dict[str, JobState]:
    """The stages whose jobs have ended, and how."""
    found = {name: launcher.state(job) for name, job in live.items()}
    return {name: state for name, state in found.items() if state not in ("waiting", "running")}


def _judge(
    ended: dict[str, tuple[str, JobState]], found: dict[str, StageState], attempts: dict[str, int], handed: Handed
) -> None:
    """Counts the jobs that ended without a result."""
    for name, (job, state) in ended.items():
        if found[name].state in ("done", "failed"):
            continue  # its directory says so
        if state == "preempted":
            note(f"study: {name}: job {job} was preempted; it is submitted again")
            continue
        attempts[name] = attempts.get(name, 0) + 1
        if attempts[name] >= LOST_AFTER:
            handed.failed[name] = f"{attempts[name]} jobs ended ({state}) without a result; the last was {job}"
