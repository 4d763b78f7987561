"""Continuous greedy decoding: a sequence that ends makes room for the next input while the others go on.

Axes: N slots, G groups of slots (one a device that rows are spread over), F rows of a refill, S input length, T output
length, V vocabulary.

A slot holds one sequence and its rows of the cache. Decoding goes on until at least F/G slots of every group have
ended; a refill then hands out what F of them hold and puts the next F inputs there. So it takes F inputs and gives F
outputs, whatever the lengths: the host plans everything beforehand, never waits for a result to give the device its
next work, and reads results while the device goes on.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xtr.errors import Preempted
from xtr.evaluate import batching
from xtr.evaluate.decoding import most_probable
from xtr.evaluate.run import STOPPED
from xtr.models.cache import put_rows, take_rows
from xtr.models.interface import DecodingCache, Generator, ModelConfig
from xtr.parallel import watchdog
from xtr.parallel.sharding import (
    BATCH_AXES,
    DEFAULT_RULES,
    OnMesh,
    Rules,
    batch_shards,
    for_every_host,
    one_at_a_time,
    spread_batch,
)

_IN_FLIGHT = 2  # refills whose results the host has not read yet
_FEW_SLOTS = 64  # with fewer a step costs hardly less: it reads all weights
_REFILLED = 8  # a refill is one slot of so many
_SHRINK, _LEAST_ROWS = 4, 4  # at the end slots become so many times fewer, of a device no fewer than that
_TWO_ROOMS = 256  # output tokens from which on slots have less room at first
_LONG = 1.25  # an input of so many times the tokens of that room begins in the greater one


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
    """What slots hold; -1 in `ids_F` where it is nothing."""

    ids_F: jax.Array
    written_F: jax.Array
    tokens_FT: jax.Array
    log_prob_F: jax.Array

    @staticmethod
    def all(slots: Slots) -> "Found":
        """What all slots hold."""
        return Found(slots.ids_N, slots.written_N, slots.tokens_NT, slots.log_prob_N)

    @staticmethod
    def at(slots: Slots, places_GF: jax.Array) -> "Found":
        """What the slots at `places_GF` hold."""
        return Found(*(take_rows(a, places_GF) for a in Found.all(slots)))


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


def extend(
    model: Generator, slots: Slots, count: jax.Array, head_VD: jax.Array | None = None, *, groups: int, eos_id: int
) -> Slots:
    """Decodes until at least `count` slots of every group have ended.

    Args:
      head_VD: f32, the model's output kernel transposed, see `head_of`; None: the model's own.
    """
    pad_id, max_length = model.config.pad_id, slots.tokens_NT.shape[1]
    head_DV = model.head() if head_VD is None else head_VD.T

    def choose(y_ND: jax.Array) -> tuple[jax.Array, jax.Array]:
        y_ND, rows = y_ND.astype(jnp.float32), len(y_ND)
        # Logits [V, N] are reduced over rows, which is vectorised where N rows fill vectors: 64 rows so take less time
        # than 56. The compiler folds the transposition of the kernel into the product.
        if head_VD is not None and rows & (rows - 1) == 0:
            return most_probable(head_VD @ y_ND.T, axis=0)
        return most_probable(y_ND @ head_DV)

    def going_on(slots: Slots) -> jax.Array:
        return jnp.any(slots.ended_N.reshape(groups, -1).sum(axis=1) < count)

    def step(slots: Slots) -> Slots:
        place, cache, next_N, written_N, tokens_NT, log_prob_N, ended_N, ids_N = slots
        y_ND, cache = model.decode_step(next_N, place, cache, jnp.minimum(written_N, max_length - 1))
        token_N, token_log_prob_N = choose(y_ND)
        token_N = jnp.where(ended_N, pad_id, token_N)
        log_prob_N += jnp.where(ended_N, 0.0, token_log_prob_N)
        here_NT = (jnp.arange(max_length) == written_N[:, None]) & ~ended_N[:, None]
        tokens_NT = jnp.where(here_NT, token_N[:, None], tokens_NT)
        written_N += ~ended_N
        ended_N |= (token_N == eos_id) | (written_N == max_length)
        place = jnp.where(place + 1 < max_length, place + 1, 0)
        return Slots(place, cache, token_N, written_N, tokens_NT, log_prob_N, ended_N, ids_N)

    return jax.lax.while_loop(going_on, step, slots)


@functools.lru_cache(maxsize=32)
def head_of(config: ModelConfig, mesh: Mesh) -> Callable[[Any], jax.Array | None]:
    """What gives, from parameters, the head that `extend` takes beside them: None but on CPUs, there the output kernel
    [V, D], f32, as products of few rows read it fastest: one token's weights in a row.

    Over [D, V] a product of few rows touches a page of memory for each of D at every few tokens: with mT5-small's
    250,112 tokens it takes twice as long for 16 rows, and a quarter longer for 64.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return lambda params: None
    return jax.jit(lambda params: config.network(params).head().T)


