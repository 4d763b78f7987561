"""Layers that the families share: norms, dense, attention, MLPs, relative position bias.

Axes: B batch, S encoder length, T decoder length, Q query length, M key (memory) length, D embedding, H heads,
K head size, N = H*K joined, F MLP hidden, V vocabulary, L layers, R relative position buckets.

A module is a thin view over arrays: it holds no state of its own, and dropout masks are arguments (None: no dropout).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xtr.errors import UserError, did_you_mean
from xtr.models import flash_attention

# What the backward pass keeps of a layer: everything; only its input; its input and the products with weights.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "minimal": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(flash_attention.OUT, flash_attention.LSE),
    ),
}
DTYPES = ("float32", "bfloat16")
MASKED = -1e10  # T5's score of a masked pair: finite, so that a row with nothing to attend to is uniform, not NaN
NORM_EPSILON = 1e-6

Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]


def check_settings(config: Any) -> None:
    """Checks the settings that every family's config has: dropout_rate, dtype, remat. UserError for a wrong one."""
    kind = type(config).__name__
    if not 0.0 <= config.dropout_rate < 1.0:
        raise UserError(f"{kind}.dropout_rate must lie in [0, 1), not {config.dropout_rate!r}.")
    if config.dtype not in DTYPES:
        raise UserError(f"{kind}.dtype must be one of {', '.join(DTYPES)}, not {config.dtype!r}.")
    if config.remat not in REMAT_POLICIES:
        hint = did_you_mean(str(config.remat), REMAT_POLICIES)
        raise UserError(f"{kind}.remat must be one of {', '.join(REMAT_POLICIES)}, not {config.remat!r}.{hint}")


def remat(body: Callable, policy: str) -> Callable:
    """The body of a scan over layers, of which the backward pass keeps what REMAT_POLICIES[policy] says."""
    keep = REMAT_POLICIES[policy]
    return body if keep is None else jax.checkpoint(body, policy=keep, prevent_cse=False)


def unstack(stacked: Any, layers: int) -> list[Any]:
    """The layers of a stacked module one by one, for what is written out instead of scanned."""

    def layer(i: int) -> Any:
        return jax.tree.map(lambda a: jax.lax.index_in_dim(a, i, keepdims=False), stacked)

    return [layer(i) for i in range(layers)]


@dataclass(frozen=True)
class Seen:
    """Which keys a query sees: those of its own id other than 0, and where `causal` none of a later position."""

    query_ids_BQ: jax.Array
    key_ids_BM: jax.Array
    causal: bool = False

    def mask(self) -> jax.Array:
        """The same as bool [B, 1, Q, M]."""
        mask = same_segment(self.query_ids_BQ, self.key_ids_BM)
        return mask & jnp.asarray(np.tri(*mask.shape[2:], dtype=bool)) if self.causal else mask


jax.tree_util.register_dataclass(Seen, data_fields=["query_ids_BQ", "key_ids_BM"], meta_fields=["causal"])


def unconstrained(array: jax.Array, logical_axes: tuple[str | None, ...]) -> jax.Array:
    """The `constrain` of a model that is not sharded: the identity."""
    del logical_axes
    return array


