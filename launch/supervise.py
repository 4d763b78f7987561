"""Does what `watch` says with what a backend planned, and tells it what came of it, until a job is over."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from xtr.errors import UserError
from xtr.launch import backends, watch
from xtr.launch.actions import Action, Run, shell
from xtr.launch.backends.bucket import lock_text
from xtr.launch.execute import Result, execute, follow
from xtr.launch.plan import LOG, Observation, Plan, Seen
from xtr.launch.record import Record, held, load, names
from xtr.launch.spec import RunSpec
from xtr.launch.watch import Outcome, Policy, State

GLANCE = 60.0  # seconds between two looks at machines while a run goes on; two alike count
TOGETHER = 2.0  # seconds in which signals of a closed terminal are one: its shell sends them, the system and the login
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
        self.last: tuple[int, float] | None = None  # the last signal that counted, and when it came

    def __call__(self) -> bool:
        return self.pending > 0

    def take(self) -> watch.Interrupted:
        self.told, self.pending = self.told + self.pending, 0
        return watch.Interrupted(forced=self.told > 1)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is below `nohup`
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self.count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def count(self, number: int, frame: object = None) -> None:
        """A signal came. What belongs to one closed terminal counts once: the run is to have its time to save."""
        now = time.monotonic()
        if self.last and signal.SIGHUP in (number, self.last[0]) and now - self.last[1] < TOGETHER:
            return
        self.last = number, now
        self.pending += 1


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


def _print(text: str, stream: TextIO) -> None:
    """Prints a line. What cannot be told any more decides nothing: the log is kept where the job is."""
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        _print(ascii(text)[1:-1], stream)
    except (OSError, ValueError):  # the terminal is closed, or who read this has gone: the rest goes nowhere
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _tell(text: str) -> None:
    _print(f"xtr launch: {text}", sys.stderr)


def _note(record: Record, text: str) -> None:
    record.note(text)
    _tell(f"{record.spec.name}: {text}")


# ----------------------------------------------------------------------------------------------- from outside


def launch(record: Record, clock: Clock | None = None) -> int:
    """Launches a new job and watches it to its end; returns the exit code.

    Raises:
      UserError: its name or its run directory is another job's, or its files cannot be uploaded.
    """
    plan, interrupts = backends.plan(record.spec), Interrupts()
    with interrupts.installed():
        before = check_name(plan, record.spec)
        if before:  # machines that were kept remember its attempts
            record.state, record.made = State(attempt=before.state.attempt), before.made
        with held(record):
            record.note("launched")
            first = (*plan.fresh, *plan.upload)
            return _supervise(plan, record, clock or Clock(), interrupts, first)


def resume(record: Record, clock: Clock | None = None) -> int:
    """Watches a job on: one whose launcher has gone, or that ended before it was done. Returns the exit code."""
    name, outcome = record.spec.name, record.state.outcome
    if outcome is Outcome.DONE and not record.is_open:
        _tell(f"{name} is done")
        return watch.DONE
    plan, interrupts = backends.plan(record.spec), Interrupts()
    with interrupts.installed():
        if not record.made:
            _refuse_others(plan, name)
        with held(record):
            if outcome not in (Outcome.OPEN, Outcome.DONE):
                record.state = dataclasses.replace(
                    record.state, outcome=Outcome.OPEN, crashes=0, fails=0, quick=0, used=0.0, again=False, deleted=True
                )
            record.note("resumed")
            first = () if outcome is Outcome.DONE else plan.upload
            return _supervise(plan, record, clock or Clock(), interrupts, first, again=True)


def stop(record: Record, clock: Clock | None = None) -> int:
    """Saves and ends a job that no launcher on this machine watches, and deletes what it has. Returns 0, or 1 where
    deleting failed."""
    if not record.is_open and not record.made:
        _tell(f"{record.spec.name} has ended ({record.state.outcome.value}), and nothing of it is left")
        return 0
    plan, interrupts = backends.plan(record.spec), Interrupts()
    with interrupts.installed(), held(record):
        record.note("asked to stop")
        policy = dataclasses.replace(policy_of(record), keep=False)
        _Machine(plan, record, policy, clock or Clock(), interrupts).run(watch.Interrupted())
        return 0 if record.state.deleted else 1


def observe(plan: Plan) -> Observation:
    """What there is of a job's machines now."""
    found = execute(plan.describe) if plan.describe else Result(0)
    return plan.observe(found.code, found.out, found.err)


