"""Training data of a tagging head: a sentence a row, with the tag of each word where it is read.

A sentence that is longer than a row becomes several pieces (`xtr.data.tagging.align`), each an example of its own.

Letters: R rows, S slots of a row, N sentences, P pieces, n tokens of one piece.
"""

from collections.abc import Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.labelled import check_examples, check_number, lengths_of, only, pad_rows, ragged, sums
from xtr.data.packing import Pair
from xtr.data.tagging import Frame, align, first_words
from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError

_NOTHING = np.zeros(0, np.int32)


def check_tags(task: CachedTask, split: str, num_labels: int) -> tuple[str, ...]:
    """The names of a task's tags; numbers, where the task does not name them.

    Raises:
      UserError: it is not a tagging task, or has not as many tags as the head.
    """
    check_examples(task, split, "tag")
    names = tuple(task.info.get("label_names", ()))
    if names:
        check_number(task.name, "tags", names, num_labels)
    return names or tuple(map(str, range(num_labels)))


class TaggedSource:
    """The pieces of a task's sentences, nearly always whole ones.

    Attributes:
      empty: sentences without words.
      label_names: the task's tags, in the order of their numbers.

    Raises:
      UserError: the task is of another kind, or has another number of tags than the head; or a row has no room for a
        word.
      DataError: words without tags, or tags that the task does not have.
    """

    def __init__(
        self, task: CachedTask, split: str, length: int, num_labels: int, vocabulary: Vocabulary, causal: bool
    ):
        self.label_names = check_tags(task, split, num_labels)
        raw, _ = lengths_of(task, split, "tag")
        if (wrong := raw["tags"] != raw["word_lengths"]).any():
            n = int(wrong.argmax())
            raise DataError(
                f"{task.name}: example {n} of {split!r} has {raw['word_lengths'][n]} words and {raw['tags'][n]} tags."
            )
        tags, bounds = ragged(task, split, "tags")
        example_of_word = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        if (wrong := (tags < 0) | (tags >= num_labels)).any():
            word = int(wrong.argmax())
            raise DataError(
                f"{task.name}: example {example_of_word[word]} of {split!r} has the tag {tags[word]}, which is not of "
                f"0 to {num_labels - 1}: NUM_LABELS is {num_labels}."
            )
        frame = Frame(vocabulary, length)
        words, _ = ragged(task, split, "word_lengths")
        kept = np.minimum(words, frame.room)
        size_N, cut_N = sums(kept, bounds), sums(words - kept, bounds)
        whole_N = size_N <= frame.room
        # Of each piece the sentence, the place among its pieces, its tokens and the sub-tokens cut off its words.
        pieces = [(int(n), 0, int(size_N[n]), int(cut_N[n])) for n in np.flatnonzero(whole_N & (np.diff(bounds) > 0))]
        for n in np.flatnonzero(~whole_N).tolist():
            own = slice(int(bounds[n]), int(bounds[n + 1]))
            firsts = first_words(kept[own].tolist(), frame.room)
            for at, (first, end) in enumerate(zip(firsts, firsts[1:], strict=False)):
                piece = slice(own.start + first, own.start + end)
                pieces.append((n, at, int(kept[piece].sum()), int((words - kept)[piece].sum())))
        self._pieces_P4 = np.array(sorted(pieces), np.int64).reshape(-1, 4)
        self._pieces_P4[:, 2] += frame.special
        self._task, self._split, self._length = task, split, length
        self._vocabulary, self._causal = vocabulary, causal
        self.empty = int((np.diff(bounds) == 0).sum())

    def __len__(self) -> int:
        return len(self._pieces_P4)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of pieces, special ones included, and sub-tokens cut off words that are longer than a row: int64
        [2, n] each; the other side is empty."""
        _, _, size_n, cut_n = self._pieces_P4[numbers].T
        return np.stack([size_n, np.zeros_like(size_n)]), np.stack([cut_n, np.zeros_like(cut_n)])

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each piece its tokens, labels and weights, int32 [n, 3], and nothing; `occurrences` plays no part."""
        sentence_n, at_n, _, _ = self._pieces_P4[numbers].T
        unique, where = np.unique(sentence_n, return_inverse=True)
        found = self._task.examples(self._split).read(unique, ("inputs", "word_lengths", "tags"))
        out = []
        for place, at in zip(where.tolist(), at_n.tolist(), strict=True):
            example = found[place]
            piece = align(
                self._vocabulary, example["inputs"], example["word_lengths"], example["tags"], causal=self._causal,
                max_length=self._length,
            )[at]  # fmt: skip
            out.append((np.stack([piece.tokens, piece.labels, piece.weights], axis=1), _NOTHING))
        return out


def build_batch(rows: Sequence[Sequence[Pair]], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its one piece as `TaggedSource.read` gives it, or none (a row of padding).
      length: slots of a row.
      pad_id: the token that fills rows.

    Returns:
      int32 arrays [R, S]: encoder_* as `pad_rows` has them, encoder_target_tokens (a word's tag where it is read, else
      0) and encoder_loss_weights (1 there, else 0).
    """
    pieces = [only(row)[0] for row in rows]
    batch = pad_rows([None if p is None else p[:, 0] for p in pieces], length, pad_id, "encoder")
    for column, name in enumerate(("target_tokens", "loss_weights"), start=1):
        batch[f"encoder_{name}"] = np.zeros((len(rows), length), np.int32)
        for r, piece in enumerate(pieces):
            if piece is not None:
                batch[f"encoder_{name}"][r, : len(piece)] = piece[:, column]
    return batch
