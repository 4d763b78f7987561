"""A digest of an array that does not depend on how the array is spread over devices and processes.

Each element counts as its bits, an unsigned whole number b, at its place i of the flattened array: the digest is the
sum of b * (2 i + 1) modulo 2**64. Sums over parts add up to that of the whole, so each process sums what it holds. A
change of one element, by whatever bits, always changes the digest, since b < 2**64 and an odd factor has an inverse; of
random changes of several elements one in 2**64 goes unseen.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

MODULUS = 2**64
_BLOCK = 2**18  # elements summed at once: they stay in a core's cache
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def of_part(part: np.ndarray, starts: Sequence[int], shape: Sequence[int]) -> int:
    """The share of one part in an array's digest.

    Args:
      part: elements of 1, 2, 4 or 8 bytes; of complex numbers both halves count as elements.
      starts: index of the part's first element in each dimension of the array.
      shape: of the whole array.
    """
    part = np.ascontiguousarray(part)
    if part.dtype.kind == "c":
        part = part.view(part.real.dtype).reshape(*part.shape, 2)
        starts, shape = (*starts, 0), (*shape, 2)
    if not part.size:
        return 0
    bits = part.reshape(-1).view(_WORDS[part.dtype.itemsize])
    if part.ndim == 0:
        return int(bits[0])
    *leading, columns = part.shape if part.ndim > 1 else (*part.shape, 1)
    strides = np.cumprod([1, *reversed(shape[1:])], dtype=np.uint64)[::-1]
    at = np.zeros(1, np.uint64)  # of the first element of each row, in the flattened array
    for size, start, stride in zip(leading, starts, strides, strict=False):
        at = (at[:, None] + np.arange(start, start + size, dtype=np.uint64) * stride).reshape(-1)
    if part.ndim > 1:
        at += np.uint64(starts[-1])
    factors = 2 * np.arange(columns, dtype=np.uint64) + np.uint64(1)
    rows, total = bits.reshape(-1, columns), 0
    step = max(1, _BLOCK // columns)
    for first in range(0, len(rows), step):
        words = rows[first : first + step].astype(np.uint64)
        # Products and sums wrap around, which is what modulo 2**64 asks for.
        sums = words.sum(axis=1)
        total += int((words * factors).sum()) + int((2 * at[first : first + step] * sums).sum())
    return total % MODULUS


def is_own(array: jax.Array | np.ndarray) -> bool:
    """Whether an array lies on this process's devices alone, and each process may have one of its own."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def own_parts(array: jax.Array | np.ndarray) -> list[tuple[tuple[int, ...], Any]]:
    """(index of its first element, array) of the parts that this process counts: all of its own array; of one that
    several processes hold, parts that make up the whole over all of them."""
    if is_own(array):
        return [((0,) * array.ndim, array)]

    def starts(index: tuple[slice, ...]) -> tuple[int, ...]:
        return tuple(part.indices(size)[0] for part, size in zip(index, array.shape, strict=True))

    return [(starts(shard.index), shard.data) for shard in array.addressable_shards if shard.replica_id == 0]


def of_parts(parts: Sequence[tuple[tuple[int, ...], Any]], shape: Sequence[int]) -> int:
    """The share of several parts in the digest of an array of that shape."""
    return sum(of_part(np.asarray(part), starts, shape) for starts, part in parts) % MODULUS
