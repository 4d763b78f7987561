"""Sums over matrices of a vocabulary's size, in as few passes over memory as each platform allows.

XLA's CPU backend writes most of what it is to sum to memory first, and reads a wide matrix row by row to sum its
columns. There a large matrix is read in blocks of rows that fit a core's cache, and nothing of its size is written; on
every other platform these are the plain formulas, which their compilers fuse.

Axes: R rows, C columns, r rows of a block.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

LARGE = 2**24  # elements from which on a matrix is read in blocks
BLOCK = 2**18  # elements of a block: 1 MiB of f32


def row_blocks(rows: int, columns: int, elements: int = BLOCK) -> int:
    """Into how many equal blocks of rows a matrix is cut: the fewest with at most `elements` each, or one a row."""
    return next(n for n in range(1, rows + 1) if rows % n == 0 and (rows // n * columns <= elements or n == rows))


def block(x: jax.Array, index: jax.Array, count: int) -> jax.Array:
    """Block `index` of `count` equal ones along the first axis."""
    rows = x.shape[0] // count
    return jax.lax.dynamic_slice_in_dim(x, index * rows, rows)


def by_size(x: jax.Array, in_blocks: Callable, plain: Callable) -> Callable[..., Any]:
    """`in_blocks` for a large matrix x where the program is lowered for a CPU, else `plain`."""
    if x.ndim != 2 or x.size < LARGE:
        return plain
    return lambda *args: jax.lax.platform_dependent(*args, cpu=in_blocks, default=plain)


def mean_squares(x: jax.Array, axes: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The means of squares along the one and along the other axis, each without it."""

    def plain(x: jax.Array) -> tuple[jax.Array, ...]:
        squared = jnp.square(x)
        return tuple(jnp.mean(squared, axis=axis) for axis in axes)

    def in_blocks(x_RC: jax.Array) -> tuple[jax.Array, ...]:
        rows, columns = x_RC.shape
        count = row_blocks(rows, columns)

        def body(sum_C, index):
            squared_rC = jnp.square(block(x_RC, index, count))
            return sum_C + jnp.sum(squared_rC, axis=0), jnp.sum(squared_rC, axis=1)

        sum_C, sum_R = jax.lax.scan(body, jnp.zeros(columns, x_RC.dtype), jnp.arange(count))
        means = (sum_C / rows, sum_R.reshape(rows) / columns)
        return tuple(means[axis] for axis in axes)

    return by_size(x, in_blocks, plain)(x)


def mean_square_of_product(x: jax.Array, factors: Sequence[jax.Array], axes: tuple[int, ...]) -> jax.Array:
    """The mean over `axes`, which stay with size 1, of the square of x times all factors.

    Args:
      factors: in the rank of x, of size 1 where they are broadcast.
      axes: all axes of a matrix, or those of each of several stacked arrays.
    """

    def plain(x: jax.Array, *factors: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(math.prod(factors, start=x)), axis=axes, keepdims=True)

    def in_blocks(x_RC: jax.Array, *factors: jax.Array) -> jax.Array:
        count = row_blocks(*x_RC.shape)

        def body(total, index):
            own = (block(f, index, count) if f.shape[0] > 1 else f for f in factors)
            product_rC = math.prod(own, start=block(x_RC, index, count))
            return total + jnp.sum(jnp.square(product_rC)), None

        total, _ = jax.lax.scan(body, jnp.zeros((), x_RC.dtype), jnp.arange(count))
        return (total / float(x_RC.size)).reshape(1, 1)  # the sizes of whole stacks exceed an int32

    return by_size(x, in_blocks, plain)(x, *factors)


def softmax_statistics(
    logits_RC: jax.Array, targets_R: jax.Array, *, with_sum: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Of each row of logits: log sum exp, the target's logit, whether it is the first of the greatest, and, where
    asked for, the sum of all logits less the target's."""

    def plain(logits_RC: jax.Array, targets_R: jax.Array) -> tuple:
        max_R = jnp.max(logits_RC, axis=-1)
        log_z_R = jnp.log(jnp.sum(jnp.exp(logits_RC - max_R[:, None]), axis=-1)) + max_R
        target_R = jnp.take_along_axis(logits_RC, targets_R[:, None], axis=-1)[:, 0]
        ids_C = jnp.arange(logits_RC.shape[1], dtype=jnp.int32)
        # argmax, with no index array
        best_R = jnp.min(jnp.where(logits_RC == max_R[:, None], ids_C, len(ids_C)), axis=-1)
        sum_R = jnp.sum(logits_RC - target_R[:, None], axis=-1) if with_sum else None
        return log_z_R, target_R, best_R == targets_R, sum_R

    def in_blocks(logits_RC: jax.Array, targets_R: jax.Array) -> tuple:
        # Of several rows, so that the cores share a block.
        count = row_blocks(*logits_RC.shape, elements=16 * BLOCK)
        of_block = functools.partial(block, count=count)
        found = jax.lax.map(lambda i: plain(of_block(logits_RC, i), of_block(targets_R, i)), jnp.arange(count))
        return jax.tree.map(lambda x: x.reshape(-1), found)

    return by_size(logits_RC, in_blocks, plain)(logits_RC, targets_R)
