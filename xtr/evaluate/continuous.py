"""Continuous greedy decoding: a sequence that ends makes room for the next input while the others go on.

Axes: N slots, G groups of slots (one a device that rows are spread over), F rows of a refill, S input length, T output
length, V vocabulary.

A slot holds one sequence and its rows of the cache. A refill decodes until at least F/G slots of every group have
ended, hands out what F of them hold, and puts the next F inputs there. So a refill takes F inputs and gives F outputs,
whatever the lengths: the host plans all refills beforehand (`batching.refills`), never waits for a result to give the
device its next work, and reads results while the device goes on.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xtr import preemption
from xtr.errors import Preempted
from xtr.evaluate import batching
from xtr.evaluate.decoding import most_probable
from xtr.models.cache import put_rows, take_rows
from xtr.models.interface import DecodingCache, Generator, ModelConfig
from xtr.parallel.sharding import BATCH_AXES, batch_sharding, batch_shards

_IN_FLIGHT = 2  # refills whose results the host has not read yet


class Slots(NamedTuple):
    """Where decoding stands. Rows are in front of every array but `place`.

    Attributes:
      place: the place of the caches' rings that the next step writes.
      cache: of the model.
      next_N: the token that each row is fed next.
      written_N: how many tokens it has written.
      tokens_NT, log_prob_N: these tokens, and the natural log-probability of them.
      ended_N: whether it is finished, or a slot empty.
      ids_N: the input's number, -1 in an empty slot.
    """

    place: jax.Array
    cache: DecodingCache
    next_N: jax.Array
    written_N: jax.Array
    tokens_NT: jax.Array
    log_prob_N: jax.Array
    ended_N: jax.Array
    ids_N: jax.Array


class Found(NamedTuple):
    """What slots that have ended hold; -1 in `ids_F` where it is nothing."""

    ids_F: jax.Array
    tokens_FT: jax.Array
    log_prob_F: jax.Array

    @staticmethod
    def of(slots: Slots, places_GF: jax.Array) -> "Found":
        """What the slots at `places_GF` hold."""
        return Found(*(take_rows(a, places_GF) for a in (slots.ids_N, slots.tokens_NT, slots.log_prob_N)))


def empty(model: Generator, rows: int, length: int, max_length: int) -> Slots:
    """Slots without sequences, for inputs of `length` tokens."""
    tokens_NS = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    cache = jax.eval_shape(lambda tokens: model.start(tokens, max_length)[0], tokens_NS)
    nothing_N = jnp.zeros((rows,), jnp.int32)
    return Slots(
        place=jnp.zeros((), jnp.int32),
        cache=jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), cache),
        next_N=nothing_N,
        written_N=nothing_N,
        tokens_NT=jnp.full((rows, max_length), model.config.pad_id, jnp.int32),
        log_prob_N=jnp.zeros((rows,), jnp.float32),
        ended_N=jnp.ones((rows,), bool),
        ids_N=nothing_N - 1,
    )


def _until(model: Generator, slots: Slots, count: int, groups: int, eos_id: int) -> Slots:
    """Decodes until `count` slots of every group have ended."""
    head_DV, pad_id = model.head(), model.config.pad_id
    max_length = slots.tokens_NT.shape[1]

    def going_on(slots: Slots) -> jax.Array:
        return jnp.any(slots.ended_N.reshape(groups, -1).sum(axis=1) < count)

    def step(slots: Slots) -> Slots:
        place, cache, next_N, written_N, tokens_NT, log_prob_N, ended_N, ids_N = slots
        y_ND, cache = model.decode_step(next_N, place, cache, jnp.minimum(written_N, max_length - 1))
        token_N, token_log_prob_N = most_probable(y_ND.astype(jnp.float32) @ head_DV)
        token_N = jnp.where(ended_N, pad_id, token_N)
        log_prob_N += jnp.where(ended_N, 0.0, token_log_prob_N)
        here_NT = (jnp.arange(max_length) == written_N[:, None]) & ~ended_N[:, None]
        tokens_NT = jnp.where(here_NT, token_N[:, None], tokens_NT)
        written_N += ~ended_N
        ended_N |= (token_N == eos_id) | (written_N == max_length)
        place = jnp.where(place + 1 < max_length, place + 1, 0)
        return Slots(place, cache, token_N, written_N, tokens_NT, log_prob_N, ended_N, ids_N)

    return jax.lax.while_loop(going_on, step, slots)


def refill(
    model: Generator, slots: Slots, tokens_FS: jax.Array, ids_F: jax.Array, *, groups: int, eos_id: int
) -> tuple[Slots, Found]:
    """Decodes until F/G slots of every group have ended, takes what they hold, and starts new inputs in them.

    Args:
      slots: for inputs of S tokens.
      tokens_FS: inputs or prompts, padded on the right; a row of padding alone has ended at once.
      ids_F: their numbers; -1 for a row that is no input.
    """
    max_length, pad_id = slots.tokens_NT.shape[1], model.config.pad_id
    count = len(ids_F) // groups
    slots = _until(model, slots, count, groups, eos_id)
    places_GF = jnp.argsort(~slots.ended_N.reshape(groups, -1), axis=1, stable=True)[:, :count]
    found = Found.of(slots, places_GF)
    cache, first_F = model.start(tokens_FS, max_length)
    new = (
        first_F,
        jnp.zeros_like(ids_F),
        jnp.full((len(ids_F), max_length), pad_id),
        jnp.zeros(ids_F.shape, jnp.float32),
        jnp.all(tokens_FS == pad_id, axis=1),
        ids_F,
    )
    rows = (put_rows(old, own, places_GF) for old, own in zip(slots[2:], new, strict=True))
    return Slots(slots.place, slots.cache.insert(cache, places_GF), *rows), found


def move(model: Generator, slots: Slots, *, rows: int, length: int, groups: int, eos_id: int) -> tuple[Slots, Found]:
    """Decodes until all but `rows` slots have ended, takes what those hold, and moves the rest to slots for inputs of
    `length` tokens."""
    slots = _until(model, slots, (len(slots.ids_N) - rows) // groups, groups, eos_id)
    order_GN = jnp.argsort(slots.ended_N.reshape(groups, -1), axis=1, stable=True)
    kept_GF, others_GF = jnp.split(order_GN, [rows // groups], axis=1)
    kept = (take_rows(a, kept_GF) for a in slots[2:])
    return Slots(slots.place, slots.cache.select(kept_GF, length), *kept), Found.of(slots, others_GF)


def finish(model: Generator, slots: Slots, *, groups: int, eos_id: int) -> Found:
    """Decodes until all slots have ended, and takes what they hold."""
    slots = _until(model, slots, len(slots.ids_N) // groups, groups, eos_id)
    return Found(slots.ids_N, slots.tokens_NT, slots.log_prob_N)


class _Programs(NamedTuple):
    empty: Callable
    refill: Callable
    move: Callable
    finish: Callable


@functools.lru_cache(maxsize=32)
def _programs(config: ModelConfig, mesh: Mesh, max_length: int, eos_id: int) -> _Programs:
    """The functions above, jitted; rows are spread over the devices of a batch."""
    static = {"groups": batch_shards(mesh), "eos_id": eos_id}

    def spread(slots: Slots) -> Slots:
        if mesh.size == 1:
            return slots

        def pin(array: jax.Array) -> jax.Array:
            spec = PartitionSpec(*(BATCH_AXES,) * (array.ndim > 0), *[PartitionSpec.UNCONSTRAINED] * (array.ndim - 1))
            return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

        return jax.tree.map(pin, slots)

    def on_slots(function: Callable) -> Callable:
        def call(params: Any, slots: Slots, *arrays: jax.Array, **more: int) -> tuple[Slots, Found]:
            slots, found = function(config.network(params), slots, *arrays, **more, **static)
            return spread(slots), found

        return call

    return _Programs(
        jax.jit(lambda params, rows, length: spread(empty(config.network(params), rows, length, max_length)),
                static_argnums=(1, 2)),
        jax.jit(on_slots(refill), donate_argnums=1),
        jax.jit(on_slots(move), static_argnames=("rows", "length")),
        jax.jit(lambda params, slots: finish(config.network(params), slots, **static)),
    )  # fmt: skip


def generate(
    config: ModelConfig,
    params: Any,
    mesh: Mesh,
    sequences: Sequence[np.ndarray],
    *,
    length_buckets: Sequence[int],
    tokens_per_batch: int,
    max_length: int,
    eos_id: int,
    on_rows: Callable[[np.ndarray, list[tuple[np.ndarray, np.float32]]], None],
) -> None:
    """Generates greedily for all sequences; each result equals `decoding.greedy_decode`'s, whatever the others are.

    Slots are as many as `tokens_per_batch` holds inputs and outputs, a power of two a device, and a quarter of them is
    refilled at once. Shapes: for each bucket that is used one of the refills, one of the end where it is the last, and
    one move from the bucket used before; no more, however many sequences there are. Fewer than fill the slots have
    fewer slots, a power of two too.

    Args:
      sequences: inputs or prompts; cut at the longest bucket.
      length_buckets: input lengths that are compiled for, rising.
      tokens_per_batch: tokens of inputs and outputs that the slots of one device's share hold.
      max_length: number of tokens at most, the EOS included; at least 1.
      on_rows: called with the numbers of sequences that have ended, in no order, and for each its tokens, int
        [max_length], and their log-probability, while the device goes on. Every sequence comes once.

    Raises:
      Preempted: the process was asked to stop.
    """
    programs, sharding, groups = _programs(config, mesh, max_length, eos_id), batch_sharding(mesh), batch_shards(mesh)
    waiting: list[Found] = []

    def collect() -> None:
        ids, tokens, log_probs = jax.device_get(waiting.pop(0))
        (rows,) = np.nonzero(ids >= 0)
        if len(rows):
            on_rows(ids[rows], list(zip(tokens[rows], log_probs[rows], strict=True)))

    slots, shape = None, None
    for step in batching.refills([len(s) for s in sequences], length_buckets, max_length, tokens_per_batch, groups):
        if preemption.requested():
            raise Preempted("the evaluation under way was abandoned; it starts again with the next run")
        if slots is None:
            slots = programs.empty(params, step.slots, step.bucket)
        elif shape != (step.slots, step.bucket):
            slots, found = programs.move(params, slots, rows=step.slots, length=step.bucket)
            waiting.append(found)
        shape = step.slots, step.bucket
        tokens_FS = np.full((step.rows, step.bucket), config.pad_id, np.int32)
        ids_F = np.full(step.rows, -1, np.int32)
        for row, index in enumerate(step.indices):
            cut = sequences[index][: step.bucket]
            tokens_FS[row, : len(cut)] = cut
            ids_F[row] = index
        slots, found = programs.refill(params, slots, *jax.device_put((tokens_FS, ids_F), sharding))
        waiting.append(found)
        while len(waiting) > _IN_FLIGHT:
            collect()
    if slots is not None:
        waiting.append(programs.finish(params, slots))
    while waiting:
        collect()
