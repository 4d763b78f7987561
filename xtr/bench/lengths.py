"""Random mT5 weights whose greedy outputs have given lengths.

The speed of a decoder hangs on how long its outputs are, and those of random weights end at once or never. Here the
last token of an input names a length, a token of its own for each, and one head of the decoder makes the EOS the most
probable token exactly when that many are written: the head of the first layer's self-attention weighs all t + 1 tokens
fed so far alike and finds 1 / (t + 1), the share of the start token among them; the same layer's attention to the
encoder looks at the last token alone and finds 1 / (length - 1/2) there; the EOS has the sign of the difference. All
other weights stay as they were drawn, and every shape is the network's own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5Config

# Channels of the residual streams, counted from the last, that no other weight writes or reads.
_START, _LENGTH, _MARK, _ONE, _OVER = -1, -2, -3, -4, -5
_CHANNELS = [_START, _LENGTH, _MARK, _ONE, _OVER]
_STEEP = 1e8  # of the EOS logit: far above all others' at length - 1/2 tokens, far below them at one token less
_LARGE = 1e5  # of a marker's embedding, so that all else in it vanishes in the norm
_SHARE = 0.25  # 1 / (length - 1/2), at most 2, is at most half of a marker's norm


def marker(config: MT5Config, length: int) -> int:
    """The token that names an output length of at least 1, the EOS included; the last rows of the vocabulary."""
    return config.vocab_size - length


def with_lengths(
    config: MT5Config, params: Mapping[str, Any], pieces: int, longest: int, eos_id: int = 1
) -> dict[str, Any]:
    """`params` changed so that an input that ends in `marker(config, n)` has a greedy output of n tokens.

    Args:
      config: of an mT5 (umT5's biases are laid out otherwise), whose vocabulary has `longest` rows to spare.
      params: f32.
      pieces: of the vocabulary: ids from there on, and the padding, are never generated.
      longest: the greatest n.
    """
    flat = {path: np.array(array) for path, array in spec_lib.flatten(params).items()}
    heads = slice(0, config.head_dim)
    for path, array in flat.items():
        if path.endswith(("out/kernel", "wo/kernel")):
            array[..., _CHANNELS] = 0
        elif "/layers/" in path and path.endswith("kernel"):
            array[..., _CHANNELS, :] = 0

    table = flat["token_embedder/embedding"]
    table[:, _CHANNELS] = 0
    table[0, _START] = table[:, _ONE] = 1
    lengths = np.arange(1, longest + 1)
    share = _SHARE / (lengths - 0.5)
    markers = config.vocab_size - lengths
    table[markers] = 0
    table[markers, _LENGTH], table[markers, _MARK] = _LARGE * share, _LARGE * np.sqrt(1 - share**2)

    def first_head(block: str) -> dict[str, np.ndarray]:
        """The first layer's kernels of an attention, of which the first head is emptied."""
        kernels = {name: flat[f"decoder/layers/{block}/{name}/kernel"][0] for name in ("query", "key", "value", "out")}
        for name in ("query", "key", "value"):
            kernels[name][:, heads] = 0
        kernels["out"][heads] = 0
        return kernels

    flat["decoder/relpos_bias/rel_embedding"][0] = 0
    own = first_head("self_attention")
    own["value"][_START, 0] = np.sqrt(np.mean(np.square(table[0])))
    own["out"][0, _OVER] = -1
    cross, root = first_head("encoder_decoder_attention"), np.sqrt(config.emb_dim)
    cross["query"][_ONE, 0], cross["key"][_MARK, 0] = 1000 / root, 1
    cross["value"][_LENGTH, 0], cross["out"][0, _OVER] = 1 / (_SHARE * root), 1

    head = flat["decoder/logits_dense/kernel"]
    head[_CHANNELS] = 0
    head[:, [0, eos_id]] = head[:, pieces:] = 0
    head[_OVER, eos_id] = _STEEP
    return spec_lib.unflatten(flat)
