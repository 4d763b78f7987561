"""Leases: one holder at a time, whoever comes, dies or sleeps; by real processes where it matters."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from xtr import preemption, rundir
from xtr.checkpoints.manager import CheckpointManager, committed_steps
from xtr.errors import Preempted
from xtr.study import lease

SHORT = 3.0  # an expiry for tests: far above what a busy machine delays a heartbeat by


def backdate(place: Path, seconds: float) -> None:
    """Makes the last heartbeat of the newest lease so much older."""
    folder = max(place.iterdir(), key=lambda path: int(path.name))
    for path in (folder, folder / "holder.json"):
        if path.exists():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def elsewhere(**fields) -> lease.Holder:
    """A holder on another machine, whose process nobody here can see."""
    return lease.Holder(**{"runner": "r", "host": "other", "pid": 1, "machine": "other", "born": ""} | fields)


def test_a_lease_is_had_by_one_until_it_is_given_back(tmp_path):
    place = tmp_path / "stage"
    assert lease.look(place) is None
    ours = lease.acquire(place, lease.this_runner())
    assert lease.acquire(place, lease.this_runner()) is None
    held = lease.look(place)
    assert held.alive and held.holder.pid == os.getpid() and held.holder.since.endswith("Z")
    ours.beat("step 7")
    assert lease.look(place).holder.doing == "step 7"
    ours.release()
    assert lease.look(place) is None
    assert lease.acquire(place, lease.this_runner()).number == 2


def test_a_silent_holder_of_another_machine_loses_its_lease(tmp_path):
    place = tmp_path / "stage"
    theirs = lease.acquire(place, elsewhere())
    backdate(place, lease.EXPIRY - 10)
    assert lease.acquire(place, lease.this_runner()) is None
    backdate(place, 20)
    assert not lease.look(place).alive
    ours = lease.acquire(place, lease.this_runner())
    ours.check()
    with pytest.raises(lease.LeaseLost, match="was taken over"):
        theirs.check()
    with pytest.raises(lease.LeaseLost):
        theirs.beat()
    theirs.release()  # a loser's release is no release of the winner's
    assert lease.look(place).holder.runner == ours.holder.runner


def test_the_hosts_clock_decides_nothing(tmp_path, monkeypatch):
    place = tmp_path / "stage"
    lease.acquire(place, elsewhere())
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert lease.look(place).alive


def test_a_holder_that_died_before_its_first_heartbeat_is_waited_for_and_then_passed_over(tmp_path):
    place = tmp_path / "stage"
    (place / "1").mkdir(parents=True)
    assert lease.look(place).alive and lease.look(place).holder is None
    assert lease.acquire(place, lease.this_runner()) is None
    backdate(place, lease.EXPIRY + 1)
    assert lease.acquire(place, lease.this_runner()).number == 2


def test_a_dead_process_of_this_machine_is_passed_over_at_once(tmp_path):
    code = f"from xtr.study import lease; lease.acquire({str(tmp_path / 'stage')!r}, lease.this_runner())"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not lease.look(tmp_path / "stage").alive
    assert lease.acquire(tmp_path / "stage", lease.this_runner()) is not None


@pytest.mark.skipif(not lease.this_runner().born, reason="this system does not say when a process started")
def test_a_process_that_has_a_dead_holders_number_is_no_holder(tmp_path):
    me = lease.this_runner()
    lease.acquire(tmp_path / "stage", lease.Holder("r", me.host, me.pid, me.machine, born="1"))
    assert not lease.look(tmp_path / "stage").alive


def test_of_many_that_take_over_at_once_one_wins(tmp_path):
    for round_ in range(20):
        place = tmp_path / str(round_)
        lease.acquire(place, elsewhere())
        backdate(place, lease.EXPIRY + 1)
        gate, won = threading.Barrier(8), []

        def take(place=place, gate=gate, won=won):
            gate.wait()
            if (ours := lease.acquire(place, lease.this_runner())) is not None:
                won.append(ours)

        threads = [threading.Thread(target=take) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(won) == 1


@pytest.mark.parametrize("released", [False, True], ids=["first", "given back"])
def test_who_comes_between_the_look_and_the_taking_keeps_the_lease(tmp_path, monkeypatch, released):
    place, listed, others = tmp_path / "stage", lease._newest, []
    if released:
        lease.acquire(place, elsewhere()).release()

    def overtaken(place):
        number = listed(place)
        if not others:
            others.append(None)  # its own listing is not overtaken
            others[0] = lease.acquire(place, elsewhere())
        return number

    monkeypatch.setattr(lease, "_newest", overtaken)
    assert lease.acquire(place, lease.this_runner()) is None
    others[0].check()


def test_a_heart_keeps_leases_alive_and_gives_them_back(tmp_path):
    with lease.Heart(SHORT / 30) as heart:
        ours = lease.acquire(tmp_path / "stage", elsewhere(), SHORT)
        with heart.keeping(ours, lambda: "at it"):
            end = time.monotonic() + 1.2 * SHORT
            while time.monotonic() < end:
                assert lease.look(tmp_path / "stage", SHORT).alive
                time.sleep(SHORT / 20)
            assert lease.look(tmp_path / "stage", SHORT).holder.doing == "at it"
    assert lease.look(tmp_path / "stage", SHORT) is None


def test_who_lost_a_lease_does_not_mark_the_work_as_done(tmp_path):
    theirs = lease.acquire(tmp_path / "lease", elsewhere())
    backdate(tmp_path / "lease", lease.EXPIRY + 1)
    lease.acquire(tmp_path / "lease", lease.this_runner())
    with rundir.guarded(tmp_path / "run", theirs.check), pytest.raises(lease.LeaseLost):
        rundir.mark_done(tmp_path / "run", {})
    assert not (tmp_path / "run" / "DONE").exists()
    rundir.mark_done(tmp_path / "run", {})
    assert (tmp_path / "run" / "DONE").exists()


def test_who_lost_a_lease_saves_no_checkpoint(tmp_path):
    ours = lease.acquire(tmp_path / "lease", elsewhere())
    manager = CheckpointManager(tmp_path / "run" / "checkpoints")
    state = {"params": {"w": np.ones(3, np.float32)}}
    with rundir.guarded(tmp_path / "run", ours.check):
        assert manager.save(1, state, {})
        backdate(tmp_path / "lease", lease.EXPIRY + 1)
        lease.acquire(tmp_path / "lease", lease.this_runner())
        with pytest.raises(lease.LeaseLost):
            manager.save(2, state, {})
    manager.close()
    assert committed_steps(tmp_path / "run" / "checkpoints") == [1]


def test_a_heart_tells_who_lost_a_lease_until_the_work_ends(tmp_path):
    told, twice = [], threading.Event()

    def lost(error):
        told.append(error)
        if len(told) == 2:
            twice.set()

    with lease.Heart(0.02) as heart:
        ours = lease.acquire(tmp_path / "stage", elsewhere())
        with heart.keeping(ours, lost=lost):
            (tmp_path / "stage" / "2").mkdir()
            assert twice.wait(30)
        known = len(told)
        time.sleep(0.2)
        assert len(told) == known
    assert all(isinstance(error, lease.LeaseLost) for error in told)


def test_one_alone_does_what_a_lease_stands_for(tmp_path, monkeypatch):
    theirs = lease.acquire(tmp_path / "report", elsewhere())
    waits = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "wait", lambda seconds: next(waits))
        with pytest.raises(Preempted, match="another runner is writing"), lease.alone(tmp_path / "report", "writing"):
            pytest.fail("another has the lease")
    theirs.release()
    with lease.alone(tmp_path / "report", "writing"):
        assert lease.look(tmp_path / "report").holder.pid == os.getpid()
    assert lease.look(tmp_path / "report") is None


WORKER = """
import os, random, signal, sys, threading, time
from pathlib import Path
from xtr.study import lease
root, log, expiry, doomed = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "doomed"
me = lease.this_runner()
stages = [f"stage{i}" for i in range(12)]
with lease.Heart(expiry / 10) as heart:
    while stages:
        for stage in random.sample(stages, len(stages)):
            if (root / f"{stage}.done").exists():
                stages.remove(stage)
            elif (ours := lease.acquire(root / "leases" / stage, me, expiry)) is not None:
                with heart.keeping(ours):
                    if (root / f"{stage}.done").exists():
                        continue
                    with open(log, "a") as out:
                        out.write(f"{stage} begins {me.runner}\\n")
                    if doomed:
                        threading.Timer(random.random() / 5, os.kill, (os.getpid(), signal.SIGKILL)).start()
                        time.sleep(600)
                    time.sleep(0.3 + random.random() / 5)
                    ours.check()
                    with open(log, "a") as out:
                        out.write(f"{stage} ends {me.runner}\\n")
                    (root / f"{stage}.done").touch()
        time.sleep(0.01)
