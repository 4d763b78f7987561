"""Training objectives: loss(model, batch) -> (loss sum, weight sum, metrics).

Axes: B batch, T target length, t one chunk of it, N = B * t, D embedding, V vocabulary.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xtr.errors import UserError, did_you_mean

Batch = Mapping[str, jax.Array]

NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")

# Above this size the [tokens, vocabulary] logits are made chunk by chunk: it costs time, and below it nothing is won.
MAX_LOGITS_BYTES = 4 * 2**30


def _chunk_sums(y_BtD, head_DV, targets_Bt, weights_Bt, z_loss, label_smoothing, with_gradient):
    """(loss, z_loss, correct) sums of one chunk, and (dy_BtD, dhead_DV) or None; one f32 [N, V] array at a time."""
    vocab_size = head_DV.shape[1]
    confidence = 1.0 - label_smoothing
    low = label_smoothing / (vocab_size - 1)
    # T5X subtracts the entropy of the smoothed target, so that a perfect prediction has loss 0.
    entropy = -(confidence * math.log(confidence) + (vocab_size - 1) * low * math.log(low + 1e-20))

    # Two dimensions from here on: with three, XLA reshapes on the way and cannot write the gradient over the logits.
    y_ND = y_BtD.reshape(-1, y_BtD.shape[-1]).astype(jnp.float32)
    targets_N, weights_N = targets_Bt.reshape(-1), weights_Bt.reshape(-1)
    logits_NV = y_ND @ head_DV
    max_N = jnp.max(logits_NV, axis=-1)
    log_z_N = jnp.log(jnp.sum(jnp.exp(logits_NV - max_N[:, None]), axis=-1)) + max_N
    target_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    loss_N = log_z_N - target_N - entropy
    if label_smoothing:
        # sum_v soft_v * logit_v, relative to the target's logit so that nothing large cancels.
        loss_N -= low * jnp.sum(logits_NV - target_N[:, None], axis=-1)
    z_loss_N = z_loss * jnp.square(log_z_N)
    ids_V = jnp.arange(vocab_size, dtype=jnp.int32)
    best_N = jnp.min(jnp.where(logits_NV == max_N[:, None], ids_V, vocab_size), axis=-1)  # argmax, with no index array
    sums = (
        jnp.sum(weights_N * (loss_N + z_loss_N)),
        jnp.sum(weights_N * z_loss_N),
        jnp.sum(weights_N * (best_N == targets_N)),
    )
    if not with_gradient:
        return sums, None
    softmax_scale_N = weights_N * (1.0 + 2.0 * z_loss * log_z_N)
    soft_NV = jnp.where(targets_N[:, None] == ids_V, confidence, low)
    dlogits_NV = softmax_scale_N[:, None] * jnp.exp(logits_NV - log_z_N[:, None]) - weights_N[:, None] * soft_NV
    dy_BtD = (dlogits_NV @ head_DV.T).astype(y_BtD.dtype).reshape(y_BtD.shape)
    return sums, (dy_BtD, y_ND.T @ dlogits_NV)


def _sums(y_BTD, head_DV, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks, with_gradient):
    """`_chunk_sums` over `num_chunks` pieces of the target length."""
    piece = functools.partial(_chunk_sums, z_loss=z_loss, label_smoothing=label_smoothing, with_gradient=with_gradient)
    length = targets_BT.shape[1]
    if num_chunks == 1:
        return piece(y_BTD, head_DV, targets_BT, weights_BT)
    size = -(-length // num_chunks)
    num_chunks = -(-length // size)

    def split(x):  # [B, T, ...] -> [chunks, B, t, ...]; the batch axis, which is the sharded one, stays whole
        x = jnp.pad(x, [(0, 0), (0, num_chunks * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], num_chunks, size, *x.shape[2:]), 1, 0)

    def body(carry, chunk):
        sums, dhead_DV = carry
        y_BtD, targets_Bt, weights_Bt = chunk
        more, grads = piece(y_BtD, head_DV, targets_Bt, weights_Bt)
        sums = jax.tree.map(jnp.add, sums, more)
        if grads is None:
            return (sums, None), None
        return (sums, dhead_DV + grads[1]), grads[0]

    zero = jnp.zeros((), jnp.float32)
    start = ((zero, zero, zero), jnp.zeros(head_DV.shape, jnp.float32) if with_gradient else None)
    (sums, dhead_DV), dy = jax.lax.scan(body, start, (split(y_BTD), split(targets_BT), split(weights_BT)))
    if not with_gradient:
        return sums, None
    dy_BTD = jnp.moveaxis(dy, 0, 1).reshape(y_BTD.shape[0], num_chunks * size, -1)[:, :length]
    return sums, (dy_BTD, dhead_DV)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _cross_entropy(y_BTD, head_DV, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks):
    return _sums(y_BTD, head_DV, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks, with_gradient=False)[0]


def _cross_entropy_forward(y_BTD, head_DV, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks):
    # The loss is a sum, so its gradient is known up to one scalar while the logits are at hand: nothing of size V is
    # kept or computed twice for the backward pass.
    return _sums(y_BTD, head_DV, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks, with_gradient=True)


def _cross_entropy_backward(z_loss, label_smoothing, num_chunks, grads, cotangents):
    dy_BTD, dhead_DV = grads
    scale = cotangents[0]  # the z-loss and accuracy sums are for reading only
    return (scale * dy_BTD).astype(dy_BTD.dtype), scale * dhead_DV, None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def cross_entropy(
    y_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted cross-entropy of the logits y @ head against integer targets, without ever keeping the logits.

    Per token: -sum_v soft_v log softmax_v - H(soft) + z_loss * logZ^2, where soft is 1 - label_smoothing on the target
    and label_smoothing / (V - 1) elsewhere, and H its entropy (T5X, `losses.compute_weighted_cross_entropy`). At most
    one f32 [tokens, V] array is alive at a time, forward or backward; it is cut along T into the fewest chunks of at
    most `max_logits_bytes` (all devices together). Differentiable in y_BTD and f32 head_DV through the loss only.

    Returns:
      f32 sums over tokens, each weighted by weights_BT: loss (z-loss included), z-loss, and correct predictions.
    """
    tokens, length = targets_BT.size, targets_BT.shape[1]
    num_chunks = min(length, max(1, -(-tokens * head_DV.shape[1] * 4 // max_logits_bytes)))
    return _cross_entropy(y_BTD, head_DV, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks)


def loss_weights(batch: Batch) -> jax.Array:
    """f32 [B, T]: the batch's own loss weights, or 1 on every target that is not padding."""
    weights = batch.get("decoder_loss_weights")
    return (batch["decoder_target_tokens"] != 0 if weights is None else weights).astype(jnp.float32)


def seq2seq(
    model: Any,
    batch: Batch,
    *,
    dropout_key: jax.Array | None,
    z_loss: float,
    label_smoothing: float,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of an encoder-decoder on a batch with SeqIO's feature names, packed or not.

    Returns:
      loss sum, weight sum, and metrics, all f32 sums over the batch: 'loss' (z-loss included), 'z_loss', 'accuracy'
      (weight of correct predictions) and 'weight', each to be divided by the last; 'input_tokens' and 'target_tokens'
      (not padding), 'input_positions' and 'target_positions' (padding too), 'examples' (packed ones count each).
    """
    inputs_BS, targets_BT = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    segments_BS, segments_BT = batch.get("encoder_segment_ids"), batch.get("decoder_segment_ids")
    encoded_BSD = model.encode(
        inputs_BS, segment_ids_BS=segments_BS, positions_BS=batch.get("encoder_positions"), dropout_key=dropout_key
    )
    y_BTD = model.decode(
        batch["decoder_input_tokens"],
        encoded_BSD,
        encoder_mask_BS=inputs_BS != 0 if segments_BS is None else segments_BS != 0,
        encoder_segment_ids_BS=segments_BS,
        segment_ids_BT=segments_BT,
        positions_BT=batch.get("decoder_positions"),
        dropout_key=dropout_key,
    )
    weights_BT = loss_weights(batch)
    loss, z_sum, correct = cross_entropy(
        y_BTD,
        model.head(),
        targets_BT,
        weights_BT,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        max_logits_bytes=max_logits_bytes,
    )
    weight = jnp.sum(weights_BT)
    metrics = {
        "loss": loss,
        "z_loss": z_sum,
        "accuracy": correct,
        "weight": weight,
        "input_tokens": jnp.sum(inputs_BS != 0),
        "target_tokens": jnp.sum(targets_BT != 0),
        "input_positions": inputs_BS.size,
        "target_positions": targets_BT.size,
        "examples": jnp.sum(jnp.any(targets_BT != 0, axis=1))
        if segments_BT is None
        else jnp.sum(jnp.max(segments_BT, axis=1)),
    }
    return loss, weight, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def check_normalizer(value: float | str | None) -> float | str | None:
    """A LOSS_NORMALIZING_FACTOR in its canonical form (special names in capitals). UserError if it is none of T5X's
    kinds."""
    if isinstance(value, str):
        if value.upper() not in NORMALIZERS:
            raise UserError(
                "LOSS_NORMALIZING_FACTOR must be None, a positive number or one of "
                f"{', '.join(NORMALIZERS)}, not {value!r}." + did_you_mean(value, NORMALIZERS)
            )
        return value.upper()
    if value is not None and not value > 0:
        raise UserError(f"LOSS_NORMALIZING_FACTOR must be positive, not {value!r}.")
    return value


def normalize(factor: float | str | None, batch: Batch) -> tuple[jax.Array, jax.Array | float]:
    """(loss weights f32 [B, T], the number to divide the loss sum by) of a whole batch.

    None divides by nothing, a number by itself; 'NUM_REAL_TARGET_TOKENS' by the weight sum, 'NUM_TOTAL_TARGET_TOKENS'
    by B * T; 'AVERAGE_PER_SEQUENCE' weights every sequence (packed ones each) equally and divides by their number.
    Source: T5X, `losses.get_loss_normalizing_factor_and_weights`. Call it on the global batch, before it is cut into
    microbatches.
    """
    weights_BT = loss_weights(batch)
    if factor is None:
        return weights_BT, 1.0
    if factor == "NUM_REAL_TARGET_TOKENS":
        return weights_BT, jnp.sum(weights_BT)
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return weights_BT, float(weights_BT.size)
    if factor == "AVERAGE_PER_SEQUENCE":
        segments_BT = batch.get("decoder_segment_ids")
        if segments_BT is None:
            totals_BT = jnp.broadcast_to(jnp.sum(weights_BT, axis=1, keepdims=True), weights_BT.shape)
        else:
            same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
            totals_BT = jnp.einsum("bts,bs->bt", same_BTT.astype(jnp.float32), weights_BT)
        weights_BT = jnp.where(totals_BT > 0, weights_BT / jnp.where(totals_BT > 0, totals_BT, 1.0), 0.0)
        return weights_BT, jnp.sum(weights_BT)
    return weights_BT, float(factor)
