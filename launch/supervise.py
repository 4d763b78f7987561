"""Does what `watch` says with what a backend planned, and tells it what came of it, until a job is over."""

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from xtr.errors import UserError
from xtr.launch import backends, watch
from xtr.launch.actions import Action, Run, shell
from xtr.launch.execute import Result, execute, follow
from xtr.launch.plan import LOG, Observation, Plan, Seen
from xtr.launch.record import Record, held, load, names
from xtr.launch.watch import Outcome, Policy, State

GLANCE = 60.0  # seconds between two looks at machines while a run goes on; two alike count
# What Google Cloud says of a request that no second try mends.
_REFUSALS = ("invalid_argument", "permission_denied", "invalid argument", "forbidden", "unrecognized arguments")


@dataclasses.dataclass
class Clock:
    """Time, and waiting; a test has its own."""

    now: Callable[[], float] = time.time

    def sleep(self, seconds: float, interrupted: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not interrupted():
            time.sleep(min(left, 0.2))


class Interrupts:
    """Counts the requests to end that came and were not yet dealt with (ctrl-C, SIGTERM, a closed terminal)."""

    def __init__(self):
        self.pending = 0
        self.told = 0

    def __call__(self) -> bool:
        return self.pending > 0

    def take(self) -> watch.Interrupted:
        self.told, self.pending = self.told + self.pending, 0
        return watch.Interrupted(forced=self.told > 1)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        def count(number, frame):
            self.pending += 1

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def policy_of(record: Record) -> Policy:
    """How much the job of a record may take."""
    spec, run = record.spec, record.spec.max_hours
    return Policy(
        retries=spec.retries,
        wait=spec.wait_hours * 3600,
        run=None if run is None else run * 3600,
        poll=record.poll,
        keep=spec.keep,
        restarts=spec.backend == "gke",
    )


def _tell(text: str) -> None:
    print(f"xtr launch: {text}", file=sys.stderr, flush=True)


def _note(record: Record, text: str) -> None:
    record.note(text)
    _tell(f"{record.spec.name}: {text}")


# ----------------------------------------------------------------------------------------------- from outside


def launch(record: Record, clock: Clock | None = None) -> int:
    """Launches a new job and watches it to its end; returns the exit code.

    Raises:
      UserError: a job of this name is open, another one has the run directory, or its files cannot be uploaded.
    """
    name = record.spec.name
    before = load(name) if name in names() else None
    if before and before.is_open:
        raise UserError(
            f"there is a job {name} already, and it has not ended: `xtr launch resume {name}` goes on watching it, "
            f"`xtr launch stop {name}` ends it; or choose another --name."
        )
    plan = backends.plan(record.spec)
    with held(record):
        _lock(plan, record, again=False)
        if before:  # machines that were kept remember its attempts
            record.state = State(attempt=before.state.attempt)
        record.note("launched")
        return _supervise(plan, record, clock or Clock(), (*plan.fresh, *plan.upload))


def resume(record: Record, clock: Clock | None = None) -> int:
    """Watches a job on: one whose launcher has gone, or that ended before it was done. Returns the exit code."""
    if record.state.outcome is Outcome.DONE and record.state.deleted:
        _tell(f"{record.spec.name} is done")
        return watch.DONE
    plan = backends.plan(record.spec)
    with held(record):
        _lock(plan, record, again=True)
        if record.state.outcome is not Outcome.OPEN:
            record.state = dataclasses.replace(
                record.state, outcome=Outcome.OPEN, crashes=0, fails=0, quick=0, used=0.0, again=False, deleted=True
            )
        record.note("resumed")
        return _supervise(plan, record, clock or Clock(), plan.upload)


def stop(record: Record, clock: Clock | None = None) -> int:
    """Saves and ends a job that no launcher on this machine watches, and deletes what it has. Returns 0, or 1 where
    deleting failed."""
    plan = backends.plan(record.spec)
    with held(record):
        record.note("asked to stop")
        machine = _Machine(plan, record, dataclasses.replace(policy_of(record), keep=False), clock or Clock())
        machine.run(watch.Interrupted())
        return 0 if record.state.deleted else 1


def observe(plan: Plan) -> Observation:
    """What there is of a job's machines now."""
    found = execute(plan.describe) if plan.describe else Result(0)
    return plan.observe(found.code, found.out, found.err)


def _lock(plan: Plan, record: Record, again: bool) -> None:
    taken = execute(plan.lock)
    if taken.code == 0:
        return
    read = execute(plan.read_lock)
    owner = f'"job": "{record.spec.name}"'
    if read.code != 0:
        raise UserError(f"the run directory {record.spec.place(record.spec.run_dir)} cannot be written: {taken.why}")
    if again and owner in read.out:
        return
    raise UserError(
        f"the run directory {record.spec.place(record.spec.run_dir)} belongs to another job: {read.out.strip()}. Two "
        "jobs never write one directory: stop that job, or give another directory. If nothing of it runs any more: "
        f"{shell(plan.unlock).strip()}"
    )


def _supervise(plan: Plan, record: Record, clock: Clock, first: Sequence[Action]) -> int:
    try:
        for action in first:
            done = execute(action)
            if done.code != 0:
                place = record.spec.place(record.spec.job_dir)
                raise UserError(f"the job's files cannot be brought to {place}: {done.why}")
    except BaseException as error:  # ctrl-C among them; nothing is created yet
        if not record.state.live:
            execute(plan.unlock)
            record.state = dataclasses.replace(record.state, outcome=Outcome.REFUSED)
        record.note(f"not started: {error or type(error).__name__}")
        raise
    return _Machine(plan, record, policy_of(record), clock).run(watch.Began())


# ------------------------------------------------------------------------------------------------------ the loop


class _Machine:
    """One job under way: it turns commands of `watch` into events."""

    def __init__(self, plan: Plan, record: Record, policy: Policy, clock: Clock):
        self.plan, self.record, self.policy, self.clock = plan, record, policy, clock
        self.interrupts = Interrupts()

    def run(self, event: watch.Event) -> int:
        try:
            with self.interrupts.installed():
                while True:
                    command = self.turn(event)
                    if self.interrupts() and not isinstance(command, watch.Delete | watch.Finish):
                        command = self.turn(self.interrupts.take())
                    if isinstance(command, watch.Finish):
                        return self.finish(command)
                    event = self.perform(command)
        except BaseException as error:  # a defect of the launcher must not leave machines behind either
            if not self.policy.keep:
                _tell(f"{self.record.spec.name}: {type(error).__name__}: {error}; deleting what was created")
                deleted = self.all(self.plan.delete).code == 0
                self.record.state = dataclasses.replace(
                    self.record.state, outcome=Outcome.CRASHED, live=False, deleted=deleted
                )
                self.record.note(f"the launcher failed: {error}")
            raise

    def turn(self, event: watch.Event) -> watch.Command:
        before = self.record.state
        state, command = watch.step(before, event, self.clock.now(), self.policy)
        if state.attempt != before.attempt:
            self.record.seen = 0
        self.record.state = state
        if isinstance(command, watch.Attach):
            _note(self.record, f"{'attempt' if not before.live else 'watching attempt'} {command.attempt}")
        elif state.reason and (state.reason, state.outcome) != (before.reason, before.outcome):
            _note(self.record, state.reason)
        else:
            self.record.save()
        return command

    def perform(self, command: watch.Command) -> watch.Event:
        pause = getattr(command, "after", 0.0)
        if pause:
            # Deleting goes on whatever is asked for meanwhile.
            self.clock.sleep(pause, (lambda: False) if isinstance(command, watch.Delete) else self.interrupts)
            if self.interrupts() and not isinstance(command, watch.Delete):
                return self.interrupts.take()
        if isinstance(command, watch.Describe):
            return watch.Observed(self.describe())
        if isinstance(command, watch.Create):
            done = self.all(self.plan.create)
            refused = any(word in (done.err + done.out).lower() for word in _REFUSALS)
            return watch.Created(done.code == 0, "machines asked for" if done.code == 0 else done.why, refused)
        if isinstance(command, watch.Attach):
            return self.attach(command)
        if isinstance(command, watch.Stop):
            follow(self.plan.stop(round(command.seconds)), _tell, self.interrupts, command.seconds + 300)
            return watch.Stopped()
        done = self.all(self.plan.delete)
        gone = done.code != 0 and self.plan.describe is not None and self.describe().seen is Seen.ABSENT
        return watch.Deleted(done.code == 0 or gone, done.why)

    def all(self, runs: tuple[Run, ...]) -> Result:
        for run in runs:
            done = execute(run)
            if done.code != 0:
                return done
        return Result(0)

    def describe(self) -> Observation:
        return observe(self.plan)

    def attach(self, command: watch.Attach) -> watch.Event:
        # A backend that restarts runs by itself shows a log, and nothing else, from its beginning each time.
        skip, mark = (self.record.seen, "") if self.plan.restarts else (0, LOG)

        def show(line: str) -> None:
            nonlocal skip
            if skip:
                skip -= 1
                return
            self.record.seen += line.startswith(mark)
            print(line.removeprefix(mark), flush=True)

        runs = self.plan.attach(command.attempt, self.record.seen)
        with self.glances() as lost:
            codes, late = follow(runs, show, lambda: self.interrupts() or lost.is_set(), command.limit)
        return watch.Ended(codes, late)

    @contextlib.contextmanager
    def glances(self) -> Iterator[threading.Event]:
        """Looks at the machines beside the log, which may hang when they are gone: the event says that they are."""
        lost, over = threading.Event(), threading.Event()

        def look() -> None:
            last = Seen.READY
            while not over.wait(GLANCE):
                with contextlib.suppress(Exception):  # it is looked again
                    now = observe(self.plan).seen
                    if now is last and now not in (Seen.READY, Seen.WAITING):
                        return lost.set()
                    last = now

        thread = threading.Thread(target=look, daemon=True)
        if self.plan.describe is not None:
            thread.start()
        try:
            yield lost
        finally:
            over.set()

    def finish(self, command: watch.Finish) -> int:
        state: State = self.record.state
        if state.deleted:
            execute(self.plan.unlock)
        else:
            lines = "".join(map(shell, self.plan.delete)).strip()
            _tell(f"{self.record.spec.name}: MACHINES MAY STILL BE THERE AND COST MONEY. Delete them:\n{lines}")
        if self.policy.keep and self.plan.create:
            lines = "".join(map(shell, self.plan.delete)).strip()
            _tell(f"{self.record.spec.name}: the machines are kept (--keep). To delete them:\n{lines}")
        again = f"; `xtr launch resume {self.record.spec.name}` goes on" if command.code not in (0, 2) else ""
        _note(
            self.record,
            f"{state.outcome.value}: attempt {state.attempt}, {state.crashes} crashes, {state.preemptions} preemptions"
            + again,
        )
        return command.code