@dataclass(frozen=True)
class Context:
    """What every layer of a network shares: compute dtype, dropout rate, and the sharding hook.

    `constrain(array, logical_axes)` states the layout of a weight at its use or of an activation; None in the axes
    means replicated. `kernel` attends in the place of `attend` to what is given as `Seen`; None: there is none here.
    """

    dtype: Any
    dropout_rate: float
    constrain: Constrain
    kernel: Callable[..., jax.Array] | None = None

    def kernel_at(self, length: int) -> Callable[..., jax.Array] | None:
        """The kernel, where it can take a relative bias of sequences of that length."""
        return self.kernel if length <= flash_attention.MAX_LENGTH else None

    def weight(self, param: nnx.Param, axes: tuple[str, ...]) -> jax.Array:
        """A weight at its use: cast to the compute dtype, then gathered along 'embed' (the smaller dtype travels)."""
        return self.constrain(param[...].astype(self.dtype), tuple(None if a == "embed" else a for a in axes))

    def masks(self, key: jax.Array | None, batch: int, *sizes: int) -> list[jax.Array | None]:
        """Dropout masks [batch, size], True where kept; all from one draw. Nones without a key or a rate."""
        if key is None or self.dropout_rate == 0.0:
            return [None] * len(sizes)
        keep = jax.random.bernoulli(key, 1.0 - self.dropout_rate, (batch, sum(sizes)))
        return jnp.split(self.constrain(keep, ("batch", None)), np.cumsum(sizes)[:-1], axis=1)

    def stack_masks(
        self, key: jax.Array | None, batch: int, first: int, layers: int, sizes: tuple[int, ...], last: int
    ) -> tuple[jax.Array | None, list[jax.Array | None], jax.Array | None]:
        """Masks of a whole stack: of its input, of its layers (each [L, batch, size]) and of its output.

        One draw, outside the loop over layers: random bits are long programs, and the backward pass draws none again.
        """
        keep_first, *keep_layers, keep_last = self.masks(key, batch, first, *(layers * n for n in sizes), last)
        stacked = [None if k is None else k.reshape(batch, layers, -1).swapaxes(0, 1) for k in keep_layers]
        return keep_first, stacked, keep_last

    def own_mask(self, key: jax.Array | None, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> jax.Array | None:
        """A dropout mask with a value of its own for each element of `shape`; None without a key or a rate."""
        if key is None or self.dropout_rate == 0.0:
            return None
        return self.constrain(jax.random.bernoulli(key, 1.0 - self.dropout_rate, shape), axes)

    def dropout(self, x: jax.Array, keep: jax.Array | None) -> jax.Array:
        """Dropout of [B, ..., T, D] with a mask [B, ...*D] that all T share (T5's way) or one [B, ...*T*D]."""
        if keep is None:
            return x
        scaled = x / jnp.asarray(1.0 - self.dropout_rate, x.dtype)
        return jnp.where(keep.reshape(*x.shape[:-2], -1, x.shape[-1]), scaled, jnp.zeros((), x.dtype))


def embed(table_VD: jax.Array, tokens_BT: jax.Array, context: Context) -> jax.Array:
    """Rows of an embedding table, [B, T, D] in the table's dtype. Ids outside the vocabulary give NaN."""
    # Look up every row's slice of the embedding axis where that slice lives; the caller then moves rows to their batch
    # shard: what travels is the activations, never the table, and the table's gradient stays local. Replicas, which
    # hold the table each, keep to their own rows.
    tokens_BT = context.constrain(tokens_BT, ("replica_batch", None))
    return context.constrain(jnp.take(table_VD, tokens_BT, axis=0), ("replica_batch", None, "embed"))


def same_segment(query_ids_BQ: jax.Array, key_ids_BM: jax.Array) -> jax.Array:
    """Attention mask [B, 1, Q, M], bool: pairs of one segment, id 0 (padding) excluded."""
    query_B1Q1, key_B11M = query_ids_BQ[:, None, :, None], key_ids_BM[:, None, None, :]
    return (query_B1Q1 == key_B11M) & (key_B11M != 0)


class RMSNorm(nnx.Module):
    """T5 layer norm: no mean, no bias; statistics in f32, cast to the compute dtype before the scale."""

    def __init__(self, params: Mapping[str, Any], context: Context):
        self.scale = nnx.Param(params["scale"])
        self.context = context

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x32 = x_BTD.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normed = (x32 * jax.lax.rsqrt(mean_square + NORM_EPSILON)).astype(self.context.dtype)
        return normed * self.context.weight(self.scale, ("embed",))


class LayerNorm(nnx.Module):
    """Layer norm with scale and bias over the last axis; computed in f32, cast to the compute dtype at the end."""

    def __init__(self, params: Mapping[str, Any], context: Context, epsilon: float):
        self.scale = nnx.Param(params["scale"])
        self.bias = nnx.Param(params["bias"])
        self.epsilon = epsilon
        self.context = context

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x32 = x_BTD.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        scaled = normed * self.context.weight(self.scale, ("embed",)) + self.context.weight(self.bias, ("embed",))
        return scaled.astype(self.context.dtype)


class Dense(nnx.Module):
    """A matrix product over the last axis, plus a bias where `params` hold one."""

    def __init__(self, params: Mapping[str, Any], axes: tuple[str, str], context: Context):
        self.kernel = nnx.Param(params["kernel"])
        self.bias = nnx.Param(params["bias"]) if "bias" in params else None
        self.axes = axes
        self.context = context

    def __call__(self, x: jax.Array) -> jax.Array:
        # Flat, because a product of 3-D arrays makes XLA's CPU backend transpose activations in the backward pass.
        w = self.context.weight(self.kernel, self.axes)
        y = (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])
        return y if self.bias is None else y + self.context.weight(self.bias, self.axes[1:])