# What machines are told by, beside their name, and what else must be alike for a job to take over those of another.
_ALIKE = ("backend", "project", "zone", "context", "topology", "bucket")


def check_name(plan: Plan, spec: RunSpec) -> Record | None:
    """The record of the job that last had this name here, if any; only if its machines were kept are there some.

    Raises:
      UserError: that job is open, or there are machines of this name that it did not keep for such a job.
    """
    name = spec.name
    before = load(name) if name in names() else None
    if before and before.is_open:
        raise UserError(
            f"there is a job {name} already, and it has not ended: `xtr launch resume {name}` goes on watching it, "
            f"`xtr launch stop {name}` ends it; or choose another --name."
        )
    if before and before.made:
        if any(getattr(before.spec, field) != getattr(spec, field) for field in _ALIKE):
            raise UserError(
                f"the last job {name} kept its machines, and this one asks for others: `xtr launch stop {name}` "
                "deletes them; or choose another --name."
            )
    else:
        _refuse_others(plan, name)
    return before


def _refuse_others(plan: Plan, name: str) -> None:
    """Raises UserError where there are machines of this name, which are no job's of here: they would be deleted."""
    if plan.describe is None:
        return
    told = execute(plan.describe)
    found = plan.observe(told.code, told.out, told.err)
    if found.seen is Seen.ABSENT:
        return
    if told.code != 0:
        raise UserError(f"whether {name} is the name of another job's machines cannot be seen: {found.detail}")
    lines = "".join(map(shell, plan.delete)).strip()
    raise UserError(
        f"there are machines called {name} already ({found.detail}), and no job from here has them: choose another "
        f"--name. Where they are yours and of no use any more: {lines}"
    )


def _lock(plan: Plan, record: Record, again: bool) -> None:
    taken = execute(plan.lock)
    if taken.code == 0:
        return
    read = execute(plan.read_lock)
    if read.code != 0:
        raise UserError(f"the run directory {record.spec.place(record.spec.run_dir)} cannot be written: {taken.why}")
    if again and _is_own(read, record):
        return
    raise UserError(
        f"the run directory {record.spec.place(record.spec.run_dir)} belongs to another job: {read.out.strip()}. Two "
        "jobs never write one directory: stop that job, or give another directory. If nothing of it runs any more: "
        f"{shell(plan.unlock).strip()}"
    )


def _is_own(read: Result, record: Record) -> bool:
    """Whether the lock that was read is this job's."""
    return read.code == 0 and read.out.strip() == lock_text(record.spec).strip()


def _unlock(plan: Plan, record: Record) -> None:
    """Gives the run directory back, where this job has it: another one may have taken it since."""
    if _is_own(execute(plan.read_lock), record):
        execute(plan.unlock)


def _supervise(
    plan: Plan,
    record: Record,
    clock: Clock,
    interrupts: Interrupts,
    first: Sequence[Action],
    again: bool = False,
) -> int:
    """Takes the run directory, brings the job's files, and watches the job.

    Args:
      first: what brings the files.
      again: whether the job may have the run directory already.
    """
    locked = False

    def leave(outcome: Outcome, why: str) -> None:
        if not (again and record.made):  # else it is open, as before
            if locked:
                _unlock(plan, record)
            record.state = dataclasses.replace(record.state, outcome=outcome)
        record.note(f"not started: {why}")

    try:
        _lock(plan, record, again)
        locked = True
        for action in first:
            if interrupts():
                break
            done = execute(action, interrupted=interrupts)
            if done.code != 0 and not interrupts():
                place = record.spec.place(record.spec.job_dir)
                raise UserError(f"the job's files cannot be brought to {place}: {done.why}")
    except BaseException as error:
        leave(Outcome.REFUSED, str(error) or type(error).__name__)
        raise
    if interrupts() and not record.made:
        leave(Outcome.STOPPED, "asked to stop")
        _tell(f"{record.spec.name}: asked to stop; nothing was created")
        return watch.EXIT_CODES[Outcome.STOPPED]
    return _Machine(plan, record, policy_of(record), clock, interrupts).run(watch.Began())


