"""Puts stored arrays on devices: each process reads only the slices that its own devices hold, in bounded pieces.

The host holds no more than the pieces under way (`IN_FLIGHT`), whatever the size of the arrays.
"""

import collections
import ctypes
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtr import storage
from xtr.checkpoints import source
from xtr.checkpoints.layout import Part, arrange
from xtr.checkpoints.source import Index, StoredArray
from xtr.errors import UserError
from xtr.progress import progress

PIECE = 32 << 20  # bytes read and placed at a time
IN_FLIGHT = 192 << 20  # bytes of pieces that are being read or wait to be placed
READERS = 8
TRIM_FROM = 8 << 20  # bytes of a piece after which freed memory is given back


@dataclasses.dataclass(frozen=True)
class Target:
    """An array that is to be made, and where it lies.

    Attributes:
      shape, dtype, sharding: of the array to be.
      parts: what is stored of it, together all of it.
      buffer: an array of that shape, dtype and sharding whose memory is taken over (it cannot be used afterwards); None
        allocates.
    """

    shape: tuple[int, ...]
    dtype: Any
    sharding: jax.sharding.Sharding
    parts: Sequence[tuple[Part, StoredArray]]
    buffer: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A slice to read at once: of target number `target`, stored in `array`; `index` lacks the layers axis where the
    array holds one layer."""

    target: int
    part: Part
    array: StoredArray
    index: Index

    def full_index(self) -> Index:
        layer = self.part.layer
        return self.index if layer is None else (slice(layer, layer + 1), *self.index)

    def read(self) -> np.ndarray:
        return self.array.read(self.part.stored_index(self.index))


def _shards(target: Target) -> dict[jax.Device, Index]:
    """The slice that each device of this process holds."""
    return {
        device: tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, target.shape, strict=True))
        for device, index in target.sharding.addressable_devices_indices_map(target.shape).items()
    }


def _runs(slices: Sequence[slice]) -> list[slice]:
    """The union of slices of one axis as few slices as possible."""
    out: list[slice] = []
    for start, stop in sorted({(s.start, s.stop) for s in slices}):
        if out and start <= out[-1].stop:
            out[-1] = slice(out[-1].start, max(stop, out[-1].stop))
        else:
            out.append(slice(start, stop))
    return out


def _intersect(a: Index, b: Index) -> Index | None:
    both = tuple(slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return None if any(s.start >= s.stop for s in both) else both


def _cut(part: Part, array: StoredArray, box: Index) -> Iterator[Index]:
    """Cuts a box of a parameter into pieces of at most PIECE bytes: along the axis that is stored first, as long as
    that goes by whole chunks, then along the next."""
    held = part.held_axes()
    grain = array.grain or (1,) * len(part.shape)
    # Along a joined axis, a step of its first stored axis is as long as those after it.
    steps = [grain[axes[0]] * math.prod(part.shape[a] for a in axes[1:]) for axes in held]
    order = sorted(range(len(box)), key=lambda axis: held[axis][0])
    sizes = [s.stop - s.start for s in box]

    def touched() -> int:
        index = tuple(slice(s.start, s.start + size) for s, size in zip(box, sizes, strict=True))
        return array.touched(part.stored_index(index))

    for axis in order:
        while touched() > PIECE and sizes[axis] > steps[axis]:
            sizes[axis] = -(-sizes[axis] // (2 * steps[axis])) * steps[axis]

    def starts(axis: int) -> list[int]:
        """Where pieces begin: at multiples of their size, so that they meet the chunks."""
        first, stop, size = box[axis].start, box[axis].stop, sizes[axis]
        return [first] if size >= stop - first else [first, *range((first // size + 1) * size, stop, size)]

    for corner in itertools.product(*(starts(axis) for axis in range(len(box)))):
        ends = (
            s.stop if size >= s.stop - s.start else min((at // size + 1) * size, s.stop)
            for at, size, s in zip(corner, sizes, box, strict=True)
        )
        yield tuple(slice(at, end) for at, end in zip(corner, ends, strict=True))


def _pieces(number: int, target: Target) -> Iterator[_Piece]:
    shards = list(_shards(target).values())
    boxes = list(itertools.product(*(_runs(axis) for axis in zip(*shards, strict=True)))) if target.shape else [()]
    for part, array in target.parts:
        for box in boxes:
            if part.layer is not None:
                if not box[0].start <= part.layer < box[0].stop:
                    continue
                box = box[1:]
            for index in _cut(part, array, box):
                piece = _Piece(number, part, array, index)
                if any(_intersect(piece.full_index(), shard) is not None for shard in shards):
                    yield piece


@functools.partial(jax.jit, static_argnames="axes", donate_argnums=0)
def _place(buffer: jax.Array, block: jax.Array, start: jax.Array, *, axes: tuple[tuple[int, ...], ...]) -> jax.Array:
    """Writes a block of a stored array into a shard, in place."""
    arranged = arrange(block, axes).astype(buffer.dtype)
    arranged = arranged.reshape((1,) * (buffer.ndim - arranged.ndim) + arranged.shape)
    return jax.lax.dynamic_update_slice(buffer, arranged, tuple(start))


def _distribute(piece: _Piece, block: np.ndarray, shards: dict[jax.Device, Index], buffers: dict) -> None:
    """Puts what each shard needs of a block into it; returns when that is done, so that the block can go."""
    part, covered = piece.part, piece.part.stored_index(piece.index)
    layered = part.layer is not None
    touched = []
    for device, shard in shards.items():
        wanted = _intersect(piece.full_index(), shard)
        if wanted is None:
            continue
        if isinstance(buffers[device], np.ndarray):
            place = tuple(slice(w.start - s.start, w.stop - s.start) for w, s in zip(wanted, shard, strict=True))
            values = part.cut(block, covered, wanted[layered:])
            buffers[device][place] = values[None] if layered else values
            continue
        start = np.array([w.start - s.start for w, s in zip(wanted, shard, strict=True)], np.int32)
        if part.covers_exactly(wanted[layered:]):
            exact = part.stored_index(wanted[layered:])
            inside = zip(exact, covered, strict=True)
            block_of_shard = block[tuple(slice(e.start - c.start, e.stop - c.start) for e, c in inside)]
            axes = part.held_axes()
        else:
            block_of_shard = part.cut(block, covered, wanted[layered:])
            axes = tuple((axis,) for axis in range(block_of_shard.ndim))
        buffers[device] = _place(buffers[device], jax.device_put(block_of_shard, device), start, axes=axes)
        touched.append(buffers[device])
    jax.block_until_ready(touched)


@functools.cache
def _malloc_trim() -> Callable[[int], Any]:
    """The C library's function that gives freed memory back to the system, where it has one (glibc).

    It keeps what its threads have freed otherwise, and several threads that read chunks of many megabytes free much.
    """
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)


def _allocate(targets: Sequence[Target]) -> list[dict[jax.Device, jax.Array | np.ndarray]]:
    """For every target the memory of each device's shard: the buffer that came with the target, or zeros.

    Small targets are put together on the host, which saves the compiling of `_place` for every shape.
    """
    held = [sum(math.prod(s.stop - s.start for s in x) for x in _shards(t).values()) for t in targets]
    on_host = [count * np.dtype(t.dtype).itemsize <= PIECE for count, t in zip(held, targets, strict=True)]
    missing = [t for t, small in zip(targets, on_host, strict=True) if not small and t.buffer is None]
    made = iter(
        jax.jit(lambda: [jnp.zeros(t.shape, t.dtype) for t in missing], out_shardings=[t.sharding for t in missing])()
        if missing
        else []
    )
    buffers = []
    for target, small in zip(targets, on_host, strict=True):
        if small:
            shapes = {device: [s.stop - s.start for s in shard] for device, shard in _shards(target).items()}
            buffers.append({device: np.empty(shape, target.dtype) for device, shape in shapes.items()})
            continue
        array = next(made) if target.buffer is None else target.buffer
        buffers.append({shard.device: shard.data for shard in array.addressable_shards})
    return buffers


def fill(targets: Sequence[Target], what: str) -> list[jax.Array]:
    """Reads and places every target.

    Args:
      what: names the checkpoint in messages.

    Raises:
      UserError: arrays that turn out to be unreadable; one error names all of them.
      OSError, ValueError: one cannot be read now (`storage.PASSING`).
    """
    buffers = _allocate(targets)
    shards = [_shards(target) for target in targets]
    faults: dict[str, str] = {}
    waiting: collections.deque[tuple[_Piece, int, Future]] = collections.deque()
    in_flight = 0
    pieces = itertools.chain.from_iterable(_pieces(i, target) for i, target in enumerate(targets))
    with ThreadPoolExecutor(READERS) as pool, progress("read checkpoint", len(targets)) as bar:
        upcoming = next(pieces, None)
        while upcoming is not None or waiting:
            while upcoming is not None:
                cost = upcoming.array.touched(upcoming.part.stored_index(upcoming.index))
                if waiting and in_flight + cost > IN_FLIGHT:
                    break
                if upcoming.part.name not in faults:
                    waiting.append((upcoming, cost, pool.submit(upcoming.read)))
                    in_flight += cost
                upcoming = next(pieces, None)
            if not waiting:
                break
            piece, cost, future = waiting.popleft()
            in_flight -= cost
            try:
                block = future.result()
                _distribute(piece, block, shards[piece.target], buffers[piece.target])
                del block
                if cost > TRIM_FROM:
                    _malloc_trim()(0)
            except source.UNREADABLE as error:
                storage.raise_if_passing(error)
                shape = piece.part.shape
                faults.setdefault(piece.part.name, f"cannot be read at the array {piece.part.name} {shape}: {error}")
            del future
            next_piece = waiting[0][0] if waiting else upcoming
            following = len(targets) if next_piece is None else next_piece.target
            if following != piece.target:
                own = buffers[piece.target]
                own |= {device: jax.device_put(b, device) for device, b in own.items() if isinstance(b, np.ndarray)}
                bar.advance(following - piece.target)
    if faults:
        raise UserError(f"{what} is damaged:\n  " + "\n  ".join(faults.values()))
    return [
        jax.make_array_from_single_device_arrays(target.shape, target.sharding, list(own.values()))
        for target, own in zip(targets, buffers, strict=True)
    ]
