"""xtr's own checkpoints: what is saved comes back, on any mesh; what is damaged or half-written does not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xtr.checkpoints.index import DamagedCheckpoint, read_index
from xtr.checkpoints.manager import CheckpointManager, committed_steps
from xtr.errors import UserError
from xtr.parallel.mesh import MeshConfig, make_mesh

EXTRAS = {"data": {"position": 12, "order": [3, 1]}, "name": "Größe"}


def make_state(mesh=None, seed=0):
    mesh = mesh or make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    rng = np.random.default_rng(seed)

    def put(array, *spec):
        return jax.device_put(array, NamedSharding(mesh, P(*spec)))

    return {
        "step": put(np.int32(7)),
        "params": {
            "kernel": put(rng.normal(size=(16, 8)).astype(np.float32), "fsdp", "tensor"),
            "scale": put(rng.normal(size=(3,)).astype(jnp.bfloat16)),
        },
        "opt_state": {"kernel": {"v_row": put(rng.normal(size=(16,)).astype(np.float32), "fsdp")}},
    }


def abstract_of(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: (x.dtype, x.sharding), a) == jax.tree.map(lambda x: (x.dtype, x.sharding), b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint directory with one step, to be copied by tests that harm it."""
    directory = tmp_path_factory.mktemp("saved")
    manager = CheckpointManager(directory)
    assert manager.save(7, make_state(), EXTRAS)
    manager.close()
    return directory


def test_what_is_saved_comes_back(saved):
    manager = CheckpointManager(saved)
    assert manager.latest_step() == 7
    state, extras = manager.restore(7, abstract_of(make_state()))
    assert_same(state, make_state())
    assert extras == EXTRAS
    manager.close()


def test_a_mesh_may_change_between_save_and_restore(tmp_path):
    before = make_state(make_mesh(MeshConfig(fsdp=4, tensor=2)))
    manager = CheckpointManager(tmp_path)
    manager.save(1, before, {})
    after = make_state(make_mesh(MeshConfig(replica=2, fsdp=2, tensor=2)), seed=1)
    state, _ = manager.restore(1, abstract_of(after))
    jax.tree.map(np.testing.assert_array_equal, state, before)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, after)
    manager.close()


