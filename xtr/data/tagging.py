"""Tags of words and the sub-tokens of a model: which sub-token a word's tag is read at, and back.

A word's tag is read at its first sub-token, as in XTREME; but a causal model sees nothing behind a token, so there at
the word's last one, which has seen all of it.

A sentence longer than a row is split between words; no word loses its tag.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError, UserError


@dataclass(frozen=True)
class TaggedPiece:
    """A sentence, or a piece of a long one, as a model reads it; n tokens, w words.

    Attributes:
      tokens: int32 [n], special tokens included.
      labels: int32 [n], a word's tag where it is read, 0 elsewhere (and everywhere where no tags were given).
      weights: int32 [n], 1 where a word's tag is read, else 0.
      words: int64 [w], the words' places in the sentence, ascending without gaps.
      positions: int64 [w], the token that each word's tag is read at.
      cut_tokens: sub-tokens left out of words that are longer than a whole row.
    """

    tokens: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    words: np.ndarray
    positions: np.ndarray
    cut_tokens: int


def sub_tokens(vocabulary: Vocabulary, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word of a sentence; never none: a word of which nothing is left is unknown.

    Words are tokenised one by one, as XTREME does it, as if spaces stood between them. Byte-level BPE has the space
    before a word in the word's own tokens; the other kinds mark the beginning of a word themselves.
    """
    nothing = [vocabulary.eos_id if vocabulary.unk_id is None else vocabulary.unk_id]
    spaced = [" " + w if i and vocabulary.kind == "bpe" else w for i, w in enumerate(words)]
    return [
        (vocabulary.encode(text) if word.strip() else []) or nothing for word, text in zip(words, spaced, strict=True)
    ]


class Frame:
    """What special tokens leave of a row, and where a sentence begins in it."""

    def __init__(self, vocabulary: Vocabulary, max_length: int):
        frame, _ = vocabulary.with_special_tokens([-1])
        self.before, self.special = frame.index(-1), len(frame) - 1
        self.room = max_length - self.special
        if self.room < 1:
            raise UserError(f"No word fits into rows of {max_length} tokens beside {self.special} special ones.")


def first_words(kept: Sequence[int], room: int) -> list[int]:
    """The first word of each piece of a sentence, and behind them the number of words; `kept`: tokens of each word."""
    firsts, size = [0], 0
    for number, own in enumerate(kept):
        if size + own > room:
            firsts.append(number)
            size = 0
        size += own
    return [*firsts, len(kept)] if len(kept) else [0]


def align(
    vocabulary: Vocabulary,
    ids: Sequence[int] | np.ndarray,
    word_lengths: Sequence[int] | np.ndarray,
    tags: Sequence[int] | np.ndarray | None = None,
    *,
    causal: bool,
    max_length: int,
) -> list[TaggedPiece]:
    """Words and tags of a sentence as rows of tokens, one row unless the sentence is too long.

    Args:
      ids: the sub-tokens of all words, one word's behind the other's (see `sub_tokens`).
      word_lengths: how many of them each word has, at least 1.
      tags: the number of each word's tag; None where they are to be predicted.
      causal: whether the model is (`ModelConfig.causal`): tags are read at last sub-tokens, else at first ones.
      max_length: most tokens of a row, special tokens included.

    Returns:
      Pieces that hold every word once, in order; none for a sentence without words. A piece ends before the word that
      does not fit any more. A word longer than a row keeps the sub-tokens at the end that it is read at;
      `cut_tokens` counts the others.

    Raises:
      UserError: as many tags as words are needed; or not one token fits into a row.
      DataError: the words' lengths do not make up the sub-tokens.
    """
    ids, lengths = np.asarray(ids, np.int64), np.asarray(word_lengths, np.int64)
    if tags is not None and len(tags) != len(lengths):
        raise UserError(f"A sentence of {len(lengths)} words has {len(tags)} tags.")
    if lengths.sum() != len(ids) or lengths.min(initial=1) < 1:
        raise DataError(f"A sentence of {len(ids)} sub-tokens has words of {lengths.tolist()}.")
    frame = Frame(vocabulary, max_length)
    kept = np.minimum(lengths, frame.room)
    ends, kept_ends = np.cumsum(lengths), np.cumsum(kept)
    place = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)  # of a sub-token in its word
    first_kept = lengths - kept if causal else np.zeros_like(kept)
    whole = (place >= np.repeat(first_kept, lengths)) & (place < np.repeat(first_kept + kept, lengths))
    own = ids[whole]
    read = kept_ends - 1 if causal else kept_ends - kept

    pieces = []
    firsts = first_words(kept.tolist(), frame.room)
    for first, end in zip(firsts, firsts[1:], strict=False):
        start = int(kept_ends[first] - kept[first])
        tokens, _ = vocabulary.with_special_tokens(own[start : kept_ends[end - 1]].tolist())
        tokens = np.asarray(tokens, np.int32)
        positions = read[first:end] - start + frame.before
        labels, weights = np.zeros_like(tokens), np.zeros_like(tokens)
        weights[positions] = 1
        if tags is not None:
            labels[positions] = tags[first:end]
        cut = int((lengths - kept)[first:end].sum())
        pieces.append(TaggedPiece(tokens, labels, weights, np.arange(first, end), positions, cut))
    return pieces


def tags_of_words(pieces: Sequence[TaggedPiece], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """The inverse of `align`: one tag for each word of the sentence, int64 [words].

    Args:
      pieces: all pieces of one sentence.
      predictions: for each piece the tag predicted at each of its tokens (a padded row is fine).
    """
    parts = [np.asarray(tags)[piece.positions] for piece, tags in zip(pieces, predictions, strict=True)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
