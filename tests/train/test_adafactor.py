"""Adafactor against its formula in NumPy, one layer at a time, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import UserError
from xtr.models.spec import ParamSpec, ones
from xtr.train import adafactor
from xtr.train.adafactor import AdafactorConfig

LAYERS = 3
SHAPES = {"kernel": (20, 14), "square": (16, 16), "wide": (12, 40), "scale": (20,), "table": (4, 32)}
STACKED = {"kernel", "square", "wide", "scale"}
CONFIG = AdafactorConfig(min_dim_size_to_factor=12)


def spec(shape, stacked):
    axes = ("embed", "mlp")[: len(shape)]
    if not stacked:
        return ParamSpec(shape, axes, ones, "name", "name")
    return ParamSpec((LAYERS, *shape), ("layers", *axes), ones, "name.{layer}", "name.{layer}")


SPECS = {"a": {name: spec(shape, name in STACKED) for name, shape in SHAPES.items()}}


def draw(rng, scale):
    return {"a": {name: (rng.normal(size=s.shape) * scale).astype(np.float32) for name, s in SPECS["a"].items()}}


def rms(x):
    return np.sqrt(np.mean(x**2))


def reference_step(config, param, grad, slots, step, learning_rate):
    """One parameter of one layer; f64."""
    decay = 1 - (step - config.step_offset + 1.0) ** -config.decay_rate
    squared = grad**2 + config.epsilon1
    if "v" in slots:
        slots = {"v": decay * slots["v"] + (1 - decay) * squared}
        update = grad / np.sqrt(slots["v"])
    else:
        d1, d0 = np.argsort(param.shape, kind="stable")[-2:]
        slots = {
            "v_row": decay * slots["v_row"] + (1 - decay) * squared.mean(d0),
            "v_col": decay * slots["v_col"] + (1 - decay) * squared.mean(d1),
        }
        row = np.expand_dims(slots["v_row"], d0)
        column = np.expand_dims(slots["v_col"], d1)
        update = grad / np.sqrt(row * column / slots["v_row"].mean())
    update = update / max(1.0, rms(update) / config.clipping_threshold)
    scale = max(rms(param), config.epsilon2) if config.multiply_by_parameter_scale else 1.0
    kept = param if config.weight_decay_rate is None else (1 - config.weight_decay_rate) * param
    return kept - learning_rate * scale * update, slots


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay_rate": 0.01},
        {"multiply_by_parameter_scale": False},
        {"step_offset": -1000},
        {"global_norm_clip": 0.5},
        {"clipping_threshold": 0.3, "decay_rate": 0.5},
    ],
    ids=str,
)
def test_formula_layer_by_layer(settings):
    config = AdafactorConfig(min_dim_size_to_factor=12, **settings)
    rng = np.random.default_rng(0)
    params = draw(rng, 0.3)
    state = adafactor.init(config, SPECS)
    expected = {  # (name, layer) -> (param, slots)
        (name, layer): (
            array[layer].astype(np.float64) if name in STACKED else array.astype(np.float64),
            {slot: np.zeros(x.shape[1:] if name in STACKED else x.shape) for slot, x in state["a"][name].items()},
        )
        for name, array in params["a"].items()
        for layer in (range(LAYERS) if name in STACKED else [None])
    }
    step_fn = jax.jit(lambda p, s, g, i: adafactor.update(config, SPECS, g, s, p, i, 0.05))
    for step in range(5):
        grads = draw(rng, 10.0 ** rng.uniform(-4, 1))
        params, state = step_fn(params, state, grads, step)
        norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in grads["a"].values()))
        clip = 1.0 if config.global_norm_clip is None else min(1.0, config.global_norm_clip / norm)
        for (name, layer), (param, slots) in expected.items():
            grad = grads["a"][name].astype(np.float64) * clip
            grad = grad if layer is None else grad[layer]
            expected[name, layer] = reference_step(config, param, grad, slots, step, 0.05)
    for (name, layer), (param, slots) in expected.items():
        pick = (lambda x: x) if layer is None else (lambda x, layer=layer: x[layer])
        np.testing.assert_allclose(pick(params["a"][name]), param, rtol=2e-5, atol=1e-6)
        for slot, array in slots.items():
            np.testing.assert_allclose(pick(state["a"][name][slot]), array, rtol=2e-5)


def test_only_what_is_used_is_stored_and_it_keeps_the_axes():
    slots = adafactor.slot_specs(CONFIG, SPECS)["a"]
    assert slots["kernel"] == {
        "v_row": adafactor.SlotSpec((3, 14), ("layers", "mlp")),
        "v_col": adafactor.SlotSpec((3, 20), ("layers", "embed")),
    }
    assert slots["scale"] == {"v": adafactor.SlotSpec((3, 20), ("layers", "embed"))}
    assert slots["table"].keys() == {"v"}  # its second dimension is too small
    shapes = jax.tree.map(jnp.shape, adafactor.init(CONFIG, SPECS))
    assert shapes["a"]["kernel"] == {"v_row": (3, 14), "v_col": (3, 20)}


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans(), st.integers(1, 6))
def test_factored_dimensions_are_those_of_one_layer(shape, stacked, least):
    """T5X: the two largest dimensions by a stable argsort, if the smaller of them is large enough."""
    axes = ("embed", "mlp", "kv")[: len(shape)]
    name = "n.{layer}" if stacked else "n"
    one = ParamSpec((5, *shape) if stacked else tuple(shape), ("layers", *axes) if stacked else axes, ones, name, name)
    got = adafactor.factored_dims(AdafactorConfig(min_dim_size_to_factor=least), one)
    order = np.argsort(shape, kind="stable")
    if len(shape) < 2 or shape[order[-2]] < least:
        assert got is None
    else:
        assert got == (order[-2] + stacked, order[-1] + stacked)


def test_a_zero_gradient_changes_nothing():
    params = draw(np.random.default_rng(0), 1.0)
    zeros = jax.tree.map(np.zeros_like, params)
    new, _ = jax.jit(lambda g, p: adafactor.update(CONFIG, SPECS, g, adafactor.init(CONFIG, SPECS), p, 0, 0.1))(
        zeros, params
    )
    jax.tree.map(np.testing.assert_array_equal, new, params)


def test_the_arithmetic_of_a_low_precision_parameter_is_f32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw(np.random.default_rng(0), 1.0))
    new, state = jax.eval_shape(
        lambda p: adafactor.update(CONFIG, SPECS, p, adafactor.init(CONFIG, SPECS), p, 0, 0.1), params
    )
    assert {x.dtype for x in jax.tree.leaves((new, state))} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "settings",
    [{"decay_rate": 0.0}, {"clipping_threshold": 0.0}, {"global_norm_clip": -1.0}, {"weight_decay_rate": 0.0}],
)
def test_settings_are_checked(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        AdafactorConfig(**settings)
