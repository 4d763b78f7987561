"""Log-probabilities of given targets, and of a set of choices for one input (rank classification).

Axes: B batch, S encoder length, T target length, C choices, D embedding, V vocabulary.
"""

import jax
import jax.numpy as jnp

from xtr.models.mt5 import MT5


def shift_right(targets_BT: jax.Array) -> jax.Array:
    """Decoder inputs of targets: moved right by one, starting with 0."""
    return jnp.pad(targets_BT[..., :-1], [(0, 0)] * (targets_BT.ndim - 1) + [(1, 0)])


def token_log_probs(model: MT5, y_BTD: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Natural log-probability of each target token, f32 [B, T]; 0 at padding targets (id 0)."""
    logits_BTV = model.logits(y_BTD)
    chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jnp.where(targets_BT != 0, chosen_BT - jax.nn.logsumexp(logits_BTV, axis=-1), 0.0)


def score_targets(model: MT5, encoder_tokens_BS: jax.Array, target_tokens_BT: jax.Array) -> jax.Array:
    """Log-probability of each row's target, by teacher forcing.

    Args:
      encoder_tokens_BS: int ids, 0 is padding.
      target_tokens_BT: int ids with their EOS, 0 is padding.

    Returns:
      f32 [B], natural log, summed over the tokens that are not padding (no z-loss, no length normalisation).
      Independent of the other rows and of padding, up to f32 rounding.
    """
    encoded_BSD = model.encode(encoder_tokens_BS)
    inputs_BT = shift_right(target_tokens_BT)
    y_BTD = model.decode(inputs_BT, encoded_BSD, encoder_mask_BS=encoder_tokens_BS != 0)
    return token_log_probs(model, y_BTD, target_tokens_BT).sum(axis=-1)


def rank_scores(model: MT5, encoder_tokens_BS: jax.Array, choices_BCT: jax.Array) -> jax.Array:
    """Log-probability of each choice given the row's input; the best choice is the argmax.

    The input is encoded once, and so are its keys and values in every decoder layer: the choices of a row lie side by
    side in one decoder row as segments that do not see each other.

    Args:
      encoder_tokens_BS: int ids, 0 is padding.
      choices_BCT: int ids with their EOS, 0 is padding. A choice of padding alone stands for no choice.

    Returns:
      f32 [B, C], natural log, summed over tokens that are not padding; -inf where there is no choice.
    """
    batch, choices, length = choices_BCT.shape
    flat = (batch, choices * length)
    real_BCT = choices_BCT != 0
    segment_ids_BCT = jnp.broadcast_to(jnp.arange(1, choices + 1, dtype=jnp.int32)[None, :, None], choices_BCT.shape)
    encoded_BSD = model.encode(encoder_tokens_BS)
    y_BTD = model.decode(
        shift_right(choices_BCT).reshape(flat),
        encoded_BSD,
        encoder_mask_BS=encoder_tokens_BS != 0,
        segment_ids_BT=segment_ids_BCT.reshape(flat),
    )
    scores_BC = token_log_probs(model, y_BTD, choices_BCT.reshape(flat)).reshape(choices_BCT.shape).sum(axis=-1)
    return jnp.where(real_BCT.any(axis=-1), scores_BC, -jnp.inf)
