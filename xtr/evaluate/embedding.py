"""Sentence embeddings: the mean of an encoder layer's vectors over the real tokens, or a dual encoder's own vectors.

Axes: B batch, S length, D embedding, L layers.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from xtr.errors import UserError
from xtr.models.heads import Embedder
from xtr.models.interface import Encoder


def own_vectors(model: Embedder, tokens_BS: jax.Array) -> jax.Array:
    """A dual encoder's vector of each text, f32 [B, D]."""
    return model.embed(tokens_BS)


def mean_pooled(model: Encoder, tokens_BS: jax.Array, layer: int | Literal["all"] | None = None) -> jax.Array:
    """Mean of encoder vectors over the real tokens (all but padding; special tokens count), in f32.

    Args:
      tokens_BS: int ids, padded with the config's `pad_id`.
      layer: 0 the embeddings, i the output of layer i, L (or None, or -1) the last one after the final norm; negative
        numbers count from the end; 'all' for all of them.

    Returns:
      [B, D], or [L+1, B, D] for 'all'. A row of padding alone gives zeros.

    Raises:
      UserError: the encoder has no such layer.
    """
    mask_BS = (tokens_BS != model.config.pad_id).astype(jnp.float32)
    count_B = jnp.maximum(mask_BS.sum(axis=-1), 1.0)

    def pool(x_BSD: jax.Array) -> jax.Array:
        return jnp.einsum("bsd,bs->bd", x_BSD.astype(jnp.float32), mask_BS) / count_B[:, None]

    if layer is None:
        return pool(model.encode(tokens_BS))
    top = model.config.num_layers
    if layer != "all" and (isinstance(layer, bool) or not isinstance(layer, int) or not -top - 1 <= layer <= top):
        raise UserError(
            f"The encoder has layers 0 (embeddings) to {top}, -1 to {-top - 1} from the end, or 'all', not {layer!r}."
        )
    pooled_LBD = model.encode(tokens_BS, all_layers=True, readout=pool)
    return pooled_LBD if layer == "all" else pooled_LBD[layer]
