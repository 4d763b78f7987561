"""Greedy decoding with a cache.

Axes: B batch, S encoder length, T decoder length, D embedding, V vocabulary.
"""

import jax
import jax.numpy as jnp

from xtr.models.mt5 import MT5


def greedy_decode(
    model: MT5, encoder_tokens_BS: jax.Array, *, max_length: int, eos_id: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Takes the most probable token at each step, until every row has ended or is `max_length` long.

    Jit-able with `max_length` and `eos_id` static. Independent of the other rows and of padding, up to f32 rounding of
    the logits. A row without any input token (a filler of the last batch) is ended from the start.

    Args:
      encoder_tokens_BS: int ids, 0 is padding.
      max_length: number of tokens at most, the EOS included; at least 1.
      eos_id: the token that ends a row.

    Returns:
      tokens_BT int32 [B, max_length], the EOS included and 0 after it, and the natural log-probability of those tokens,
      f32 [B].
    """
    batch = encoder_tokens_BS.shape[0]
    encoder_mask_BS = encoder_tokens_BS != 0
    head_DV = model.head()
    cache = model.init_cache(model.encode(encoder_tokens_BS), encoder_mask_BS, max_length)

    def going_on(state):
        index, *_, ended_B = state
        return (index < max_length) & ~jnp.all(ended_B)

    def step(state):
        index, cache, last_B, tokens_BT, log_prob_B, ended_B = state
        y_BD, cache = model.decode_step(last_B, index, cache)
        logits_BV = y_BD.astype(jnp.float32) @ head_DV
        token_B = jnp.where(ended_B, 0, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32))
        step_log_prob_B = jnp.max(logits_BV, axis=-1) - jax.nn.logsumexp(logits_BV, axis=-1)
        log_prob_B += jnp.where(ended_B, 0.0, step_log_prob_B)
        tokens_BT = jax.lax.dynamic_update_slice_in_dim(tokens_BT, token_B[:, None], index, axis=1)
        return index + 1, cache, token_B, tokens_BT, log_prob_B, ended_B | (token_B == eos_id)

    state = (
        jnp.zeros((), jnp.int32),
        cache,
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch, max_length), jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        ~encoder_mask_BS.any(axis=-1),
    )
    _, _, _, tokens_BT, log_prob_B, _ = jax.lax.while_loop(going_on, step, state)
    return tokens_BT, log_prob_B
