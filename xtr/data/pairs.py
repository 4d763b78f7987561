"""Training data of a dual encoder: a query and the text that is to be found by it, each cut to its own length.

Letters: R rows, S slots of a query, T slots of a positive, n and t tokens of one of each.
"""

from collections.abc import Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.framing import longest_first, room_of
from xtr.data.labelled import lengths_of, pad_rows

_FEATURES = ("inputs", "token_types", "text_spans", "targets", "target_text_spans", "group")


class PairSource:
    """A task's queries and their positives.

    Attributes:
      empty: examples of the task that give nothing to train on (none here).

    Raises:
      UserError: the task is of another kind; or a row has no room for the special tokens.
    """

    empty = 0

    def __init__(self, task: CachedTask, split: str, slots: tuple[int, int]):
        raw, _ = lengths_of(task, split, "contrastive")
        self._task, self._split, self._slots = task, split, slots
        self._raw_2N = np.stack([raw["inputs"], raw["targets"]])
        (first,) = task.examples(split).read([0], ("text_spans", "target_text_spans"))
        for name, size, length in zip(("text_spans", "target_text_spans"), self._raw_2N[:, 0], slots, strict=True):
            room_of(first[name], int(size), length)

    def __len__(self) -> int:
        return self._raw_2N.shape[1]

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of queries and positives after the cut, and those cut off: int64 [2, n] each."""
        raw_2n = self._raw_2N[:, numbers]
        kept_2n = np.minimum(raw_2n, np.array(self._slots)[:, None])
        return kept_2n, raw_2n - kept_2n

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """For each pair the query's tokens beside their types, [n, 2], the positive's tokens, [t], and the number of
        its group; `occurrences` plays no part."""
        examples = []
        for example in self._task.examples(self._split).read(numbers, _FEATURES):
            query_n2 = np.stack([example["inputs"], example["token_types"]], axis=1)
            query_n2 = query_n2[longest_first(example["text_spans"], len(query_n2), self._slots[0])]
            positive_t = example["targets"]
            places = longest_first(example["target_text_spans"], len(positive_t), self._slots[1])
            examples.append((query_n2, positive_t[places], int(example["group"][0])))
        return examples


def build_batch(rows: Sequence[Sequence[tuple]], slots: tuple[int, int], pad_id: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its one pair as `PairSource.read` gives it, or none (a row of padding).
      slots: of a query and of a positive.
      pad_id: the token that fills rows.

    Returns:
      int32 arrays: encoder_* [R, S] of the queries and target_* [R, T] of the positives, as `pad_rows` has them; and
      groups [R, 2], the halves of each group's number, by which rows are compared, those of other hosts too.
    """
    pairs = [row[0] if row else (None, None, 0) for row in rows]
    batch = pad_rows([query for query, _, _ in pairs], slots[0], pad_id, "encoder")
    positives = pad_rows([positive for _, positive, _ in pairs], slots[1], pad_id, "target")
    del positives["target_token_types"]  # a single text: all 0
    groups_R2 = np.array([group for _, _, group in pairs], np.int64).view(np.int32).reshape(-1, 2)
    return batch | positives | {"groups": groups_R2}