def test_a_restore_may_ask_for_another_dtype(saved):
    manager = CheckpointManager(saved)
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype if x.ndim == 0 else jnp.bfloat16, sharding=x.sharding),
        abstract_of(make_state()),
    )
    state, _ = manager.restore(7, wanted)
    assert state["params"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(state["params"]["kernel"], make_state()["params"]["kernel"].astype(jnp.bfloat16))
    manager.close()


def test_the_state_may_be_given_away_while_it_is_written(tmp_path):
    state = make_state()
    expected = jax.tree.map(np.array, state)
    manager = CheckpointManager(tmp_path)
    manager.save(1, state, {})
    state = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    restored, _ = manager.restore(1, abstract_of(state))
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    manager.close()


def test_keep_leaves_the_newest(tmp_path):
    manager = CheckpointManager(tmp_path, keep=2)
    for step in (1, 2, 10, 9):
        manager.save(step, {"x": jnp.ones(2) * step}, {})
        manager.wait()
    assert manager.latest_step() == 10
    assert len(committed_steps(tmp_path)) == 2
    manager.close()


def test_a_saved_step_is_not_written_twice(tmp_path):
    manager = CheckpointManager(tmp_path)
    assert manager.save(3, {"x": jnp.ones(2)}, {"first": True})
    assert not manager.save(3, {"x": jnp.zeros(2)}, {"first": False})
    assert read_index(tmp_path / "3")[1] == {"first": True}
    manager.close()


def test_extras_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    manager = CheckpointManager(tmp_path)
    with pytest.raises(TypeError):
        manager.save(1, {"x": jnp.ones(2)}, {"bad": object()})
    assert manager.latest_step() is None
    manager.close()


def test_no_such_step(saved, tmp_path):
    manager = CheckpointManager(saved)
    with pytest.raises(UserError, match=r"step 8 .* it has steps \[7\]"):
        manager.restore(8, abstract_of(make_state()))
    manager.close()
    assert committed_steps(tmp_path / "nowhere") == []


def test_every_difference_of_structure_is_named(saved):
    wanted = abstract_of(make_state())
    sharding = wanted["step"].sharding
    wanted["params"]["kernel"] = jax.ShapeDtypeStruct((16, 9), jnp.float32, sharding=sharding)
    wanted["params"]["bias"] = wanted["params"].pop("scale")
    manager = CheckpointManager(saved)
    with pytest.raises(UserError) as error:
        manager.restore(7, wanted)
    manager.close()
    for part in ("missing: params/bias", "not expected: params/scale", "shape of params/kernel: (16, 8), not (16, 9)"):
        assert part in str(error.value)


def _damage(directory, change):
    """Applies change(bytes) to the largest data file of a step."""
    files = [p for p in (directory / "7" / "state").rglob("*") if p.is_file() and p.parent.name == "d"]
    file = max(files, key=lambda p: p.stat().st_size)
    file.write_bytes(change(bytearray(file.read_bytes())))


def test_a_digest_that_differs_is_found_and_the_array_named(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    file = copy / "7" / "index" / "digests.0.json"
    own = json.loads(file.read_text())
    own["params/kernel"] ^= 1  # the same as a flipped bit in the data
    file.write_text(json.dumps(own))
    (copy / "7" / "index" / "digests.0.json.crc32").write_text(f"{zlib.crc32(file.read_bytes()):08x}")
    manager = CheckpointManager(copy)
    with pytest.raises(DamagedCheckpoint, match="differs from what was written in\n  params/kernel\n"):
        manager.restore(7, abstract_of(make_state()))
    manager.close()


@settings(max_examples=25)
@given(st.data())
def test_no_damage_to_the_data_goes_unnoticed(saved, tmp_path_factory, data):
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(saved, copy)
    harmed = None

    def change(content):
        nonlocal harmed
        kind = data.draw(st.sampled_from(["flip", "truncate", "empty"]))
        position = data.draw(st.integers(0, len(content) - 1))
        if kind == "flip":
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        harmed = content if kind == "flip" else content[:position] if kind == "truncate" else b""
        return bytes(harmed)

    _damage(copy, change)
    manager = CheckpointManager(copy)
    try:
        state, _ = manager.restore(7, abstract_of(make_state()))
    except DamagedCheckpoint:
        pass
    else:  # the harm lay where nothing is read
        assert_same(state, make_state())
    finally:
        manager.close()


def test_an_incomplete_step_is_no_step(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    shutil.copytree(saved / "7", copy / "8.orbax-checkpoint-tmp")
    shutil.copytree(saved / "7", copy / "9")
    shutil.rmtree(copy / "9" / "index")
    assert committed_steps(copy) == [7]


@pytest.mark.parametrize("name", ["arrays.json", "extras.json", "digests.0.json", "arrays.json.crc32"])
@pytest.mark.parametrize(
    "change", [lambda data: data[:-2], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda _: b""]
)
def test_an_index_that_is_not_what_was_written_is_reported(saved, tmp_path, name, change):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    file = copy / "7" / "index" / name
    file.write_bytes(change(file.read_bytes()))
    manager = CheckpointManager(copy)
    with pytest.raises(UserError, match="index/[a-z0-9.]* cannot be read"):
        manager.restore(7, abstract_of(make_state()))
    manager.close()


PROGRAM = """
import sys, jax.numpy as jnp
from xtr.checkpoints.manager import CheckpointManager
manager = CheckpointManager(sys.argv[1], keep=2)
step = manager.latest_step() or 0
print("ready", flush=True)
while True:
    step += 1
    manager.save(step, {"x": jnp.full((64, 1024), step, jnp.float32), "y": jnp.full(4, step)}, {"step": step})
"""


def test_a_process_killed_at_any_moment_leaves_whole_checkpoints(tmp_path):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        "x": jax.ShapeDtypeStruct((64, 1024), jnp.float32, sharding=device),
        "y": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=device),
    }
    latest = 0
    for delay in (0.3, 0.47, 0.71):
        env = os.environ | {"XLA_FLAGS": ""}
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], env=env, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        until = time.monotonic() + 60
        while len(committed_steps(tmp_path)) < 1 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        steps = committed_steps(tmp_path)
        for step in steps[-1:]:
            manager = CheckpointManager(tmp_path, keep=2)
            state, extras = manager.restore(step, abstract)
            manager.close()
            assert extras == {"step": step}
            assert float(state["x"].min()) == float(state["x"].max()) == float(state["y"][0]) == step
            assert step >= latest
            latest = step
    assert latest > 0
    manager = CheckpointManager(tmp_path, keep=2)
    manager.save(latest + 1, {"x": jnp.ones(2)}, {})
    manager.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([str(latest), str(latest + 1)])  # leavings are swept up
