"""Where the time of a training step goes: its parts as programs of their own, on the shapes of the whole.

Processor seconds are those of all threads: work, whatever else the machine does meanwhile.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xtr.bench.steps import LEARNING_RATE, packed_batches, xtr_stepper
from xtr.models import flops
from xtr.models.mt5 import MT5Config
from xtr.models.spec import init_params
from xtr.train import adafactor
from xtr.train.cross_entropy import cross_entropy

LARGE_PRODUCT = "one product with the vocabulary"
WHOLE = "the whole step"


@dataclasses.dataclass(frozen=True)
class Part:
    """What one part takes, the median of its runs.

    Attributes:
      gflop: 10^9 operations of its matrix products.
    """

    name: str
    seconds: float
    processor_seconds: float
    gflop: float


def measure(config: MT5Config, rows: int, lengths: tuple[int, int], repeats: int) -> list[Part]:
    """The parts of `xtr train`'s step with Adafactor on the first device, without dropout, and the whole."""
    config = dataclasses.replace(config, dropout_rate=0.0)
    inputs, targets = lengths
    (batch,) = packed_batches(1, rows, inputs, targets, config.vocab_size)
    params = jax.jit(lambda key: init_params(config.param_specs(), key))(jax.random.key(0))
    y_BTD = jax.random.normal(jax.random.key(1), (rows, targets, config.emb_dim), config.dtype)
    head = {"logits_dense": params["decoder"].pop("logits_dense")}
    head_DV = head["logits_dense"]["kernel"]

    def decoded(params: Any, head: Any, toward_BTD: jax.Array) -> jax.Array:
        model = config.network({**params, "decoder": params["decoder"] | head})
        encoder_ids = batch["encoder_segment_ids"]
        out_BTD = model.decode(
            batch["decoder_input_tokens"],
            model.encode(batch["encoder_input_tokens"], segment_ids_BS=encoder_ids),
            encoder_mask_BS=encoder_ids != 0,
            encoder_segment_ids_BS=encoder_ids,
            segment_ids_BT=batch["decoder_segment_ids"],
        )
        return jnp.sum((out_BTD * toward_BTD).astype(jnp.float32))

    def loss(y_BTD: jax.Array, head_DV: jax.Array) -> jax.Array:
        return cross_entropy(y_BTD, head_DV, batch["decoder_target_tokens"], jnp.ones((rows, targets)))[0]

    vocabulary = 2e-9 * rows * targets * config.emb_dim * config.vocab_size
    whole = 1e-9 * flops.training_flops(config, "seq2seq", rows, inputs, targets)
    product, layers = jax.jit(lambda y_ND, head_DV: y_ND @ head_DV), jax.jit(jax.grad(decoded))
    losses = jax.jit(jax.grad(loss, argnums=(0, 1)))
    y_ND = y_BTD.astype(jnp.float32).reshape(-1, config.emb_dim)
    parts = [
        _timed(LARGE_PRODUCT, lambda: product(y_ND, head_DV), repeats, vocabulary),
        _timed(
            "embeddings and layers, both ways", lambda: layers(params, head, y_BTD), repeats, whole - 3 * vocabulary
        ),
        _timed("vocabulary and loss, both ways", lambda: losses(y_BTD, head_DV), repeats, 3 * vocabulary),
    ]
    return [
        *parts,
        _timed("Adafactor", _updates(config), repeats, 0.0),
        _timed(WHOLE, _steps(config, batch), repeats, whole),
    ]


def _updates(config: MT5Config) -> Callable[[], Any]:
    """One update after the other, of parameters and slots of its own."""
    specs, optimizer = config.param_specs(), adafactor.AdafactorConfig()
    params = jax.jit(lambda key: init_params(specs, key))(jax.random.key(0))
    slots, grads = adafactor.init(optimizer, specs), jax.tree.map(lambda x: 1e-3 * x, params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, slots: Any, grads: Any) -> tuple[Any, Any]:
        return adafactor.update(optimizer, specs, grads, slots, params, 0, LEARNING_RATE)

    def run() -> Any:
        nonlocal params, slots
        params, slots = update(params, slots, grads)
        return params

    return run


def _steps(config: MT5Config, batch: dict[str, Any]) -> Callable[[], float]:
    stepper = xtr_stepper(config, [batch])
    return lambda: stepper.step(0)


def _timed(name: str, run: Callable[[], Any], repeats: int, gflop: float) -> Part:
    jax.block_until_ready(run())
    seen = []
    for _ in range(repeats):
        started, busy = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        seen.append((time.perf_counter() - started, time.process_time() - busy))
    return Part(name, *map(statistics.median, zip(*seen, strict=True)), gflop)
