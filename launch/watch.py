"""The life of a job as a pure function: (state, what happened, when) -> (state, what to do next).

Nothing here runs, sleeps or asks. `supervise` does what is said and tells what came of it.
"""

import dataclasses
import enum
from collections.abc import Mapping

from xtr.launch.plan import Observation, Seen

DONE, CRASHED, USAGE, PREEMPTED = 0, 1, 2, 42  # exit codes of xtr


class Outcome(enum.StrEnum):
    """How a job ended."""

    OPEN = "open"
    DONE = "done"
    CRASHED = "crashed"
    REFUSED = "refused"  # a mistake that no second try mends
    NO_CAPACITY = "no capacity"
    DEADLINE = "out of time"
    STOPPED = "stopped"


EXIT_CODES = {
    Outcome.DONE: DONE,
    Outcome.CRASHED: CRASHED,
    Outcome.NO_CAPACITY: CRASHED,
    Outcome.REFUSED: USAGE,
    Outcome.DEADLINE: PREEMPTED,
    Outcome.STOPPED: PREEMPTED,
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """How much a job may take. Times in seconds.

    Attributes:
      retries: crashes that are started again.
      wait: for capacity, each time.
      run: from the first start on, while machines are there; None: no limit.
      poll: between two looks at machines that are awaited; every other pause is a multiple of it.
      keep: whether machines stay at the end.
      restarts: whether the backend itself starts runs again.
      save: what a run gets to save before it is killed.
      tries: of creating, connecting and deleting, one after another, before that counts as failed.
      quick: a preemption so soon after a start is no luck of the machines' market; more than `tries` in a row are a
        crash.
      lasting: a connection that broke so late had been one. gcloud takes up to six minutes to give one up.
    """

    retries: int = 3
    wait: float = 24 * 3600.0
    run: float | None = None
    poll: float = 30.0
    keep: bool = False
    restarts: bool = False
    save: float = 120.0
    tries: int = 8
    quick: float = 120.0
    lasting: float = 600.0


@dataclasses.dataclass(frozen=True)
class State:
    """Where a job is.

    Attributes:
      attempt: the number of the last start; 0 before the first.
      live: whether that start may still run.
      crashes, preemptions: so far.
      fails: of the same step, one after another.
      quick: preemptions right after a start, one after another.
      waiting_since: when the machines were asked for; None while there are some.
      asked: requests for machines since there were some.
      attached_at: since when the run's seconds are not yet in `used`; None while none runs.
      used: seconds with machines so far, without those since `attached_at`.
      outcome: OPEN until it is decided; what is left then is to delete.
      reason: of the last turn, for the user.
      again: whether machines that are being deleted are to be asked for anew.
      deleted: False where deleting was given up.
    """

    attempt: int = 0
    live: bool = False
    crashes: int = 0
    preemptions: int = 0
    fails: int = 0
    quick: int = 0
    waiting_since: float | None = None
    asked: int = 0
    attached_at: float | None = None
    used: float = 0.0
    outcome: Outcome = Outcome.OPEN
    reason: str = ""
    again: bool = False
    deleted: bool = True


# ---------------------------------------------------------------------------------------------------------- commands


@dataclasses.dataclass(frozen=True)
class Describe:
    """Look at the machines, after a pause of so many seconds."""

    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Create:
    """Ask for the machines."""

    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Attach:
    """Start or find the run, show its log, wait for its end, no longer than `limit` seconds."""

    attempt: int
    limit: float | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """Ask the run to save and stop."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Delete:
    """Take the machines down."""

    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Finish:
    """Nothing is left to do; the launcher ends with this code."""

    code: int


Command = Describe | Create | Attach | Stop | Delete | Finish


# ------------------------------------------------------------------------------------------------------------ events


@dataclasses.dataclass(frozen=True)
class Began:
    """The launcher begins, or begins again."""


@dataclasses.dataclass(frozen=True)
class Created:
    """Asking for the machines came to an end; `why` where it failed, `refused` where it always will."""

    ok: bool
    why: str = ""
    refused: bool = False


@dataclasses.dataclass(frozen=True)
class Observed:
    """The answer to Describe."""

    what: Observation


@dataclasses.dataclass(frozen=True)
class Ended:
    """The end of Attach: process -> exit code of those that said so; none where the connection broke.

    `late` where the time was up first.
    """

    codes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    late: bool = False


@dataclasses.dataclass(frozen=True)
class Stopped:
    """The end of Stop."""


@dataclasses.dataclass(frozen=True)
class Deleted:
    """The end of Delete."""

    ok: bool
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """The user or the machine asks the launcher to end: `forced` when it is not for the first time."""

    forced: bool = False


Event = Began | Created | Observed | Ended | Stopped | Deleted | Interrupted


# ------------------------------------------------------------------------------------------------------- transitions


def backoff(policy: Policy, fails: int) -> float:
    """A pause that doubles: once, twice, four times `poll`, at most ten minutes (or `poll`, where that is longer)."""
    return min(policy.poll * 2 ** min(max(fails - 1, 0), 16), max(600.0, policy.poll))


def patience(policy: Policy, waited: float) -> float:
    """A pause while capacity is awaited: a tenth of the wait so far, between one and four times `poll`. Machines that
    are there cost, so it stays short."""
    return min(max(policy.poll, waited / 10), 4 * policy.poll)


def step(state: State, event: Event, now: float, policy: Policy) -> tuple[State, Command]:
    """What a job becomes by an event, and what is to be done next.

    Args:
      now: seconds of a clock that does not go back.
    """
    if isinstance(event, Interrupted):
        return _interrupted(state, event, policy)
    if isinstance(event, Began):
        if state.outcome is not Outcome.OPEN:
            return _leave(state, policy)
        gone_on = _uncounted(state, now) if state.live else 0.0  # without its launcher
        state = dataclasses.replace(state, used=state.used + gone_on, fails=0, waiting_since=now, attached_at=None)
        return state, Describe()
    if isinstance(event, Created):
        return _created(state, event, now, policy)
    if isinstance(event, Observed):
        return _observed(state, event.what, now, policy)
    if isinstance(event, Ended):
        return _ended(state, event, now, policy)
    if isinstance(event, Stopped):
        return _leave(dataclasses.replace(state, live=False), policy)
    return _deleted(state, event, now, policy)


def _uncounted(state: State, now: float) -> float:
    """Seconds of the run that are not yet in `used`."""
    return 0.0 if state.attached_at is None else now - state.attached_at


def _left(state: State, policy: Policy) -> float | None:
    """Seconds that the run may still take; None: no limit."""
    return None if policy.run is None else policy.run - state.used


def _over(policy: Policy) -> str:
    return f"{policy.run / 3600:g} h are over"


def _decide(state: State, outcome: Outcome, reason: str, policy: Policy) -> tuple[State, Command]:
    """The job is over: saved where it runs, then deleted."""
    state = dataclasses.replace(state, outcome=outcome, reason=reason, again=False, fails=0)
    return (state, Stop(policy.save)) if state.live else _leave(state, policy)


def _leave(state: State, policy: Policy) -> tuple[State, Command]:
    state = dataclasses.replace(state, again=False, fails=0)
    return (state, Finish(EXIT_CODES[state.outcome])) if policy.keep else (state, Delete())


def _anew(state: State, reason: str, policy: Policy) -> tuple[State, Command]:
    """The machines are gone or useless: others."""
    state = dataclasses.replace(state, live=False, again=True, fails=0, reason=reason)
    return dataclasses.replace(state, waiting_since=None, attached_at=None), Delete()


def _interrupted(state: State, event: Interrupted, policy: Policy) -> tuple[State, Command]:
    decided = state.outcome is not Outcome.OPEN
    outcome = state.outcome if decided else Outcome.STOPPED
    reason = state.reason if decided else "asked to stop"
    state = dataclasses.replace(state, live=state.live and not event.forced, attached_at=None)
    return _decide(state, outcome, reason, policy)


def _created(state: State, event: Created, now: float, policy: Policy) -> tuple[State, Command]:
    if event.ok:
        # The wait is that for machines, not for one request: those that die in the queue do not begin it anew.
        since = now if state.waiting_since is None else state.waiting_since
        state = dataclasses.replace(state, fails=0, waiting_since=since, asked=state.asked + 1, reason=event.why)
        return state, Describe(policy.poll)
    if event.refused:
        return _decide(state, Outcome.REFUSED, event.why, policy)
    state = dataclasses.replace(state, fails=state.fails + 1, reason=event.why)
    if state.fails > policy.tries:
        return _decide(state, Outcome.CRASHED, f"the machines cannot be asked for: {event.why}", policy)
    return state, Describe(backoff(policy, state.fails))  # it may have been made all the same


def _observed(state: State, what: Observation, now: float, policy: Policy) -> tuple[State, Command]:
    if what.seen is Seen.READY:
        return _ready(state, what, now, policy)
    if what.seen is Seen.DONE:
        return _decide(dataclasses.replace(state, live=False), Outcome.DONE, what.detail, policy)
    if what.seen is Seen.FAILED:
        return _decide(dataclasses.replace(state, live=False), Outcome.CRASHED, what.detail, policy)
    if what.seen is Seen.EXPIRED:
        return _decide(dataclasses.replace(state, live=False), Outcome.DEADLINE, what.detail, policy)
    if what.seen is Seen.REFUSED:
        return _decide(dataclasses.replace(state, live=False), Outcome.REFUSED, what.detail, policy)
    # A run whose machines are gone has been preempted. WAITING may also be an answer that says nothing: asked again.
    if state.live and what.seen in (Seen.GONE, Seen.ABSENT):
        state = dataclasses.replace(state, preemptions=state.preemptions + 1, live=False)
        return _anew(state, f"preempted: {what.detail or 'the machines are gone'}", policy)
    since = now if state.waiting_since is None else state.waiting_since
    state = dataclasses.replace(state, waiting_since=since, reason=what.detail)
    if now - since > policy.wait:
        return _decide(state, Outcome.NO_CAPACITY, f"no capacity in {policy.wait / 3600:g} h: {what.detail}", policy)
    if what.seen is Seen.GONE:
        return dataclasses.replace(state, again=True, fails=0), Delete(policy.poll)
    if what.seen is Seen.ABSENT:
        return state, Create(backoff(policy, state.fails) if state.fails else 0.0)
    return state, Describe(patience(policy, now - since))


def _ready(state: State, what: Observation, now: float, policy: Policy) -> tuple[State, Command]:
    if state.live:  # it went on while the connection was away
        state = dataclasses.replace(state, used=state.used + _uncounted(state, now), attached_at=None)
    left = _left(state, policy)
    if left is not None and left <= 0:
        return _decide(state, Outcome.DEADLINE, _over(policy), policy)
    attempt = state.attempt if state.live else state.attempt + 1
    if what.attempt is not None:
        attempt = what.attempt
    fails = state.fails if state.live else 0
    state = dataclasses.replace(state, attempt=attempt, live=True, fails=fails, reason=what.detail)
    state = dataclasses.replace(state, waiting_since=None, asked=0, attached_at=now)
    return state, Attach(attempt, left)


def _ended(state: State, event: Ended, now: float, policy: Policy) -> tuple[State, Command]:
    took = _uncounted(state, now)
    fails = 1 if took >= policy.lasting else state.fails + 1
    state = dataclasses.replace(state, used=state.used + took, attached_at=None)
    codes = set(event.codes.values())
    if event.late:
        return _decide(state, Outcome.DEADLINE, _over(policy), policy)
    if USAGE in codes:
        state = dataclasses.replace(state, live=policy.restarts)
        return _decide(state, Outcome.REFUSED, "xtr refused the command or its configuration: see its log", policy)
    if policy.restarts:  # the cluster sees the other ends, and acts on them
        return dataclasses.replace(state, fails=fails, waiting_since=now), Describe(policy.poll)
    if not codes or (codes == {DONE} and 0 not in event.codes):
        state = dataclasses.replace(state, fails=fails, waiting_since=now, attached_at=now)  # it goes on
        if fails <= policy.tries:
            return dataclasses.replace(state, reason="the connection broke"), Describe(backoff(policy, fails))
        return _crashed(dataclasses.replace(state, live=False), "the machines do not answer", policy, anew=True)
    state = dataclasses.replace(state, live=False, fails=0, waiting_since=now)
    if codes == {DONE}:
        return _decide(state, Outcome.DONE, "done", policy)
    if PREEMPTED in codes:
        quick = state.quick + 1 if took < policy.quick else 0
        state = dataclasses.replace(state, preemptions=state.preemptions + 1, quick=quick, reason="preempted, saved")
        if quick > policy.tries:
            return _decide(state, Outcome.CRASHED, f"stopped right after each of {quick} starts", policy)
        return state, Describe(policy.poll)
    process, code = next((p, c) for p, c in sorted(event.codes.items()) if c != DONE)
    return _crashed(dataclasses.replace(state, quick=0), f"process {process} ended with {code}", policy)


def _crashed(state: State, reason: str, policy: Policy, anew: bool = False) -> tuple[State, Command]:
    state = dataclasses.replace(state, crashes=state.crashes + 1, reason=reason)
    if state.crashes > policy.retries:
        tries = f" (crash {state.crashes}; --retries={policy.retries})"
        return _decide(state, Outcome.CRASHED, reason + tries, policy)
    return _anew(state, reason, policy) if anew else (state, Describe(backoff(policy, state.crashes)))


def _deleted(state: State, event: Deleted, now: float, policy: Policy) -> tuple[State, Command]:
    if event.ok:
        left = _left(state, policy)
        if state.again and left is not None and left <= 0:  # others would have nothing to do
            state = dataclasses.replace(state, again=False, outcome=Outcome.DEADLINE, reason=_over(policy))
        if state.again:
            since = now if state.waiting_since is None else state.waiting_since
            state = dataclasses.replace(state, again=False, fails=0, waiting_since=since)
            return state, Create(min(backoff(policy, state.asked), 4 * policy.poll))
        return dataclasses.replace(state, deleted=True), Finish(EXIT_CODES[state.outcome])
    state = dataclasses.replace(state, fails=state.fails + 1)
    if state.fails < policy.tries:
        return state, Delete(backoff(policy, state.fails))
    outcome = Outcome.CRASHED if state.outcome is Outcome.OPEN else state.outcome
    reason = f"{state.reason}; deleting failed: {event.why}"
    return dataclasses.replace(state, outcome=outcome, reason=reason, deleted=False), Finish(CRASHED)
