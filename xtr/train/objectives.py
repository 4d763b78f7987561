"""Training objectives: loss(model, batch) -> (loss sum, weight sum, metrics), and the table that names them.

Axes: B batch, S input length, T target length, C choices, labels or candidates, D embedding, V vocabulary.

Batches carry SeqIO's feature names. The encoder's are `encoder_input_tokens` [B, S] (`choose`: [B, C, S]) and, where
the data have them, `encoder_segment_ids`, `encoder_positions` and `encoder_token_types` in the same shape. What is
padding is said by the segment ids, or by the model's `pad_id` where there are none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from xtr.errors import UserError, did_you_mean
from xtr.models.interface import ModelConfig
from xtr.models.layers import MASKED, Constrain, unconstrained
from xtr.train.cross_entropy import MAX_LOGITS_BYTES, class_cross_entropy, cross_entropy

Batch = Mapping[str, jax.Array]
Loss = tuple[jax.Array, jax.Array, dict[str, jax.Array]]

NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


# ---------------------------------------------------------------------------------------------------------------------
# What batches hold
# ---------------------------------------------------------------------------------------------------------------------


def real_tokens(batch: Batch, side: str, tokens: str, pad_id: int) -> jax.Array:
    """bool, True where not padding, in the shape of the tokens of a side, 'encoder' or 'decoder'."""
    segment_ids = batch.get(f"{side}_segment_ids")
    return batch[f"{side}_{tokens}_tokens"] != pad_id if segment_ids is None else segment_ids != 0


def decoder_weights(batch: Batch, pad_id: int) -> jax.Array:
    """f32 [B, T]: the batch's own loss weights, or 1 on every target that is not padding."""
    weights_BT = batch.get("decoder_loss_weights")
    return (batch["decoder_target_tokens"] != pad_id if weights_BT is None else weights_BT).astype(jnp.float32)


def encoder_weights(batch: Batch, pad_id: int) -> jax.Array:
    """f32 [B, S]: the loss weights of the encoder's tokens; these have no default."""
    del pad_id
    return batch["encoder_loss_weights"].astype(jnp.float32)


def label_weights(batch: Batch, pad_id: int) -> jax.Array:
    """f32 [B]: the batch's own `label_weights`, or 1 for every row that is not all padding."""
    weights_B = batch.get("label_weights")
    if weights_B is None:
        real = real_tokens(batch, "encoder", "input", pad_id)
        weights_B = jnp.any(real, axis=tuple(range(1, real.ndim)))
    return weights_B.astype(jnp.float32)


def _encoder_inputs(batch: Batch, axes: str, side: str = "encoder") -> dict[str, jax.Array | None]:
    """Arguments of `Encoder.encode` and of the heads, their names ending in `axes`."""
    features = {
        "tokens": "input_tokens",
        "segment_ids": "segment_ids",
        "positions": "positions",
        "token_types": "token_types",
    }
    return {f"{argument}_{axes}": batch.get(f"{side}_{feature}") for argument, feature in features.items()}


def _counts(side: str, real: jax.Array, segment_ids: jax.Array | None) -> dict[str, Any]:
    """How much of a batch is used: tokens, positions (padding too) and examples (packed ones count each)."""
    packed = segment_ids is not None and real.ndim == 2  # the texts of several choices are one example
    examples = jnp.max(segment_ids, axis=-1) if packed else jnp.any(real, axis=tuple(range(1, real.ndim)))
    return {f"{side}_tokens": jnp.sum(real), f"{side}_positions": real.size, "examples": jnp.sum(examples)}