# ------------------------------------------------------------------------------------------------------ the loop


class _Machine:
    """One job under way: it turns commands of `watch` into events."""

    def __init__(self, plan: Plan, record: Record, policy: Policy, clock: Clock, interrupts: Interrupts):
        self.plan, self.record, self.policy, self.clock, self.interrupts = plan, record, policy, clock, interrupts
        self.unsure = False  # whether the run may go on though it was to stop

    def run(self, event: watch.Event) -> int:
        try:
            while True:
                command = self.turn(event)
                if self.interrupts() and not isinstance(command, watch.Delete | watch.Finish):
                    command = self.turn(self.interrupts.take())
                if isinstance(command, watch.Finish):
                    return self.finish(command)
                event = self.perform(command)
        except BaseException as error:  # a defect of the launcher must not leave machines behind either
            if not self.policy.keep:
                self.give_up(error)
            raise

    def give_up(self, error: BaseException) -> None:
        """Deletes what was created, before anything else that may fail, too."""
        try:
            deleted = self.delete()
        except Exception as another:
            deleted = watch.Deleted(False, str(another))
        self.record.state = dataclasses.replace(
            self.record.state, outcome=Outcome.CRASHED, live=False, deleted=deleted.ok
        )
        what = f"the launcher failed: {type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            if deleted.ok:
                _unlock(self.plan, self.record)
            self.record.note(what)
        if deleted.ok:
            _tell(f"{self.record.spec.name}: {what}; what was created is deleted")
        else:
            self.warn()

    def warn(self) -> None:
        lines = "".join(map(shell, self.plan.delete)).strip()
        _tell(f"{self.record.spec.name}: MACHINES MAY STILL BE THERE AND COST MONEY. Delete them:\n{lines}")

    def turn(self, event: watch.Event) -> watch.Command:
        before = self.record.state
        if isinstance(event, watch.Interrupted) and event.forced:
            self.unsure |= before.live
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
            self.mark_made(True)
            done = self.all(self.plan.create)
            refused = any(word in (done.err + done.out).lower() for word in _REFUSALS)
            return watch.Created(done.code == 0, "machines asked for" if done.code == 0 else done.why, refused)
        if isinstance(command, watch.Attach):
            self.mark_made(True)
            return self.attach(command)
        if isinstance(command, watch.Stop):
            commands = self.plan.stop(round(command.seconds))
            self.unsure = not follow(commands, _tell, self.interrupts, command.seconds + 300).well
            return watch.Stopped()
        return self.delete()

    def delete(self) -> watch.Deleted:
        if not self.record.made:  # what has the job's name is none of its own
            return watch.Deleted(True)
        done = self.all(self.plan.delete)
        gone = done.code != 0 and self.plan.describe is not None and self.describe().seen is Seen.ABSENT
        if done.code == 0 or gone:
            self.mark_made(False)
        return watch.Deleted(not self.record.made, done.why)

    def mark_made(self, made: bool) -> None:
        self.record.made = made
        self.record.save()

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
            _print(line.removeprefix(mark), sys.stdout)

        runs = self.plan.attach(command.attempt, self.record.seen)
        with self.glances() as lost:
            found = follow(runs, show, lambda: self.interrupts() or lost.is_set(), command.limit)
        return watch.Ended(found.codes, found.late)

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
        name = self.record.spec.name
        if self.policy.keep:
            self.record.made = self.unsure or bool(self.plan.create)
            if self.plan.create:
                lines = "".join(map(shell, self.plan.delete)).strip()
                _tell(f"{name}: the machines are kept (--keep). To delete them:\n{lines}")
            if self.unsure:  # it is stopped before anything else is done with it
                self.record.state = dataclasses.replace(self.record.state, live=True)
                _tell(f"{name}: its run may go on there: `xtr launch stop {name}` ends it")
            else:
                _unlock(self.plan, self.record)
        elif self.record.state.deleted:
            _unlock(self.plan, self.record)
        else:
            self.warn()
        state: State = self.record.state
        again = f"; `xtr launch resume {name}` goes on" if command.code not in (0, 2) else ""
        _note(
            self.record,
            f"{state.outcome.value}: attempt {state.attempt}, {state.crashes} crashes, {state.preemptions} preemptions"
            + again,
        )
        return command.code
