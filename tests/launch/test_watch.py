"""The life of a job as a function: every transition, and what holds for any order of events."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.launch import watch
from xtr.launch.plan import Observation, Seen
from xtr.launch.watch import (
    Attach,
    Began,
    Create,
    Created,
    Delete,
    Deleted,
    Describe,
    Ended,
    Finish,
    Interrupted,
    Observed,
    Outcome,
    Policy,
    State,
    Stop,
    Stopped,
    step,
)  # fmt: skip

POLICY = Policy(retries=2, wait=1000.0, run=None, poll=10.0, tries=3)
READY = Observed(Observation(Seen.READY))
WAITING = Observed(Observation(Seen.WAITING, "in the queue"))
GONE = Observed(Observation(Seen.GONE, "SUSPENDED"))
ABSENT = Observed(Observation(Seen.ABSENT))


def play(*events, policy=POLICY, state=None, now=0.0, pace=1.0):
    """Feeds events one after another; (the last state, all commands)."""
    state, commands = state or State(), []
    for event in events:
        state, command = step(state, event, now, policy)
        commands.append(command)
        now += pace
    return state, commands


def test_the_usual_way():
    events = (Began(), ABSENT, Created(True), WAITING, READY, Ended({0: 0, 1: 0}), Deleted(True))
    state, commands = play(*events)
    assert commands == [Describe(), Create(), Describe(10), Describe(10), Attach(1), Delete(), Finish(0)]
    assert state.outcome is Outcome.DONE and state.deleted


def test_machines_that_are_there_already_are_used():
    assert play(Began(), READY)[1] == [Describe(), Attach(1)]


def test_capacity_is_awaited_no_longer_than_told():
    state, commands = play(Began(), ABSENT, Created(True), *[WAITING] * 4, pace=300.0)
    assert state.outcome is Outcome.NO_CAPACITY and commands[-1] == Delete()
    assert step(state, Deleted(True), 0, POLICY)[1] == Finish(1)


def test_a_request_that_died_in_the_queue_is_deleted_and_made_anew_within_the_same_wait():
    events = (Began(), ABSENT, Created(True), GONE, Deleted(True))
    state, commands = play(*events)
    assert commands[-2:] == [Delete(10), Create(10)]
    waited, _ = play(Created(True), GONE, state=state, now=600.0, pace=400.0)
    assert waited.outcome is Outcome.OPEN
    waited, commands = play(Created(True), GONE, Deleted(True), Created(True), GONE, state=state, pace=400.0)
    assert waited.outcome is Outcome.NO_CAPACITY and commands[-1] == Delete()


def test_requests_that_die_one_after_another_are_made_anew_ever_more_rarely_until_the_wait_is_over():
    state, now, pauses = play(Began(), ABSENT)[0], 2.0, []
    while state.outcome is Outcome.OPEN:
        for event in (Created(True), GONE, Deleted(True)):
            state, command = step(state, event, now, POLICY)
            now += getattr(command, "after", 0.0)
            pauses += [command.after] if isinstance(command, Create) else []
        assert now < 2 * POLICY.wait
    assert state.outcome is Outcome.NO_CAPACITY and now > POLICY.wait
    assert pauses == sorted(pauses) and pauses[0] == 10 and pauses[-1] == 40


def test_every_wait_for_machines_is_as_long_as_told():
    """The wait for those that are to replace others begins when these are gone."""
    state, _ = play(Began(), ABSENT, Created(True), READY, Ended(), GONE, Deleted(True), pace=900.0)
    assert state.waiting_since == 5400.0
    state, _ = play(Created(True), GONE, Deleted(True), state=state, now=5400.0, pace=400.0)
    assert state.outcome is Outcome.OPEN


def test_lost_capacity_between_ready_and_start_is_no_crash():
    """The connection fails, and the machines turn out to be gone."""
    state, commands = play(Began(), READY, Ended(), GONE, Deleted(True))
    assert commands[2:] == [Describe(10), Delete(), Create(10)]
    assert state.preemptions == 1 and state.crashes == 0


def test_preemptions_are_free():
    state, now = State(), 0.0
    for _ in range(20):
        state, commands = play(
            READY, Ended({0: 42, 1: 42}), GONE, Deleted(True), Created(True), state=state, now=now, pace=300.0
        )
        assert commands[2:4] == [Delete(10), Create(10)]
        now += 1500.0
    assert (state.preemptions, state.crashes, state.attempt, state.outcome) == (20, 0, 20, Outcome.OPEN)


def test_a_run_that_stops_right_after_each_start_is_no_preemption():
    state, _ = play(*[READY, Ended({0: 42})] * 4, pace=1.0)
    assert state.outcome is Outcome.CRASHED and "right after" in state.reason


def test_crashes_are_started_again_as_often_as_told_with_growing_pauses():
    crash = Ended({0: 1, 1: 1})
    state, commands = play(Began(), READY, crash, READY, crash, READY, crash)
    assert commands == [Describe(), Attach(1), Describe(10), Attach(2), Describe(20), Attach(3), Delete()]
    assert state.outcome is Outcome.CRASHED and state.crashes == 3
    assert step(state, Deleted(True), 0, POLICY)[1] == Finish(1)


@pytest.mark.parametrize("codes", [{0: 2}, {0: 2, 1: 1}, {0: 42, 1: 2}])
def test_wrong_use_is_never_started_again(codes):
    state, commands = play(READY, Ended(codes), Deleted(True))
    assert commands[1:] == [Delete(), Finish(2)] and state.crashes == 0


@pytest.mark.parametrize("codes, outcome", [({0: 0}, Outcome.DONE), ({1: 0}, Outcome.OPEN), ({}, Outcome.OPEN)])
def test_a_run_is_done_only_when_process_0_says_so(codes, outcome):
    assert play(READY, Ended(codes))[0].outcome is outcome


def test_a_broken_connection_is_taken_up_with_the_same_attempt():
    state, commands = play(READY, Ended(), READY, Ended(), READY)
    assert [c.attempt for c in commands if isinstance(c, Attach)] == [1, 1, 1]
    assert state.crashes == 0


def test_machines_that_never_answer_are_replaced_and_count_as_a_crash():
    state, commands = play(*[READY, Ended()] * 4)
    assert commands[-1] == Delete() and state.again and state.crashes == 1
    assert play(Deleted(True), state=state)[1] == [Create(10)]


def test_connections_that_broke_after_hours_do_not_add_up():
    """A run of days goes on where it is, however often the connection to it breaks."""
    lasted = POLICY.lasting
    state, commands = play(*[READY, Ended()] * 20, pace=lasted)
    assert state.outcome is Outcome.OPEN and state.crashes == 0 and state.live and state.fails == 1
    assert {c for c in commands if not isinstance(c, Describe)} == {Attach(1)}
    # What gcloud takes to give up machines that do not answer is no connection.
    state, commands = play(*[READY, Ended()] * 4, pace=lasted - 1)
    assert commands[-1] == Delete() and state.crashes == 1


def test_a_job_out_of_time_saves_first():
    policy = dataclasses.replace(POLICY, run=3600.0)
    state, commands = play(READY, Ended(late=True), Stopped(), Deleted(True), policy=policy)
    assert commands == [Attach(1, 3600.0), Stop(policy.save), Delete(), Finish(42)]
    state, commands = play(READY, Ended({0: 1}), READY, policy=policy, pace=2000.0)
    assert commands[-1] == Attach(2, 1600.0)  # what waiting took is not counted


def test_time_that_ended_while_machines_were_awaited_starts_nothing():
    state = State(attempt=1, used=3600.0)
    assert play(READY, policy=dataclasses.replace(POLICY, run=3600.0), state=state)[0].outcome is Outcome.DEADLINE


HOURS = 3600.0
DAYS = dataclasses.replace(POLICY, run=48 * HOURS)


def test_time_without_a_launcher_counts_where_the_run_went_on():
    running, _ = play(Began(), READY, policy=DAYS)
    state, commands = play(Began(), READY, policy=DAYS, state=running, now=40 * HOURS, pace=10.0)
    assert commands == [Describe(), Attach(1, 8 * HOURS + 1)]  # it began at 1
    state, commands = play(Began(), READY, policy=DAYS, state=running, now=50 * HOURS)
    assert state.outcome is Outcome.DEADLINE and commands[-1] == Stop(DAYS.save)


def test_time_without_a_connection_counts_too():
    broken, _ = play(READY, Ended(), policy=DAYS, pace=HOURS)
    state, commands = play(Began(), READY, policy=DAYS, state=broken, now=11 * HOURS, pace=HOURS)
    assert commands[-1] == Attach(1, 37 * HOURS)
    state, commands = play(READY, policy=DAYS, state=broken, now=11 * HOURS)
    assert commands[-1] == Attach(1, 37 * HOURS)


def test_time_in_which_nothing_ran_does_not_count():
    crashed, _ = play(READY, Ended({0: 1}), policy=DAYS, pace=HOURS)
    assert play(Began(), READY, policy=DAYS, state=crashed, now=40 * HOURS)[1][-1] == Attach(2, 47 * HOURS)
    stopped, _ = play(READY, Interrupted(), policy=DAYS)  # and its launcher died while it stopped
    again = dataclasses.replace(stopped, outcome=Outcome.OPEN)
    assert play(Began(), READY, policy=DAYS, state=again, now=40 * HOURS)[1][-1] == Attach(1, 48 * HOURS)


def test_no_machines_are_asked_for_when_the_time_is_over():
    running, _ = play(Began(), READY, policy=DAYS)
    state, commands = play(Began(), GONE, Deleted(True), policy=DAYS, state=running, now=50 * HOURS)
    assert commands == [Describe(), Delete(), Finish(42)]
    assert state.outcome is Outcome.DEADLINE and state.deleted and not state.again


def test_a_run_that_its_cluster_ended_for_want_of_time_is_out_of_time():
    expired = Observed(Observation(Seen.EXPIRED, "the limit is reached"))
    policy = dataclasses.replace(DAYS, restarts=True)
    state, commands = play(READY, Ended({0: 42}), expired, Deleted(True), policy=policy)
    assert commands[2:] == [Delete(), Finish(42)] and state.outcome is Outcome.DEADLINE


EVERY_MOMENT = {
    "begun": [Began()],
    "creating": [Began(), ABSENT],
    "created": [Began(), ABSENT, Created(True)],
    "waiting": [Began(), ABSENT, Created(True), WAITING],
    "running": [Began(), READY],
    "crashed": [Began(), READY, Ended({0: 1})],
    "disconnected": [Began(), READY, Ended()],
    "preempted": [Began(), READY, Ended(), GONE],
    "recreating": [Began(), READY, Ended(), GONE, Deleted(True)],
    "done": [Began(), READY, Ended({0: 0})],
    "stopping": [Began(), READY, Interrupted()],
}


@pytest.mark.parametrize("moment", EVERY_MOMENT)
def test_an_interrupt_at_any_moment_ends_in_deletion(moment):
    state, _ = play(*EVERY_MOMENT[moment])
    live = state.live
    state, command = step(state, Interrupted(), 0, POLICY)
    assert command == (Stop(POLICY.save) if live else Delete())
    if live:
        state, command = step(state, Stopped(), 0, POLICY)
    assert command == Delete()
    state, command = step(state, Deleted(True), 0, POLICY)
    assert command == Finish(0 if moment == "done" else 42)


@pytest.mark.parametrize("moment", EVERY_MOMENT)
def test_a_second_interrupt_does_not_wait_for_a_save(moment):
    state, _ = play(*EVERY_MOMENT[moment])
    assert step(state, Interrupted(forced=True), 0, POLICY)[1] == Delete()


def test_deleting_is_tried_again_and_then_given_up_in_so_many_words():
    state, commands = play(READY, Ended({0: 0}), Deleted(False, "no"), Deleted(False, "no"), Deleted(False, "no"))
    assert commands[1:] == [Delete(), Delete(10), Delete(20), Finish(1)]
    assert not state.deleted and "deleting failed: no" in state.reason and state.outcome is Outcome.DONE


def test_kept_machines_are_left_alone():
    policy = dataclasses.replace(POLICY, keep=True)
    assert play(READY, Ended({0: 0}), policy=policy)[1][-1] == Finish(0)
    assert play(READY, Interrupted(), Stopped(), policy=policy)[1][-2:] == [Stop(policy.save), Finish(42)]


def test_a_request_that_is_refused_is_not_made_again():
    state, commands = play(Began(), ABSENT, Created(False, "no permission", refused=True), Deleted(True))
    assert commands[-2:] == [Delete(), Finish(2)]


def test_a_request_that_fails_is_looked_for_before_it_is_made_again():
    failed = Created(False, "unavailable")
    state, commands = play(Began(), ABSENT, failed, ABSENT, failed, READY)
    assert commands == [Describe(), Create(), Describe(10), Create(10), Describe(20), Attach(1)]
    state, commands = play(*[failed] * 4)
    assert state.outcome is Outcome.CRASHED and commands[-1] == Delete()


def test_a_cluster_that_restarts_runs_is_left_to_it():
    policy = dataclasses.replace(POLICY, restarts=True)
    running = Observed(Observation(Seen.READY, "running", 0))
    again = Observed(Observation(Seen.READY, "running", 1))
    state, commands = play(running, Ended({0: 1}), WAITING, again, Ended({0: 0}), policy=policy)
    assert commands == [Attach(0), Describe(10), Describe(10), Attach(1), Describe(10)]
    assert state.crashes == 0 and state.outcome is Outcome.OPEN
    done = Observed(Observation(Seen.DONE))
    assert play(done, Deleted(True), policy=policy, state=state)[1] == [Delete(), Finish(0)]
    failed = Observed(Observation(Seen.FAILED, "too many"))
    assert play(failed, Deleted(True), policy=policy, state=state)[1] == [Delete(), Finish(1)]
    assert play(Ended({0: 2}), policy=policy, state=state)[0].outcome is Outcome.REFUSED


def test_what_happens_when_a_launcher_takes_an_ended_job_up():
    """`Began` on a decided job deletes; it never starts."""
    state = State(outcome=Outcome.STOPPED, deleted=False)
    assert play(Began(), state=state)[1] == [Delete()]


# ------------------------------------------------------------------------------------------------ for any order


ANSWERS = {
    Describe: st.sampled_from([Observed(Observation(s, "said")) for s in Seen if s not in (Seen.DONE, Seen.FAILED)]),
    Create: st.builds(Created, st.booleans(), st.just("why"), st.sampled_from([False, False, False, True])),
    Attach: st.builds(
        Ended, st.dictionaries(st.integers(0, 2), st.sampled_from([0, 0, 1, 2, 42, 137]), max_size=3), st.booleans()
    ),
    Stop: st.just(Stopped()),
    Delete: st.builds(Deleted, st.booleans(), st.just("why")),
}
# A cloud that has no machines any more, and says so of every request.
EMPTY = {Describe: GONE, Create: Created(True), Attach: Ended(), Stop: Stopped(), Delete: Deleted(True)}


@given(st.data(), st.booleans(), st.integers(0, 3), st.integers(0, 200))
def test_every_job_ends_and_deletes_what_it_created(data, keep, retries, most):
    """Whatever the cloud answers and whenever the user interrupts; and by itself once the cloud has nothing to give."""
    policy = Policy(retries=retries, wait=5000.0, run=20_000.0, poll=10.0, tries=3, keep=keep)
    state, command = step(State(), Began(), 0.0, policy)
    there, now, tries, interrupts = False, 0.0, 0, 0
    while not isinstance(command, Finish):
        tries += 1
        now += getattr(command, "after", 0.0) + (data.draw(st.sampled_from([1.0, 500.0])) if tries <= most else 1.0)
        if tries > most:
            event = EMPTY[type(command)]
        elif data.draw(st.integers(0, 40)) == 0 and not isinstance(command, Delete):
            interrupts += 1
            event = Interrupted(forced=interrupts > 1)
        else:
            event = data.draw(ANSWERS[type(command)])
        if isinstance(event, Ended) and event.late:
            event = dataclasses.replace(event, codes={})
        decided = state.outcome is not Outcome.OPEN
        if isinstance(command, Create):
            there = True  # whatever it says, it may have been made
        if isinstance(event, Deleted) and event.ok:
            there = False
        state, command = step(state, event, now, policy)
        assert not (decided and isinstance(command, Create | Attach | Describe))
        assert state.crashes <= retries + 1
        assert tries < most + 600
    assert state.outcome is not Outcome.OPEN
    assert not there or keep or not state.deleted
    assert command.code in (0, 1, 2, 42)


@given(st.integers(1, 1000))
def test_pauses_grow_to_a_bound(fails):
    assert watch.backoff(POLICY, fails) <= 600.0
    assert watch.backoff(POLICY, fails) <= watch.backoff(POLICY, fails + 1)


def test_looks_become_rarer_while_capacity_is_awaited():
    pauses = [watch.patience(POLICY, waited) for waited in (0.0, 100.0, 250.0, 1e6)]
    assert pauses == [10.0, 10.0, 25.0, 40.0]
