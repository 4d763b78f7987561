"""Training data of heads: what all of them share, and those of a classification head.

A batch comes from the same stream of windows as any other (`xtr.data.windows`): an example has two sides there, the
tokens of its row (with their types, and whatever else belongs to a token) and the labels. Every example has a row of
its own. The features that a task's examples need are those of `tasks/formats/encoder.py`.

Letters: N examples, R rows, S slots of a row, n tokens of one example.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.framing import longest_first, room_of
from xtr.data.packing import Pair
from xtr.errors import DataError, UserError


@dataclass(frozen=True)
class Head:
    """What a head is trained on.

    Attributes:
      kind: of the tasks.
      features: of their examples. The first one tells the kind.
      file: the gin file that gives a model the head.
    """

    kind: str
    features: tuple[str, ...]
    file: str


# By the head's objective. An example's kind is looked for in this order: choices have labels too.
HEADS = {
    "choose": Head(
        "multiple_choice", ("choice_lengths", "inputs", "token_types", "text_spans", "label"), "heads/choose.gin"
    ),
    "tag": Head("tagging", ("word_lengths", "inputs", "tags"), "heads/tag.gin"),
    "span": Head("span_qa", ("answer", "question", "inputs"), "heads/span.gin"),
    "contrastive": Head(
        "pairs",
        ("group", "inputs", "token_types", "text_spans", "targets", "target_text_spans"),
        "heads/dual_encoder.gin",
    ),
    "classify": Head("classification", ("label", "inputs", "token_types", "text_spans"), "heads/classify.gin"),
}
OBJECTIVE_OF_KIND = {head.kind: objective for objective, head in HEADS.items()}
_BLOCK = 4096


# ---------------------------------------------------------------------------------------------------------------------
# What a task holds
# ---------------------------------------------------------------------------------------------------------------------


def check_examples(task: CachedTask, split: str, objective: str) -> dict:
    """A task's first example.

    Raises:
      UserError: it is not of the kind that the head of this objective reads.
    """
    (first,) = task.examples(split).read([0])
    head = HEADS[objective]
    found = next((other for other in HEADS.values() if other.features[0] in first), head)
    missing = [name for name in head.features if name not in first]
    if found == head and not missing:
        return first
    hint = "tasks/formats/encoder.py says what the examples of such a task hold."
    if found != head:
        hint = f"Train on it with {found.file}."
    why = f"lack {', '.join(missing)}" if missing else f"have {found.features[0]}"
    raise UserError(f"{task.name} is not for {head.file}: its examples of {split!r} {why}. {hint}")


def lengths_of(task: CachedTask, split: str, objective: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Length of each feature that the objective needs, and its last value: int64 [N] each, by feature ('group', which
    is wider than the table, left out).

    Raises:
      UserError: an example lacks a feature, or is of another kind (see `check_examples`).
    """
    check_examples(task, split, objective)
    features = [name for name in HEADS[objective].features if name != "group"]
    raw, last = (dict(zip(features, table.astype(np.int64), strict=True)) for table in task.lengths(split, features))
    for name, lengths in raw.items():
        if (lengths < 0).any():
            raise UserError(task.no_feature(split, int((lengths < 0).argmax()), name))
    return raw, last


@functools.lru_cache(maxsize=256)
def ragged(task: CachedTask, split: str, feature: str) -> tuple[np.ndarray, np.ndarray]:
    """A small integer feature of all examples: (values, bounds), int64; example i has values[bounds[i]:bounds[i + 1]].

    Every example must have it. The split is read once a process.
    """
    count = task.num_examples(split)
    parts = []
    for start in range(0, count, _BLOCK):
        found = task.examples(split).read(range(start, min(start + _BLOCK, count)), (feature,))
        parts += [example[feature] for example in found]
    values = np.concatenate([np.zeros(0, np.int64), *parts])
    return values, np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])


