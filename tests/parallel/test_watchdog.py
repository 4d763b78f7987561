"""Whom the watchdog blames, and when; real processes are in tests/multihost."""

import time

import pytest

from xtr.parallel import watchdog

DATA = "waiting for its data"


def beat(phase: str, step: int, seconds: float = 70.0) -> dict:
    return {"host": f"h{step}", "phase": phase, "step": step, "seconds": seconds, "directory": "/run", "timeout": 60.0}


@pytest.fixture(autouse=True)
def _four_processes(monkeypatch):
    monkeypatch.setattr(watchdog.global_state, "num_processes", 4)


CASES = {
    "one waits for data": ([(watchdog.DEVICES, 5), (DATA, 5), (watchdog.DEVICES, 5), (watchdog.DEVICES, 5)], [1]),
    "others are ahead": ([(watchdog.DEVICES, 9), (DATA, 8), (DATA, 9), (watchdog.DEVICES, 9)], [1]),
    "one is behind": ([(watchdog.DEVICES, 9), (watchdog.DEVICES, 9), (watchdog.DEVICES, 8), (DATA, 9)], [2]),
    "two wait for data": ([(DATA, 5), (watchdog.DEVICES, 5), (watchdog.DEVICES, 5), (DATA, 5)], [0, 3]),
    "all wait for devices": ([(watchdog.DEVICES, 5)] * 4, []),
    "all save": ([("saving a checkpoint", 5)] * 4, []),
}


@pytest.mark.parametrize("case", CASES)
def test_who_is_late(case):
    places, late = CASES[case]
    message = watchdog._blame({process: beat(*place) for process, place in enumerate(places)})
    named = [process for process in range(4) if f"process {process} of 4" in message]
    assert named == late and "/run/stacks" in message and "hang_timeout is 60 s" in message
    assert ("is late" in message) == bool(late) and ("every process is" in message) == (not late)


def test_a_process_counts_as_dead_by_its_silence_alone(monkeypatch):
    monitor, ended = watchdog._Monitor(), []
    monkeypatch.setattr(monitor, "end", lambda code, message, **more: ended.append(message))
    now = time.monotonic()
    heard = {process: (7, now - watchdog.SUSPECT_AFTER - 1) for process in range(4)}
    silent = {"host": "h", "count": 7, "broken": False}
    alive = [silent | {"count": 8}, silent, silent | {"left": True}, silent | {"count": 8}]
    monitor.judge(dict(enumerate(alive)), heard)
    assert not ended and not monitor.lost

    # A broken connection makes less patient.
    alive[0] = silent | {"count": 9, "broken": True}
    monitor.judge(dict(enumerate(alive)), heard)
    assert monitor.lost == {1} and "process 1 of 4 on h no longer answers" in ended[0]


def test_what_is_slow_may_take_ten_times_as_long(tmp_path):
    own = watchdog.Watch(tmp_path, 5.0, 1)
    own.beat(DATA, 3)
    assert own.limit == 5.0
    own.beat("saving a checkpoint", 3, slow=True)
    assert own.limit == 50.0


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        ("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:41873", True),
        ("NCCL operation ncclAllReduce failed: remote process exited", True),
        ("UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats)", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes", False),
        ("division by zero", False),
    ],
)
def test_errors_that_another_process_causes(error, broken):
    assert bool(watchdog._BROKEN.search(error)) == broken
