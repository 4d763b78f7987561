"""A request to stop where validation is due or under way, and in the midst of a shard of an evaluation: it is answered
at once, in all processes at the same place, and what was left is made up for."""

import importlib.util
import json
import struct
from pathlib import Path

import pytest
from tensorboard.compat.proto import event_pb2

from xtr.checkpoints import manager
from xtr.checkpoints.index import read_index

PROGRAM = Path(__file__).parent / "tiny_evaluations.py"
_spec = importlib.util.spec_from_file_location("tiny_evaluations", PROGRAM)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

QUICK = {"PERIOD": 0.05}
VALIDATION = ("--gin.EVAL_STEPS=5", "--gin.SAVE_PERIOD=0")


def validations(directory: Path) -> list[tuple[int, str, float]]:
    """(step, curve, value) of all points that validation wrote, in order."""
    found = []
    for path in (directory / "tensorboard" / "train").glob("events*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            curves = [value for value in event.summary.value if value.tag.startswith("validation/")]
            found += [(event.step, value.tag, value.tensor.float_val[0]) for value in curves]
            at += length + 16
    return sorted(found)


@pytest.fixture(scope="module")
def undisturbed(make_world, tmp_path_factory):
    """A function: number of processes -> a training that was left alone."""
    made: dict[int, Path] = {}

    def of(processes: int) -> Path:
        if processes not in made:
            made[processes] = tmp_path_factory.mktemp("undisturbed") / "run"
            world = make_world("seq2seq")
            found = world.run(processes, 1, world.train(made[processes], *VALIDATION))
            assert [end.code for end in found] == [0] * processes, found
        return made[processes]

    return of


STOPS = {
    "before validation": (1, {"fault": ["terminate", 0, 2]}, 3),
    "in validation": (1, {"validation": [0, 1]}, 3),
    "before the last validation": (1, {"fault": ["terminate", 0, 5]}, 6),
    # The second process alone is asked, and the agreement takes some batches.
    "of two in validation": (2, {"validation": [1, 0], "pace": 0.4, "watchdog": QUICK}, 3),
}


@pytest.mark.parametrize("stop", [pytest.param(s, marks=pytest.mark.slow) if STOPS[s][0] > 1 else s for s in STOPS])
def test_validation_waits_for_the_next_run(stop, make_world, undisturbed, tmp_path):
    processes, settings, step = STOPS[stop]
    world, directory = make_world("seq2seq"), tmp_path / "run"
    arguments = world.train(directory, *VALIDATION)
    found = world.run(processes, 1, arguments, **settings)
    assert [end.code for end in found] == [42] * processes, found
    assert all(f"saved step {step} of 6" in end.err for end in found)
    assert manager.committed_steps(directory / "checkpoints") == [step]
    assert all(at < step for at, _, _ in validations(directory))

    found = world.run(processes, 1, arguments)
    assert [end.code for end in found] == [0] * processes, found
    whole = undisturbed(processes)
    assert validations(directory) == validations(whole) and {at for at, _, _ in validations(whole)} == {3, 6}
    assert read_index(directory / "checkpoints" / "6") == read_index(whole / "checkpoints" / "6")
    assert not (directory / "validation_due").exists()


def test_two_processes_stop_in_the_midst_of_a_shard(small_vocabularies, tmp_path):
    """The second process alone is asked to, before the second batch of each evaluation's only shard."""
    names = ["mt5.rank", "mt5.greedy"]
    for name in names:
        tiny.write_world(tmp_path / "worlds", *name.split("."), small_vocabularies["t5"], 90)
        settings = json.dumps({"examples_per_shard": 1000, "halt": 2, "pace": 0.4, "period": 0.05})
        running = tiny.launch(PROGRAM, 2, 1, [tmp_path / "worlds", tmp_path / "out", name, settings])
        try:
            said = [process.communicate(timeout=300) for process in running]
        finally:
            for process in running:
                process.kill()
        assert all(f"preempted {name}" in out for out, _ in said), said
        assert not list((tmp_path / "out" / name).rglob("*.jsonl"))
