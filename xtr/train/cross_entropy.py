"""Cross-entropy: fused over a large vocabulary, plain over a few classes.

Axes: B batch, T target length, t one chunk of it, N = B * t, D embedding, V vocabulary, C classes.
"""

import functools
import math

import jax
import jax.numpy as jnp

from xtr.models.layers import Constrain, unconstrained
from xtr.train.passes import softmax_statistics

# Above this size the [tokens, vocabulary] logits are made chunk by chunk: it costs time, and below it nothing is won.
MAX_LOGITS_BYTES = 4 * 2**30
# The same of the f32 states of the tokens, where every device holds all of them.
MAX_STATES_BYTES = 2**30
# Logical axes of the logits. They are spread over the vocabulary as the output kernel is: the tokens' states, far
# smaller, then travel to the kernel's shards, and neither the kernel nor its gradient is ever gathered.
LOGITS_AXES = ("output_tokens", "output_vocab")


def _chunk_sums(y_BtD, head, targets_Bt, weights_Bt, z_loss, label_smoothing, constrain, with_gradient):
    """(loss, z_loss, correct) sums of a chunk, and (dy_BtD, gradient of head) or None; one f32 [N, V] array at a time.

    `head` is (head_DV, bias_V), the bias None where there is none; its gradient is of the same form.
    """
    head_DV, bias_V = head
    vocab_size = head_DV.shape[1]
    confidence = 1.0 - label_smoothing
    low = label_smoothing / (vocab_size - 1)
    # T5X subtracts the entropy of the smoothed target, so that a perfect prediction has loss 0.
    entropy = -(confidence * math.log(confidence) + (vocab_size - 1) * low * math.log(low + 1e-20))

    # Two dimensions from here on: with three, XLA reshapes on the way and cannot write the gradient over the logits.
    y_ND = y_BtD.reshape(-1, y_BtD.shape[-1]).astype(jnp.float32)
    targets_N, weights_N = targets_Bt.reshape(-1), weights_Bt.reshape(-1)
    logits_NV = constrain(y_ND @ head_DV, LOGITS_AXES)
    if bias_V is not None:
        logits_NV += bias_V
    log_z_N, target_N, correct_N, sum_N = softmax_statistics(logits_NV, targets_N, with_sum=label_smoothing > 0)
    loss_N = log_z_N - target_N - entropy
    if label_smoothing:
        # sum_v soft_v * logit_v, relative to the target's logit so that nothing large cancels.
        loss_N -= low * sum_N
    z_loss_N = z_loss * jnp.square(log_z_N)
    sums = (
        jnp.sum(weights_N * (loss_N + z_loss_N)),
        jnp.sum(weights_N * z_loss_N),
        jnp.sum(weights_N * correct_N),
    )
    if not with_gradient:
        return sums, None
    softmax_scale_N = weights_N * (1.0 + 2.0 * z_loss * log_z_N)
    ids_V = jnp.arange(vocab_size, dtype=jnp.int32)
    soft_NV = jnp.where(targets_N[:, None] == ids_V, confidence, low)
    dlogits_NV = softmax_scale_N[:, None] * jnp.exp(logits_NV - log_z_N[:, None]) - weights_N[:, None] * soft_NV
    dy_BtD = (dlogits_NV @ head_DV.T).astype(y_BtD.dtype).reshape(y_BtD.shape)
    dbias_V = None if bias_V is None else jnp.sum(dlogits_NV, axis=0)
    return sums, (dy_BtD, (y_ND.T @ dlogits_NV, dbias_V))


