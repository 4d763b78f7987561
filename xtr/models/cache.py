"""Rows of a decoding cache: each input's continuations (beams, samples, choices) lie side by side.

Axes: B inputs, C continuations of an input; row b*C + c is continuation c of input b.
"""

import jax
import jax.numpy as jnp


def repeat_rows(array: jax.Array, times: int, axis: int) -> jax.Array:
    """`array` with each row of `axis` `times` times in a row."""
    return jnp.repeat(array, times, axis=axis)


def reorder_rows(array: jax.Array, source_BC: jax.Array, axis: int) -> jax.Array:
    """Row b*C + c of the result, along `axis`, is row b*C + source_BC[b, c] of `array`.

    Each input's rows stay among themselves, so that a batch sharded by inputs exchanges nothing.
    """
    split = array.reshape(*array.shape[:axis], *source_BC.shape, *array.shape[axis + 1 :])
    index = source_BC.reshape((1,) * axis + source_BC.shape + (1,) * (array.ndim - axis - 1))
    return jnp.take_along_axis(split, index, axis=axis + 1).reshape(array.shape)
