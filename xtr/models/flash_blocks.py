"""What both kernels of flash attention are made of: sizes of blocks, scores of a block, strips of the bias.

Axes: B batch, P heads in a group, K head size, L = P*K the lanes of a group, Q query length, M key length, W bias
values of a head, and C = 128 the rows of a strip.

The bias of a block is constant along its diagonals. A strip [C, W] per head, whose row r is the head's vector moved
right by r, holds every block of C keys as a slice at a multiple of C lanes: it is built in VMEM once a head, and read
by all examples. Its gradient is summed in a strip of the same form, whose diagonals are summed once a head.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
SUBLANES = 8
MAX_BLOCK = 512
MASKED = -1e10  # the same as that of plain attention
UNSEEN_KEY = -1  # the id of keys that nobody sees: no query has it


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of a call.

    Attributes:
      batch, heads, head_dim: B, H, K.
      queries, keys: lengths Q and M; they need be no multiples of the blocks.
      causal: whether a query sees keys up to its own position only.
      biased: whether there is a bias.
      interpret: run by Pallas' interpreter, on any device.
    """

    batch: int
    heads: int
    head_dim: int
    queries: int
    keys: int
    causal: bool
    biased: bool
    interpret: bool

    @property
    def group(self) -> int:
        """Heads that fill the lanes of a block together."""
        return max(1, LANES // self.head_dim)

    @property
    def groups(self) -> int:
        return pl.cdiv(self.heads, self.group)

    @property
    def padded_heads(self) -> int:
        return self.groups * self.group

    @property
    def lanes(self) -> int:
        return self.group * self.head_dim

    @property
    def query_block(self) -> int:
        return _block(self.queries)

    @property
    def key_block(self) -> int:
        return _block(self.keys)

    @property
    def query_blocks(self) -> int:
        return pl.cdiv(self.queries, self.query_block)

    @property
    def key_blocks(self) -> int:
        return pl.cdiv(self.keys, self.key_block)

    @property
    def padded_queries(self) -> int:
        return self.query_blocks * self.query_block

    @property
    def padded_keys(self) -> int:
        return self.key_blocks * self.key_block

    @property
    def width(self) -> int:
        """W: place t of a head's vector holds the bias of offset `padded_keys - t` (key minus query position)."""
        return self.padded_queries + self.padded_keys


def _block(length: int) -> int:
    """The largest multiple of LANES up to MAX_BLOCK that divides the length, itself rounded up to one."""
    tiles = pl.cdiv(length, LANES)
    return LANES * max(n for n in range(1, MAX_BLOCK // LANES + 1) if tiles % n == 0)


def dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The product over axes `contract` of a and b, in f32."""
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)


def head(x: jax.Array, p: int, layout: Layout) -> jax.Array:
    """[..., L] with the lanes of other heads zeroed: a product over all lanes is then one over head p's alone."""
    if layout.group == 1:
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, layout.lanes), 1)
    own = (lane >= p * layout.head_dim) & (lane < (p + 1) * layout.head_dim)
    return x * own.astype(x.dtype)


def real_rows(x: jax.Array, first: Any, length: int, block: int) -> jax.Array:
    """Rows of a block, those behind the end of the array (whatever was read there) zeroed."""
    if length % block == 0:
        return x
    row = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0)
    return jnp.where(first + row < length, x, jnp.zeros((), x.dtype))


def _as_column(row: jax.Array, lanes: int) -> jax.Array:
    """[1, n] -> [n, lanes], every lane the same."""
    square = jnp.broadcast_to(row, (LANES, row.shape[1])).T
    return jnp.concatenate([square] * (lanes // LANES), axis=1)


def seen_keys(query_ids_ref: Any, key_ids_ref: Any, i: Any, j: Any, layout: Layout) -> jax.Array:
    """Which keys of block j the queries of block i see, [keys, queries]."""
    seen = _as_column(key_ids_ref[0], layout.query_block) == query_ids_ref[0]
    if layout.causal:
        shape = (layout.key_block, layout.query_block)
        key = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + j * layout.key_block
        query = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + i * layout.query_block
        seen &= key <= query
    return seen


def scores_of(k, q_p, p: int, seen, fill, strip_ref: Any, i: Any, j: Any, layout: Layout) -> jax.Array:
    """Scores [keys, queries] of a head; `fill` where not seen; keys behind the end are infinitely unlikely."""
    scores = dot(k, q_p, (1, 1))
    if layout.biased:
        scores += jnp.concatenate([strip_ref[p, :, at] for at in strip_slices(i, j, layout)], axis=0)
    scores = jnp.where(seen, scores, fill)
    if layout.keys % layout.key_block:
        key = jax.lax.broadcasted_iota(jnp.int32, (layout.key_block, 1), 0) + j * layout.key_block
        scores = jnp.where(key < layout.keys, scores, -jnp.inf)
    return scores


def strip_slices(i: Any, j: Any, layout: Layout) -> list[pl.Slice]:
    """Where the bias of each LANES keys of block j for the queries of block i stands in a strip."""
    start = layout.padded_keys + i * layout.query_block - j * layout.key_block
    return [
        pl.ds(pl.multiple_of(start - first, LANES), layout.query_block) for first in range(0, layout.key_block, LANES)
    ]


def _moved(x: jax.Array, lanes: int) -> jax.Array:
    """x with every row moved right by `lanes`, around the end."""
    lanes %= x.shape[1]
    return pltpu.roll(x, lanes, 1) if lanes else x


def _skewed(x: jax.Array, sign: int) -> jax.Array:
    """x [SUBLANES, W], row r moved right by sign * r: by 1, 2, 4, each where the row's number has that bit.

    A strided rotation would do the same, but not every TPU has one.
    """
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    for bit in (1, 2, 4):
        x = jnp.where(row & bit != 0, _moved(x, sign * bit), x)
    return x


def write_strip(bias_ref: Any, strip_ref: Any, layout: Layout) -> None:
    """Writes the strips [P, C, W] of the vectors [1, P, W] of a group's heads."""
    for p in range(layout.group):
        first = _skewed(jnp.broadcast_to(bias_ref[0, p : p + 1], (SUBLANES, layout.width)), 1)
        for row in range(0, LANES, SUBLANES):
            strip_ref[p, row : row + SUBLANES, :] = _moved(first, row)


def write_diagonal_sums(strip_ref: Any, bias_ref: Any, layout: Layout) -> None:
    """Sums strips [P, C, W] to vectors [1, P, W]: the transpose of `write_strip`."""
    for p in range(layout.group):
        total = strip_ref[p, :SUBLANES, :]
        for row in range(SUBLANES, LANES, SUBLANES):
            total += _moved(strip_ref[p, row : row + SUBLANES, :], -row)
        bias_ref[0, p : p + 1] = jnp.sum(_skewed(total, -1), axis=0, keepdims=True)
