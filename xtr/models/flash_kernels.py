"""The two Pallas kernels of `flash_attention`: forward, and backward with the gradient of the bias.

Axes: B batch, G groups of heads, P heads in a group, K head size, L = P*K the lanes of a group, N = G*L, Q query
length, M key length, W bias values of a head.

Both kernels hold scores as [keys, queries]. Then everything that belongs to a query (maximum, sum, gradients of scores)
is a row, reductions run over sublanes, and what has to be transposed is small: [keys, L] and [queries, L]. Products
whose result has K rows, not K columns, fill a matrix unit's width though K is half of it or less.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from xtr.models.flash_blocks import (
    LANES,
    MASKED,
    Layout,
    dot,
    head,
    real_rows,
    scores_of,
    seen_keys,
    strip_slices,
    write_diagonal_sums,
    write_strip,
)

# ---------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------


def _forward_kernel(layout: Layout, *refs: Any) -> None:
    bias_ref, *refs = refs if layout.biased else (None, *refs)
    query_ids_ref, key_ids_ref, q_ref, k_ref, v_ref, out_ref, lse_ref, max_ref, sum_ref, mixed_ref, *refs = refs
    (strip_ref,) = refs or (None,)
    b, i, j = pl.program_id(1), pl.program_id(2), pl.program_id(3)
    size = layout.head_dim

    if layout.biased:

        @pl.when((b == 0) & (i == 0) & (j == 0))
        def _():
            write_strip(bias_ref, strip_ref, layout)

    @pl.when(j == 0)
    def _():
        max_ref[...] = jnp.full_like(max_ref, -jnp.inf)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        mixed_ref[...] = jnp.zeros_like(mixed_ref)

    q = real_rows(q_ref[0], i * layout.query_block, layout.queries, layout.query_block)
    k = k_ref[0]
    v_T = real_rows(v_ref[0], j * layout.key_block, layout.keys, layout.key_block).T
    seen = seen_keys(query_ids_ref, key_ids_ref, i, j, layout)
    # All heads' scores first: the matrix units then work on one head's while the other's softmax is taken.
    head_scores = [
        scores_of(k, head(q, p, layout), p, seen, MASKED, strip_ref, i, j, layout) for p in range(layout.group)
    ]
    for p, scores in enumerate(head_scores):
        own, rows = slice(p, p + 1), slice(p * size, (p + 1) * size)
        highest = jnp.maximum(max_ref[own], jnp.max(scores, axis=0, keepdims=True))
        weights = jnp.exp(scores - highest)
        fade = jnp.exp(max_ref[own] - highest)
        max_ref[own] = highest
        sum_ref[own] = fade * sum_ref[own] + jnp.sum(weights, axis=0, keepdims=True)
        mixed_ref[rows] = fade * mixed_ref[rows] + dot(v_T[rows], weights.astype(v_T.dtype), (1, 0))

    @pl.when(j == layout.key_blocks - 1)
    def _():
        for p in range(layout.group):
            own, rows = slice(p, p + 1), slice(p * size, (p + 1) * size)
            mixed_ref[rows] = mixed_ref[rows] / sum_ref[own]
            # Of a query that sees nothing, max + log(sum) is MASKED too, in f32's steps of 1024.
            lse_ref[0, 0, own] = max_ref[own] + jnp.log(sum_ref[own])
        out_ref[0] = mixed_ref[...].T.astype(out_ref.dtype)


def forward(layout: Layout, bias_GPW, query_ids_B1Q, key_ids_B1M, q_BQN, k_BMN, v_BMN) -> tuple[jax.Array, jax.Array]:
    """Mixed values [B, Q, N] and the scores' log-sum-exp [B, G, P, padded Q]. `bias_GPW` is None without a bias."""
    n, f32 = layout, jnp.float32
    query_lanes = pl.BlockSpec((1, n.query_block, n.lanes), lambda g, b, i, j: (b, i, g))
    key_lanes = pl.BlockSpec((1, n.key_block, n.lanes), lambda g, b, i, j: (b, j, g))
    scratch = [(n.group, n.query_block), (n.group, n.query_block), (n.lanes, n.query_block)]
    strip = [(n.group, LANES, n.width)] if n.biased else []
    return pl.pallas_call(
        functools.partial(_forward_kernel, n),
        grid=(n.groups, n.batch, n.query_blocks, n.key_blocks),
        in_specs=[
            *([_bias_spec(n)] if n.biased else []),
            pl.BlockSpec((1, 1, n.query_block), lambda g, b, i, j: (b, 0, i)),
            pl.BlockSpec((1, 1, n.key_block), lambda g, b, i, j: (b, 0, j)),
            query_lanes,
            key_lanes,
            key_lanes,
        ],
        out_specs=[
            query_lanes,
            pl.BlockSpec((1, 1, n.group, n.query_block), lambda g, b, i, j: (b, g, 0, i)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(q_BQN.shape, q_BQN.dtype),
            jax.ShapeDtypeStruct((n.batch, n.groups, n.group, n.padded_queries), f32),
        ],
        scratch_shapes=[pltpu.VMEM(shape, f32) for shape in scratch + strip],
        compiler_params=_COMPILER_PARAMS,
        cost_estimate=_cost(n, products=2, arrays=4, itemsize=q_BQN.dtype.itemsize),
        interpret=n.interpret,
        name="flash_attention_forward",
    )(*([bias_GPW] if n.biased else []), query_ids_B1Q, key_ids_B1M, q_BQN, k_BMN, v_BMN)


# ---------------------------------------------------------------------------------------------------------------------
# Backward
# ---------------------------------------------------------------------------------------------------------------------


def _backward_kernel(layout: Layout, *refs: Any) -> None:
    bias_ref, *refs = refs if layout.biased else (None, *refs)
    query_ids_ref, key_ids_ref, q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref, *refs = refs
    dbias_ref, *refs = refs if layout.biased else (None, *refs)
    dq_ref, dk_ref, dv_ref, dq_T_ref, dk_T_ref, dv_T_ref, *refs = refs
    strip_ref, dstrip_ref = refs or (None, None)
    b, j, i = pl.program_id(1), pl.program_id(2), pl.program_id(3)
    size, first_query = layout.head_dim, i * layout.query_block
    queries = pl.ds(pl.multiple_of(first_query, LANES), layout.query_block)

    if layout.biased:

        @pl.when((b == 0) & (i == 0) & (j == 0))
        def _():
            write_strip(bias_ref, strip_ref, layout)
            dstrip_ref[...] = jnp.zeros_like(dstrip_ref)

    @pl.when(i == 0)
    def _():
        dk_T_ref[...] = jnp.zeros_like(dk_T_ref)
        dv_T_ref[...] = jnp.zeros_like(dv_T_ref)

    @pl.when(j == 0)
    def _():
        dq_T_ref[:, queries] = jnp.zeros((layout.lanes, layout.query_block), jnp.float32)

    q = real_rows(q_ref[0], first_query, layout.queries, layout.query_block)
    do = real_rows(do_ref[0], first_query, layout.queries, layout.query_block)
    k = real_rows(k_ref[0], j * layout.key_block, layout.keys, layout.key_block)
    v = real_rows(v_ref[0], j * layout.key_block, layout.keys, layout.key_block)
    q_T, k_T, do_T = q.T, k.T, do.T
    seen = seen_keys(query_ids_ref, key_ids_ref, i, j, layout)
    heads = []
    for p in range(layout.group):
        lse, delta = lse_ref[0, 0, p : p + 1], delta_ref[0, 0, p : p + 1]
        # f32 cannot hold MASKED + log(keys), of which exp would be 1/keys: a query that sees nothing has 0 for MASKED.
        blind = lse < MASKED / 2
        fill = jnp.where(blind, 0.0, MASKED)
        lse = jnp.where(blind, jnp.log(jnp.float32(layout.keys)), lse)
        scores = scores_of(k, head(q, p, layout), p, seen, fill, strip_ref, i, j, layout)
        heads.append((scores - lse, dot(v, head(do, p, layout), (1, 1)) - delta))
    for p, (log_weights, dweights) in enumerate(heads):
        rows = slice(p * size, (p + 1) * size)
        weights = jnp.exp(log_weights)
        dv_T_ref[rows] += dot(do_T[rows], weights.astype(do.dtype), (1, 1))
        dscores = jnp.where(seen, weights * dweights, 0.0)
        if layout.biased:
            for g, at in enumerate(strip_slices(i, j, layout)):
                dstrip_ref[p, :, at] += dscores[g * LANES : (g + 1) * LANES]
        dscores = dscores.astype(q.dtype)
        dk_T_ref[rows] += dot(q_T[rows], dscores, (1, 1))
        dq_T_ref[rows, queries] += dot(k_T[rows], dscores, (1, 0))

    @pl.when(i == layout.query_blocks - 1)
    def _():
        dk_ref[0] = dk_T_ref[...].T.astype(dk_ref.dtype)
        dv_ref[0] = dv_T_ref[...].T.astype(dv_ref.dtype)

    @pl.when(j == layout.key_blocks - 1)
    def _():
        dq_ref[0, queries, :] = dq_T_ref[:, queries].T.astype(dq_ref.dtype)

    if layout.biased:

        @pl.when((b == layout.batch - 1) & (i == layout.query_blocks - 1) & (j == layout.key_blocks - 1))
        def _():
            write_diagonal_sums(dstrip_ref, dbias_ref, layout)


def backward(
    layout: Layout, bias_GPW, query_ids_B1Q, key_ids_B1M, q_BQN, k_BMN, v_BMN, do_BQN, lse_BGPQ, delta_BGPQ
) -> tuple[jax.Array | None, jax.Array, jax.Array, jax.Array]:
    """Gradients of the bias, queries, keys and values; those of the bias summed over the batch, in f32.

    Args:
      do_BQN: gradient of the mixed values.
      lse_BGPQ: `forward`'s second result.
      delta_BGPQ: sum over K of the mixed values times their gradient; any number behind the end of the queries.
    """
    n, f32 = layout, jnp.float32
    query_lanes = pl.BlockSpec((1, n.query_block, n.lanes), lambda g, b, j, i: (b, i, g))
    key_lanes = pl.BlockSpec((1, n.key_block, n.lanes), lambda g, b, j, i: (b, j, g))
    query_rows = pl.BlockSpec((1, 1, n.group, n.query_block), lambda g, b, j, i: (b, g, 0, i))
    bias = [_bias_spec(n)] if n.biased else []
    strip = (n.group, LANES, n.width)
    padded_BQN = (n.batch, n.padded_queries, q_BQN.shape[2])
    *dbias, dq, dk, dv = pl.pallas_call(
        functools.partial(_backward_kernel, n),
        grid=(n.groups, n.batch, n.key_blocks, n.query_blocks),
        in_specs=[
            *bias,
            pl.BlockSpec((1, 1, n.query_block), lambda g, b, j, i: (b, 0, i)),
            pl.BlockSpec((1, 1, n.key_block), lambda g, b, j, i: (b, 0, j)),
            query_lanes,
            key_lanes,
            key_lanes,
            query_lanes,
            query_rows,
            query_rows,
        ],
        out_specs=[
            *bias,
            pl.BlockSpec((1, n.padded_queries, n.lanes), lambda g, b, j, i: (b, 0, g)),
            key_lanes,
            key_lanes,
        ],
        out_shape=[
            *([jax.ShapeDtypeStruct((n.groups, n.group, n.width), f32)] if n.biased else []),
            jax.ShapeDtypeStruct(padded_BQN, q_BQN.dtype),
            jax.ShapeDtypeStruct(k_BMN.shape, k_BMN.dtype),
            jax.ShapeDtypeStruct(v_BMN.shape, v_BMN.dtype),
        ],
        scratch_shapes=[
            pltpu.VMEM(shape, f32)
            for shape in (
                (n.lanes, n.padded_queries),
                (n.lanes, n.key_block),
                (n.lanes, n.key_block),
                *([strip, strip] if n.biased else []),
            )
        ],
        compiler_params=_COMPILER_PARAMS,
        cost_estimate=_cost(n, products=5, arrays=7, itemsize=q_BQN.dtype.itemsize),
        interpret=n.interpret,
        name="flash_attention_backward",
    )(*([bias_GPW] if n.biased else []), query_ids_B1Q, key_ids_B1M, q_BQN, k_BMN, v_BMN, do_BQN, lse_BGPQ, delta_BGPQ)
    return (dbias[0] if n.biased else None), dq[:, : n.queries], dk, dv


_COMPILER_PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"))


def _bias_spec(layout: Layout) -> pl.BlockSpec:
    return pl.BlockSpec((1, layout.group, layout.width), lambda g, *_: (g, 0, 0))


def _cost(layout: Layout, products: int, arrays: int, itemsize: int) -> pl.CostEstimate:
    """What the kernel tells XLA's scheduler: of `products` matrix products, and half of `arrays` of each length."""
    pairs = layout.batch * layout.heads * layout.queries * layout.keys
    rows = layout.batch * layout.heads * (layout.queries + layout.keys)
    return pl.CostEstimate(
        flops=2 * products * pairs * layout.head_dim,
        transcendentals=pairs,
        bytes_accessed=arrays * rows * layout.head_dim * itemsize // 2,
    )