def _sums(y_BTD, head, targets_BT, weights_BT, z_loss, label_smoothing, num_chunks, constrain, with_gradient):
    """`_chunk_sums` over `num_chunks` pieces of the target length."""
    piece = functools.partial(
        _chunk_sums, z_loss=z_loss, label_smoothing=label_smoothing, constrain=constrain, with_gradient=with_gradient
    )
    length = targets_BT.shape[1]
    if num_chunks == 1:
        return piece(y_BTD, head, targets_BT, weights_BT)
    size = -(-length // num_chunks)
    num_chunks = -(-length // size)

    def split(x):  # [B, T, ...] -> [chunks, B, t, ...]; the batch axis, which is the sharded one, stays whole
        x = jnp.pad(x, [(0, 0), (0, num_chunks * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], num_chunks, size, *x.shape[2:]), 1, 0)

    def body(carry, chunk):
        sums, dhead = carry
        y_BtD, targets_Bt, weights_Bt = chunk
        more, grads = piece(y_BtD, head, targets_Bt, weights_Bt)
        sums = jax.tree.map(jnp.add, sums, more)
        if grads is None:
            return (sums, None), None
        return (sums, jax.tree.map(jnp.add, dhead, grads[1])), grads[0]

    zero = jnp.zeros((), jnp.float32)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), head) if with_gradient else None
    pieces = (split(y_BTD), split(targets_BT), split(weights_BT))
    (sums, dhead), dy = jax.lax.scan(body, ((zero, zero, zero), zeros), pieces)
    if not with_gradient:
        return sums, None
    dy_BTD = jnp.moveaxis(dy, 0, 1).reshape(y_BTD.shape[0], num_chunks * size, -1)[:, :length]
    return sums, (dy_BTD, dhead)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _cross_entropy(y_BTD, head, targets_BT, weights_BT, *settings):
    return _sums(y_BTD, head, targets_BT, weights_BT, *settings, with_gradient=False)[0]


def _cross_entropy_forward(y_BTD, head, targets_BT, weights_BT, *settings):
    # The loss is a sum, so its gradient is known up to one scalar while the logits are at hand: nothing of size V is
    # kept or computed twice for the backward pass.
    return _sums(y_BTD, head, targets_BT, weights_BT, *settings, with_gradient=True)


def _cross_entropy_backward(*settings_grads_cotangents):
    *_, (dy_BTD, dhead), cotangents = settings_grads_cotangents
    scale = cotangents[0]  # the z-loss and accuracy sums are for reading only
    return (scale * dy_BTD).astype(dy_BTD.dtype), jax.tree.map(lambda g: scale * g, dhead), None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def cross_entropy(
    y_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    bias_V: jax.Array | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    constrain: Constrain = unconstrained,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted cross-entropy of the logits y @ head + bias against integer targets, without ever keeping the logits.

    Per token: -sum_v soft_v log softmax_v - H(soft) + z_loss * logZ^2, where soft is 1 - label_smoothing on the target
    and label_smoothing / (V - 1) elsewhere, and H its entropy (T5X, `losses.compute_weighted_cross_entropy`). At most
    one f32 [tokens, V] array is alive at a time, forward or backward; it is cut along T into the fewest chunks of at
    most `max_logits_bytes` (all devices together). Differentiable in y_BTD, f32 head_DV and f32 bias_V (None: no bias)
    through the loss only. `constrain` states how logits are spread over a mesh, see LOGITS_AXES.

    Returns:
      f32 sums over tokens, each weighted by weights_BT: loss (z-loss included), z-loss, and correct predictions.
    """
    tokens, length = targets_BT.size, targets_BT.shape[1]
    num_chunks = min(length, max(1, -(-tokens * head_DV.shape[1] * 4 // max_logits_bytes)))
    settings = (z_loss, label_smoothing, num_chunks, constrain)
    return _cross_entropy(y_BTD, (head_DV, bias_V), targets_BT, weights_BT, *settings)


def class_cross_entropy(logits_C: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss and correctness of each of a few classes' logits, unreduced and unweighted: f32, in the shape of `labels`.

    Args:
      logits_C: f32 [..., C].
      labels: int [...]; one that is no class gives NaN, so that it cannot pass unseen.
      weights: [...]; where 0 the label is not looked at, and loss and correctness are 0.
    """
    counted, known = weights != 0, (labels >= 0) & (labels < logits_C.shape[-1])
    logits_C = logits_C.astype(jnp.float32)
    target = jnp.take_along_axis(logits_C, labels[..., None], axis=-1, mode="clip")[..., 0]
    loss = jnp.where(known, jax.nn.logsumexp(logits_C, axis=-1) - target, jnp.nan)
    loss = jnp.where(counted, loss, 0.0)
    correct = counted & (jnp.argmax(logits_C, axis=-1) == labels)
    return loss, correct.astype(jnp.float32)
