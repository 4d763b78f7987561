"""AdamW (Loshchilov & Hutter, arXiv 1711.05101), in which encoders are usually fine-tuned: optax's moments, our state.

The state mirrors the parameters: at each parameter's place {'mu', 'nu'}, the moments, f32 and in its shape. So it is
sharded and saved as Adafactor's is; the count of steps is the train state's.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from xtr.errors import UserError
from xtr.models.spec import ParamSpec, map_specs
from xtr.train.adafactor import SlotSpec, global_norm


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    """Settings; the defaults are those of jiant, which the XLM-R results of the original study were made with.

    Attributes:
      b1, b2: decay of the first and of the second moment.
      eps: added to the root of the second moment.
      weight_decay: share of a parameter removed at each step, times the learning rate; matrices and embedding tables
        only, no biases and no scales of norms.
      global_norm_clip: greatest norm of the whole gradient; None for no clipping.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    global_norm_clip: float | None = 1.0

    def __post_init__(self):
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"AdamWConfig.{name} must lie in [0, 1), not {getattr(self, name)!r}.")
        if not self.eps > 0 or not self.weight_decay >= 0:
            raise UserError(
                f"AdamWConfig: eps must be positive and weight_decay not negative, not {self.eps!r} and "
                f"{self.weight_decay!r}."
            )
        if self.global_norm_clip is not None and not self.global_norm_clip > 0:
            raise UserError(f"AdamWConfig.global_norm_clip must be positive or None, not {self.global_norm_clip!r}.")


def decays(spec: ParamSpec) -> bool:
    """Whether weight decay applies: biases and the scales of norms are vectors, and they alone."""
    return len(spec.layer_shape) > 1


def slot_specs(config: AdamWConfig, specs: Any) -> Any:
    """The state's tree of `SlotSpec`s."""
    del config
    return map_specs(lambda spec: {name: SlotSpec(spec.shape, spec.axes) for name in ("mu", "nu")}, specs)


def init(config: AdamWConfig, specs: Any) -> Any:
    """The state before the first step: zeros. Jit-able."""
    del config
    return map_specs(lambda spec: {name: jnp.zeros(spec.shape, jnp.float32) for name in ("mu", "nu")}, specs)


def update(
    config: AdamWConfig,
    specs: Any,
    grads: Any,
    opt_state: Any,
    params: Any,
    step: jax.Array | int,
    learning_rate: jax.Array | float,
) -> tuple[Any, Any]:
    """One step. `step` is the number of steps before this one. Returns (params, opt_state), all in f32."""
    if config.global_norm_clip is not None:
        scale = jnp.minimum(1.0, config.global_norm_clip / global_norm(grads))
        grads = jax.tree.map(lambda g: g * scale, grads)
    before = optax.ScaleByAdamState(
        count=jnp.asarray(step, jnp.int32),
        mu=map_specs(lambda _, slots: slots["mu"], specs, opt_state),
        nu=map_specs(lambda _, slots: slots["nu"], specs, opt_state),
    )
    direction, after = optax.scale_by_adam(config.b1, config.b2, config.eps).update(grads, before)

    def moved(spec: ParamSpec, param: jax.Array, towards: jax.Array) -> jax.Array:
        weight = param.astype(jnp.float32)
        decay = config.weight_decay * weight if decays(spec) else 0.0
        return weight - learning_rate * (towards + decay)

    new_state = map_specs(lambda _, mu, nu: {"mu": mu, "nu": nu}, specs, after.mu, after.nu)
    return map_specs(moved, specs, params, direction), new_state
