"""AdamW against optax's own, and its state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xtr.errors import UserError
from xtr.models.spec import ParamSpec, flatten, init_params, map_specs, normal_02, ones, zeros
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES
from xtr.train import adamw
from xtr.train.adamw import AdamWConfig
from xtr.train.state import TrainOptions, abstract_state, state_shardings

SPECS = {
    "table": ParamSpec((16, 8), ("vocab", "embed"), normal_02, hf="table"),
    "layers": {
        "kernel": ParamSpec((2, 8, 4), ("layers", "embed", "mlp"), normal_02, hf="{layer}.kernel"),
        "bias": ParamSpec((2, 4), ("layers", "mlp"), zeros, hf="{layer}.bias"),
        "scale": ParamSpec((2, 8), ("layers", "embed"), ones, hf="{layer}.scale"),
    },
}


@pytest.mark.parametrize("clip", [None, 0.5])
def test_five_steps_of_optax(clip):
    config = AdamWConfig(b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1, global_norm_clip=clip)
    decayed = {"table": True, "layers": {"kernel": True, "bias": False, "scale": False}}
    theirs = optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.adamw(3e-2, 0.8, 0.95, 1e-6, weight_decay=0.1, mask=decayed),
    )
    params = expected = init_params(SPECS, jax.random.key(0))
    state, their_state = adamw.init(config, SPECS), theirs.init(params)
    step_ours = jax.jit(lambda *a: adamw.update(config, SPECS, *a, 3e-2))
    step_theirs = jax.jit(theirs.update)
    for step in range(5):
        grads = init_params(
            map_specs(lambda s: ParamSpec(s.shape, s.axes, jax.nn.initializers.normal(), hf=s.hf), SPECS),
            jax.random.key(step),
        )
        params, state = step_ours(grads, state, params, step)
        updates, their_state = step_theirs(grads, their_state, expected)
        expected = optax.apply_updates(expected, updates)
    measured = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), params, expected)
    print("largest deviation after five steps:", max(jax.tree.leaves(measured)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, expected)


def test_the_state_lies_where_its_parameters_do():
    mesh, options = make_mesh(MeshConfig(fsdp=4, tensor=2)), TrainOptions(optimizer=AdamWConfig())
    shardings, state = (
        state_shardings(SPECS, options, mesh, DEFAULT_RULES),
        abstract_state(SPECS, options, mesh, DEFAULT_RULES),
    )
    params, slots = flatten(shardings.params), flatten(shardings.opt_state)
    assert slots == {f"{path}/{slot}": params[path] for path in params for slot in ("mu", "nu")}
    shapes = {path: x.shape for path, x in flatten(state.params).items()}
    assert {path: x.shape for path, x in flatten(state.opt_state).items()} == {
        f"{path}/{slot}": shapes[path] for path in shapes for slot in ("mu", "nu")
    }


def test_vectors_do_not_decay():
    assert flatten(map_specs(adamw.decays, SPECS)) == {
        "table": True, "layers/kernel": True, "layers/bias": False, "layers/scale": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "settings", [{"b1": 1.0}, {"b2": -0.1}, {"eps": 0.0}, {"weight_decay": -1.0}, {"global_norm_clip": 0.0}]
)
def test_settings_are_checked(settings):
    with pytest.raises(UserError, match="AdamWConfig"):
        AdamWConfig(**settings)
