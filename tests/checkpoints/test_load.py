"""Parameters from any kind of checkpoint, and errors that say what is wrong with one."""

import dataclasses
import shutil
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from xtr.checkpoints import load, t5x_legacy
from xtr.checkpoints.manager import CheckpointManager
from xtr.errors import UserError
from xtr.models import mt5
from xtr.models.spec import flatten, map_specs, to_layers
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import tree_shardings

CONFIG = mt5.MT5Config(
    vocab_size=48,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dtype="float32",
)
SPECS = mt5.param_specs(CONFIG)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return map_specs(lambda spec: rng.normal(size=spec.shape).astype(np.float32), SPECS)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def write_t5x(path, arrays, *, step=5, slots=None, version=3, edit=lambda contents: None):
    """A checkpoint as T5X writes it: parameters in zarr folders, the slots that are given inside the msgpack file."""
    path.mkdir()

    def nest(named):
        tree: dict[str, Any] = {}
        for name, leaf in named.items():
            *parents, last = name.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf
        return tree

    target = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        metadata = {
            "chunks": [max(1, n // 2) for n in array.shape],
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
        }
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{path}/target.{name}/"},
            "metadata": metadata | {"dtype": array.dtype.str, "fill_value": None},
        }
        ts.open(spec, create=True, delete_existing=True).result().write(array).result()
        target[name] = {
            "driver": "zarr",
            "dtype": "float32",
            "kvstore": {"driver": "gfile", "path": f"target.{name}/"},
            "metadata": metadata,
        }
    unused = np.zeros(1, np.float32)
    states = {
        f"{name}.{slot}": (slots or {}).get(name, {}).get(slot, unused)
        for name in arrays
        for slot in ("m", "v", "v_row", "v_col")
    }
    contents = {
        "version": version,
        "optimizer": {"target": nest(target), "state": {"step": np.int32(step), "param_states": nest(states)}},
    }
    edit(contents)
    (path / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(contents))
    return path


@pytest.fixture(scope="module")
def t5x(tmp_path_factory, params):
    """A T5X checkpoint at step 5 with second moments: 'v' for rank 1, factored for rank 2."""
    arrays = to_layers(SPECS, params)
    slots = {
        name: {"v": np.full(a.shape, 1.0, np.float32)}
        if a.ndim == 1
        else {"v_row": np.full(a.shape[:1], 2.0, np.float32), "v_col": np.full(a.shape[1:], 3.0, np.float32)}
        for name, a in arrays.items()
    }
    return write_t5x(tmp_path_factory.mktemp("t5x") / "checkpoint_5", arrays, slots=slots)


@pytest.fixture(scope="module")
def run(tmp_path_factory, params):
    """An xtr run directory with steps 1 (zeros) and 2 (the parameters)."""
    directory = tmp_path_factory.mktemp("run")
    manager = CheckpointManager(directory / "checkpoints")
    for step, values in ((1, jax.tree.map(np.zeros_like, params)), (2, params)):
        opt_state = jax.tree.map(lambda x: {"v": x}, values)
        manager.save(step, {"step": jnp.int32(step), "params": values, "opt_state": opt_state}, {})
    manager.close()
    return directory


def test_a_run_directory_means_its_newest_step(run, params):
    for path in (run, run / "checkpoints", run / "checkpoints" / "2", str(run)):
        loaded, origin = load.load_params(path, SPECS)
        assert_same(loaded, params)
        assert origin == load.Origin("xtr", str(run / "checkpoints" / "2"), 2, has_slots=False)


def test_one_step_of_a_run(run):
    loaded, origin = load.load_params(run / "checkpoints" / "1", SPECS)
    assert origin.step == 1
    assert not loaded["token_embedder"]["embedding"].any()


def test_t5x(t5x, params):
    loaded, origin = load.load_params(t5x, SPECS)
    assert_same(loaded, params)
    assert origin == load.Origin("t5x", str(t5x), 5, has_slots=True)
    assert origin == load.inspect(t5x)


@pytest.mark.parametrize("kind", ["run", "t5x"])
def test_a_relative_path(kind, request, params, monkeypatch):
    directory = request.getfixturevalue(kind)
    monkeypatch.chdir(directory.parent)
    loaded, origin = load.load_params(directory.name, SPECS)
    assert_same(loaded, params)
    assert origin.path.startswith(str(directory))


@pytest.mark.parametrize("kind", ["run", "t5x"])
def test_parameters_arrive_sharded(kind, request, params):
    shardings = tree_shardings(SPECS, make_mesh(MeshConfig(fsdp=4, tensor=2)))
    loaded, _ = load.load_params(request.getfixturevalue(kind), SPECS, shardings)
    assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
    assert_same(loaded, params)


def test_t5x_slots_are_stacked_and_only_those_in_use(t5x):
    slots = load.load_slots(t5x, SPECS)
    kernel = slots["encoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert {name: (x.shape, x.flat[0]) for name, x in kernel.items()} == {
        "v_row": ((2, 24), 2.0),
        "v_col": ((2, 16), 3.0),
    }
    assert slots["decoder"]["decoder_norm"]["scale"].keys() == {"v"}


@dataclasses.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any


def make_state(params, shapes):
    mesh = make_mesh(MeshConfig(fsdp=8))
    put = jax.tree.map(jax.device_put, params, tree_shardings(SPECS, mesh))
    return State(
        step=0, params=put, opt_state=jax.tree.map(lambda x: jnp.zeros(x), shapes, is_leaf=lambda x: type(x) is tuple)
    )


def test_an_initial_state_takes_parameters_and_second_moments(t5x, run, params):
    shapes = jax.tree.map(lambda x: x.shape, load.load_slots(t5x, SPECS))
    blank = make_state(jax.tree.map(np.zeros_like, params), shapes)
    state = load.initial_state(t5x, SPECS, blank)
    assert_same(state.params, params)
    assert_same(state.opt_state, load.load_slots(t5x, SPECS))
    assert state.step == 0
    assert jax.tree.map(lambda x: x.sharding, state.params) == jax.tree.map(lambda x: x.sharding, blank.params)
    state = load.initial_state(run, SPECS, blank)
    assert_same(state.params, params)
    assert state.opt_state is blank.opt_state


def test_second_moments_that_do_not_fit_are_named(t5x, params):
    shapes = jax.tree.map(lambda x: x.shape, load.load_slots(t5x, SPECS))
    shapes["token_embedder"]["embedding"] = {"v": (48, 16)}
    with pytest.raises(UserError) as error:
        load.initial_state(t5x, SPECS, make_state(params, shapes))
    for part in ("missing: token_embedder/embedding/v (48, 16)", "not expected: token_embedder/embedding/v_row (48,)"):
        assert part in str(error.value)


@pytest.mark.parametrize("kind", ["run", "t5x"])
def test_one_error_names_everything_that_does_not_fit(kind, request):
    other = mt5.param_specs(dataclasses.replace(CONFIG, vocab_size=64, num_encoder_layers=3, num_decoder_layers=2))
    with pytest.raises(UserError) as error:
        load.load_params(request.getfixturevalue(kind), other)
    shape = {"run": "shape of params/token_embedder/embedding", "t5x": "shape of token_embedder.embedding"}[kind]
    assert f"{shape}: (48, 16), not (64, 16)" in str(error.value)
    faults = str(error.value).count("\n  ")
    wanted, there = flatten(other), flatten(SPECS)
    if kind == "run":
        assert faults == sum(wanted[path].shape != there[path].shape for path in wanted)
    else:
        assert "missing: encoder.layers_2.mlp.wo.kernel (24, 16)" in str(error.value)
        assert faults == 2 + 9 + 14  # both vocabularies, one encoder layer, one decoder layer


def test_a_surplus_array_is_named(tmp_path, params):
    arrays = to_layers(SPECS, params) | {"decoder.adapter.kernel": np.ones((2, 2), np.float32)}
    with pytest.raises(UserError, match=r"not expected: decoder\.adapter\.kernel \(2, 2\)"):
        load.load_params(write_t5x(tmp_path / "c", arrays), SPECS)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="There is nothing at .*nowhere. Looked for\n.*xtr run.*\n.*T5X checkpoint"):
        load.load_params(tmp_path / "nowhere", SPECS)


