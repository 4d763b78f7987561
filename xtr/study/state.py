"""Where each stage of a study is, by the files that runners leave: live, read by any process, changed by none here."""

import dataclasses
import statistics
from collections.abc import Collection, Sequence

from xtr import rundir
from xtr.checkpoints.manager import committed_steps
from xtr.errors import UserError, did_you_mean
from xtr.study import lease
from xtr.study.graph import Stage
from xtr.study.jobs import FAILED, UNKNOWN, Job, by_name
from xtr.study.runner import lease_place
from xtr.study.settled import children_of, is_settled

# done: nothing is left to do. running: under a live lease. ready: could begin now. waiting: its parent is not done.
# failed: it did. blocked: a stage that it needs failed. unknown: its data is not here, and with that its address.
STATES = ("done", "running", "ready", "waiting", "failed", "blocked", "unknown")


@dataclasses.dataclass(frozen=True)
class StageState:
    """One stage, as `xtr study status` shows it.

    Attributes:
      job: the stage.
      state: one of `STATES`.
      steps: optimizer steps done, of a training stage.
      of: optimizer steps in all; 0 for an evaluation.
      who, since: of a running stage: 'host, process 1', and when it was begun, in UTC.
      doing: what it said last.
      why: of a failed or blocked stage.
      seconds: of a stage that is done.
    """

    job: Job
    state: str
    steps: int = 0
    of: int = 0
    who: str = ""
    since: str = ""
    doing: str = ""
    why: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "job"}
        job = self.job
        return {"stage": job.stage.name, "address": job.address, "directory": str(job.directory)} | facts


def states(jobs: Sequence[Job], expiry: float = lease.EXPIRY) -> list[StageState]:
    """The state of every stage, in the order of `jobs`: the whole plan, since what is done depends on it
    (`is_settled`)."""
    found: dict[Stage, StageState] = {}
    children, known = children_of(jobs), {}
    for job in jobs:
        parent = found.get(job.stage.parent) if job.stage.parent else None
        found[job.stage] = _state(job, parent, is_settled(job, children, known), expiry)
    return list(found.values())


def _state(job: Job, parent: StageState | None, settled: bool, expiry: float) -> StageState:
    of = 0 if job.entry == "evaluate" else job.run.train_steps
    if job.address == UNKNOWN:
        return StageState(job, "unknown", of=of)
    if settled and (summary := rundir.done_summary(job.directory)) is not None:
        return StageState(job, "done", of, of, seconds=summary["seconds"])
    if failure := job.failure:
        return StageState(job, "failed", of=of, why=f"{failure['error']} (on {failure['host']}, {failure['time']})")
    if parent and parent.state in ("failed", "blocked"):
        return StageState(job, "blocked", of=of, why=f"{parent.job.stage.name} failed")
    steps = max(committed_steps(job.directory / "checkpoints"), default=0) if of else 0
    held = lease.look(lease_place(job), expiry)
    if held and held.alive:
        if held.holder is None:
            return StageState(job, "running", steps, of, who="a runner that has just come")
        who, doing = f"{held.holder.host}, process {held.holder.pid}", held.holder.doing
        if of and doing.startswith("step "):
            steps = max(steps, int(doing.removeprefix("step ")))
        return StageState(job, "running", steps, of, who, held.holder.since, doing)
    ready = parent is None or parent.state == "done"
    return StageState(job, "ready" if ready else "waiting", steps, of)


@dataclasses.dataclass(frozen=True)
class Remaining:
    """How long the rest takes, by the stages that are done.

    Attributes:
      stage_seconds: of all stages left, one after the other.
      at_a_time: stages that run now, at least 1.
      seconds: of the rest, that many at a time.
      unmeasured: stages left of a kind of which none is done: they are not in it.
    """

    stage_seconds: float
    at_a_time: int
    seconds: float
    unmeasured: int


def remaining(found: Sequence[StageState]) -> Remaining:
    """Estimates what is left: each stage as long as those done of the same model, kind and target or intermediate, else
    of the same model and kind; a training run by the steps that it has still to do."""
    measured: dict[tuple, list[float]] = {}
    for state in found:
        if state.state == "done":
            for key in _likenesses(state.job.stage):
                measured.setdefault(key, []).append(state.seconds)
    total, unmeasured = 0.0, 0
    for state in found:
        if state.state in ("done", "failed", "blocked"):
            continue
        like = next((measured[key] for key in _likenesses(state.job.stage) if key in measured), None)
        if like is None:
            unmeasured += 1
        else:
            total += statistics.mean(like) * (1 - state.steps / state.of if state.of else 1)
    running = max(1, sum(state.state == "running" for state in found))
    return Remaining(total, running, total / running, unmeasured)


def _likenesses(stage: Stage) -> tuple[tuple, ...]:
    name = stage.intermediate if stage.kind == "intermediate" else stage.target
    return (stage.kind, stage.model, name), (stage.kind, stage.model)


def retry(jobs: Sequence[Job], names: Collection[str] = ()) -> list[str]:
    """Clears the failures of stages (all without names), so that the next run begins them again; returns their names.

    A stage that waits for a failed one is retried with it: naming it clears the stages that it waits for.

    Raises:
      UserError: a name of no stage, or of one that neither failed nor waits for one that did; nothing is cleared then.
    """
    found = {state.job.stage.name: state for state in states(jobs)}
    failed = [name for name, state in found.items() if state.state == "failed"]
    known, wanted = by_name(jobs), []
    for name in names or failed:
        if name not in found:
            raise UserError(f"there is no stage {name!r} in this study.{did_you_mean(name, found)}")
        if found[name].state not in ("failed", "blocked"):
            raise UserError(
                f"stage {name} is {found[name].state}, not failed; failed are: {', '.join(failed) or 'none'}."
            )
        stage = known[name].stage
        while stage is not None and found[stage.name].state != "failed":
            stage = stage.parent
        wanted.append(stage.name)
    wanted = list(dict.fromkeys(wanted))
    for name in wanted:
        (known[name].directory / FAILED).unlink(missing_ok=True)
    return wanted