"""


@pytest.mark.slow
def test_processes_that_contend_and_are_killed_do_each_stage_once(tmp_path):
    """Three are killed in their first stage, while three others are at work and three come."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))

    def start(name: str, fate: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, script, tmp_path, tmp_path / f"log.{name}", "15", fate])

    killed = [start(f"doomed{i}", "doomed") for i in range(3)]
    while not list(tmp_path.glob("log.*")):  # one has its stage before the others can have done all
        time.sleep(0.02)
    others = [start(f"first{i}", "spared") for i in range(3)]
    codes = [process.wait(timeout=120) for process in killed]
    others += [start(f"second{i}", "spared") for i in range(3)]
    assert [process.wait(timeout=120) for process in others] == [0] * 6
    assert codes.count(-signal.SIGKILL) >= 1
    lines = [line.split() for log in tmp_path.glob("log.*") for line in log.read_text().splitlines()]
    ends = [stage for stage, what, _ in lines if what == "ends"]
    assert sorted(ends) == sorted(f"stage{i}" for i in range(12))
    # A stage was begun more often than it ended only where its runner was killed.
    begins = [stage for stage, what, _ in lines if what == "begins"]
    assert len(begins) - len(ends) == codes.count(-signal.SIGKILL)
    holders = [json.loads(path.read_text())["runner"] for path in tmp_path.glob("leases/*/*/holder.json")]
    assert len(holders) == len(list(tmp_path.glob("leases/*/*")))