@jax.custom_vjp
def _biased(scores_BHQM: jax.Array, bias_HQM: jax.Array) -> jax.Array:
    """scores + bias. In the backward pass examples are summed by a product: XLA's CPU backend sums along the first
    axis of a large array many times slower."""
    return scores_BHQM + bias_HQM


def _biased_forward(scores_BHQM: jax.Array, bias_HQM: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    return scores_BHQM + bias_HQM, bias_HQM.shape


def _biased_backward(shape: tuple[int, ...], d_BHQM: jax.Array) -> tuple[jax.Array, jax.Array]:
    along_Q = d_BHQM if shape[1] == d_BHQM.shape[2] else jnp.sum(d_BHQM, axis=2, keepdims=True)
    flat = along_Q.reshape(len(d_BHQM), -1)
    ones = jnp.ones((1, len(flat)), flat.dtype)
    return d_BHQM, jnp.matmul(ones, flat, precision=jax.lax.Precision.HIGHEST).reshape(shape)


_biased.defvjp(_biased_forward, _biased_backward)


def attend(
    context: Context,
    query_BHQK: jax.Array,
    memory: tuple[jax.Array, jax.Array],
    *,
    mask: jax.Array,
    bias: jax.Array | None = None,
    scale: float = 1.0,
    keep: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention to `memory` (keys, values: BHMK): mixed values of all heads, joined, [B, Q, N].

    Args:
      mask: bool, broadcastable to BHQM, True at seen keys. A query that sees none takes the mean of all values.
      bias: f32, broadcastable to BHQM, added to the scores.
      scale: factor of the products of query and key.
      keep: dropout mask of the probabilities.
    """
    key_BHMK, value_BHMK = memory
    # Scores, softmax in f32 whatever the compute dtype: the matrix unit accumulates in f32 anyway.
    scores_BHQM = jnp.einsum("bhqk,bhmk->bhqm", query_BHQK, key_BHMK, preferred_element_type=jnp.float32)
    if scale != 1.0:
        scores_BHQM *= scale
    if bias is not None:
        scores_BHQM = _biased(scores_BHQM, bias) if bias.ndim == 3 else scores_BHQM + bias
    probs_BHQM = jax.nn.softmax(jnp.where(mask, scores_BHQM, MASKED), axis=-1).astype(context.dtype)
    probs_BHQM = context.dropout(probs_BHQM, keep)
    mixed_BHQK = jnp.einsum("bhqm,bhmk->bhqk", probs_BHQM, value_BHMK)
    return mixed_BHQK.swapaxes(1, 2).reshape(query_BHQK.shape[0], query_BHQK.shape[2], -1)


class Attention(nnx.Module):
    """Multi-head attention: biases where `params` hold them, scores multiplied by `scale`.

    T5 has no biases and no scale (its division by sqrt(head size) is folded into the initialiser).
    """

    def __init__(self, params: Mapping[str, Any], head_dim: int, context: Context, scale: float = 1.0):
        self.query = Dense(params["query"], ("embed", "joined_kv"), context)
        self.key = Dense(params["key"], ("embed", "joined_kv"), context)
        self.value = Dense(params["value"], ("embed", "joined_kv"), context)
        self.out = Dense(params["out"], ("joined_kv", "embed"), context)
        self.head_dim = head_dim
        self.scale = scale
        self.context = context

    def _heads(self, dense: Dense, x_BTD: jax.Array) -> jax.Array:
        x_BTHK = dense(x_BTD).reshape(*x_BTD.shape[:2], -1, self.head_dim)
        x_BTHK = self.context.constrain(x_BTHK, ("batch", "length", "heads", "kv"))
        return x_BTHK.swapaxes(1, 2)

    def memory(self, x_BMD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values, each BHMK."""
        return self._heads(self.key, x_BMD), self._heads(self.value, x_BMD)

    def __call__(
        self,
        x_BQD: jax.Array,
        memory: tuple[jax.Array, jax.Array],
        *,
        mask: jax.Array | Seen,
        bias: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> jax.Array:
        """Attends from x to `memory` (keys, values: BHMK).

        Args:
          mask: bool, broadcastable to BHQM, True at seen keys; or `Seen`, for the kernel.
          bias: f32, broadcastable to BHQM; with `Seen` of each offset, [H, Q+M-1].
          keep: dropout mask of the probabilities, the same for all queries.
        """
        query_BHQK = self._heads(self.query, x_BQD)
        if not isinstance(mask, Seen):
            return self.out(attend(self.context, query_BHQK, memory, mask=mask, bias=bias, scale=self.scale, keep=keep))
        key_BHMK, value_BHMK = memory
        if keep is not None:  # of a key's probabilities: as well of its values
            value_BHMK = self.context.dropout(value_BHMK.swapaxes(2, 3), keep).swapaxes(2, 3)
        ids = {"query_ids_BQ": mask.query_ids_BQ, "key_ids_BM": mask.key_ids_BM}
        query_BHQK = query_BHQK if self.scale == 1.0 else query_BHQK * self.scale
        return self.out(
            self.context.kernel(query_BHQK, (key_BHMK, value_BHMK), **ids, bias_HW=bias, causal=mask.causal)
        )


class GatedMLP(nnx.Module):
    """gelu(x wi_0) * (x wi_1), dropout, then wo; gelu is the tanh approximation."""

    def __init__(self, params: Mapping[str, Any], context: Context):
        self.wi_0 = Dense(params["wi_0"], ("embed", "mlp"), context)
        self.wi_1 = Dense(params["wi_1"], ("embed", "mlp"), context)
        self.wo = Dense(params["wo"], ("mlp", "embed"), context)
        self.context = context

    def __call__(self, x_BTD: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        hidden_BTF = jax.nn.gelu(self.wi_0(x_BTD), approximate=True) * self.wi_1(x_BTD)
        hidden_BTF = self.context.dropout(hidden_BTF, keep)
        return self.wo(self.context.constrain(hidden_BTF, ("batch", "length", "mlp")))


class MLP(nnx.Module):
    """gelu(x wi) wo, each product with its bias; gelu by its tanh approximation or exact (erf)."""

    def __init__(self, params: Mapping[str, Any], context: Context, *, approximate: bool):
        self.wi = Dense(params["wi"], ("embed", "mlp"), context)
        self.wo = Dense(params["wo"], ("mlp", "embed"), context)
        self.approximate = approximate
        self.context = context

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        hidden_BTF = jax.nn.gelu(self.wi(x_BTD), approximate=self.approximate)
        return self.wo(self.context.constrain(hidden_BTF, ("batch", "length", "mlp")))


def relative_buckets(offsets: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each offset (key position minus query position), int32.

    Half of the buckets hold one exact distance each, the other half distances up to `max_distance` in logarithmic
    steps; all that is farther shares the last. Bidirectional: the upper half of the buckets is for keys after the
    query.
    Source: T5 (arXiv 1910.10683), section 2.1.
    """
    offsets = np.asarray(offsets)
    first = np.zeros(offsets.shape, np.int32)
    if bidirectional:
        num_buckets //= 2
        first = np.where(offsets > 0, num_buckets, 0).astype(np.int32)
        distance = np.abs(offsets)
    else:
        distance = np.maximum(-offsets, 0)
    exact = num_buckets // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + steps.astype(np.int32), num_buckets - 1)
    return (first + np.where(distance < exact, distance, far)).astype(np.int32)


class RelativeBias(nnx.Module):
    """T5's bias on attention scores by relative position: one table a stack."""

    def __init__(self, params: Mapping[str, Any], *, bidirectional: bool, max_distance: int, context: Context):
        self.rel_embedding = nnx.Param(params["rel_embedding"])
        self.bidirectional = bidirectional
        self.max_distance = max_distance
        self.context = context

    def of_offsets(self, offsets: np.ndarray) -> jax.Array:
        """Bias [H, len(offsets)] of offsets (key minus query position, known at trace time): f32."""
        table_HR = self.context.weight(self.rel_embedding, ("heads", "relpos_buckets"))
        buckets = relative_buckets(
            offsets, bidirectional=self.bidirectional, num_buckets=table_HR.shape[1], max_distance=self.max_distance
        )
        return jnp.take(table_HR, buckets, axis=1, mode="clip").astype(jnp.float32)

    def __call__(self, length: int) -> jax.Array:
        """Bias [H, length, length], f32, or for the kernel [H, 2*length-1]: constant along diagonals, so unrolled from
        those values, no gather."""
        width = 2 * length - 1
        values_HW = self.of_offsets(np.arange(-length + 1, length))
        if self.context.kernel_at(length):
            return values_HW
        heads = values_HW.shape[0]
        # Rows of width+1 read back as rows of width: each row is the former one moved right by one.
        tiled = jnp.broadcast_to(jnp.pad(values_HW, ((0, 0), (0, 1)))[:, None, :], (heads, length, width + 1))
        skewed = tiled.reshape(heads, length * (width + 1))[:, : length * width].reshape(heads, length, width)
        return skewed[:, :, length - 1 :]