def test_something_else_there(tmp_path):
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(UserError, match="no checkpoint that xtr knows. It holds: pytorch_model.bin"):
        load.inspect(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model_checkpoint_path: 'x'", "is not a T5X checkpoint"),
        (b"", "is not a T5X checkpoint"),
        (flax.serialization.msgpack_serialize({"version": 3, "weights": {}}), "is not a T5X checkpoint"),
    ],
)
def test_a_file_that_is_not_msgpack_of_t5x(tmp_path, content, message):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load.load_params(tmp_path, SPECS)


def test_another_version_of_the_format_is_refused(tmp_path, params):
    path = write_t5x(tmp_path / "c", to_layers(SPECS, params), version=2)
    with pytest.raises(UserError, match="version 2; only version 3"):
        load.load_params(path, SPECS)


@pytest.mark.parametrize("harm", ["folder", "chunk", "shape"])
def test_a_damaged_t5x_array_is_named(t5x, tmp_path, harm):
    copy = tmp_path / "checkpoint_5"
    shutil.copytree(t5x, copy)
    folder = copy / "target.encoder.layers_1.mlp.wo.kernel"
    if harm == "folder":
        shutil.rmtree(folder)
    elif harm == "chunk":
        (folder / "1.1").unlink()
    else:
        shutil.rmtree(folder)
        shutil.copytree(copy / "target.encoder.layers_1.mlp.wi_0.kernel", folder)
    with pytest.raises(UserError, match=r"cannot be read at the array encoder\.layers_1\.mlp\.wo\.kernel"):
        load.load_params(copy, SPECS)