def _f32(metrics: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Over the vocabulary. Metrics: 'loss' (z-loss included), 'z_loss', 'accuracy' (weight of correct predictions) and
# 'weight', each to be divided by the last; tokens, positions and examples as `_counts` has them. All f32 sums.
# ---------------------------------------------------------------------------------------------------------------------


def seq2seq(
    model: Any,
    batch: Batch,
    *,
    pad_id: int = 0,
    dropout_key: jax.Array | None,
    z_loss: float,
    label_smoothing: float,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    constrain: Constrain = unconstrained,
) -> Loss:
    """Cross-entropy of an encoder-decoder on inputs and targets, packed or not.

    Returns:
      loss sum, weight sum, and metrics: also 'input_tokens' and 'target_tokens' (not padding), 'input_positions' and
      'target_positions' (padding too).
    """
    inputs_BS, targets_BT = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    segments_BS, segments_BT = batch.get("encoder_segment_ids"), batch.get("decoder_segment_ids")
    encoded_BSD = model.encode(
        inputs_BS, segment_ids_BS=segments_BS, positions_BS=batch.get("encoder_positions"), dropout_key=dropout_key
    )
    y_BTD = model.decode(
        batch["decoder_input_tokens"],
        encoded_BSD,
        encoder_mask_BS=inputs_BS != pad_id if segments_BS is None else segments_BS != 0,
        encoder_segment_ids_BS=segments_BS,
        segment_ids_BT=segments_BT,
        positions_BT=batch.get("decoder_positions"),
        dropout_key=dropout_key,
    )
    weights_BT = decoder_weights(batch, pad_id)
    loss, z_sum, correct = cross_entropy(
        y_BTD,
        model.head(),
        targets_BT,
        weights_BT,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        max_logits_bytes=max_logits_bytes,
        constrain=constrain,
    )
    weight = jnp.sum(weights_BT)
    metrics = {
        "loss": loss,
        "z_loss": z_sum,
        "accuracy": correct,
        "weight": weight,
        "input_tokens": jnp.sum(inputs_BS != pad_id),
        "input_positions": inputs_BS.size,
        **_counts("target", targets_BT != pad_id, segments_BT),
    }
    return loss, weight, _f32(metrics)


def causal(
    model: Any,
    batch: Batch,
    *,
    pad_id: int,
    dropout_key: jax.Array | None,
    z_loss: float,
    label_smoothing: float,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    constrain: Constrain = unconstrained,
) -> Loss:
    """Cross-entropy of a decoder-only model: at each of `decoder_input_tokens` it predicts `decoder_target_tokens`.

    Which targets count (all of a text, or those behind a prompt) is said by `decoder_loss_weights`; without them all
    that are not padding do.
    """
    segments_BT = batch.get("decoder_segment_ids")
    y_BTD = model.encode(
        batch["decoder_input_tokens"],
        segment_ids_BS=segments_BT,
        positions_BS=batch.get("decoder_positions"),
        dropout_key=dropout_key,
    )
    weights_BT = decoder_weights(batch, pad_id)
    loss, z_sum, correct = cross_entropy(
        y_BTD,
        model.head(),
        batch["decoder_target_tokens"],
        weights_BT,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        max_logits_bytes=max_logits_bytes,
        constrain=constrain,
    )
    weight = jnp.sum(weights_BT)
    counts = _counts("input", real_tokens(batch, "decoder", "input", pad_id), segments_BT)
    return loss, weight, _f32({"loss": loss, "z_loss": z_sum, "accuracy": correct, "weight": weight, **counts})


def mlm(
    model: Any,
    batch: Batch,
    *,
    pad_id: int,
    dropout_key: jax.Array | None,
    z_loss: float,
    label_smoothing: float,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    constrain: Constrain = unconstrained,
) -> Loss:
    """Masked language modelling: cross-entropy of `encoder_target_tokens`, the unmasked text, where
    `encoder_loss_weights` is not 0."""
    x_BSD = model.encode(**_encoder_inputs(batch, "BS"), dropout_key=dropout_key)
    weights_BS = encoder_weights(batch, pad_id)
    loss, z_sum, correct = cross_entropy(
        model.mlm_states(x_BSD),
        model.head(),
        batch["encoder_target_tokens"],
        weights_BS,
        bias_V=model.head_bias(),
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        max_logits_bytes=max_logits_bytes,
        constrain=constrain,
    )
    weight = jnp.sum(weights_BS)
    counts = _counts("input", real_tokens(batch, "encoder", "input", pad_id), batch.get("encoder_segment_ids"))
    return loss, weight, _f32({"loss": loss, "z_loss": z_sum, "accuracy": correct, "weight": weight, **counts})


# ---------------------------------------------------------------------------------------------------------------------
# Of heads. Plain softmax cross-entropy in f32. Metrics as above, without a z-loss.
# ---------------------------------------------------------------------------------------------------------------------


def _weighted(loss: jax.Array, correct: jax.Array, weights: jax.Array, batch: Batch, pad_id: int) -> Loss:
    """What the heads' objectives return, of the loss and correctness of each label."""
    total, weight = jnp.sum(weights * loss), jnp.sum(weights)
    counts = _counts("input", real_tokens(batch, "encoder", "input", pad_id), batch.get("encoder_segment_ids"))
    return total, weight, _f32({"loss": total, "accuracy": jnp.sum(weights * correct), "weight": weight, **counts})


def classify(model: Any, batch: Batch, *, pad_id: int, dropout_key: jax.Array | None) -> Loss:
    """Cross-entropy of `labels` [B], weighted by `label_weights` [B] (default: 1 for every row that is not empty)."""
    weights_B = label_weights(batch, pad_id)
    logits_BC = model.classify(**_encoder_inputs(batch, "BS"), dropout_key=dropout_key)
    loss_B, correct_B = class_cross_entropy(logits_BC, batch["labels"], weights_B)
    return _weighted(loss_B, correct_B, weights_B, batch, pad_id)


def choose(model: Any, batch: Batch, *, pad_id: int, dropout_key: jax.Array | None) -> Loss:
    """Cross-entropy over the choices of each example: `labels` [B] is the right one's place, tokens are [B, C, S].

    A choice that is all padding does not exist, so examples may differ in their number. Weights as for `classify`.
    """
    weights_B = label_weights(batch, pad_id)
    logits_BC = model.choose(**_encoder_inputs(batch, "BCS"), dropout_key=dropout_key)
    loss_B, correct_B = class_cross_entropy(logits_BC, batch["labels"], weights_B)
    return _weighted(loss_B, correct_B, weights_B, batch, pad_id)


def tag(model: Any, batch: Batch, *, pad_id: int, dropout_key: jax.Array | None) -> Loss:
    """Cross-entropy of the tags `encoder_target_tokens` [B, S], where `encoder_loss_weights` is not 0: at the one
    sub-token of each word that its tag is read at."""
    weights_BS = encoder_weights(batch, pad_id)
    logits_BSC = model.tag(**_encoder_inputs(batch, "BS"), dropout_key=dropout_key)
    loss_BS, correct_BS = class_cross_entropy(logits_BSC, batch["encoder_target_tokens"], weights_BS)
    return _weighted(loss_BS, correct_BS, weights_BS, batch, pad_id)


def span(model: Any, batch: Batch, *, pad_id: int, dropout_key: jax.Array | None) -> Loss:
    """Mean of the cross-entropies of `start_positions` and `end_positions` [B] (the last token, not the one behind).

    Weights as for `classify`; a prediction is correct when both ends are.
    """
    weights_B = label_weights(batch, pad_id)
    logits_BS2 = model.span(**_encoder_inputs(batch, "BS"), dropout_key=dropout_key)
    start_B, start_correct_B = class_cross_entropy(logits_BS2[..., 0], batch["start_positions"], weights_B)
    end_B, end_correct_B = class_cross_entropy(logits_BS2[..., 1], batch["end_positions"], weights_B)
    return _weighted((start_B + end_B) / 2, start_correct_B * end_correct_B, weights_B, batch, pad_id)


def contrastive(model: Any, batch: Batch, *, pad_id: int, dropout_key: jax.Array | None) -> Loss:
    """Cross-entropy of finding each query's own positive among those of the whole batch, by their similarities.

    Queries are the batch's `encoder_*` [B, S], positives its `target_*` [B, T]; both go through the one tower. Rows
    whose `groups` [B, 2] are equal have the same right answer: the positives of the others of a row's group are left
    out of its softmax, as are those of rows of padding. Weights as for `classify`. The loss of a row depends on the
    others, so it is defined on the whole global batch alone.
    Source: XTREME's dual encoder (third_party/bert.py), which leaves no group out.
    """
    weights_B = label_weights(batch, pad_id)
    query_key, positive_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    queries_BD = model.embed(**_encoder_inputs(batch, "BS"), dropout_key=query_key)
    positives_CD = model.embed(**_encoder_inputs(batch, "BS", "target"), dropout_key=positive_key)
    logits_BC = model.similarities(queries_BD, positives_CD)
    groups_B2, own_B = batch["groups"], jnp.arange(len(weights_B))
    same_BC = jnp.all(groups_B2[:, None] == groups_B2[None], axis=-1) & (own_B[:, None] != own_B)
    real_C = jnp.any(real_tokens(batch, "encoder", "input", pad_id), axis=-1)
    logits_BC = jnp.where(same_BC | ~real_C, MASKED, logits_BC)
    loss_B, correct_B = class_cross_entropy(logits_BC, own_B, weights_B)
    return _weighted(loss_B, correct_B, weights_B, batch, pad_id)


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """What a training step needs to know of an objective.

    Attributes:
      loss: loss(model, batch, *, pad_id, dropout_key) -> (loss sum, weight sum, metrics); over a vocabulary also
        z_loss, label_smoothing and max_logits_bytes.
      weights: (batch, pad_id) -> f32 loss weights of the whole batch, [B, length] or [B].
      weights_name: the feature of a batch that holds them.
      segments_name: the feature that says which of them belong to one example; None where a row is one.
      over_vocabulary: whether the classes are the vocabulary, with z-loss and label smoothing.
      needs: what a model must have, for messages.
      whole_batch: whether the loss of a row depends on the other rows, so that a batch cannot be cut.
    """

    loss: Callable[..., Loss]
    weights: Callable[[Batch, int], jax.Array]
    weights_name: str
    segments_name: str | None
    over_vocabulary: bool
    needs: str
    whole_batch: bool = False


_DECODER = (decoder_weights, "decoder_loss_weights", "decoder_segment_ids")
_ENCODER = (encoder_weights, "encoder_loss_weights", "encoder_segment_ids")
_LABELS = (label_weights, "label_weights", None)

OBJECTIVES = {
    "seq2seq": Objective(seq2seq, *_DECODER, True, "an encoder-decoder: mT5"),
    "causal": Objective(causal, *_DECODER, True, "a decoder-only model: BLOOM"),
    "mlm": Objective(mlm, *_ENCODER, True, "XLM-R or mBERT with bert.BertConfig.mlm_head = True"),
    "classify": Objective(classify, *_LABELS, False, "a classification head: heads/classify.gin, after the run's file"),
    "choose": Objective(choose, *_LABELS, False, "a multiple-choice head: heads/choose.gin, after the run's file"),
    "tag": Objective(tag, *_ENCODER, False, "a tagging head: heads/tag.gin, after the run's file"),
    "span": Objective(span, *_LABELS, False, "a span head: heads/span.gin, after the run's file"),
    "contrastive": Objective(
        contrastive, *_LABELS, False, "a dual encoder: heads/dual_encoder.gin, after the run's file", whole_batch=True
    ),
}


def check_objective(name: str, config: ModelConfig) -> None:
    """Raises UserError where no objective has this name, or where the model cannot be trained with it."""
    if name not in OBJECTIVES:
        raise UserError(
            f"The objective {name!r} is none of {', '.join(OBJECTIVES)}.{did_you_mean(str(name), OBJECTIVES)}"
        )
    if name not in config.objectives:
        can = " or ".join(map(repr, config.objectives)) or "no objective as it is"
        raise UserError(
            f"The objective {name!r} needs {OBJECTIVES[name].needs}. This {config.family} can be trained with {can}."
        )


def check_microbatches(name: str, microbatches: int) -> None:
    """Raises UserError where a batch of this objective cannot be cut into so many pieces."""
    if microbatches > 1 and OBJECTIVES[name].whole_batch:
        raise UserError(
            f"NUM_MICROBATCHES is {microbatches}, but with the objective {name!r} the other rows of a batch are what a "
            "row is told from: a piece would have fewer of them. Set 1, and a smaller BATCH_SIZE or more devices."
        )


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation
# ---------------------------------------------------------------------------------------------------------------------


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


def normalize(
    factor: float | str | None, batch: Batch, objective: str = "seq2seq", pad_id: int = 0
) -> tuple[jax.Array, jax.Array | float]:
    """(loss weights f32, the number to divide the loss sum by) of a whole batch.

    The weights are those of the objective, [B, length] or [B]; "tokens" are whatever has one: a token, or a text with a
    label. None divides by nothing, a number by itself; 'NUM_REAL_TARGET_TOKENS' by the weight sum,
    'NUM_TOTAL_TARGET_TOKENS' by the number of weights; 'AVERAGE_PER_SEQUENCE' weights every sequence (packed ones each)
    equally and divides by their number.
    Source: T5X, `losses.get_loss_normalizing_factor_and_weights`. Call it on the global batch, before it is cut into
    microbatches.
    """
    kind = OBJECTIVES[objective]
    weights = kind.weights(batch, pad_id)
    if factor is None:
        return weights, 1.0
    if factor == "NUM_REAL_TARGET_TOKENS":
        return weights, jnp.sum(weights)
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return weights, float(weights.size)
    if factor == "AVERAGE_PER_SEQUENCE":
        segments_BT = None if kind.segments_name is None else batch.get(kind.segments_name)
        if segments_BT is None:
            rest = tuple(range(1, weights.ndim))
            totals = jnp.broadcast_to(jnp.sum(weights, axis=rest, keepdims=True), weights.shape)
        else:
            same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
            totals = jnp.einsum("bts,bs->bt", same_BTT.astype(jnp.float32), weights)
        weights = jnp.where(totals > 0, weights / jnp.where(totals > 0, totals, 1.0), 0.0)
        return weights, jnp.sum(weights)
    return weights, float(factor)
