"""Log-probabilities of given targets, of the choices for an input (rank classification), and what heads say.

Axes: B batch, S input length, T target length, C choices, N rows of logits, K positions, D embedding, V vocabulary.

Targets are padded with the config's `pad_id`. Scores are natural log-probabilities summed over the tokens that are not
padding (no z-loss, no length normalisation), f32, and independent of the other rows and of padding up to f32 rounding.
"""

import jax
import jax.numpy as jnp

from xtr.models.heads import Chooser, Classifier, SpanFinder, Tagger
from xtr.models.interface import Generator

_LOGIT_ROWS = 256  # rows of logits at a time: as many as make good use of the output kernel that each step reads


def label_scores(model: Classifier, tokens_BS: jax.Array, token_types_BS: jax.Array) -> jax.Array:
    """Log-probability of each label of a classification head.

    Args:
      tokens_BS: texts or pairs, padded on the right.
      token_types_BS: 0 or 1 of each token.

    Returns:
      f32 [B, C].
    """
    return jax.nn.log_softmax(model.classify(tokens_BS, token_types_BS=token_types_BS), axis=-1)


def choice_logits(model: Chooser, tokens_BS: jax.Array, token_types_BS: jax.Array) -> jax.Array:
    """The logit of each text that stands for one choice, f32 [B]; arguments as `label_scores`."""
    return model.choose(tokens_BS[:, None], token_types_BCS=token_types_BS[:, None])[:, 0]


def best_tags(model: Tagger, tokens_BS: jax.Array) -> jax.Array:
    """The tag with the highest logit at each token, int [B, S]; what stands at padding means nothing."""
    return jnp.argmax(model.tag(tokens_BS), axis=-1)


def span_logits(model: SpanFinder, tokens_BS: jax.Array, token_types_BS: jax.Array) -> jax.Array:
    """Logits of starting and of ending at each token of its row, f32 [B, S, 2]; arguments as `label_scores`.

    They are not normalised over the row: answers of several windows are compared by them.
    """
    return model.span(tokens_BS, token_types_BS=token_types_BS)


def shift_right(targets_BT: jax.Array) -> jax.Array:
    """Decoder inputs of targets: moved right by one, starting with 0."""
    return jnp.pad(targets_BT[..., :-1], [(0, 0)] * (targets_BT.ndim - 1) + [(1, 0)])


def token_log_probs(head_DV: jax.Array, y_BD: jax.Array, targets_B: jax.Array, pad_id: int) -> jax.Array:
    """Natural log-probability of each row's token, f32 [B]; 0 for padding."""
    logits_BV = y_BD.astype(jnp.float32) @ head_DV
    chosen_B = jnp.take_along_axis(logits_BV, targets_B[:, None], axis=-1)[:, 0]
    return jnp.where(targets_B != pad_id, chosen_B - jax.nn.logsumexp(logits_BV, axis=-1), 0.0)


def score_targets(model: Generator, tokens_BS: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Log-probability of each row's target.

    Args:
      tokens_BS: inputs or prompts, padded on the right.
      targets_BT: int ids with their EOS, padded on the right.

    Returns:
      f32 [B]; 0 for a target of padding alone.
    """
    return _scores(model, tokens_BS, targets_BT[:, None])[:, 0]


def rank_scores(model: Generator, tokens_BS: jax.Array, choices_BCT: jax.Array) -> jax.Array:
    """Log-probability of each choice given the row's input; the best choice is the argmax.

    Args:
      tokens_BS: inputs or prompts, padded on the right.
      choices_BCT: int ids with their EOS, padded on the right. A choice of padding alone stands for no choice.

    Returns:
      f32 [B, C]; -inf where there is no choice.
    """
    present_BC = (choices_BCT != model.config.pad_id).any(axis=-1)
    return jnp.where(present_BC, _scores(model, tokens_BS, choices_BCT), -jnp.inf)


def _scores(model: Generator, tokens_BS: jax.Array, choices_BCT: jax.Array) -> jax.Array:
    """Log-probabilities [B, C]; whatever the family, a row's input is read once for all its choices."""
    by_family = _scores_after_prompt if model.config.causal else _scores_after_encoder
    return by_family(model, tokens_BS, choices_BCT)


def _scores_after_encoder(model: Generator, tokens_BS: jax.Array, choices_BCT: jax.Array) -> jax.Array:
    """Of an encoder-decoder: the choices of a row lie side by side in one decoder row, as segments that do not see each
    other."""
    batch, choices, length = choices_BCT.shape
    pad_id, head_DV = model.config.pad_id, model.head()
    flat = (batch, choices * length)
    segment_ids_BCT = jnp.broadcast_to(jnp.arange(1, choices + 1, dtype=jnp.int32)[None, :, None], choices_BCT.shape)
    y_BTD = model.decode(
        shift_right(choices_BCT).reshape(flat),
        model.encode(tokens_BS),
        encoder_mask_BS=tokens_BS != pad_id,
        segment_ids_BT=segment_ids_BCT.reshape(flat),
    )
    # A few positions at a time, as the logits of all at once would be the largest array by far; tokens before padding,
    # so that none are computed where all rows have nothing but padding left.
    targets_BT = jnp.asarray(choices_BCT).reshape(flat)
    real_BT = targets_BT != pad_id
    together = max(1, _LOGIT_ROWS // batch)
    order_BT = jnp.pad(jnp.argsort(~real_BT, axis=1, stable=True), ((0, 0), (0, -flat[1] % together)), mode="edge")
    own_C = jnp.arange(choices)

    def add(i, scores_BC):
        place_BK = jax.lax.dynamic_slice_in_dim(order_BT, i * together, together, axis=1)
        y_ND = jnp.take_along_axis(y_BTD, place_BK[:, :, None], axis=1).reshape(batch * together, -1)
        targets_BK = jnp.take_along_axis(targets_BT, place_BK, axis=1)
        log_probs_BK = token_log_probs(head_DV, y_ND, targets_BK.reshape(-1), pad_id).reshape(batch, together)
        # What was padded repeats the last place.
        new_BK = i * together + jnp.arange(together) < flat[1]
        its_own_BKC = (place_BK[:, :, None] // length == own_C) & new_BK[:, None]
        return scores_BC + jnp.where(its_own_BKC, log_probs_BK[:, :, None], 0.0).sum(axis=1)

    steps = -(-real_BT.sum(axis=1).max() // together)
    return jax.lax.fori_loop(0, steps, add, jnp.zeros((batch, choices), jnp.float32))


def _scores_after_prompt(model: Generator, tokens_BS: jax.Array, choices_BCT: jax.Array) -> jax.Array:
    """Of a decoder: the cache of the prompt is continued by each choice, token by token."""
    batch, choices, length = choices_BCT.shape
    pad_id, head_DV = model.config.pad_id, model.head()
    cache, first_B = model.start(tokens_BS, length)
    targets_TN = jnp.asarray(choices_BCT).reshape(-1, length).T
    inputs_TN = jnp.concatenate([jnp.repeat(first_B, choices)[None], targets_TN[:-1]])

    def step(index, carry):
        cache, scores_N = carry
        y_ND, cache = model.decode_step(inputs_TN[index], index, cache)
        return cache, scores_N + token_log_probs(head_DV, y_ND, targets_TN[index], pad_id)

    longest = (targets_TN != pad_id).sum(axis=0).max()
    start = cache.repeat(choices), jnp.zeros((batch * choices,), jnp.float32)
    _, scores_N = jax.lax.fori_loop(0, longest, step, start)
    return scores_N.reshape(batch, choices)