def test_bfloat16_as_integers_is_refused(tmp_path, params):
    arrays = {name: np.asarray(a) for name, a in to_layers(SPECS, params).items()}
    arrays["token_embedder.embedding"] = arrays["token_embedder.embedding"].astype(np.uint16)
    with pytest.raises(UserError, match=r"token_embedder\.embedding: it is stored as uint16"):
        load.load_params(write_t5x(tmp_path / "c", arrays), SPECS)


def test_arrays_inside_the_file_and_old_style_paths(tmp_path, params):
    arrays = to_layers(SPECS, params)

    def edit(contents):
        target = contents["optimizer"]["target"]
        target["decoder"]["decoder_norm"]["scale"] = np.asarray(arrays["decoder.decoder_norm.scale"])
        leaf = target["token_embedder"]["embedding"]
        leaf["path"] = leaf["kvstore"].pop("path")

    loaded, _ = load.load_params(write_t5x(tmp_path / "c", arrays, edit=edit), SPECS)
    assert_same(loaded, params)


def test_recorded_t5x_checkpoint(oracles):
    """The recorded micro checkpoint is read by name, with the shapes of its own file."""
    path = oracles / "t5x_mt5_micro" / "t5x_legacy" / "checkpoint_0"
    checkpoint = t5x_legacy.open_checkpoint(path)
    assert checkpoint.step == 0
    assert set(checkpoint.slots) == set(checkpoint.target)
    arrays = t5x_legacy.read(path, checkpoint.target.values())
    assert [a.shape for a in arrays] == [stored.shape for stored in checkpoint.target.values()]
    assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in arrays)
    assert {tuple(slots) for slots in checkpoint.slots.values()} == {("v",)}  # too small to be factored
