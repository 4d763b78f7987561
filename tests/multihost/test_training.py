"""Training by several processes with a mesh that crosses them, from the command line: as one process with the same
devices trains; also after a stop, after a death, and with another number of processes."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from xtr.checkpoints import manager, source


def arrays(run: Path, step: int = 6) -> dict[str, np.ndarray]:
    """All that a checkpoint holds."""
    opened = manager.open_source(str(run / "checkpoints" / str(step)))
    slots = {f"{path}/{slot}": a for path, own in opened.open_slots().items() for slot, a in own.items()}
    return {name: a.read(source.whole(a.shape)) for name, a in (opened.arrays | slots).items()}


def rows(kept: Path) -> dict[str, dict[str, np.ndarray]]:
    """Batch -> what all processes together trained on, in the order of their numbers; rows that processes between which
    `tensor` alone is divided have in common, once."""
    folders = sorted(kept.iterdir(), key=lambda folder: int(folder.name))
    found = {}
    for file in sorted(path.name for path in folders[0].iterdir()):
        parts: list[dict] = []
        for part in (dict(np.load(folder / file)) for folder in folders):
            if not parts or any(not np.array_equal(part[name], parts[-1][name]) for name in part):
                parts.append(part)
        found[file] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return found


def same_rows(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[batch][name], other[batch][name]) for batch in one for name in one[batch]
    )


def deviation(one: Path, other: Path) -> float:
    """The greatest deviation of anything in the last checkpoint, relative to its array's greatest value; the bias of
    keys aside, whose gradient is zero (softmax does not see it), so that all of it is rounding."""
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    names = [name for name in a if "key/bias" not in name]
    return max(float(np.abs(a[name] - b[name]).max() / max(1e-30, np.abs(b[name]).max())) for name in names)


def finished(processes, devices, world, directory, *more, **settings) -> Path:
    """Trains to the end, and checks that only the first process spoke."""
    found = world.run(processes, devices, world.train(directory, *more), **settings)
    assert [end.code for end in found] == [0] * processes, found
    assert "6 steps done" in found[0].out and not any("steps" in end.out + end.err for end in found[1:])
    assert json.loads((directory / "DONE").read_text())["steps"] == 6
    return directory


def test_two_processes_train_as_one_does_also_after_a_stop(make_world, tmp_path):
    world = make_world("seq2seq")
    quick = "--gin.EVAL_PERIOD=0"  # validation between processes is in the slow tests
    one = finished(1, 2, world, tmp_path / "one", quick, batches=str(tmp_path / "one_batches"))

    # The second process alone gets SIGTERM; both save one step and leave with 42.
    arguments = world.train(tmp_path / "two", quick, "--gin.SAVE_PERIOD=0")
    settings = {"fault": ["terminate", 1, 1], "pace": 0.5, "watchdog": {"PERIOD": 0.05}}
    found = world.run(2, 1, arguments, **settings, batches=str(tmp_path / "first"))
    assert [end.code for end in found] == [42, 42], found
    (saved,) = manager.committed_steps(tmp_path / "two" / "checkpoints")
    assert 1 < saved < 6 and all(f"saved step {saved} of 6" in end.err for end in found)

    two = finished(2, 1, world, tmp_path / "two", quick, batches=str(tmp_path / "second"))
    whole, first, second = (rows(tmp_path / name) for name in ("one_batches", "first", "second"))
    assert same_rows({name: whole[name] for name in list(whole)[:saved]}, dict(list(first.items())[:saved]))
    assert same_rows(whole, dict(zip(whole, [*list(first.values())[:saved], *second.values()], strict=True)))
    found = deviation(two, one)
    print("\ndeviation of two processes from one:", found)
    assert found < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["seq2seq", "classify", "multitask"])
@pytest.mark.parametrize(("processes", "devices", "mesh"), [(2, 2, (2, -1, 1)), (4, 1, (1, 2, -1)), (2, 1, (1, 1, -1))])
def test_meshes_across_processes(objective, processes, devices, mesh, make_world, tmp_path):
    """`replica`, `fsdp` and `tensor` between processes, for packed rows, a head and several heads."""
    world = make_world(objective)
    axes = [f"--gin.partitioning.MeshConfig.{n}={s}" for n, s in zip(("replica", "fsdp", "tensor"), mesh, strict=True)]
    several = finished(
        processes, devices, world, tmp_path / "several", *axes, batches=str(tmp_path / "several_batches")
    )
    one = finished(1, processes * devices, world, tmp_path / "one", *axes, batches=str(tmp_path / "one_batches"))
    assert same_rows(rows(tmp_path / "several_batches"), rows(tmp_path / "one_batches"))
    early, late = arrays(several, 3), arrays(several, 6)
    assert all(np.isfinite(late[name]).all() for name in late)
    assert sum(not np.array_equal(early[name], late[name]) for name in late) > len(late) / 2  # it does learn
    found = deviation(several, one)
    print(f"\ndeviation, {objective}, {processes} x {devices} on {mesh}:", found)
    assert found < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["seq2seq", "multitask"])
def test_other_numbers_of_hosts_go_on_with_the_data(objective, make_world, tmp_path):
    """Four processes die behind the checkpoint of step 3; two go on, and one that has four devices."""
    world = make_world(objective)
    whole = tmp_path / "whole"
    finished(1, 4, world, whole, batches=str(tmp_path / "all"))
    for processes in (2, 1):
        directory, kept = tmp_path / f"by{processes}", tmp_path / f"kept{processes}"
        settings = {"fault": ["kill", 0, 4, str(directory / "checkpoints" / "3")], "watchdog": {"SUSPECT_AFTER": 3.0}}
        found = world.run(4, 1, world.train(directory), **settings)
        assert found[0].code == -signal.SIGKILL and all(end.code for end in found)
        assert manager.committed_steps(directory / "checkpoints") == [3]
        finished(processes, 4 // processes, world, directory, batches=str(kept))
        expected = rows(tmp_path / "all")
        last = dict(list(expected.items())[3:])
        assert same_rows(last, dict(zip(last, rows(kept).values(), strict=True)))
        found = deviation(directory, whole)
        print(f"\ndeviation after a change from 4 to {processes} processes, {objective}:", found)
        assert found < 1e-5


def test_a_folder_of_one_host_is_refused(make_world, tmp_path):
    """A relative directory stands for another folder in each process's own."""
    world, homes = make_world("seq2seq"), [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    settings = {"fault": None}
    found = world.run(2, 1, world.train("run/of/mine"), cwd=homes, **settings)
    assert [end.code for end in found] == [2, 2], found
    assert all("is not one folder for all hosts: process 1 on " in end.err for end in found)
    assert not any(list(home.iterdir()) for home in homes)
