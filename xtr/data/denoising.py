"""T5's span corruption: spans of a text are replaced by sentinels, and the model writes the spans.

Raffel et al. 2020 (arXiv 1910.10683, section 3.1.4). A text a b c d e f with the spans [b c] and [f] gives

    inputs   a <extra_id_0> d e <extra_id_1> </s>
    targets  <extra_id_0> b c <extra_id_1> f </s>
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.errors import UserError


@dataclass(frozen=True)
class SpanCorruption:
    """What to corrupt.

    Attributes:
      noise_density: share of the tokens that is masked, between 0 and 1.
      mean_span_length: mean length of a masked span, in tokens, at least 1.
    """

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self):
        if not 0 < self.noise_density < 1:
            raise UserError(f"noise_density is {self.noise_density}; it must lie between 0 and 1.")
        if not self.mean_span_length >= 1:
            raise UserError(f"mean_span_length is {self.mean_span_length}; it must be at least 1.")


def noise_counts(lengths: np.ndarray | int, config: SpanCorruption) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of masked tokens and of spans in texts of `lengths` tokens, as T5's random_spans_noise_mask has them.

    Products are float32 as there, which matters where they end in a half: 190 tokens at 0.15 have 29 masked ones.

    A text of one token has no masked token but one (empty) span: its target is a sentinel alone.
    """
    lengths = np.asarray(lengths, np.int64)
    at_least_two = np.maximum(lengths, 2)
    noise = np.round(at_least_two.astype(np.float32) * np.float32(config.noise_density)).astype(np.int64)
    noise = np.clip(noise, 1, at_least_two - 1)
    spans = np.round(noise.astype(np.float32) / np.float32(config.mean_span_length)).astype(np.int64)
    spans = np.maximum(spans, 1)
    spans = np.minimum(spans, at_least_two - noise)
    return np.where(lengths < 2, 0, noise), spans


def corrupted_lengths(lengths: np.ndarray | int, config: SpanCorruption) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of inputs and targets, EOS included, that texts of `lengths` tokens (at least 1) are turned into."""
    noise, spans = noise_counts(lengths, config)
    # A text of one token keeps it, and has no sentinel in its inputs.
    in_inputs = np.where(np.asarray(lengths) < 2, 0, spans)
    return np.asarray(lengths) - noise + in_inputs + 1, noise + spans + 1


def raw_length(inputs_length: int, targets_length: int, num_sentinels: int, config: SpanCorruption) -> int:
    """The most tokens of text whose corrupted inputs and targets fit, and whose spans have a sentinel each.

    As T5's random_spans_helper, which looks at the inputs alone.

    Raises:
      UserError: the vocabulary has no sentinels, or not even two tokens fit.
    """
    if not num_sentinels:
        raise UserError(
            "The vocabulary holds no sentinels (<extra_id_0>, ...), which denoising needs. "
            "Use mT5's vocabulary, which has 100."
        )
    # Inputs and targets together have as many tokens as the text, two sentinels a span, and two EOS.
    lengths = np.arange(1, inputs_length + targets_length)
    inputs, targets = corrupted_lengths(lengths, config)
    _, spans = noise_counts(lengths, config)
    fits = (inputs <= inputs_length) & (targets <= targets_length) & (spans <= num_sentinels)
    longest = int(np.argmin(fits)) if not fits.all() else len(lengths)
    if longest < 2:
        raise UserError(
            f"Lengths {inputs_length} (inputs) and {targets_length} (targets) are too short for denoising: "
            "a text of two tokens does not fit."
        )
    return longest


def target_length(inputs_length: int, num_sentinels: int | None, config: SpanCorruption) -> int:
    """Tokens of the targets of the longest text whose corrupted inputs fit, EOS included: T5's random_spans_helper.

    Args:
      num_sentinels: the most spans of a text; None for any number.
    """
    unmasked = math.ceil(inputs_length / (1 - config.noise_density))
    text = raw_length(inputs_length, 2 * unmasked + 2, num_sentinels or unmasked, config)
    return int(corrupted_lengths(text, config)[1])


def _random_lengths(rng: np.random.Generator, items: int, segments: int) -> np.ndarray:
    """Splits `items` into `segments` non-empty parts, every split with the same probability."""
    cuts = np.sort(rng.permutation(items - 1)[: segments - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))


def noise_mask(length: int, config: SpanCorruption, rng: np.random.Generator) -> np.ndarray:
    """Which tokens are masked: bool [length]; unmasked and masked spans take turns, an unmasked one first."""
    if length < 2:
        return np.zeros(length, bool)
    noise, spans = (int(x) for x in noise_counts(length, config))
    parts = np.empty(2 * spans, np.int64)
    parts[0::2] = _random_lengths(rng, length - noise, spans)
    parts[1::2] = _random_lengths(rng, noise, spans)
    return np.repeat(np.arange(2 * spans) % 2 == 1, parts)


def corrupt(
    tokens: np.ndarray, mask: np.ndarray, sentinels: Sequence[int], eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Turns a text and its mask into (inputs, targets), int32, each with an EOS at its end.

    Args:
      tokens: int [n], the text without EOS, at least one token.
      mask: bool [n], True where masked; its first token is not masked.
      sentinels: ids of <extra_id_0>, <extra_id_1>, ...; as many as there are spans.
      eos_id: the vocabulary's end of sequence.
    """
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    span = np.cumsum(starts) - 1
    sentinel = np.asarray(sentinels, np.int32)
    inputs = np.where(starts, sentinel[span], tokens)[~mask | starts]
    # A target span follows its own sentinel; a text without spans has the first sentinel alone.
    at = np.flatnonzero(starts[mask])
    targets = np.insert(tokens[mask], at, sentinel[: len(at)]) if len(at) else sentinel[:1]
    return _with_eos(inputs, eos_id), _with_eos(targets, eos_id)


def _with_eos(tokens: np.ndarray, eos_id: int) -> np.ndarray:
    out = np.empty(len(tokens) + 1, np.int32)
    out[:-1] = tokens
    out[-1] = eos_id
    return out


@dataclass(frozen=True)
class Chunks:
    """Documents cut into texts of at most `size` tokens; chunk c is `document`, `start`, `length` at index c.

    Attributes:
      size: most tokens of a chunk.
      offsets: int64 [documents + 1], the first chunk of each document.
      documents: int64 [documents], length of each document in tokens, EOS not counted.
    """

    size: int
    offsets: np.ndarray
    documents: np.ndarray

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def locate(self, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Document, first token and length of chunks: int64 arrays of the shape of `chunk`."""
        document = np.searchsorted(self.offsets, chunk, side="right") - 1
        start = (chunk - self.offsets[document]) * self.size
        return document, start, np.minimum(self.documents[document] - start, self.size)


def chunk_documents(lengths: np.ndarray, size: int) -> Chunks:
    """Cuts documents of `lengths` tokens (EOS not counted) into chunks; a document without tokens has none."""
    lengths = np.asarray(lengths, np.int64)
    return Chunks(size, np.concatenate([[0], np.cumsum(-(-lengths // size))]), lengths)