def sums(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The sum of each example's values (see `ragged`): int64 [N]."""
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return total[bounds[1:]] - total[bounds[:-1]]


def check_range(task: CachedTask, split: str, what: str, values_N: np.ndarray, below: int | np.ndarray) -> None:
    """Raises DataError, naming the first example, where one of `values_N` is negative or not below its limit."""
    wrong = (values_N < 0) | (values_N >= below)
    if wrong.any():
        n = int(wrong.argmax())
        most = int(np.broadcast_to(below, values_N.shape)[n]) - 1
        raise DataError(
            f"{task.name}: example {n} of {split!r} has the {what} {int(values_N[n])}, which is not of 0 to {most}."
        )


def check_same_labels(names: Sequence[str], sources: Sequence) -> None:
    """Raises UserError where the tasks of a mixture do not have the same labels: one head cannot learn both."""
    for name, source in zip(names, sources, strict=True):
        if source.label_names != sources[0].label_names:
            raise UserError(
                f"One head cannot learn two sets of labels: {names[0]} has {', '.join(sources[0].label_names)}, "
                f"{name} has {', '.join(source.label_names)}."
            )


# ---------------------------------------------------------------------------------------------------------------------
# Rows of tokens
# ---------------------------------------------------------------------------------------------------------------------


def pad_rows(sequences: Sequence[np.ndarray | None], length: int, pad_id: int, side: str) -> dict[str, np.ndarray]:
    """Lays sequences out, one a row.

    Args:
      sequences: [n] tokens, or [n, 2] with their types beside them; None is a row of padding.
      length: slots of a row.
      pad_id: the token that fills rows.
      side: with what the features' names begin.

    Returns:
      int32 arrays [rows, length] under SeqIO's names: {side}_{input_tokens,segment_ids,positions,token_types}. A
      sequence's segment is 1, padding is 0.
    """
    shape = (len(sequences), length)
    tokens_RS = np.full(shape, pad_id, np.int32)
    segments_RS, positions_RS, types_RS = (np.zeros(shape, np.int32) for _ in range(3))
    for r, sequence in enumerate(sequences):
        if sequence is None:
            continue
        n = len(sequence)
        columns = sequence.reshape(n, -1).T
        tokens_RS[r, :n], segments_RS[r, :n], positions_RS[r, :n] = columns[0], 1, np.arange(n)
        if len(columns) > 1:
            types_RS[r, :n] = columns[1]
    arrays = {"input_tokens": tokens_RS, "segment_ids": segments_RS, "positions": positions_RS, "token_types": types_RS}
    return {f"{side}_{name}": array for name, array in arrays.items()}


def only(row: Sequence) -> tuple:
    """A row's one example, or `(None, None)` of a row of padding."""
    return row[0] if row else (None, None)


# ---------------------------------------------------------------------------------------------------------------------
# Classification
# ---------------------------------------------------------------------------------------------------------------------


def label_names(task: CachedTask, split: str) -> tuple[str, ...]:
    """The names of a task's labels, by its first example. UserError where it has none."""
    first = check_examples(task, split, "classify")
    names = tuple(json.loads(first.get("meta", "{}")).get("choices", ()))
    if not names:
        raise UserError(f"{task.name}: the meta of its examples of {split!r} has no 'choices', the names of labels.")
    return names


def num_labels(task: CachedTask, split: str, objective: str) -> int | None:
    """How many labels or tags a task has; None where the objective has none. UserError where the task does not say."""
    if objective == "classify":
        return len(label_names(task, split))
    if objective != "tag":
        return None
    if names := task.info.get("label_names"):
        return len(names)
    raise UserError(f"{task.name} does not say which tags it has: give its TaskInfo label_names.")


def check_labels(task: CachedTask, split: str, num_labels: int) -> tuple[str, ...]:
    """`label_names`; UserError where there are not as many as the head has."""
    names = label_names(task, split)
    check_number(task.name, "labels", names, num_labels)
    return names


def check_number(task: str, what: str, names: Sequence[str], num_labels: int) -> None:
    """Raises UserError where the head does not have as many labels as the task."""
    if len(names) != num_labels:
        raise UserError(
            f"{task} has {len(names)} {what} ({', '.join(names)}), but the head has {num_labels}: set "
            f"NUM_LABELS={len(names)}."
        )


class LabelledSource:
    """A task's texts or pairs with their labels.

    Attributes:
      empty: examples of the task that give nothing to train on (none here).
      label_names: the task's labels, in the order of their numbers.

    Raises:
      UserError: the task is of another kind, or has another number of labels than the head; or a row has no room for
        the special tokens.
      DataError: a label that the task does not have.
    """

    empty = 0

    def __init__(self, task: CachedTask, split: str, length: int, num_labels: int):
        self.label_names = check_labels(task, split, num_labels)
        raw, last = lengths_of(task, split, "classify")
        check_range(task, split, "label", last["label"], num_labels)
        self._task, self._split, self._length, self._raw_N = task, split, length, raw["inputs"]
        (first,) = task.examples(split).read([0], ("text_spans",))
        room_of(first["text_spans"], int(self._raw_N[0]), length)

    def __len__(self) -> int:
        return len(self._raw_N)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels of examples after the cut, and those cut off: int64 [2, n] each."""
        raw_n = self._raw_N[numbers]
        kept_n = np.minimum(raw_n, self._length)
        return np.stack([kept_n, np.ones_like(kept_n)]), np.stack([raw_n - kept_n, np.zeros_like(kept_n)])

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each example its tokens beside their types, [n, 2], and its label, [1]; `occurrences` plays no part."""
        features = ("inputs", "token_types", "text_spans", "label")
        pairs = []
        for example in self._task.examples(self._split).read(numbers, features):
            tokens_n2 = np.stack([example["inputs"], example["token_types"]], axis=1)
            places = longest_first(example["text_spans"], len(tokens_n2), self._length)
            pairs.append((tokens_n2[places], example["label"]))
        return pairs


def build_batch(rows: Sequence[Sequence[Pair]], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its one example as `LabelledSource.read` gives it, or none (a row of padding).
      length: slots of a row.
      pad_id: the token that fills rows.

    Returns:
      int32 arrays: encoder_* [R, S] as `pad_rows` has them, and labels [R]. A row of padding has the label 0, and no
      weight because it is empty.
    """
    examples = [only(row) for row in rows]
    batch = pad_rows([tokens for tokens, _ in examples], length, pad_id, "encoder")
    return batch | {"labels": np.array([0 if label is None else label[0] for _, label in examples], np.int32)}
