"""Parameters kept in bfloat16: rounding by chance, exact where nothing is to round, and right on average."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.models.mt5 import MT5Config
from xtr.models.spec import flatten
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, tree_shardings
from xtr.train import rounding
from xtr.train.adafactor import AdafactorConfig
from xtr.train.adamw import AdamWConfig
from xtr.train.state import TrainOptions, init_state
from xtr.train.step import make_train_step

MODEL = MT5Config(
    vocab_size=64, emb_dim=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, head_dim=8, mlp_dim=32,
    dropout_rate=0.0, dtype="float32", params_dtype="bfloat16",
)  # fmt: skip
EXACT = dataclasses.replace(MODEL, params_dtype="float32")


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20), st.integers(0, 2**31))
def test_each_is_one_of_its_neighbours(numbers, seed):
    x = np.array(numbers, np.float32)
    found = np.asarray(rounding.to_bfloat16(jnp.asarray(x), jax.random.key(seed)))
    bits = found.view(np.uint16).astype(np.int64) - (x.view(np.uint32) >> 16)
    exact = (x.view(np.uint32) & 0xFFFF) == 0
    assert (bits[exact | ~np.isfinite(x)] == 0).all()
    assert np.isin(bits, (0, 1)).all()


def test_the_mean_is_the_number():
    x = jnp.float32(1.0) + jnp.float32(2**-9)  # a quarter of the way from 1 to the next bfloat16
    found = rounding.to_bfloat16(jnp.full(40_000, x), jax.random.key(0)).astype(jnp.float32)
    assert set(np.unique(found)) == {1.0, 1.0 + 2**-7}
    assert float(found.mean()) == pytest.approx(float(x), abs=4 * 2**-7 * 0.5 / 200)


def test_nan_and_infinity_stay():
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf], jnp.float32)
    found = np.asarray(rounding.to_bfloat16(x, jax.random.key(0)), np.float32)
    assert np.isnan(found[0]) and found[1] == np.inf and found[2] == -np.inf


def _batch():
    rng = np.random.default_rng(0)
    encoder, decoder = rng.integers(2, 64, (8, 12)), rng.integers(2, 64, (8, 6))
    ones, places = np.ones_like, lambda a: np.broadcast_to(np.arange(a.shape[1]), a.shape)
    batch = {
        "encoder_input_tokens": encoder, "encoder_segment_ids": ones(encoder), "encoder_positions": places(encoder),
        "decoder_input_tokens": np.roll(decoder, 1, 1), "decoder_target_tokens": decoder,
        "decoder_loss_weights": ones(decoder), "decoder_segment_ids": ones(decoder),
        "decoder_positions": places(decoder),
    }  # fmt: skip
    return {name: np.asarray(a, np.int32) for name, a in batch.items()}


def _train(model, options, mesh, steps, rate):
    drawn = init_state(EXACT.param_specs(), options, mesh, DEFAULT_RULES, jax.random.key(0))
    state = dataclasses.replace(drawn, params=jax.tree.map(lambda x: x.astype(model.params_dtype), drawn.params))
    step, losses = make_train_step(model, options, mesh), []
    for _ in range(steps):
        state, metrics = step(state, _batch(), None, rate)
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize(
    ("optimizer", "rate"), [(AdafactorConfig(), 2e-3), pytest.param(AdamWConfig(), 1e-4, marks=pytest.mark.slow)]
)
def test_it_learns_as_float32_does(optimizer, rate):
    """At rates whose steps are far below the distance of two bfloat16 numbers."""
    mesh, options = make_mesh(MeshConfig(), jax.devices()[:1]), TrainOptions(optimizer=optimizer)
    state, kept = _train(MODEL, options, mesh, 30, rate)
    _, exact = _train(EXACT, options, mesh, 30, rate)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state)} == {jnp.dtype(jnp.float32)}
    assert exact[0] - exact[-1] > 0.02 * exact[0]
    assert kept[0] - kept[-1] == pytest.approx(exact[0] - exact[-1], rel=0.1)


def test_the_same_on_every_mesh():
    specs = MODEL.param_specs()
    params = jax.tree.map(
        lambda spec: jnp.linspace(0.1, 1.0, int(np.prod(spec.shape))).reshape(spec.shape), specs,
        is_leaf=lambda x: hasattr(x, "axes"),
    )  # fmt: skip
    results = []
    for mesh in (make_mesh(MeshConfig(), jax.devices()[:1]), make_mesh(MeshConfig(1, 4, 2))):
        placed = jax.tree.map(jax.device_put, params, tree_shardings(specs, mesh, DEFAULT_RULES))
        results.append(flatten(jax.jit(lambda p: rounding.stored(p, specs, jnp.int32(7)))(placed)))
    for path, first in results[0].items():
        np.testing.assert_array_equal(np.asarray(first), np.asarray(results[1][path]))
    other = flatten(rounding.stored(params, specs, jnp.int32(8)))
    assert any((np.asarray(other[path]) != np.asarray(first)).any() for path, first in results[0].items())
