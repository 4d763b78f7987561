"""What incremental decoding keeps: the cache of every family, and operations on its rows.

Axes: L layers, B inputs, C continuations of an input (beams, samples, choices), N = B*C rows, H heads, S input length,
M places, K head size, G groups of rows, F rows of a group that an operation is about. Row b*C + c is continuation c of
input b.

A group is a run of N/G rows. Rows move inside their group only, so that rows sharded by groups exchange nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xtr.models.layers import Constrain


def repeat_rows(array: jax.Array, times: int, axis: int = 0) -> jax.Array:
    """`array` with each row of `axis` `times` times in a row."""
    return jnp.repeat(array, times, axis=axis)


def reorder_rows(array: jax.Array, source_BC: jax.Array, axis: int = 0) -> jax.Array:
    """Row b*C + c of the result, along `axis`, is row b*C + source_BC[b, c] of `array`.

    Each input's rows stay among themselves, so that a batch sharded by inputs exchanges nothing.
    """
    split = array.reshape(*array.shape[:axis], *source_BC.shape, *array.shape[axis + 1 :])
    index = source_BC.reshape((1,) * axis + source_BC.shape + (1,) * (array.ndim - axis - 1))
    return jnp.take_along_axis(split, index, axis=axis + 1).reshape(array.shape)


def take_rows(array: jax.Array, places_GF: jax.Array) -> jax.Array:
    """[G*F, ...]: of each group of `array`'s rows those at its places."""
    split = array.reshape(places_GF.shape[0], -1, *array.shape[1:])
    return jax.vmap(lambda rows, places: rows[places])(split, places_GF).reshape(-1, *array.shape[1:])


def put_rows(array: jax.Array, rows: jax.Array, places_GF: jax.Array) -> jax.Array:
    """`array` with [G*F, ...] `rows` at their places, the inverse of `take_rows`."""
    split = array.reshape(places_GF.shape[0], -1, *array.shape[1:])
    rows = rows.astype(array.dtype).reshape(*places_GF.shape, *array.shape[1:])
    return jax.vmap(lambda all_, places, own: all_.at[places].set(own))(split, places_GF, rows).reshape(array.shape)


class Cache(NamedTuple):
    """The cache of mT5 and of BLOOM: keys and values, in the compute dtype, of inputs and of what rows have written.

    Inputs (an encoder's states, a prompt) are held once for all their continuations. Every layer has arrays of its own:
    a step writes one place of each and copies nothing. A head's places lie side by side, K innermost, as its products
    with a query read them.

    Attributes:
      own: of each layer keys and values, NHMK; the M places are a ring (see `age`).
      inputs: of each layer keys and values, BHSK.
      seen_BS: bool, True at the places of `inputs` that are attended to.
    """

    own: tuple[tuple[jax.Array, jax.Array], ...]
    inputs: tuple[tuple[jax.Array, jax.Array], ...]
    seen_BS: jax.Array

    @staticmethod
    def empty(inputs: tuple[tuple[jax.Array, jax.Array], ...], seen_BS: jax.Array, max_length: int) -> "Cache":
        """The cache before the first step, for `max_length` places."""
        batch, heads, _, size = inputs[0][0].shape
        own = jnp.zeros((batch, heads, max_length, size), inputs[0][0].dtype)
        return Cache(((own, own),) * len(inputs), inputs, seen_BS)

    def repeat(self, times: int) -> "Cache":
        """The cache for `times` continuations of each input: the rows of what is written repeated."""
        return self._replace(own=jax.tree.map(lambda a: repeat_rows(a, times), self.own))

    def reorder(self, source_BC: jax.Array) -> "Cache":
        """Row b*C + c of the result is row b*C + source_BC[b, c] of this cache."""
        return self._replace(own=jax.tree.map(lambda a: reorder_rows(a, source_BC), self.own))

    def insert(self, new: "Cache", places_GF: jax.Array) -> "Cache":
        """The cache whose rows at `places_GF` are those of `new`, in which nothing is written yet."""
        inputs, seen_BS = jax.tree.map(lambda a, b: put_rows(a, b, places_GF), self[1:], new[1:])
        return self._replace(inputs=inputs, seen_BS=seen_BS)

    def constrain(self, constrain: Constrain) -> "Cache":
        """The cache with its rows spread as a batch's are and its heads as heads are."""

        def spread(array: jax.Array) -> jax.Array:
            return constrain(array, ("batch", "heads", "length", "kv"))

        own, inputs = jax.tree.map(spread, (self.own, self.inputs))
        return Cache(own, inputs, constrain(self.seen_BS, ("batch", "length")))

    def select(self, places_GF: jax.Array, length: int) -> "Cache":
        """The rows at `places_GF` alone, with room for inputs of `length` tokens."""
        own, inputs, seen_BS = jax.tree.map(lambda a: take_rows(a, places_GF), tuple(self))
        more = length - seen_BS.shape[1]
        inputs = jax.tree.map(lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, more), (0, 0))), inputs)
        return Cache(own, inputs, jnp.pad(seen_BS, ((0, 0), (0, more))))


def age(place: jax.Array, max_length: int) -> jax.Array:
    """How many steps ago each place of the ring was written when `place` is written now: int32 [M], 0 at `place`.

    Places are written in turn, and a row sees those that are no older than itself. No row has more tokens than there
    are places, so that a ring is enough, wherever on it a row began.
    """
    age_M = place - jnp.arange(max_length, dtype=jnp.int32)
    return jnp.where(age_M < 0, age_M + max_length, age_M)
