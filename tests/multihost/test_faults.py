"""What becomes of all processes where one is late, fails or dies: each ends, soon, with a code and the reason."""

import signal
from pathlib import Path

import pytest

from xtr.checkpoints import manager

QUICK = {"PERIOD": 0.2, "SUSPECT_AFTER": 3.0}
NO_VALIDATION = ("--gin.EVAL_PERIOD=0", "--gin.SAVE_PERIOD=0")


def faulty(world, directory: Path, fault: list, *more: str, processes: int = 2):
    arguments = world.train(directory, *NO_VALIDATION, *more)
    return world.run(processes, 1, arguments, fault=fault, watchdog=QUICK)


def test_a_late_host_is_named_with_its_stacks(make_world, tmp_path):
    found = faulty(make_world("seq2seq"), tmp_path / "run", ["stuck", 1, 3], "--gin.train.hang_timeout=5")
    assert [end.code for end in found] == [1, 1], found
    for end in found:
        assert "is late: waiting for its data at step 3" in end.err
        assert "xtr: process 1 of 2 on " in end.err and "The others wait for it" in end.err
    stacks = [(tmp_path / "run" / "stacks" / f"process_{n}.txt").read_text() for n in range(2)]
    assert "in fail" in stacks[1] and "in fail" not in stacks[0]
    assert "in fail" in found[1].err and "xtr-watchdog" not in found[0].out


@pytest.mark.slow
def test_a_mistake_of_one_process_ends_both(make_world, tmp_path):
    found = faulty(make_world("seq2seq"), tmp_path / "run", ["mistake", 1, 2])
    assert [end.code for end in found] == [2, 2], found
    assert found[1].err.strip().endswith("xtr: this host's file is not there.")
    assert "xtr: process 1 of 2 on " in found[0].err and found[0].err.strip().endswith("file is not there.")
    assert not any("Traceback" in end.err for end in found), found[1].err


@pytest.mark.slow
def test_a_crash_of_one_process_ends_both(make_world, tmp_path):
    found = faulty(make_world("seq2seq"), tmp_path / "run", ["crash", 1, 2])
    assert [end.code for end in found] == [1, 1], found
    assert "Traceback" in found[1].err and "Traceback" not in found[0].err
    assert "xtr: process 1 of 2 on " in found[0].err and "ZeroDivisionError: of one process" in found[0].err


@pytest.mark.slow
def test_a_dead_process_is_named(make_world, tmp_path):
    found = faulty(make_world("seq2seq"), tmp_path / "run", ["kill", 1, 3], processes=4)
    assert [end.code for end in found] == [1, -signal.SIGKILL, 1, 1], found
    for end in (found[0], *found[2:]):
        assert "xtr: process 1 of 4 on " in end.err and "no longer answers (last heard of: " in end.err


@pytest.mark.slow
def test_the_others_say_so_where_the_first_process_dies(make_world, tmp_path):
    """JAX ends them at once, in its own words; ours come behind."""
    first, second = faulty(make_world("seq2seq"), tmp_path / "run", ["kill", 0, 3])
    assert first.code == -signal.SIGKILL and second.code not in (0, 2, 42)
    assert "xtr: process 1 of 2 on " in second.err and "because process 0 at 127.0.0.1:" in second.err


@pytest.mark.slow
def test_a_single_process_that_hangs(make_world, tmp_path):
    world = make_world("seq2seq")
    (found,) = faulty(world, tmp_path / "run", ["stuck", 0, 3], "--gin.train.hang_timeout=5", processes=1)
    assert found.code == 1 and "xtr: no progress for" in found.err and "waiting for its data, step 3" in found.err
    assert "in fail" in (tmp_path / "run" / "stacks" / "process_0.txt").read_text()
    # The very same run goes on, with another patience.
    found = world.run(1, 1, world.train(tmp_path / "run", *NO_VALIDATION))
    assert found[0].code == 0 and manager.committed_steps(tmp_path / "run" / "checkpoints") == [6]


@pytest.mark.slow
def test_slow_is_not_late(make_world, tmp_path):
    """Compiling and saving may take longer than a step may, and waiting almost as long as the patience."""
    found = faulty(make_world("seq2seq"), tmp_path / "run", ["slow", 1, 3], "--gin.train.hang_timeout=8")
    assert [end.code for end in found] == [0, 0], found
    assert not (tmp_path / "run" / "stacks").exists()
