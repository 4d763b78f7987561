"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with T5X's formula and T5X's choice of what to factor.

A parameter stacked over layers is L parameters: its 'layers' axis is a batch axis, so second moments, update clipping
and parameter scale are each layer's own, exactly as if the layers were stored apart. (optax.adafactor differs on all
three, and in its constants.)

The state mirrors the parameters: at each parameter's place {'v_row', 'v_col'} where factored, {'v'} where not, all f32.
Factored are parameters whose (per-layer) rank is at least 2 and whose second-largest dimension is at least
`min_dim_size_to_factor`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from xtr.errors import UserError
from xtr.models.spec import LAYERS, ParamSpec, flatten, largest_axes, map_specs, unflatten
from xtr.train.passes import mean_square_of_product, mean_squares


@dataclasses.dataclass(frozen=True)
class AdafactorConfig:
    """Settings, named as in T5X.

    Attributes:
      decay_rate: second moments decay with 1 - (step - step_offset + 1)^-decay_rate.
      step_offset: subtracted from the step. Negative continues restored statistics: -1_000_000 for those of a
        checkpoint at step 1,000,000 in a run that counts from 0.
      clipping_threshold: greatest RMS of an update before the learning rate; None for no clipping.
      epsilon1: added to squared gradients.
      epsilon2: least parameter scale.
      multiply_by_parameter_scale: whether the learning rate is relative to the RMS of the parameter.
      min_dim_size_to_factor: least second-largest dimension of a factored parameter.
      weight_decay_rate: share of the parameter removed at each step (not multiplied by the learning rate); None for
      none.
      global_norm_clip: greatest norm of the whole gradient; None for no clipping.
    """

    decay_rate: float = 0.8
    step_offset: int = 0
    clipping_threshold: float | None = 1.0
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    multiply_by_parameter_scale: bool = True
    min_dim_size_to_factor: int = 128
    weight_decay_rate: float | None = None
    global_norm_clip: float | None = None

    def __post_init__(self):
        if not 0.0 < self.decay_rate <= 1.0:
            raise UserError(f"AdafactorConfig.decay_rate must lie in (0, 1], not {self.decay_rate!r}.")
        for name in ("clipping_threshold", "weight_decay_rate", "global_norm_clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"AdafactorConfig.{name} must be positive or None, not {value!r}.")


@dataclasses.dataclass(frozen=True)
class SlotSpec:
    """Shape and logical axes of one second-moment array; axes are the parameter's without the averaged one."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]


def factored_dims(config: AdafactorConfig, spec: ParamSpec) -> tuple[int, int] | None:
    """(d1, d0): the axes of the second-largest and the largest dimension of one layer, or None where not factored."""
    dims = largest_axes(spec)
    return None if dims is None or spec.shape[dims[0]] < config.min_dim_size_to_factor else dims


def slot_specs(config: AdafactorConfig, specs: Any) -> Any:
    """The state's tree of `SlotSpec`s: v_row drops the largest dimension, v_col the second-largest."""

    def slots(spec: ParamSpec) -> dict[str, SlotSpec]:
        dims = factored_dims(config, spec)
        if dims is None:
            return {"v": SlotSpec(spec.shape, spec.axes)}

        def without(axis: int) -> SlotSpec:
            return SlotSpec(spec.shape[:axis] + spec.shape[axis + 1 :], spec.axes[:axis] + spec.axes[axis + 1 :])

        return {"v_row": without(dims[1]), "v_col": without(dims[0])}

    return map_specs(slots, specs)


def init(config: AdafactorConfig, specs: Any) -> Any:
    """The state before the first step: zeros. Jit-able."""
    return jax.tree.map(
        lambda slot: jnp.zeros(slot.shape, jnp.float32),
        slot_specs(config, specs),
        is_leaf=lambda x: isinstance(x, SlotSpec),
    )


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm over all arrays of a tree, f32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def update(
    config: AdafactorConfig,
    specs: Any,
    grads: Any,
    opt_state: Any,
    params: Any,
    step: jax.Array | int,
    learning_rate: jax.Array | float,
) -> tuple[Any, Any]:
    """One step. `step` is the number of steps before this one. Returns (params, opt_state), all in f32."""
    decay = 1.0 - (jnp.asarray(step - config.step_offset, jnp.float32) + 1.0) ** -config.decay_rate
    mixing = 1.0 - decay
    clip = 1.0
    if config.global_norm_clip is not None:
        clip = config.global_norm_clip * jnp.minimum(1.0 / config.global_norm_clip, 1.0 / global_norm(grads))

    def one(spec: ParamSpec, grad: jax.Array, slots: dict[str, jax.Array], param: jax.Array):
        grad, weight = grad.astype(jnp.float32) * clip, param.astype(jnp.float32)
        axes = tuple(range(1 if spec.axes[:1] == (LAYERS,) else 0, weight.ndim))
        dims = factored_dims(config, spec)
        if dims is None:
            new_slots = {"v": decay * slots["v"] + mixing * (jnp.square(grad) + config.epsilon1)}
            factors = (new_slots["v"] ** -0.5,)
        else:
            d1, d0 = dims
            means = mean_squares(grad, (d0, d1))
            new_slots = {
                name: decay * slots[name] + mixing * (mean + config.epsilon1)
                for name, mean in zip(("v_row", "v_col"), means, strict=True)
            }
            row = new_slots["v_row"]
            row = (row / jnp.mean(row, axis=d1 - (d0 < d1), keepdims=True)) ** -0.5
            factors = (jnp.expand_dims(row, d0), jnp.expand_dims(new_slots["v_col"] ** -0.5, d1))
        direction = math.prod(factors, start=grad)
        if config.clipping_threshold is not None:
            rms_direction = jnp.sqrt(mean_square_of_product(grad, factors, axes))
            direction = direction / jnp.maximum(1.0, rms_direction / config.clipping_threshold)
        scale = learning_rate
        if config.multiply_by_parameter_scale:
            rms_weight = jnp.sqrt(jnp.mean(jnp.square(weight), axis=axes, keepdims=True))
            scale = learning_rate * jnp.maximum(rms_weight, config.epsilon2)
        kept = weight if config.weight_decay_rate is None else (1.0 - config.weight_decay_rate) * weight
        return kept - scale * direction, new_slots

    flat_specs, flat_grads, flat_params = flatten(specs), flatten(grads), flatten(params)
    slots_of = {path: {} for path in flat_specs}
    for path, array in flatten(opt_state).items():
        parent, name = path.rsplit("/", 1)
        slots_of[parent][name] = array
    updated = {
        path: one(spec, flat_grads[path], slots_of[path], flat_params[path]) for path, spec in flat_specs.items()
    }
    new_params = unflatten({path: param for path, (param, _) in updated.items()})
    new_state = unflatten({f"{path}/{name}": x for path, (_, slots) in updated.items() for name, x in slots.items()})
    return new_params, new_state
