"""The training step: loss, gradient and optimizer in one compiled function on a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xtr.models.spec import map_specs
from xtr.parallel.compiler_options import compiler_options
from xtr.parallel.sharding import (
    DEFAULT_RULES,
    OnMesh,
    Rules,
    batch_sharding,
    check_rows,
    global_batch,
    named_sharding,
    replicated,
    tree_shardings,
)
from xtr.train import adafactor, objectives, rounding
from xtr.train.cross_entropy import MAX_LOGITS_BYTES, MAX_STATES_BYTES
from xtr.train.state import TrainOptions, TrainState, abstract_state, init_state, rule, state_shardings

__all__ = [
    "TrainOptions",
    "TrainState",
    "abstract_state",
    "init_state",
    "loss_and_gradient",
    "make_eval_step",
    "make_train_step",
    "state_shardings",
]


def _placed(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the mesh; global arrays that lie there already are passed on."""
    if all(isinstance(x, jax.Array) for x in batch.values()):
        return batch
    return global_batch(batch, mesh)


def _microbatches(batch: dict[str, jax.Array], count: int, mesh: Mesh) -> dict[str, jax.Array]:
    """[B, ...] -> [count, B / count, ...]. Microbatch i holds rows i, i + count, ...: every device keeps its own
    rows."""

    def split(x):
        x = jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(
            x, named_sharding(mesh, (None, "batch"), (("batch", ("replica", "fsdp")),))
        )

    return {name: split(x) for name, x in batch.items()}


def _settings(
    objective: objectives.Objective, model: Any, mesh: Mesh, rules: Rules, z_loss: float, label_smoothing: float
) -> dict[str, Any]:
    """What an objective takes besides model, batch, padding and key."""
    if not objective.over_vocabulary:
        return {}
    return {
        "z_loss": z_loss,
        "label_smoothing": label_smoothing,
        "max_logits_bytes": max_logits_bytes(model.vocab_size, model.width, mesh, rules),
        "constrain": OnMesh(mesh, rules),
    }


def max_logits_bytes(vocab_size: int, width: int, mesh: Mesh, rules: Rules) -> int:
    """The most bytes of logits that a step makes at once, on all devices together.

    Rows and vocabulary are spread over the mesh. Where the vocabulary is spread over the devices that share the rows,
    each of them holds the states of all tokens of its replica, f32 [tokens, width], which must stay small too.
    """
    spread = named_sharding(mesh, ("output_vocab",), rules, (vocab_size,)).spec[0] or ()
    if mesh.shape["fsdp"] == 1 or "fsdp" not in spread:
        return MAX_LOGITS_BYTES * mesh.size
    tokens = MAX_STATES_BYTES * mesh.shape["replica"] // (4 * width)
    return min(MAX_LOGITS_BYTES * mesh.size, 4 * tokens * vocab_size)


