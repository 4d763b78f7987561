"""Training data of a span head: a question and a window of its context a row, and where the answer is.

A context that is too long for a row becomes several windows that overlap, each an example of its own: they start every
`doc_stride` tokens, the last one where it reaches the context's end; the question stands in front of each, its first
`max_query_length` tokens (BERT's and XTREME's practice: rows of 384, stride 128, questions of 64). All windows are
trained on. Where an answer does not lie wholly inside a window, or there is none, both its ends are the row's first
token: XLM-R's <s> and mBERT's [CLS]. mT5 and BLOOM put nothing before a text, so there it is the question's first
token; it can stand for "no answer", as no context ever begins there (though the state of a causal model's first token
has not seen the text: the other tokens must fall below it).

Letters: R rows, S slots of a row, n tokens of one window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.framing import frame
from xtr.data.labelled import lengths_of, only, pad_rows
from xtr.data.packing import Pair
from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError, UserError


@dataclass(frozen=True)
class Windowing:
    """How contexts are cut into rows.

    Attributes:
      length: tokens of a row, question and special tokens included.
      doc_stride: tokens from the start of a window to the start of the next.
      max_query_length: most tokens of a question.
    """

    length: int
    doc_stride: int = 128
    max_query_length: int = 64

    def __post_init__(self):
        for name in ("doc_stride", "max_query_length"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} (DOC_STRIDE, MAX_QUERY_LENGTH) is {getattr(self, name)}; it must be 1 or more."
                )

    def room(self, question_lengths: np.ndarray, special: int) -> np.ndarray:
        """Tokens that questions leave a context, int64.

        Raises:
          UserError: nothing is left.
        """
        room = self.length - special - np.minimum(question_lengths, self.max_query_length)
        if (room < 1).any():
            raise UserError(
                f"Rows of {self.length} tokens have no room for a context beside a question of "
                f"{self.length - special - int(room.min())} tokens: use longer rows, or set MAX_QUERY_LENGTH."
            )
        return room

    def stride(self, room: np.ndarray) -> np.ndarray:
        """Tokens between starts of windows: never more than a window holds, so that no token is left out."""
        return np.minimum(self.doc_stride, room)

    def counts(self, context_lengths: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Windows of contexts, at least one each: int64."""
        stride = self.stride(room)
        return 1 + np.maximum(0, -(-(context_lengths - room) // stride))


class Window(NamedTuple):
    """A row of a question and a piece of its context.

    Attributes:
      tokens: int32 [n, 2], tokens beside their types.
      start, end: the piece's first context token and the one behind its last.
      offset: the place of the piece's first token in the row.
    """

    tokens: np.ndarray
    start: int
    end: int
    offset: int


def frame_window(
    windowing: Windowing, vocabulary: Vocabulary, question: np.ndarray, context: np.ndarray, start: int, end: int
) -> Window:
    """The row of a question, cut, and of the context tokens [start, end)."""
    question = question[: windowing.max_query_length].tolist()
    tokens, types, (_, _, offset, _) = frame(vocabulary, question, context[start:end].tolist())
    return Window(np.stack([tokens, types], axis=1).astype(np.int32), start, end, offset)


def windows_of(windowing: Windowing, vocabulary: Vocabulary, question: np.ndarray, context: np.ndarray) -> list[Window]:
    """All windows of one example, at least one. UserError where rows have no room for its context."""
    size, special = np.array([len(context)]), len(frame(vocabulary, [], [])[0])
    room = windowing.room(np.array([len(question)]), special)
    starts = np.arange(*windowing.counts(size, room)) * windowing.stride(room)
    return [
        frame_window(windowing, vocabulary, question, context, start, min(start + int(room[0]), len(context)))
        for start in starts.tolist()
    ]


class SpanSource:
    """The windows of a task's contexts with the answers in them.

    Attributes:
      empty: examples of the task that give nothing to train on (none here: an empty context has one window).

    Raises:
      UserError: the task is of another kind; or rows have no room for a context.
    """

    empty = 0

    def __init__(self, task: CachedTask, split: str, windowing: Windowing, vocabulary: Vocabulary):
        raw, _ = lengths_of(task, split, "span")
        self._special = len(frame(vocabulary, [], [])[0])
        self._question_N, self._context_N = raw["question"], raw["inputs"]
        self._room_N = windowing.room(self._question_N, self._special)
        self._stride_N = windowing.stride(self._room_N)
        self._bounds = np.concatenate([[0], np.cumsum(windowing.counts(self._context_N, self._room_N))])
        self._task, self._split, self._windowing, self._vocabulary = task, split, windowing, vocabulary

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def _locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of windows the example, and start and end in its context."""
        example_n = np.searchsorted(self._bounds, numbers, side="right") - 1
        start_n = (numbers - self._bounds[example_n]) * self._stride_N[example_n]
        return example_n, start_n, np.minimum(start_n + self._room_N[example_n], self._context_N[example_n])

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and ends of answers of windows, and tokens of questions cut off: int64 [2, n] each."""
        example_n, start_n, end_n = self._locate(numbers)
        raw_n = self._question_N[example_n]
        kept_n = np.minimum(raw_n, self._windowing.max_query_length)
        size_n = self._special + kept_n + end_n - start_n
        return np.stack([size_n, np.full_like(size_n, 2)]), np.stack([raw_n - kept_n, np.zeros_like(size_n)])

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each window its tokens beside their types, [n, 2], and the answer's first and last token, [2];
        `occurrences` plays no part."""
        example_n, start_n, end_n = self._locate(numbers)
        unique, where = np.unique(example_n, return_inverse=True)
        found = self._task.examples(self._split).read(unique, ("question", "inputs", "answer"))
        pairs = []
        for number, at, start, end in zip(example_n.tolist(), where, start_n.tolist(), end_n.tolist(), strict=True):
            question, context, (first, last) = (found[at][name] for name in ("question", "inputs", "answer"))
            if not (-1 == first == last or 0 <= first <= last < len(context)):
                raise DataError(
                    f"{self._task.name}: example {number} of {self._split!r} has the answer [{first}, {last}] in a "
                    f"context of {len(context)} tokens."
                )
            window = frame_window(self._windowing, self._vocabulary, question, context, start, end)
            inside = start <= first and last < end
            answer = np.array([first, last]) - start + window.offset if inside else np.zeros(2, np.int64)
            pairs.append((window.tokens, answer))
        return pairs


def build_batch(rows: Sequence[Sequence[Pair]], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its one window as `SpanSource.read` gives it, or none (a row of padding).
      length: slots of a row.
      pad_id: the token that fills rows.

    Returns:
      int32 arrays: encoder_* [R, S] as `pad_rows` has them, start_positions and end_positions [R]. A row of padding
      has both at 0, and no weight because it is empty.
    """
    examples = [only(row) for row in rows]
    batch = pad_rows([tokens for tokens, _ in examples], length, pad_id, "encoder")
    ends_R2 = np.array([(0, 0) if ends is None else ends for _, ends in examples], np.int32).reshape(-1, 2)
    return batch | {"start_positions": ends_R2[:, 0], "end_positions": ends_R2[:, 1]}
