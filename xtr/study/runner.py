"""Runs a study's stages, each once: leases keep other runners off, what fails keeps its reason, the rest goes on."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from xtr import preemption, rundir
from xtr.errors import Preempted, UserError, did_you_mean
from xtr.parallel import watchdog
from xtr.parallel.distributed import from_first
from xtr.progress import note, progress
from xtr.study import lease, protocol
from xtr.study.graph import Stage
from xtr.study.jobs import FAILED, Configure, Job, by_name, gin_texts
from xtr.study.settled import children_of, is_settled

POLL = 5.0  # seconds between two looks at a stage that another runner holds
FIRST_WRITES = 5.0  # seconds that the first of several processes gets to write down an error that all have met
DONE, FAILURE, HELD, OURS = "done", "failed", "held", "ours"


class StageFailed(Exception):
    """A stage failed in a run of several processes, and `FAILED` says why. It ends the pass in all of them, since they
    may have come to different places; the same command goes on with the other stages."""


@dataclasses.dataclass
class Outcome:
    """What a pass over the stages came to.

    Attributes:
      ran, reused: stages run here, and done before.
      elsewhere: stages that other runners did meanwhile.
      failed: stage name -> why.
      seconds: of the pass.
    """

    ran: int = 0
    reused: int = 0
    elsewhere: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def lease_place(job: Job) -> Path:
    """The folder of a stage's lease: beside the stages, so that a stage's own folder can be pruned."""
    return job.directory.parent.parent / lease.LEASES / job.directory.name


def chosen(jobs: Sequence[Job], names: Collection[str]) -> list[Job]:
    """The jobs of these names, ready to be run by themselves.

    Raises:
      UserError: an unknown name; a stage that failed; one whose parent is neither done nor among them, or has no
        checkpoint any more.
    """
    known = by_name(jobs)
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"there is no stage {unknown[0]!r} in this study.{did_you_mean(unknown[0], known)} "
            "`xtr study plan` lists them."
        )
    wanted = [job for job in jobs if job.stage.name in names]
    children, answers = children_of(jobs), {}
    for job in wanted:
        name, parent = job.stage.name, job.stage.parent
        if is_settled(job, children, answers):
            continue
        if failure := job.failure:
            raise UserError(
                f"stage {name} failed on {failure['host']}: {failure['error']} (`xtr study retry {name}` clears it)"
            )
        if parent and parent.name not in names and not is_settled(known[parent.name], children, answers):
            raise UserError(
                f"stage {name} starts from {parent.name}, which is not done or has no checkpoint any more: run that "
                "first."
            )
    return wanted


def run_jobs(
    jobs: Sequence[Job],
    configure: Configure,
    train: Callable,
    evaluate: Callable,
    workers: int = 1,
    *,
    plan: Sequence[Job] | None = None,
    poll: float = POLL,
    heartbeat: float = lease.HEARTBEAT,
    expiry: float = lease.EXPIRY,
) -> Outcome:
    """Runs every job that is not done, each after its parent, and waits for those that other runners hold.

    Args:
      jobs: from `prepare`, in order, or some of them; a parent that is not among them is done.
      configure: builds a stage's run, for the texts that its directory keeps.
      train, evaluate: run one stage: f(run, gin_texts).
      workers: stages run at a time, in threads: small models leave cores idle, and what is compiled is shared. One
        where several processes run the study together, and there an error ends the pass.
      plan: all stages of the study, where `jobs` are some: whether a pruned checkpoint is made anew depends on them.
      poll, heartbeat, expiry: seconds, of leases.

    Raises:
      Preempted: after SIGTERM, once all running stages have saved.
      StageFailed: in several processes, a stage failed.
      Exception: in several processes, one of them is lost, or the lease of a stage.
    """
    started = time.monotonic()
    with (
        lease.Heart(heartbeat) as heart,
        progress("study stages", len(jobs)) as bar,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        runner = _Pass(jobs, plan or jobs, configure, {"train": train, "evaluate": evaluate}, heart, bar, poll, expiry)
        runner.go(pool, workers)
    runner.outcome.seconds = time.monotonic() - started
    return runner.outcome


class _Pass:
    """One runner's way through the stages."""

    def __init__(self, jobs, plan, configure, calls, heart, bar, poll, expiry):
        self.configure, self.calls, self.heart, self.bar, self.poll, self.expiry = (
            configure, calls, heart, bar, poll, expiry
        )  # fmt: skip
        self.several = watchdog.processes() > 1
        self.me = lease.this_runner()
        self.outcome = Outcome()
        self.finished: set[Stage] = set()
        self.failed: set[Stage] = set()
        self.waiting = list(jobs)
        self.members = {job.stage for job in jobs}
        self.asked: dict[Stage, float] = {}  # when a stage was last seen in another's hands
        self.running: dict[concurrent.futures.Future, Job] = {}
        self.stopped: BaseException | None = None
        self.children, known = children_of(plan), {}
        done = set(from_first(lambda: [job.stage.name for job in jobs if is_settled(job, self.children, known)]))
        for job in [job for job in jobs if job.stage.name in done]:
            self.end(job, self.finished)
            self.outcome.reused += 1

    def go(self, pool: concurrent.futures.Executor, workers: int) -> None:
        if self.several:
            workers = 1  # all processes must come to the same stages in the same order
        while self.waiting or self.running:
            stopping = self.stopped or from_first(preemption.requested)
            if not stopping:
                self.give_up_children()
                self.begin(pool, workers)
            if self.running:
                done, _ = concurrent.futures.wait(
                    self.running, None if self.several else self.poll, concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    self.settle(self.running.pop(future), future.exception())
            elif stopping:  # what a stage said when it stopped tells more
                raise self.stopped or Preempted("no stage was begun any more; run it again to go on")
            elif self.waiting:
                time.sleep(self.poll if self.several else min(0.2, self.poll))
        if self.stopped:
            raise self.stopped

    def begin(self, pool: concurrent.futures.Executor, workers: int) -> None:
        """Begins ready stages until all workers are busy."""
        for job in list(self.waiting):
            if len(self.running) >= workers:
                return
            parent = job.stage.parent
            if parent in self.members and parent not in self.finished:
                continue
            if time.monotonic() - self.asked.get(job.stage, -self.poll) < self.poll and not self.several:
                continue
            taken: list[lease.Lease] = []
            state, why = from_first(lambda job=job, taken=taken: self.claim(job, taken))
            if state == HELD:
                if job.stage not in self.asked:
                    note(f"study: {job.stage.name} is run by {why}; waiting for it")
                self.asked[job.stage] = time.monotonic()
            elif state == OURS:
                texts = gin_texts(job, self.configure)
                self.waiting.remove(job)
                self.running[pool.submit(self.run, job, texts, taken)] = job
            elif state == DONE:
                self.outcome.elsewhere += 1
                self.end(job, self.finished)
            else:
                self.fail(job, why)

    def claim(self, job: Job, taken: list[lease.Lease]) -> tuple[str, str]:
        """Takes a stage's lease into `taken`, or says why that is not to be."""
        if is_settled(job, self.children):
            return DONE, ""
        if failure := job.failure:
            return FAILURE, f"{failure['error']} (`xtr study retry` clears it)"
        place = lease_place(job)
        ours = lease.acquire(place, self.me, self.expiry)
        if ours is None:
            held = lease.look(place, self.expiry)
            return HELD, f"{held.holder.host}, process {held.holder.pid}" if held and held.holder else "another runner"
        if is_settled(job, self.children) or job.failure:  # another ended it between the first look and the lease
            ours.release()
            return self.claim(job, taken)
        taken.append(ours)
        return OURS, ""

    def run(self, job: Job, texts: Mapping[str, str], taken: Sequence[lease.Lease]) -> None:
        """One stage, in a thread of its own. `taken` is empty in the processes beside the first."""
        with self.holding(job, *taken):
            try:
                if taken:
                    (job.directory / rundir.DONE).unlink(missing_ok=True)  # of a checkpoint that was pruned
                    _at_home(job)
                    protocol.sign(job, self.me.runner)
                self.calls[job.entry](job.run, texts)
            except (Preempted, lease.LeaseLost):
                raise
            except Exception as error:
                if self.several and _is_of_a_lost_process(error):
                    raise
                self.keep_failure(job, error, *taken)
                if self.several:
                    raise StageFailed(f"{job.stage.name}: {type(error).__name__}: {error}") from error
                raise

    @contextlib.contextmanager
    def holding(self, job: Job, ours: lease.Lease | None = None) -> Iterator[None]:
        """Keeps a stage's lease alive while inside, and gives it back behind. Once it is lost, the work in the stage's
        directory raises LeaseLost: at its next beat after the next heartbeat, or before it keeps anything."""
        if ours is None:
            yield
            return
        lost = functools.partial(watchdog.interrupt, job.directory)
        with self.heart.keeping(ours, lambda: _doing(job), lost), rundir.guarded(job.directory, ours.check):
            yield

    def keep_failure(self, job: Job, error: Exception, ours: lease.Lease | None = None) -> None:
        """Has the first process write down why a stage failed. Raises LeaseLost where the stage is another's by now."""
        if ours:
            ours.check()
            trace = "".join(traceback.format_exception(error))
            write_failure(job, f"{type(error).__name__}: {error}", trace)
        else:
            time.sleep(FIRST_WRITES)  # this process's end ends all

    def settle(self, job: Job, error: BaseException | None) -> None:
        if error is None:
            self.outcome.ran += 1
            self.end(job, self.finished)
        elif isinstance(error, lease.LeaseLost) and not self.several:
            note(f"study: {job.stage.name}: {error}; waiting for the other runner")
            self.waiting.append(job)
        elif isinstance(error, Preempted) or self.several or not isinstance(error, Exception):
            self.stopped = self.stopped or error
        else:  # one stage's failure must not stop the others; it is kept and reported
            self.fail(job, f"{type(error).__name__}: {error}")

    def fail(self, job: Job, why: str) -> None:
        self.outcome.failed[job.stage.name] = why
        self.end(job, self.failed)

    def end(self, job: Job, where: set[Stage]) -> None:
        where.add(job.stage)
        if job in self.waiting:
            self.waiting.remove(job)
        self.bar.advance(note=job.stage.name)

    def give_up_children(self) -> None:
        while lost := [job for job in self.waiting if job.stage.parent in self.failed]:
            for job in lost:
                self.fail(job, f"its parent {job.stage.parent.name} failed")


def _at_home(job: Job) -> None:
    """Lets a stage go on in a study's directory that was moved: what its run was told of other directories is another
    path now, and the address says that it is the same run."""
    known, facts = job.directory / rundir.IDENTITY, rundir.identity(job.run)
    if known.exists() and json.loads(known.read_text()) != json.loads(json.dumps(facts)):
        rundir.write_atomic(known, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _doing(job: Job) -> str:
    """What the work in a stage's directory said last."""
    found = watchdog.where(job.directory)
    if found is None:
        return "starting"
    phase, count = found
    return f"{count} examples" if job.entry == "evaluate" else f"step {count}" if count else phase


def _is_of_a_lost_process(error: Exception) -> bool:
    """Whether an error of a stage says that another process of the run is gone, which is no failure of the stage."""
    return not isinstance(error, UserError) and watchdog.is_broken(str(error))


def write_failure(job: Job, error: str, trace: str = "") -> None:
    """Marks a stage as failed.

    Args:
      error: why, in a line.
      trace: the traceback.
    """
    me = lease.this_runner()
    detail = {"error": error, "host": me.host, "pid": str(me.pid), "time": rundir.utc_now(), "traceback": trace}
    rundir.write_atomic(job.directory / FAILED, json.dumps(detail, indent=1) + "\n")
