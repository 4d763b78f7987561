"""Sentence embeddings: pooled states of an encoder's layers, or a dual encoder's own vectors.

Axes: B batch, S length, D embedding, K layers that are asked for.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from xtr.errors import UserError, did_you_mean
from xtr.models.heads import POOLINGS, Embedder, pool
from xtr.models.interface import Encoder, ModelConfig


def own_vectors(model: Embedder, tokens_BS: jax.Array) -> jax.Array:
    """A dual encoder's vector of each text, f32 [B, D]."""
    return model.embed(tokens_BS)


def check_readout(config: ModelConfig, layers: Sequence[int] | Literal["all"], pooling: str) -> None:
    """Raises UserError where an encoder has no such layer, or its texts cannot be pooled so; as `layer_vectors`."""
    top = config.num_layers
    for layer in () if layers == "all" else layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or not -top - 1 <= layer <= top:
            raise UserError(
                f"The encoder has layers 0 (embeddings) to {top}, -1 to {-top - 1} from the end, or 'all', not "
                f"{layer!r}."
            )
    if pooling not in POOLINGS:
        raise UserError(
            f"EMBEDDING_POOLING must be one of {', '.join(POOLINGS)} ('first' is the token [CLS] or <s> of mBERT and "
            f"XLM-R), not {pooling!r}.{did_you_mean(str(pooling), POOLINGS)}"
        )
    if pooling == "first" and config.causal:
        raise UserError(
            f"EMBEDDING_POOLING is 'first', but the first token of a {config.family} has not seen the text behind it: "
            "use 'mean' or 'last'."
        )


def layer_vectors(
    model: Encoder, tokens_BS: jax.Array, layers: Sequence[int] | Literal["all"] = "all", pooling: str = "mean"
) -> jax.Array:
    """One vector of each text by each layer, in one pass; no layer's states are kept but the vectors.

    Args:
      tokens_BS: int ids, padded on the right with the config's `pad_id`.
      layers: numbers: 0 the embeddings, i the output of layer i, L (or -1) the last one after the final norm; negative
        ones count from the end. 'all': 0 to L.
      pooling: 'mean' over the real tokens (all but padding; special tokens count), in f32; the 'first' token, which is
        [CLS] or <s> where a family has it; or the 'last' real one, which is the EOS where texts end in it.

    Returns:
      f32 [B, K, D]. A row of padding alone gives zeros for the mean, and something of no use for a token.

    Raises:
      UserError: as `check_readout`.
    """
    check_readout(model.config, layers, pooling)
    real_BS = tokens_BS != model.config.pad_id
    top = model.config.num_layers
    wanted = range(top + 1) if layers == "all" else [layer % (top + 1) for layer in layers]

    def read(x_BSD: jax.Array) -> jax.Array:
        return pool(x_BSD, real_BS, pooling).astype(jnp.float32)

    if set(wanted) == {top}:
        last_BD = read(model.encode(tokens_BS))
        return jnp.stack([last_BD] * len(wanted), axis=1)
    vectors_LBD = model.encode(tokens_BS, all_layers=True, readout=read)
    return jnp.stack([vectors_LBD[layer] for layer in wanted], axis=1)
