"""What a training step takes and gives back: step, parameters and optimizer state, with their shapes and shardings."""

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xtr.errors import UserError
from xtr.models.spec import abstract, flatten, init_params, unflatten
from xtr.parallel import compiler_options
from xtr.parallel.sharding import Rules, replicated, tree_shardings
from xtr.train import adafactor, adamw
from xtr.train.adafactor import AdafactorConfig
from xtr.train.adamw import AdamWConfig
from xtr.train.objectives import OBJECTIVES, check_microbatches, check_normalizer

Optimizer = AdafactorConfig | AdamWConfig


def rule(optimizer: Optimizer) -> ModuleType:
    """The module with `slot_specs`, `init` and `update` of an optimizer's settings."""
    return {AdafactorConfig: adafactor, AdamWConfig: adamw}[type(optimizer)]


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Settings of the loss, the optimizer and the accumulation.

    Attributes:
      objective: a name of `objectives.OBJECTIVES`.
      z_loss: weight of logZ^2 in a loss over the vocabulary; the others have none.
      label_smoothing: mass taken from the target, in [0, 1); over the vocabulary only.
      loss_normalizing_factor: None, a positive number, or a name of `objectives.NORMALIZERS`.
      microbatches: into how many pieces a batch is cut to save memory; the result is that of the whole batch. 1 for an
        objective that compares rows.
      optimizer: Adafactor's or AdamW's settings.
      compiler_options: which of the TPU compiler's, see `xtr.parallel.compiler_options`.

    Raises:
      UserError: a value out of range.
    """

    objective: str = "seq2seq"
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None
    microbatches: int = 1
    optimizer: Optimizer = AdafactorConfig()
    compiler_options: str = compiler_options.DEFAULT

    def __post_init__(self):
        compiler_options.check(self.compiler_options)
        object.__setattr__(self, "loss_normalizing_factor", check_normalizer(self.loss_normalizing_factor))
        if self.microbatches < 1:
            raise UserError(f"TrainOptions.microbatches must be at least 1, not {self.microbatches!r}.")
        check_microbatches(self.objective, self.microbatches)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"TrainOptions.label_smoothing must lie in [0, 1), not {self.label_smoothing!r}.")
        if self.label_smoothing and not OBJECTIVES[self.objective].over_vocabulary:
            raise UserError(
                f"LABEL_SMOOTHING is {self.label_smoothing}, which the objective {self.objective!r} lacks: set 0."
            )


@functools.partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "opt_state"], meta_fields=[])
@dataclasses.dataclass
class TrainState:
    """step: int32 scalar, batches consumed in this run; params: nested dict; opt_state: the same with the
    optimizer's slots at each parameter's place, see `adafactor` and `adamw`."""

    step: Any
    params: Any
    opt_state: Any


def state_shardings(specs: Any, options: TrainOptions, mesh: Mesh, rules: Rules) -> TrainState:
    """The sharding of every array of the state; slots lie as their parameter does."""
    return TrainState(
        step=replicated(mesh),
        params=tree_shardings(specs, mesh, rules),
        opt_state=tree_shardings(rule(options.optimizer).slot_specs(options.optimizer, specs), mesh, rules),
    )


def _start(specs: Any, options: TrainOptions, params: Any) -> TrainState:
    opt_state = rule(options.optimizer).init(options.optimizer, specs)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state)


def abstract_state(specs: Any, options: TrainOptions, mesh: Mesh, rules: Rules) -> TrainState:
    """Shapes, dtypes and shardings of the state, nothing allocated: what a checkpoint restore takes."""
    shapes = jax.eval_shape(lambda params: _start(specs, options, params), abstract(specs))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_shardings(specs, options, mesh, rules),
    )


@functools.lru_cache(maxsize=32)
def _initializer(flat_specs, options, mesh, rules):
    specs = unflatten(dict(flat_specs))
    return jax.jit(
        lambda key: _start(specs, options, init_params(specs, key)),
        out_shardings=state_shardings(specs, options, mesh, rules),
    )


def init_state(specs: Any, options: TrainOptions, mesh: Mesh, rules: Rules, key: jax.Array) -> TrainState:
    """A fresh state with random parameters, each drawn where it will live. The same key gives the same values on every
    mesh."""
    return _initializer(tuple(flatten(specs).items()), options, mesh, rules)(key)
