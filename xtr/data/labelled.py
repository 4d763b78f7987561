"""Training data of a classification head: one text or pair of texts a row, cut longest first, with its label.

A batch comes from the same stream of windows as any other (`xtr.data.windows`): what a row's example is has two sides
there, which are tokens with their types here, and the label.

Letters: N examples, R rows, S slots of a row, n tokens of one example.
"""

import json
from collections.abc import Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.packing import Pair
from xtr.errors import UserError

_FEATURES = ("inputs", "token_types", "text_spans", "label")


def longest_first(text_spans: Sequence[int], size: int, length: int) -> np.ndarray:
    """The places of the tokens that stay when an example of `size` tokens is cut to `length`: int64, ascending.

    Special tokens all stay. Of two texts the longer one loses tokens at its end until both are equally long, then both
    do; an odd token goes to the longer text, or to the second one of two equals (Hugging Face's 'longest_first', as
    the tokenizers library does it).

    Args:
      text_spans: start and end of the one text's own tokens, or of both texts'.

    Raises:
      UserError: `length` has no room for the special tokens.
    """
    places = np.arange(size)
    if size <= length:
        return places
    starts, ends = np.asarray(text_spans, np.int64).reshape(-1, 2).T
    own, room = ends - starts, _room(text_spans, size, length)
    kept = np.array([room])
    if len(own) == 2:
        short = int(own.argmin())  # the first of equals
        kept = np.full(2, room)
        kept[short] = min(own[short], room // 2)
        kept[1 - short] -= kept[short]
    gone = np.concatenate([np.arange(start + k, end) for start, k, end in zip(starts, kept, ends, strict=True)])
    return np.delete(places, gone)


def _room(text_spans: Sequence[int], size: int, length: int) -> int:
    """What special tokens leave of `length` for an example's texts."""
    special = size - sum(text_spans[1::2]) + sum(text_spans[::2])
    if special > length:
        raise UserError(f"{length} tokens have no room for the {special} special tokens of a text: use longer rows.")
    return length - int(special)


def check_labels(task: CachedTask, split: str, num_labels: int) -> tuple[str, ...]:
    """The names of a task's labels, by its first example.

    Raises:
      UserError: it has no labels, or not as many as the head.
    """
    (first,) = task.examples(split).read([0], (*_FEATURES, "meta"))
    names = tuple(json.loads(first.get("meta", "{}")).get("choices", ()))
    missing = [name for name in _FEATURES if name not in first] + ([] if names else ["meta with 'choices'"])
    if missing:
        raise UserError(
            f"{task.name} cannot be classified by a head: its examples of {split!r} lack {', '.join(missing)}. "
            "tasks/formats/encoder.py says what the examples of such a task hold."
        )
    if len(names) != num_labels:
        raise UserError(
            f"{task.name} has {len(names)} labels ({', '.join(names)}), but the head has {num_labels}: set "
            f"NUM_LABELS={len(names)}."
        )
    return names


class LabelledSource:
    """A task's texts or pairs with their labels, as the encoder format caches them (`tasks/formats/encoder.py`).

    Attributes:
      empty: examples of the task that give nothing to train on (none here).
      label_names: the task's labels, in the order of their numbers.

    Raises:
      UserError: the task lacks a feature, or has another number of labels than the head; or a row has no room for the
        special tokens.
    """

    empty = 0

    def __init__(self, task: CachedTask, split: str, length: int, num_labels: int):
        self.label_names = check_labels(task, split, num_labels)
        (raw,), _ = task.lengths(split, ("inputs",))
        self._task, self._split, self._length, self._raw_N = task, split, length, raw.astype(np.int64)
        (first,) = task.examples(split).read([0], ("text_spans",))
        _room(first["text_spans"], int(raw[0]), length)

    def __len__(self) -> int:
        return len(self._raw_N)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels of examples after the cut, and those cut off: int64 [2, n] each."""
        raw_n = self._raw_N[numbers]
        kept_n = np.minimum(raw_n, self._length)
        return np.stack([kept_n, np.ones_like(kept_n)]), np.stack([raw_n - kept_n, np.zeros_like(kept_n)])

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each example its tokens beside their types, [n, 2], and its label, [1]; `occurrences` plays no part."""
        pairs = []
        for example in self._task.examples(self._split).read(numbers, _FEATURES):
            tokens_n2 = np.stack([example["inputs"], example["token_types"]], axis=1)
            places = longest_first(example["text_spans"], len(tokens_n2), self._length)
            pairs.append((tokens_n2[places], example["label"]))
        return pairs


def check_same_labels(names: Sequence[str], sources: Sequence[LabelledSource]) -> None:
    """Raises UserError where the tasks of a mixture do not have the same labels: one head cannot learn both."""
    for name, source in zip(names, sources, strict=True):
        if source.label_names != sources[0].label_names:
            raise UserError(
                f"One head cannot learn two sets of labels: {names[0]} has {', '.join(sources[0].label_names)}, "
                f"{name} has {', '.join(source.label_names)}."
            )


def build_batch(rows: Sequence[Sequence[Pair]], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its one example as `LabelledSource.read` gives it, or none (a row of padding).
      length: slots of a row.
      pad_id: the token that fills rows.

    Returns:
      int32 arrays under SeqIO's names: encoder_{input_tokens,segment_ids,positions,token_types} [R, S] and labels [R].
      A row's segment is 1, padding 0; a row of padding has the label 0, and no weight because it is empty.
    """
    shape = (len(rows), length)
    batch = {"encoder_input_tokens": np.full(shape, pad_id, np.int32)}
    batch |= {f"encoder_{name}": np.zeros(shape, np.int32) for name in ("segment_ids", "positions", "token_types")}
    batch["labels"] = np.zeros(len(rows), np.int32)
    for r, row in enumerate(rows):
        for tokens_n2, label in row:
            n = len(tokens_n2)
            batch["encoder_input_tokens"][r, :n], batch["encoder_token_types"][r, :n] = tokens_n2.T
            batch["encoder_segment_ids"][r, :n] = 1
            batch["encoder_positions"][r, :n] = np.arange(n)
            batch["labels"][r] = label[0]
    return batch
