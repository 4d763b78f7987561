"""Parameters from any kind of checkpoint, and errors that say what is wrong with one."""

import dataclasses
import errno
import shutil
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr import storage
from xtr.checkpoints import fill as fill_module
from xtr.checkpoints import load
from xtr.checkpoints import t5x as t5x_format
from xtr.checkpoints.manager import CheckpointManager
from xtr.checkpoints.source import whole
from xtr.errors import UserError
from xtr.models import mt5
from xtr.models.spec import flatten, map_specs, to_layers
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import tree_shardings
from xtr.train import adafactor

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


@pytest.fixture(scope="module")
def t5x(tmp_path_factory, params, write_t5x):
    """A T5X checkpoint at step 5 with second moments: 'v' for rank 1, factored for rank 2."""
    arrays = to_layers(SPECS, params)
    slots = {
        name: {"v": np.full(a.shape, 1.0, np.float32)}
        if a.ndim == 1
        else {"v_row": np.full(min(a.shape), 2.0, np.float32), "v_col": np.full(max(a.shape), 3.0, np.float32)}
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
        loaded, origin = load.load_params(path, CONFIG)
        assert_same(loaded, params)
        assert origin == load.Origin("xtr", str(run / "checkpoints" / "2"), 2, has_slots=False)


def test_one_step_of_a_run(run):
    loaded, origin = load.load_params(run / "checkpoints" / "1", CONFIG)
    assert origin.step == 1
    assert not loaded["token_embedder"]["embedding"].any()


def test_t5x(t5x, params):
    loaded, origin = load.load_params(t5x, CONFIG)
    assert_same(loaded, params)
    assert origin == load.Origin("t5x", str(t5x), 5, has_slots=True)
    assert origin == load.inspect(t5x)


@pytest.mark.parametrize("kind", ["run", "t5x"])
def test_a_relative_path(kind, request, params, monkeypatch):
    directory = request.getfixturevalue(kind)
    monkeypatch.chdir(directory.parent)
    loaded, origin = load.load_params(directory.name, CONFIG)
    assert_same(loaded, params)
    assert origin.path.startswith(str(directory))


@pytest.mark.parametrize("kind", ["run", "t5x"])
def test_parameters_arrive_sharded(kind, request, params):
    shardings = tree_shardings(SPECS, make_mesh(MeshConfig(fsdp=4, tensor=2)))
    loaded, _ = load.load_params(request.getfixturevalue(kind), CONFIG, shardings)
    assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
    assert_same(loaded, params)


@dataclasses.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any


def make_state(least_size=1):
    """A state of zeros on 8 devices, whose second moments are factored from a size of `least_size` on."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))

    def zeros(specs):
        arrays = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), specs, is_leaf=lambda x: hasattr(x, "axes"))
        return jax.tree.map(jax.device_put, arrays, tree_shardings(specs, mesh))

    return State(step=0, params=zeros(SPECS), opt_state=zeros(slots_of(least_size)))


def slots_of(least_size=1):
    return adafactor.slot_specs(adafactor.AdafactorConfig(min_dim_size_to_factor=least_size), SPECS)


def test_an_initial_state_takes_parameters_and_second_moments(t5x, run, params):
    blank = make_state()
    shardings = jax.tree.map(lambda x: x.sharding, (blank.params, blank.opt_state))
    state = load.initial_state(load.open_initial(t5x, CONFIG, slots_of()), blank)
    assert_same(state.params, params)
    wo = state.opt_state["encoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert {name: (x.shape, float(x.min()), float(x.max())) for name, x in wo.items()} == {
        "v_row": ((2, 16), 2.0, 2.0),
        "v_col": ((2, 24), 3.0, 3.0),
    }
    assert set(np.unique(state.opt_state["decoder"]["decoder_norm"]["scale"]["v"])) == {1.0}
    assert state.step == 0
    assert jax.tree.map(lambda x: x.sharding, (state.params, state.opt_state)) == shardings

    blank = make_state()
    state = load.initial_state(load.open_initial(run, CONFIG, slots_of()), blank)
    assert_same(state.params, params)
    assert state.opt_state is blank.opt_state


def test_second_moments_that_do_not_fit_are_named(t5x):
    with pytest.raises(UserError) as error:
        load.open_initial(t5x, CONFIG, slots_of(128))
    for part in ("missing: token_embedder/embedding/v (48, 16)", "not expected: token_embedder/embedding/v_row (16,)"):
        assert part in str(error.value)


@pytest.mark.parametrize("kind", ["run", "t5x"])
def test_one_error_names_everything_that_does_not_fit(kind, request):
    other = dataclasses.replace(CONFIG, vocab_size=64, num_encoder_layers=3, num_decoder_layers=2)
    with pytest.raises(UserError) as error:
        load.load_params(request.getfixturevalue(kind), other)
    shape = {"run": "shape of params/token_embedder/embedding", "t5x": "shape of token_embedder.embedding"}[kind]
    assert f"{shape}: (48, 16), not (64, 16)" in str(error.value)
    faults = str(error.value).count("\n  ")
    wanted, there = flatten(mt5.param_specs(other)), flatten(SPECS)
    if kind == "run":
        assert faults == sum(wanted[path].shape != there[path].shape for path in wanted)
    else:
        assert "missing: encoder.layers_2.mlp.wo.kernel (24, 16)" in str(error.value)
        assert faults == 2 + 9 + 14  # both vocabularies, one encoder layer, one decoder layer


def test_a_surplus_array_is_named(tmp_path, params, write_t5x):
    arrays = to_layers(SPECS, params) | {"decoder.adapter.kernel": np.ones((2, 2), np.float32)}
    with pytest.raises(UserError, match=r"not expected: decoder\.adapter\.kernel \(2, 2\)"):
        load.load_params(write_t5x(tmp_path / "c", arrays), CONFIG)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="There is nothing at .*nowhere. Looked for\n.*xtr run.*\n.*T5X checkpoint"):
        load.load_params(tmp_path / "nowhere", CONFIG)


NO_ANSWER = {
    "disk": OSError(errno.EIO, "Input/output error"),
    "bucket": OSError("gs://bucket/a cannot be listed: UNAVAILABLE: HTTP response code: 503"),
    "memory": ValueError("RESOURCE_EXHAUSTED: Out of memory"),
}
REFUSED = {
    "disk": PermissionError(errno.EACCES, "Permission denied"),
    "bucket": OSError("gs://bucket/a cannot be listed: PERMISSION_DENIED: HTTP response code: 403"),
    "no bucket": OSError("gs://bucket/a cannot be listed: NOT_FOUND: HTTP response code: 404"),
}
READERS = {
    "looking": (storage, "list_directory"),
    "opening": (t5x_format, "open_legacy"),
    "reading the file": (storage, "read_bytes"),
    "reading arrays": (fill_module._Piece, "read"),
}


def failing(where, error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(*READERS[where], fails)


@pytest.mark.parametrize("where", READERS)
@pytest.mark.parametrize("why", NO_ANSWER)
def test_what_does_not_answer_is_no_mistake(t5x, where, why, monkeypatch):
    failing(where, NO_ANSWER[why], monkeypatch)
    with pytest.raises(type(NO_ANSWER[why])) as raised:
        load.load_params(t5x.parent if where == "looking" else t5x, CONFIG)
    assert not isinstance(raised.value, UserError)


@pytest.mark.parametrize("where", READERS)
@pytest.mark.parametrize("why", REFUSED)
def test_what_may_not_be_read_is_a_mistake(t5x, where, why, monkeypatch):
    failing(where, REFUSED[why], monkeypatch)
    with pytest.raises(UserError):
        load.load_params(t5x.parent if where == "looking" else t5x, CONFIG)


def test_something_else_there(tmp_path):
    (tmp_path / "model.ckpt").write_text("")
    with pytest.raises(UserError, match="no checkpoint that xtr knows. It holds: model.ckpt"):
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
        load.load_params(tmp_path, CONFIG)


def test_another_version_of_the_format_is_refused(tmp_path, params, write_t5x):
    path = write_t5x(tmp_path / "c", to_layers(SPECS, params), version=2)
    with pytest.raises(UserError, match="version 2; only version 3"):
        load.load_params(path, CONFIG)


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
        load.load_params(copy, CONFIG)


def test_bfloat16_as_integers_is_refused(tmp_path, params, write_t5x):
    arrays = {name: np.asarray(a) for name, a in to_layers(SPECS, params).items()}
    arrays["token_embedder.embedding"] = arrays["token_embedder.embedding"].astype(np.uint16)
    with pytest.raises(UserError, match=r"token_embedder\.embedding \(48, 16\): it is stored as uint16"):
        load.load_params(write_t5x(tmp_path / "c", arrays), CONFIG)


def test_arrays_inside_the_file_and_old_style_paths(tmp_path, params, write_t5x):
    arrays = to_layers(SPECS, params)

    def edit(contents):
        target = contents["optimizer"]["target"]
        target["decoder"]["decoder_norm"]["scale"] = np.asarray(arrays["decoder.decoder_norm.scale"])
        leaf = target["token_embedder"]["embedding"]
        leaf["path"] = leaf["kvstore"].pop("path")

    loaded, _ = load.load_params(write_t5x(tmp_path / "c", arrays, edit=edit), CONFIG)
    assert_same(loaded, params)


@pytest.mark.parametrize("form", ["t5x_legacy", "t5x_orbax"])
def test_recorded_t5x_checkpoint(oracles, form):
    """The recorded micro checkpoint is read by name, with the shapes of its own file."""
    path = oracles / "t5x_mt5_micro" / form / "checkpoint_0"
    checkpoint = load.open_source("t5x", str(path), CONFIG)
    assert checkpoint.step == 0
    assert set(checkpoint.slots) == set(checkpoint.arrays)
    for array in checkpoint.arrays.values():
        values = array.read(whole(array.shape))
        assert values.shape == array.shape and values.dtype == np.float32 and np.isfinite(values).all()
    assert {tuple(slots) for slots in checkpoint.slots.values()} == {("v",)}  # too small to be factored
