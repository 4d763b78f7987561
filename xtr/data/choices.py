"""Training data of a multiple-choice head: a row holds the texts of all choices of an example.

Each text is the prompt and one choice, framed as a pair and cut to the row by itself, the longer text first. Examples
of a mixture may differ in their number of choices; a batch has room for the most, and a choice that is not there is
padding alone.

Letters: R rows, C choices, S slots of a text, n tokens of all texts of one example.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.framing import longest_first, room_of
from xtr.data.labelled import check_range, lengths_of, only, pad_rows, ragged, sums
from xtr.data.packing import Pair
from xtr.errors import DataError

_FEATURES = ("inputs", "token_types", "text_spans", "choice_lengths", "label")


def cut_texts(example: Mapping[str, np.ndarray], length: int) -> list[np.ndarray]:
    """The texts of an example's choices, each cut to `length` by itself: tokens beside their types, [n, 2] each."""
    sizes = example["choice_lengths"]
    tokens_n2 = np.stack([example["inputs"], example["token_types"]], axis=1)
    spans_C = example["text_spans"].reshape(len(sizes), -1)
    whole_C = np.split(tokens_n2, np.cumsum(sizes)[:-1])
    return [text[longest_first(spans, len(text), length)] for text, spans in zip(whole_C, spans_C, strict=True)]


class ChoiceSource:
    """A task's choices and which of them is right.

    Attributes:
      empty: examples of the task that give nothing to train on (none here).

    Raises:
      UserError: the task is of another kind; or a text has no room for the special tokens.
      DataError: an example whose choices do not make up its tokens, or whose label is none of them.
    """

    empty = 0

    def __init__(self, task: CachedTask, split: str, length: int):
        raw, last = lengths_of(task, split, "choose")
        values, bounds = ragged(task, split, "choice_lengths")
        whole_N, self._kept_N = sums(values, bounds), sums(np.minimum(values, length), bounds)
        if (wrong := whole_N != raw["inputs"]).any():
            n = int(wrong.argmax())
            raise DataError(
                f"{task.name}: example {n} of {split!r} has {raw['inputs'][n]} tokens, but its choice_lengths sum to "
                f"{whole_N[n]}."
            )
        check_range(task, split, "label", last["label"], raw["choice_lengths"])
        self._task, self._split, self._length, self._raw_N = task, split, length, raw["inputs"]
        (first,) = task.examples(split).read([0], ("text_spans", "choice_lengths"))
        spans_C = first["text_spans"].reshape(len(first["choice_lengths"]), -1)
        room_of(spans_C[0], int(first["choice_lengths"][0]), length)

    def __len__(self) -> int:
        return len(self._raw_N)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all texts and labels of examples after the cut, and those cut off: int64 [2, n] each."""
        raw_n, kept_n = self._raw_N[numbers], self._kept_N[numbers]
        return np.stack([kept_n, np.ones_like(kept_n)]), np.stack([raw_n - kept_n, np.zeros_like(kept_n)])

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each example its tokens with their types and the number of their choice, [n, 3], and its label, [1];
        `occurrences` plays no part."""
        pairs = []
        for example in self._task.examples(self._split).read(numbers, _FEATURES):
            texts = cut_texts(example, self._length)
            choice_n = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
            pairs.append((np.column_stack([np.concatenate(texts), choice_n]), example["label"]))
        return pairs


def build_batch(rows: Sequence[Sequence[Pair]], num_choices: int, length: int, pad_id: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its one example as `ChoiceSource.read` gives it, or none (a row of padding).
      num_choices: room for choices in a row.
      length: slots of each choice's text.
      pad_id: the token that fills rows.

    Returns:
      int32 arrays: encoder_* [R, C, S], the names and fillings of `pad_rows`, and labels [R]. A row of padding has the
      label 0, and no weight because it is empty.
    """
    texts, labels = [], []
    for row in rows:
        tokens_n3, label = only(row)
        present = 0 if tokens_n3 is None else int(tokens_n3[:, 2].max(initial=-1)) + 1
        texts += [tokens_n3[tokens_n3[:, 2] == c, :2] if c < present else None for c in range(num_choices)]
        labels.append(0 if label is None else label[0])
    flat = pad_rows(texts, length, pad_id, "encoder")
    batch = {name: array.reshape(len(rows), num_choices, length) for name, array in flat.items()}
    return batch | {"labels": np.array(labels, np.int32)}
