"""Tags of words and the sub-tokens of a model: which sub-token a word's tag is read at, and back.

A word's tag is read at its first sub-token, as in XTREME; but a causal model sees nothing behind a token, so there at
the word's last one, which has seen all of it.

A sentence longer than a row is split between words; no word loses its tag.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.data.vocabulary import Vocabulary
from xtr.errors import UserError


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


def align(
    vocabulary: Vocabulary,
    words: Sequence[str],
    tags: Sequence[int] | None = None,
    *,
    causal: bool,
    max_length: int,
) -> list[TaggedPiece]:
    """Words and tags of a sentence as rows of tokens, one row unless the sentence is too long.

    Args:
      words: the sentence's words.
      tags: the number of each word's tag; None where they are to be predicted.
      causal: whether the model is (`ModelConfig.causal`): tags are read at last sub-tokens, else at first ones.
      max_length: most tokens of a row, special tokens included.

    Returns:
      Pieces that hold every word once, in order; none for a sentence without words. A piece ends before the word that
      does not fit any more. A word longer than a row keeps the sub-tokens at the end that it is read at;
      `cut_tokens` counts the others.

    Raises:
      UserError: as many tags as words are needed; or not one token fits into a row.
    """
    if tags is not None and len(tags) != len(words):
        raise UserError(f"A sentence of {len(words)} words has {len(tags)} tags: {' '.join(words)!r}.")
    frame, _ = vocabulary.with_special_tokens([-1])
    before = frame.index(-1)
    room = max_length - (len(frame) - 1)
    if room < 1:
        raise UserError(f"No word fits into rows of {max_length} tokens beside {len(frame) - 1} special ones.")

    pieces: list[TaggedPiece] = []
    ids: list[int] = []
    read: list[int] = []
    cut = first = 0

    def finish(end: int) -> None:
        tokens = np.asarray(vocabulary.with_special_tokens(ids)[0], np.int32)
        positions = np.asarray(read, np.int64) + before
        labels, weights = np.zeros_like(tokens), np.zeros_like(tokens)
        weights[positions] = 1
        if tags is not None:
            labels[positions] = tags[first:end]
        pieces.append(TaggedPiece(tokens, labels, weights, np.arange(first, end), positions, cut))

    for number, own in enumerate(sub_tokens(vocabulary, words)):
        kept = own[-room:] if causal else own[:room]
        if ids and len(ids) + len(kept) > room:
            finish(number)
            ids, read, cut, first = [], [], 0, number
        read.append(len(ids) + (len(kept) - 1 if causal else 0))
        ids += kept
        cut += len(own) - len(kept)
    if ids:
        finish(len(words))
    return pieces


def tags_of_words(pieces: Sequence[TaggedPiece], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """The inverse of `align`: one tag for each word of the sentence, int64 [words].

    Args:
      pieces: all pieces of one sentence.
      predictions: for each piece the tag predicted at each of its tokens (a padded row is fine).
    """
    parts = [np.asarray(tags)[piece.positions] for piece, tags in zip(pieces, predictions, strict=True)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