def loss_and_gradient(
    model_config: Any,
    options: TrainOptions,
    mesh: Mesh,
    rules: Rules,
    params: Any,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None,
) -> tuple[dict[str, jax.Array], Any]:
    """Metrics (see `objectives`, plus 'objective', the normalised loss) and f32 gradients of the normalised loss.

    Gradients of microbatches are added up in f32 and normalised once, by the count of the whole batch, so that the
    number of microbatches changes nothing but rounding (and dropout masks). Call it under `jax.jit`.
    """
    specs = model_config.param_specs()
    constrain = OnMesh(mesh, rules)
    objective, pad_id = objectives.OBJECTIVES[options.objective], model_config.pad_id
    rows, pieces = next(iter(batch.values())).shape[0], options.microbatches
    check_rows(rows, mesh, pieces)
    weights, normalizer = objectives.normalize(options.loss_normalizing_factor, batch, options.objective, pad_id)
    batch = {**batch, objective.weights_name: weights}
    settings = _settings(objective, model_config, mesh, rules, options.z_loss, options.label_smoothing)

    def loss_of(params, piece, key):
        network = model_config.network(params, constrain)
        loss, _, metrics = objective.loss(network, piece, pad_id=pad_id, dropout_key=key, **settings)
        return loss, metrics

    def gradient_of(piece, key):
        (_, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(params, piece, key)
        pinned = map_specs(
            lambda spec, g: jax.lax.with_sharding_constraint(
                g.astype(jnp.float32), named_sharding(mesh, spec.axes, rules, spec.shape)
            ),
            specs,
            grads,
        )
        return metrics, pinned

    if pieces == 1:
        metrics, grads = gradient_of(batch, dropout_key)
    else:

        def body(total, index_and_piece):
            index, piece = index_and_piece
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return jax.tree.map(jnp.add, total, gradient_of(piece, key)), None

        scanned = (jnp.arange(pieces), _microbatches(batch, pieces, mesh))
        shapes = jax.eval_shape(lambda: gradient_of(jax.tree.map(lambda x: x[0], scanned[1]), dropout_key))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (metrics, grads), _ = jax.lax.scan(body, start, scanned)
    metrics["objective"] = metrics["loss"] / normalizer
    return metrics, jax.tree.map(lambda g: g / normalizer, grads)


@functools.lru_cache(maxsize=32)
def make_train_step(
    model_config: Any, options: TrainOptions, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> Callable[[TrainState, dict[str, jax.Array], jax.Array | None, float], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step(state, batch, dropout_key, learning_rate) -> (state, metrics).

    `state` is donated. `batch` holds global arrays [B, ...], as `options.objective` needs them (NumPy is fine in one
    process; see `sharding.global_batch`). `dropout_key` is this very step's key; it may be None only without dropout.
    `learning_rate` is a float, so that one compiled step serves every schedule. Metrics are f32 scalars, those of
    `loss_and_gradient` plus 'grad_norm' (of the normalised gradient, before clipping) and 'skipped_updates': a step
    whose loss or gradient is not finite leaves parameters and optimizer state as they were, counts 1 there, and
    advances the step.

    Equal arguments give the same function object, compiled once. UserError (at the first call) for a batch that does
    not divide over the mesh, and at once for an objective that the model cannot do; ValueError where a dropout key is
    missing.
    """
    objectives.check_objective(options.objective, model_config)
    specs = model_config.param_specs()
    shardings = state_shardings(specs, options, mesh, rules)
    whole = replicated(mesh)

    def train_step(state, batch, dropout_key, learning_rate):
        if model_config.dropout_rate > 0.0 and dropout_key is None:
            raise ValueError(f"dropout_rate is {model_config.dropout_rate}: pass a dropout key")
        metrics, grads = loss_and_gradient(model_config, options, mesh, rules, state.params, batch, dropout_key)
        metrics["grad_norm"] = adafactor.global_norm(grads)
        finite = jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(metrics["loss"])
        metrics["skipped_updates"] = 1.0 - finite.astype(jnp.float32)
        params, opt_state = rule(options.optimizer).update(
            options.optimizer, specs, grads, state.opt_state, state.params, state.step, learning_rate
        )
        updated = rounding.stored(params, specs, state.step), opt_state
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), updated, (state.params, state.opt_state)
        )
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    compiled = jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), whole, whole),
        out_shardings=(shardings, whole),
        compiler_options=compiler_options(mesh.devices.flat[0], options.compiler_options) or None,
    )

    def step(state, batch, dropout_key, learning_rate):
        # Arguments in one form only: jit compiles anew for a NumPy array in the place of a jax.Array, or a float of
        # another kind.
        if model_config.dropout_rate == 0.0:
            dropout_key = None
        return compiled(state, _placed(batch, mesh), dropout_key, np.float32(learning_rate))

    step.jitted = compiled
    return step


@functools.lru_cache(maxsize=32)
def make_eval_step(
    model_config: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES, objective: str = "seq2seq"
) -> Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]:
    """The jitted step(params, batch) -> metrics of an objective: no dropout, no z-loss, no smoothing, nothing donated.

    UserError for an objective that the model cannot do.
    """
    objectives.check_objective(objective, model_config)
    chosen = objectives.OBJECTIVES[objective]

    def eval_step(params, batch):
        network = model_config.network(params, OnMesh(mesh, rules))
        settings = _settings(chosen, model_config, mesh, rules, z_loss=0.0, label_smoothing=0.0)
        _, _, metrics = chosen.loss(network, batch, pad_id=model_config.pad_id, dropout_key=None, **settings)
        return metrics

    shardings = tree_shardings(model_config.param_specs(), mesh, rules)
    compiled = jax.jit(
        eval_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(mesh.devices.flat[0]) or None,
    )

    def step(params, batch):
        return compiled(params, _placed(batch, mesh))

    step.jitted = compiled
    return step
