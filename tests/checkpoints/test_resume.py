"""A run goes on from its last good checkpoint, whatever became of newer ones; nothing is deleted."""

import errno
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr import storage
from xtr.checkpoints.manager import CheckpointManager, committed_steps, steps_found
from xtr.checkpoints.resume import resume
from xtr.errors import UserError

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
SHAPES = {"x": (64, 33), "y": (5,), "step": ()}
ABSTRACT = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=DEVICE) for name, shape in SHAPES.items()}


def state(step):
    rng = np.random.default_rng(step)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three checkpoints, to be copied by tests that harm them."""
    directory = tmp_path_factory.mktemp("saved")
    manager = CheckpointManager(directory)
    for step in (1, 2, 3):
        manager.save(step, state(step), {"step": step})
    manager.close()
    return directory


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_resumed(found, step):
    assert found.step == step and found.extras == {"step": step}
    jax.tree.map(np.testing.assert_array_equal, found.state, state(step))


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_harm_to_any_file_is_survived(saved, tmp_path_factory, data):
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(saved, copy)
    newest = copy / "3"
    name = data.draw(st.sampled_from(files_of(newest)))
    file, kind = newest / name, data.draw(st.sampled_from(["cut", "flip", "missing"]))
    content = bytearray(file.read_bytes())
    if kind == "missing":
        file.unlink()
    elif content:
        at = data.draw(st.integers(0, len(content) - 1))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(bytes(content[:at] if kind == "cut" else content))
    left = {path: (newest / path).read_bytes() for path in files_of(newest)}
    found = resume(copy, ABSTRACT)
    if found.step == 3:  # the harm lay where nothing is read
        assert_resumed(found, 3)
        return
    assert_resumed(found, 2)
    aside = copy / "3.damaged"
    assert {path: (aside / path).read_bytes() for path in files_of(aside)} == left


@pytest.mark.slow
def test_cut_off_at_any_byte(saved, tmp_path):
    """Each file of a checkpoint, cut at each byte: what is restored is the checkpoint or the one before it."""
    copy = tmp_path / "run"
    for name in files_of(saved / "3"):
        whole = (saved / "3" / name).read_bytes()
        for size in sorted({*range(min(len(whole), 40)), *range(0, len(whole), max(1, len(whole) // 60))}):
            shutil.copytree(saved, copy)
            (copy / "3" / name).write_bytes(whole[:size])
            found = resume(copy, ABSTRACT)
            assert_resumed(found, found.step)
            assert found.step in (2, 3), (name, size)
            shutil.rmtree(copy)


def test_the_loss_is_said_and_the_step_can_be_saved_again(saved, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(saved, copy)
    for step, harm in ((3, "index/extras.json"), (2, "index/digests.0.json.crc32")):
        (copy / str(step) / harm).write_text("{")
    assert_resumed(resume(copy, ABSTRACT), 1)
    said = capsys.readouterr().err
    assert "3 is damaged: index/extras.json" in said and f"kept as {copy}/3.damaged" in said
    assert "going on from step 1; lost: the work of 2 to 3" in said
    manager = CheckpointManager(copy, keep=1)
    for step in (2, 3):
        assert manager.save(step, state(step), {"step": step})
    manager.close()
    assert committed_steps(copy) == [3] and (copy / "3.damaged").exists() and (copy / "2.damaged").exists()
    (copy / "3" / "index" / "extras.json").unlink()
    assert resume(copy, ABSTRACT) is None
    assert (copy / "3.damaged.2").exists()
    assert "no good checkpoint is left" in capsys.readouterr().err


def test_another_model_is_a_mistake_and_no_damage(saved, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(saved, copy)
    with pytest.raises(UserError, match="does not fit the model"):
        resume(copy, ABSTRACT | {"z": ABSTRACT["y"]})
    assert committed_steps(copy) == [1, 2, 3]


NO_DAMAGE = {
    "a disk that does not answer": OSError(errno.EIO, "Input/output error"),
    "a mount that is gone": OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
    "no right": PermissionError(errno.EACCES, "Permission denied"),
    "no memory": MemoryError(),
    "no memory on the device": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"),
    "a storage layer's word of the disk": ValueError("NOT_FOUND: Error reading Input/output error [os_error_code='5']"),
    "a bucket that does not answer": ValueError("UNAVAILABLE: CURL error[7] Couldn't connect to server"),
}


@pytest.mark.parametrize("where", ["index", "state"])
@pytest.mark.parametrize("why", NO_DAMAGE)
def test_what_says_nothing_of_the_checkpoint_sets_none_aside(where, why, saved, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(saved, copy)

    def fails(*_, **__):
        raise NO_DAMAGE[why]

    if where == "index":
        monkeypatch.setattr(storage, "read_bytes", fails)
    else:
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fails)
    with pytest.raises(type(NO_DAMAGE[why])) as raised:
        resume(copy, ABSTRACT)
    assert not isinstance(raised.value, UserError)
    monkeypatch.undo()
    assert committed_steps(copy) == [1, 2, 3] and {path.name for path in copy.iterdir()} == {"1", "2", "3"}
    assert_resumed(resume(copy, ABSTRACT), 3)


@pytest.mark.parametrize("call", ["listdir", "stat"])
def test_a_run_does_not_begin_anew_where_its_folder_cannot_be_seen(call, saved, monkeypatch):
    original = getattr(os, call)

    def fails(path, *arguments, **settings):
        if os.fspath(path) != str(saved):
            return original(path, *arguments, **settings)
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(storage.os, call, fails)
    with pytest.raises(OSError, match="Input/output error"):
        steps_found(saved)


@pytest.mark.parametrize("harm", ["flip", "missing", "state"])
def test_what_a_second_reading_finds_whole_is_not_set_aside(harm, saved, tmp_path, monkeypatch):
    """A bit that flipped on its way, a name that was not seen yet, data that came short."""
    copy, failed = tmp_path / "run", []
    shutil.copytree(saved, copy)
    read_bytes, restore = storage.read_bytes, ocp.PyTreeCheckpointHandler.restore

    def read_once_wrong(path):
        if "/3/index/extras.json" not in path or failed:
            return read_bytes(path)
        failed.append(path)
        if harm == "missing":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return bytes([read_bytes(path)[0] ^ 1]) + read_bytes(path)[1:]

    def restore_once_wrong(*arguments, **settings):
        if failed:
            return restore(*arguments, **settings)
        failed.append("state")
        raise ValueError("DATA_LOSS: Error reading local file: CRC-32C checksum verification failed")

    if harm == "state":
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", restore_once_wrong)
    else:
        monkeypatch.setattr(storage, "read_bytes", read_once_wrong)
    assert_resumed(resume(copy, ABSTRACT), 3)
    assert failed and {path.name for path in copy.iterdir()} == {"1", "2", "3"}


# A process that may write no file above a size stands for a disk that is full: the writes fail in the same calls.
FULL = """
import resource, sys, jax.numpy as jnp
from xtr.checkpoints.manager import CheckpointManager
manager = CheckpointManager(sys.argv[1])
manager.save(1, {"x": jnp.full((64, 1024), 1, jnp.float32)}, {"step": 1})
manager.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
x = jnp.asarray(__import__("numpy").random.default_rng(0).normal(size=(512, 1024)), jnp.float32)
manager.save(2, {"x": x}, {"step": 2})
manager.wait()
"""


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    found = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env=os.environ)
    assert found.returncode == 1
    assert "checkpoint of step 2 could not be written" in found.stderr and "goes on from step 1" in found.stderr
    abstract = {"x": jax.ShapeDtypeStruct((64, 1024), jnp.float32, sharding=DEVICE)}
    assert resume(tmp_path, abstract).step == 1