def refill(
    model: Generator, slots: Slots, tokens_FS: jax.Array, ids_F: jax.Array, length: int | None = None, *, groups: int
) -> tuple[Slots, Found]:
    """Takes what F slots hold that have ended, F/G of each group, and starts new inputs in them.

    Args:
      slots: for inputs of `length` tokens.
      tokens_FS: inputs or prompts, padded on the right; a row of padding alone has ended at once.
      ids_F: their numbers; -1 for a row that is no input.
      length: S or more; None: S.
    """
    max_length, pad_id = slots.tokens_NT.shape[1], model.config.pad_id
    places_GN = jnp.argsort(~slots.ended_N.reshape(groups, -1), axis=1, stable=True)
    places_GF = places_GN[:, : len(ids_F) // groups]
    found = Found.at(slots, places_GF)
    cache, first_F = model.start(tokens_FS, max_length)
    if length is not None and length > tokens_FS.shape[1]:
        in_order_GF = jnp.broadcast_to(jnp.arange(places_GF.shape[1]), places_GF.shape)
        cache = cache.select(in_order_GF, length)
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


def move(slots: Slots, *, rows: int, length: int, groups: int) -> tuple[Slots, Found]:
    """Moves all sequences that go on to `rows` slots for inputs of `length` tokens; and what is left behind."""
    order_GN = jnp.argsort(slots.ended_N.reshape(groups, -1), axis=1, stable=True)
    kept_GF, others_GF = jnp.split(order_GN, [rows // groups], axis=1)
    kept = (take_rows(a, kept_GF) for a in slots[2:])
    return Slots(slots.place, slots.cache.select(kept_GF, length), *kept), Found.at(slots, others_GF)


class Programs(NamedTuple):
    """`empty`, `extend`, `refill` and `move`, jitted, with parameters in the place of the model."""

    empty: Callable
    extend: Callable
    refill: Callable
    move: Callable


@functools.lru_cache(maxsize=32)
def programs_of(config: ModelConfig, mesh: Mesh, rules: Rules, max_length: int, eos_id: int) -> Programs:
    """The programs of decoding on a mesh: rows are spread over the devices of a batch, heads as `rules` say."""
    groups, constrain = batch_shards(mesh), OnMesh(mesh, rules)

    def spread(slots: Slots) -> Slots:
        def pin(array: jax.Array) -> jax.Array:
            free = [PartitionSpec.UNCONSTRAINED] * (array.ndim - 1)
            spec = PartitionSpec(BATCH_AXES, *free) if array.ndim else PartitionSpec()
            return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

        # On one device too: arrays that know of a mesh and arrays that do not are compiled for apart.
        return jax.tree.map(pin, slots._replace(cache=slots.cache.constrain(constrain)))

    def make_empty(params: Any, rows: int, length: int) -> Slots:
        return spread(empty(config.network(params), rows, length, max_length))

    def extended(params: Any, slots: Slots, count: jax.Array, head_VD: jax.Array | None = None) -> Slots:
        # Weights are not gathered at their use here: of few tokens the activations are smaller.
        return spread(extend(config.network(params), slots, count, head_VD, groups=groups, eos_id=eos_id))

    def refilled(
        params: Any, slots: Slots, tokens_FS: jax.Array, ids_F: jax.Array, length: int | None = None
    ) -> tuple[Slots, Found]:
        network = config.network(params, constrain)
        slots, found = refill(network, slots, tokens_FS, ids_F, length, groups=groups)
        return spread(slots), found

    def moved(slots: Slots, rows: int, length: int) -> tuple[Slots, Found]:
        slots, found = move(slots, rows=rows, length=length, groups=groups)
        return spread(slots), found

    return Programs(
        jax.jit(make_empty, static_argnums=(1, 2)),
        jax.jit(extended, donate_argnums=1),
        jax.jit(refilled, donate_argnums=1, static_argnums=4),
        jax.jit(moved, static_argnums=(1, 2)),
    )


OnRows = Callable[[np.ndarray, list[tuple[np.ndarray, np.float32]]], None]


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
    on_rows: OnRows,
    rules: Rules = DEFAULT_RULES,
) -> None:
    """Generates greedily for all sequences; each result equals `decoding.greedy_decode`'s, whatever the others are.

    Slots are as many as `tokens_per_batch` holds inputs and outputs, and at most half as many as sequences (but 64 a
    device where they are so many); an eighth of the slots is refilled at once. Short inputs come first, so that what a
    step reads of them is little, but the last ones that fill the slots begin with the longest: where outputs are longer
    for longer inputs they end together. When no input is left, slots become a quarter whenever three quarters have
    ended. Where `max_length` is great, slots have room for a quarter of it first, since what every step reads grows
    with the room, and outputs are seldom as long as they may be. Inputs that are longer than that themselves begin in
    the whole room, after the others; so do, once more, the few sequences that turn out to be longer.

    Compiled shapes: a decoding loop and a refill for every bucket that is used (as many sequences as slots must want
    it), a move between one and the next, two refills more for the last that begin, one beginning, and a loop and a move
    for each number of slots at the end; all of it twice where there are two rooms. No more, however many sequences
    there are.

    Args:
      sequences: inputs or prompts; cut at the longest bucket.
      length_buckets: input lengths that are compiled for, rising.
      tokens_per_batch: tokens of inputs and outputs that all slots hold.
      max_length: number of tokens at most, the EOS included; at least 1.
      rules: of the parameters' sharding.
      on_rows: called with the numbers of sequences that have ended, in no order, and for each its tokens, int
        [max_length], and their log-probability, while the device goes on. Every sequence comes once.

    Raises:
      Preempted: the process was asked to stop.
    """
    todo, longest = np.arange(len(sequences)), length_buckets[-1]
    sizes = np.array([min(len(sequence), longest) for sequence in sequences], int)
    head_VD = head_of(config, mesh)(params)
    for room in rooms(max_length):
        now = todo[sizes[todo] <= _LONG * room] if room < max_length else todo
        cut: list[int] = []
        programs = programs_of(config, mesh, rules, room, eos_id)
        waiting = [sequences[i] for i in now]
        found = _in_room(
            programs, config.pad_id, params, head_VD, mesh, waiting, length_buckets, tokens_per_batch, room
        )
        for numbers_F, written_F, tokens_FT, log_prob_F in found:
            numbers_F = now[numbers_F]
            cut_F = (room < max_length) & (written_F == room) & (tokens_FT[:, -1] != eos_id)
            cut.extend(numbers_F[cut_F])
            if not cut_F.all():
                behind = ((0, 0), (0, max_length - room))
                tokens = np.pad(tokens_FT[~cut_F], behind, constant_values=config.pad_id)
                on_rows(numbers_F[~cut_F], list(zip(tokens, log_prob_F[~cut_F], strict=True)))
        todo = np.union1d(np.setdiff1d(todo, now), np.array(cut, int))


def rooms(max_length: int) -> tuple[int, ...]:
    """Numbers of tokens that slots have room for, one after the other: a quarter of a great `max_length` first."""
    return (max_length // 4, max_length) if max_length >= _TWO_ROOMS else (max_length,)


def refilled_at_once(slots: int, groups: int) -> int:
    """How many slots are refilled together: an eighth, as many of each group."""
    return max(slots // groups // _REFILLED, 1) * groups


class Refill(NamedTuple):
    """One refill of a schedule.

    Attributes:
      slots, length: how many slots there are then, and the length of their inputs.
      indices: of the sequences that begin, at most `refilled_at_once`.
      bucket: what they are padded to.
    """

    slots: int
    length: int
    indices: np.ndarray
    bucket: int


def schedule(
    sizes: Sequence[int], buckets: Sequence[int], slots_of: Callable[[int], int], groups: int
) -> Iterator[Refill]:
    """In which order sequences begin: by rising length, but the last that fill all slots by falling length.

    Args:
      sizes: of the inputs, in tokens.
      slots_of: bucket -> slots, which never rise.
      groups: of slots, as in `refilled_at_once`.
    """
    order = np.array(sorted(range(len(sizes)), key=lambda i: (sizes[i], i)), int)
    if not len(order):
        return
    length = batching.bucket_of(sizes[order[-1]], buckets)
    slots = slots_of(length)
    first, last = np.split(order, [max(len(order) - slots, 0)])
    for step in batching.plan(
        [sizes[i] for i in first], buckets, lambda bucket: refilled_at_once(slots_of(bucket), groups), slots_of
    ):
        yield Refill(slots_of(step.bucket), step.bucket, first[step.indices], step.bucket)
    rows = refilled_at_once(slots, groups)
    refills = [last[::-1][start : start + rows] for start in range(0, len(last), rows)]
    # Two buckets, whatever they are: padding is little, and so is what is compiled.
    for half in (refills[: -(-len(refills) // 2)], refills[-(-len(refills) // 2) :]):
        for indices in half:
            yield Refill(slots, length, indices, batching.bucket_of(sizes[half[0][0]], buckets))


def _in_room(
    programs: Programs,
    pad_id: int,
    params: Any,
    head_VD: jax.Array | None,
    mesh: Mesh,
    sequences: Sequence[np.ndarray],
    length_buckets: Sequence[int],
    tokens_per_batch: int,
    room: int,
) -> Iterator[Found]:
    """Decodes all sequences up to `room` tokens; yields what is found of them, as NumPy arrays."""
    groups = batch_shards(mesh)
    most = batching.most_rows(len(sequences), 2, _FEW_SLOTS, groups)

    def slots_of(bucket: int) -> int:
        return min(batching.rows_per_batch(bucket + room, tokens_per_batch, groups), most)

    def go_on(slots: Slots, count: int) -> Slots:
        return one_at_a_time(programs.extend(params, slots, np.int32(count), head_VD), mesh)

    waiting: list[Found] = []

    def read(in_flight: int) -> Iterator[Found]:
        while len(waiting) > in_flight:
            found = Found(*map(np.asarray, jax.device_get(waiting.pop(0))))
            held_F = found.ids_F >= 0
            if held_F.any():
                yield Found(*(array[held_F] for array in found))

    slots, rows, length = None, 0, 0
    for step in schedule([len(s) for s in sequences], length_buckets, slots_of, groups):
        if watchdog.stop_here():
            raise Preempted(STOPPED)
        if slots is None:
            slots = programs.empty(params, step.slots, step.length)
        elif (rows, length) != (step.slots, step.length):
            slots, found = programs.move(go_on(slots, (rows - step.slots) // groups), step.slots, step.length)
            waiting.append(for_every_host(found, mesh))
        rows, length = step.slots, step.length
        refilled = refilled_at_once(rows, groups)
        tokens_FS = np.full((refilled, step.bucket), pad_id, np.int32)
        ids_F = np.full(refilled, -1, np.int32)
        for row, index in enumerate(step.indices):
            cut = sequences[index][: step.bucket]
            tokens_FS[row, : len(cut)] = cut
            ids_F[row] = index
        slots = go_on(slots, refilled // groups)
        slots, found = programs.refill(params, slots, *spread_batch((tokens_FS, ids_F), mesh), length)
        waiting.append(for_every_host(found, mesh))
        yield from read(_IN_FLIGHT)
    if slots is not None:
        while (fewer := rows // groups // _SHRINK * groups) >= _LEAST_ROWS * groups:
            if watchdog.stop_here():
                raise Preempted(STOPPED)
            slots, found = programs.move(go_on(slots, (rows - fewer) // groups), fewer, length)
            waiting.append(for_every_host(found, mesh))
            yield from read(_IN_FLIGHT)
            rows = fewer
        waiting.append(for_every_host(Found.all(go_on(slots, rows // groups)), mesh))
    yield from read(0)
