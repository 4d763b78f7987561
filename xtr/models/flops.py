"""Model FLOPs: the floating-point operations that a network's matrix products need, by arithmetic.

What is counted, so that a utilisation made of it (MFU) means something:

- every product [m, k] x [k, n] of the network is 2 m k n: its weights, and the scores and mixtures of attention;
- each weight over the tokens that pass through it: an encoder's over input tokens, a decoder's over target tokens, keys
  and values of attention to the encoder over input tokens, the output vocabulary over target tokens (mT5), all tokens
  (BLOOM, masked language models: the loss is computed at each);
- attention over whole rows of tokens: causal attention is not halved, packed examples see whole rows;
- a backward pass is two forward passes: each product has two of its size as its gradients;
- nothing else: no look-up in an embedding table, no relative bias, norm, softmax, mean over tokens or optimizer, and
  nothing that is computed anew to save memory.

Padding counts, for a shape is all that is known here. The definition is PaLM's (arXiv 2204.02311, appendix B), which
counts attention too.
"""

import dataclasses
import functools
import math

from xtr.errors import UserError, did_you_mean
from xtr.models.heads import HEAD, WithHead
from xtr.models.interface import ModelConfig
from xtr.models.spec import flatten

BACKWARD = 2.0  # of a backward pass, in forward passes

_CROSS = "encoder_decoder_attention"
_POOLED = ("classify", "choose", "embed")  # heads over one vector a row


@dataclasses.dataclass(frozen=True)
class _Stream:
    """How often a weight is multiplied: `tokens` for those whose path begins with `prefix`."""

    prefix: str
    tokens: float


def _weights(config: ModelConfig, streams: list[_Stream]) -> float:
    """2 x size x tokens of every kernel, by the first stream whose prefix its path has; 0 where none has."""
    total = 0.0
    for path, spec in flatten(config.param_specs()).items():
        if path.endswith("/kernel"):
            tokens = next((s.tokens for s in streams if path.startswith(s.prefix)), 0.0)
            total += 2.0 * math.prod(spec.shape) * tokens
    return total


def _attention(body: ModelConfig, layers: int, rows: float, queries: float, keys: float) -> float:
    """Scores and mixtures of `layers` attentions: two products a layer."""
    return 4.0 * layers * rows * queries * keys * body.num_heads * body.head_dim


def _encoder(config: ModelConfig, rows: float, length: float) -> float:
    """The stack of layers that `encode` goes through, without heads."""
    body = config.body if isinstance(config, WithHead) else config
    prefix = "encoder/layers" if body.family in ("mt5", "umt5") else "layers"
    return _weights(config, [_Stream(prefix, rows * length)]) + _attention(body, body.num_layers, rows, length, length)


def _vocabulary(config: ModelConfig, tokens: float) -> float:
    """The product with a table of embeddings that is the output's too."""
    return 2.0 * tokens * config.width * config.vocab_size


def _head(config: WithHead, rows: float, length: float) -> float:
    tokens = rows * length
    streams = [
        _Stream(f"{HEAD}/layer_attention", tokens),
        _Stream(HEAD, rows if config.kind in _POOLED else tokens),
    ]
    mixture = 4.0 * tokens * config.width * (config.num_layers + 1) if config.read == "attention" else 0.0
    return _weights(config, streams) + mixture


def _decoder(config: ModelConfig, rows: float, inputs: float, targets: float) -> float:
    cross = f"decoder/layers/{_CROSS}"
    streams = [
        _Stream(f"{cross}/key", rows * inputs),
        _Stream(f"{cross}/value", rows * inputs),
        _Stream("decoder", rows * targets),
    ]
    layers = config.num_decoder_layers
    own, other = (_attention(config, layers, rows, targets, keys) for keys in (targets, inputs))
    return _weights(config, streams) + own + other


def forward_flops(config: ModelConfig, objective: str, rows: float, inputs: float, targets: float = 0) -> float:
    """Floating-point operations of one forward pass over a batch.

    Args:
      config: of the network; of a model with several heads, that of the one in question (`WithHeads.head`).
      objective: a name of `xtr.train.objectives.OBJECTIVES`: 'seq2seq' (inputs and targets), 'causal', 'mlm',
        'classify', 'choose', 'tag', 'span' (inputs alone) or 'contrastive' (queries and their positives).
      rows: of the batch; for 'choose' its rows times the choices of each.
      inputs: tokens of a row: of the encoder, or of a decoder-only network the whole.
      targets: tokens of a row of the decoder; for 'contrastive' of a positive.

    Raises:
      UserError: an objective that this network does not have.
    """
    if objective not in config.objectives:
        raise UserError(
            f"A {config.family} with the objective {objective!r} has no count of FLOPs; this one has "
            f"{', '.join(config.objectives) or 'none'}.{did_you_mean(objective, config.objectives)}"
        )
    if objective == "contrastive":
        towers = sum(_encoder(config, rows, length) + _head(config, rows, length) for length in (inputs, targets))
        return towers + 2.0 * rows * rows * config.width
    flops = _encoder(config, rows, inputs)
    if objective == "seq2seq":
        return flops + _decoder(config, rows, inputs, targets)
    if objective == "causal":
        return flops + _vocabulary(config, rows * inputs)
    if objective == "mlm":
        return flops + _weights(config, [_Stream("mlm_head", rows * inputs)]) + _vocabulary(config, rows * inputs)
    return flops + _head(config, rows, inputs)


def encoding_flops(config: ModelConfig, rows: float, length: float) -> float:
    """Floating-point operations of `encode`, which retrieval reads: the stack of layers, without any head."""
    return _encoder(config, rows, length)


@functools.lru_cache(maxsize=256)  # asked for at every step
def training_flops(config: ModelConfig, objective: str, rows: float, inputs: float, targets: float = 0) -> float:
    """Floating-point operations of a training step, forward and backward; arguments as of `forward_flops`."""
    return (1.0 + BACKWARD) * forward_flops(config, objective, rows, inputs, targets)
