"""Loss, gradients and 24 Adafactor steps against numbers recorded from T5X (micro mT5, f32)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.checkpoints import load
from xtr.models import mt5
from xtr.models.spec import to_layers
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES
from xtr.train.step import TrainOptions, abstract_state, loss_and_gradient, make_train_step


@pytest.fixture(scope="module")
def recorded(oracles):
    folder = oracles / "t5x_mt5_micro"
    sizes = json.loads((folder / "config.json").read_text())
    names = ["vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "num_encoder_layers", "num_decoder_layers"]
    config = mt5.MT5Config(**{name: sizes[name] for name in names}, dtype="float32")
    arrays = dict(np.load(folder / "oracle.npz"))
    return config, arrays, folder / "t5x_legacy" / "checkpoint_0"


@pytest.fixture(scope="module", autouse=True)
def _full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def batch_of(arrays, index):
    prefix = f"batch{index}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def deviation(got, expected):
    """max |a - b| / max |b|."""
    return np.max(np.abs(np.asarray(got, np.float64) - expected)) / np.max(np.abs(expected))


def by_recorded_path(config, tree):
    return {name.replace(".", "/"): array for name, array in to_layers(mt5.param_specs(config), tree).items()}


def test_first_loss_and_gradients(recorded):
    config, arrays, checkpoint = recorded
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    params, _ = load.load_params(checkpoint, config)
    metrics, grads = jax.jit(
        lambda params, batch: loss_and_gradient(config, TrainOptions(), mesh, DEFAULT_RULES, params, batch, None)
    )(params, batch_of(arrays, 0))
    assert deviation(metrics["loss"], arrays["loss0_sum"]) < 1e-6
    grads = by_recorded_path(config, grads)
    expected = {name.removeprefix("grad0/"): a for name, a in arrays.items() if name.startswith("grad0/")}
    assert grads.keys() == expected.keys()
    assert max(deviation(grads[name], expected[name]) for name in expected) < 1e-5


def test_24_steps(recorded):
    config, arrays, checkpoint = recorded
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    specs, options = mt5.param_specs(config), TrainOptions()
    described = abstract_state(specs, options, mesh, DEFAULT_RULES)
    state = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), described)
    initial = load.open_initial(checkpoint, config, state.opt_state)
    assert (initial.origin.kind, initial.origin.step) == ("t5x", 0)
    state = load.initial_state(initial, state)
    step = make_train_step(config, options, mesh, DEFAULT_RULES)
    losses = []
    for i in range(24):
        state, metrics = step(state, batch_of(arrays, i % 8), None, 1e-3)
        losses.append(float(metrics["loss"]))
    assert deviation(losses, arrays["train_losses_sum"]) < 1e-5
    params = by_recorded_path(config, state.params)
    expected = {name.removeprefix("params24/"): a for name, a in arrays.items() if name.startswith("params24/")}
    assert params.keys() == expected.keys()
    assert max(deviation(params[name], expected[name]) for name in expected) < 1e-5
