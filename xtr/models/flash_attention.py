"""Attention for TPUs that never holds its scores: T5's relative bias is built inside the kernel.

Axes as in `layers`: B batch, Q query length, M key length, H heads, K head size, N = H*K joined, W = Q+M-1 offsets of
the bias; in the kernels' arrays G groups of P heads.

Numerics are those of `layers.attend`: no scale, scores and softmax in f32, probabilities in the compute dtype for their
product with the values. Plain attention rounds them to the compute dtype after their division by the sum, this
before it; in f32 there is no such difference.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from xtr.models import flash_kernels
from xtr.models.flash_blocks import LANES, UNSEEN_KEY, Layout
from xtr.parallel.sharding import DEFAULT_RULES, OnMesh, Rules, partition_spec

OUT, LSE = "flash_attention_out", "flash_attention_lse"  # names, for policies of what the backward pass keeps
MAX_LENGTH = 2048  # of queries and of keys where there is a bias: its strips have to fit in the smallest VMEM


def is_for(mesh: Mesh, head_dim: int) -> bool:
    """Whether the kernels compile for a mesh's devices, which need not be here, and heads of that size."""
    device = mesh.devices.flat[0]
    known = device.platform == "tpu" and device.device_kind not in ("TPU v2", "TPU v3")
    return known and (LANES % head_dim == 0 or head_dim % LANES == 0)


def kernel_for(constrain: Any, head_dim: int) -> Callable[..., jax.Array] | None:
    """`sharded` where a network's `constrain` says that it is on a mesh that the kernels are for, else None."""
    if isinstance(constrain, OnMesh) and is_for(constrain.mesh, head_dim):
        return sharded(constrain.mesh, constrain.rules)
    return None


def sharded(mesh: Mesh, rules: Rules = DEFAULT_RULES, *, interpret: bool = False) -> Callable[..., jax.Array]:
    """`flash_attention` on a mesh: XLA cannot divide a kernel, so every device is given its examples and heads."""

    def attention(query_BHQK, memory, *, query_ids_BQ, key_ids_BM, bias_HW=None, causal=False) -> jax.Array:
        def local(query_BHQK, key_BHMK, value_BHMK, query_ids_BQ, key_ids_BM, bias_HW) -> jax.Array:
            return flash_attention(
                query_BHQK,
                (key_BHMK, value_BHMK),
                query_ids_BQ=query_ids_BQ,
                key_ids_BM=key_ids_BM,
                bias_HW=bias_HW,
                causal=causal,
                interpret=interpret,
            )

        arrays = (query_BHQK, *memory, query_ids_BQ, key_ids_BM, bias_HW)
        if mesh.size == 1:
            return local(*arrays)
        batch, heads = partition_spec(("batch", "heads"), rules, mesh=mesh, shape=query_BHQK.shape[:2])
        ids, split = PartitionSpec(batch), PartitionSpec(batch, heads)
        in_specs = (split, split, split, ids, ids, PartitionSpec(heads))
        out_specs = PartitionSpec(batch, None, heads)
        return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arrays)

    return attention


def flash_attention(
    query_BHQK: jax.Array,
    memory: tuple[jax.Array, jax.Array],
    *,
    query_ids_BQ: jax.Array,
    key_ids_BM: jax.Array,
    bias_HW: jax.Array | None = None,
    causal: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention to `memory` (keys, values: BHMK): mixed values of all heads, joined, [B, Q, N].

    A query sees the keys of its own id; nobody sees keys of id 0. One that sees none takes the mean of all values, and
    moves no query, key or bias: the same as in plain attention.

    Dropout of probabilities whose mask all queries share needs nothing here: scale the values by it.

    Args:
      query_BHQK: queries; the product with keys is not scaled. K divides 128 or is a multiple of it.
      memory: keys and values, [B, H, M, K].
      query_ids_BQ, key_ids_BM: int, at least 0.
      bias_HW: f32, the bias of the offsets (key minus query position) -(Q-1)..(M-1).
      causal: a query sees no key of a later position.
      interpret: run by Pallas' interpreter, for tests on other devices.
    """
    key_BHMK, value_BHMK = memory
    batch, heads, queries, head_dim = query_BHQK.shape
    keys = key_BHMK.shape[2]
    layout = Layout(batch, heads, head_dim, queries, keys, causal, bias_HW is not None, interpret)
    # The joined form is what the projections give and take: where they do, XLA drops these transposes.
    joined = [x.swapaxes(1, 2).reshape(batch, -1, heads * head_dim) for x in (query_BHQK, key_BHMK, value_BHMK)]
    missing = (layout.padded_heads - heads) * head_dim
    if missing:
        joined = [jnp.pad(x, ((0, 0), (0, 0), (0, missing))) for x in joined]
    key_ids_BM = jnp.where(key_ids_BM == 0, UNSEEN_KEY, key_ids_BM)
    mixed = _attention(layout, _grouped(bias_HW, layout), query_ids_BQ[:, None], key_ids_BM[:, None], *joined)
    return mixed[..., : heads * head_dim] if missing else mixed


def _grouped(bias_HW: jax.Array | None, layout: Layout) -> jax.Array | None:
    """[H, Q+M-1] -> [G, P, W] as the kernels take it: offsets falling, zeros behind the ends of queries and keys."""
    if bias_HW is None:
        return None
    n = layout
    ends = (n.padded_keys - n.keys + 1, n.padded_queries - n.queries)
    falling = jnp.pad(bias_HW[:, ::-1].astype(jnp.float32), ((0, n.padded_heads - n.heads), ends))
    return falling.reshape(n.groups, n.group, n.width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(layout: Layout, bias_GPW, query_ids_B1Q, key_ids_B1M, q_BQN, k_BMN, v_BMN) -> jax.Array:
    return flash_kernels.forward(layout, bias_GPW, query_ids_B1Q, key_ids_B1M, q_BQN, k_BMN, v_BMN)[0]


def _attention_forward(layout: Layout, *inputs: Any) -> tuple[jax.Array, Any]:
    out_BQN, lse_BGPQ = flash_kernels.forward(layout, *inputs)
    out_BQN, lse_BGPQ = checkpoint_name(out_BQN, OUT), checkpoint_name(lse_BGPQ, LSE)
    return out_BQN, (inputs, out_BQN, lse_BGPQ)


def _attention_backward(layout: Layout, saved: Any, do_BQN: jax.Array) -> tuple[jax.Array | None, ...]:
    inputs, out_BQN, lse_BGPQ = saved
    n = layout
    products = (out_BQN.astype(jnp.float32) * do_BQN.astype(jnp.float32)).reshape(
        *out_BQN.shape[:2], n.padded_heads, -1
    )
    delta_BHQ = products.sum(-1).swapaxes(1, 2)
    delta_BGPQ = jnp.pad(delta_BHQ, ((0, 0), (0, 0), (0, n.padded_queries - n.queries))).reshape(lse_BGPQ.shape)
    dbias_GPW, *dqkv = flash_kernels.backward(n, *inputs, do_BQN, lse_BGPQ, delta_BGPQ)
    return dbias_GPW, None, None, *dqkv


_attention.defvjp(_attention_forward, _attention_backward)
