"""Parameters that are kept in bfloat16 between steps, rounded up or down by chance.

A step of fine-tuning moves a parameter by some 0.1 % of its size, and neighbours in bfloat16 lie 0.4 to 0.8 % apart:
rounded to the nearest, most parameters would never move. Rounded up with a probability that grows with the distance
from the lower neighbour, they move as they should on average (Gupta et al. 2015, arXiv 1502.02551, section 3).
"""

from typing import Any

import jax
import jax.numpy as jnp

from xtr.models.spec import flatten, path_number, unflatten


def stored(params: Any, specs: Any, step: jax.Array) -> Any:
    """f32 parameters in the dtypes of their specs: f32 as they are, bfloat16 rounded by chance.

    The same step gives the same rounding, on every mesh.
    """
    flat = flatten(params)
    for path, spec in flatten(specs).items():
        if spec.dtype != "float32":
            key = jax.random.fold_in(jax.random.key(path_number(path)), step)
            flat[path] = to_bfloat16(flat[path], key)
    return unflatten(flat)


def to_bfloat16(x: jax.Array, key: jax.Array) -> jax.Array:
    """f32 numbers as bfloat16, each rounded to one of its two neighbours so that its mean is the number itself.

    What is a bfloat16 already stays as it is, infinities and NaNs too.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    # bfloat16 is the upper half of f32: a carry out of the lower half is a step away from zero.
    upper = ((bits + chance) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))
