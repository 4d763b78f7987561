"""The training stream as numbered windows of packed rows, planned from the examples' lengths alone.

Window w is a pure function of (tasks, rates, seed, w). Every host plans every window and reads the tokens of its own
rows only, so the global batches do not depend on the number of hosts, and any place of the stream is found in the
time of planning one window.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.denoising import (
    SpanCorruption,
    chunk_documents,
    corrupt,
    corrupted_lengths,
    noise_mask,
    raw_length,
)
from xtr.data.mixing import BlockMixture, shuffled
from xtr.data.packing import Pair, pack, rows_of
from xtr.data.tokens import Tokens, token_table
from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError, UserError


def stable_hash(*parts: object, bits: int = 32) -> int:
    """A hash of the parts' text that is the same in every process and on every machine."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=bits // 8).digest()
    return int.from_bytes(digest, "little")


class Seq2SeqSource:
    """A task's examples as they lie in the cache, cut at the feature lengths as SeqIO cuts them.

    Attributes:
      empty: examples without targets, which give nothing to train on; they have their place in a row all the same.
    """

    def __init__(self, task: CachedTask, split: str, slots: tuple[int, int]):
        raw, _ = task.lengths(split, ("inputs", "targets"))
        for name, lengths in zip(("inputs", "targets"), raw, strict=True):
            if (lengths < 0).any():
                raise UserError(
                    f"{task.no_feature(split, int((lengths < 0).argmax()), name)} The objective 'seq2seq' needs it; a "
                    "task of plain text is trained on with objective='denoise'."
                )
        self._task, self._split, self._slots, self._raw_2N = task, split, slots, raw
        self.empty = int((raw[1] == 0).sum())

    @cached_property
    def _tokens(self) -> Tokens:
        return token_table(self._task, self._split, ("inputs", "targets"))

    def __len__(self) -> int:
        return self._raw_2N.shape[1]

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of inputs and targets of examples after the cut, and tokens cut off: int64 [2, n] each."""
        raw_2n = self._raw_2N[:, numbers].astype(np.int64)
        kept_2n = np.minimum(raw_2n, np.array(self._slots)[:, None])
        return kept_2n, raw_2n - kept_2n

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """Token arrays (inputs, targets) of examples; `occurrences` plays no part here."""
        found = self._tokens.read(numbers)
        return [(inputs[: self._slots[0]], targets[: self._slots[1]]) for inputs, targets in found]


class DenoiseSource:
    """A text task's documents, cut into chunks and corrupted anew each time a chunk is drawn.

    Attributes:
      empty: documents without tokens.
    """

    def __init__(
        self,
        task: CachedTask,
        split: str,
        slots: tuple[int, int],
        vocabulary: Vocabulary,
        config: SpanCorruption,
        seed: int,
    ):
        (raw,), (last,) = task.lengths(split, ("targets",))
        if (raw < 0).any():
            raise UserError(task.no_feature(split, int((raw < 0).argmax()), "targets"))
        documents = raw.astype(np.int64) - (last == vocabulary.eos_id)
        self._chunks = chunk_documents(documents, raw_length(*slots, len(vocabulary.sentinels), config))
        self._task, self._split = task, split
        self._sentinels, self._eos_id = tuple(vocabulary.sentinels), vocabulary.eos_id
        self._config, self._seed = config, seed
        self.empty = int((documents == 0).sum())

    @cached_property
    def _tokens(self) -> Tokens:
        return token_table(self._task, self._split, ("targets",))

    def __len__(self) -> int:
        return len(self._chunks)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of inputs and targets of chunks; none are ever cut off: int64 [2, n] each."""
        _, _, lengths = self._chunks.locate(numbers)
        kept_2n = np.stack(corrupted_lengths(lengths, self._config))
        return kept_2n, np.zeros_like(kept_2n)

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """Corrupted token arrays (inputs, targets) of chunks; the n-th occurrence of a chunk has its own mask."""
        documents, starts, lengths = self._chunks.locate(numbers)
        unique, where = np.unique(documents, return_inverse=True)
        texts = self._tokens.read(unique)
        pairs = []
        for i in range(len(numbers)):
            start, length = int(starts[i]), int(lengths[i])
            tokens = texts[where[i]][0][start : start + length]
            rng = np.random.default_rng([self._seed, int(occurrences[i])])
            pairs.append(corrupt(tokens, noise_mask(len(tokens), self._config, rng), self._sentinels, self._eos_id))
        return pairs


class Source(Protocol):
    """A task as numbered examples to train on: what has a place in a row of its own or with others.

    Attributes:
      empty: what the task holds besides that gives nothing to train on.
    """

    empty: int

    def __len__(self) -> int: ...

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the two sides of examples, and tokens cut off: int64 [2, n] each. Known without reading them."""
        ...

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[tuple]:
        """Each example: arrays of its two sides, of those lengths, and whatever else its batches need."""
        ...


@dataclass(frozen=True)
class Window:
    """A planned window: W examples in R rows.

    Attributes:
      task_W: int64, which task each example is of.
      number_W: int64, its number in the task.
      occurrence_W: int64, its place in the task's endless stream (epoch * examples + place in the epoch).
      rows: R index arrays into the W examples.
      tokens_R2, cut_R2: int64 [R, 2], tokens of inputs and targets in each row, and tokens cut off its examples.
      cut_examples_R: int64, examples of each row that were cut.
    """

    task_W: np.ndarray
    number_W: np.ndarray
    occurrence_W: np.ndarray
    rows: list[np.ndarray]
    tokens_R2: np.ndarray
    cut_R2: np.ndarray
    cut_examples_R: np.ndarray


class WindowStream:
    """The windows of a mixture, by number.

    Args:
      names, sources, rates: the tasks; rates positive and summing to 1.
      slots: tokens of a row's inputs and targets.
      size: examples in a window.
      seed: of every shuffle.
      packed: False gives every example its own row.
      epochs: None for an endless stream; otherwise how often each task is read.
      exhausted: what follows then: 'stop' ends the stream at the first example of a task that has been read so often,
        'drop' leaves the task out and goes on until all have been.
    """

    def __init__(
        self,
        names: Sequence[str],
        sources: Sequence[Source],
        rates: Sequence[float],
        slots: tuple[int, int],
        *,
        size: int,
        seed: int,
        packed: bool,
        epochs: int | None,
        exhausted: str = "stop",
    ):
        self.names, self.sources, self.slots = tuple(names), tuple(sources), slots
        self._size, self._seed, self._packed, self._epochs = size, seed, packed, epochs
        self._sizes = np.array([len(s) for s in sources], np.int64)
        limits = tuple((self._sizes * epochs).tolist()) if epochs and exhausted == "drop" else None
        self._mixture = BlockMixture(tuple(map(float, rates)), size, limits)

    @cached_property
    def num_windows(self) -> int | None:
        """Number of windows, None when endless."""
        if self._epochs is None or self._mixture.num_blocks is not None:
            return self._mixture.num_blocks
        limit = self._sizes * self._epochs
        low, high = 0, int(limit.sum()) // self._size + 1
        while low < high:  # The most windows that no task runs out in.
            middle = (low + high + 1) // 2
            low, high = (middle, high) if (self._mixture.drawn(middle) <= limit).all() else (low, middle - 1)
        return low + (self._draw(low)[0].size > 0)

    def _draw(self, w: int) -> tuple[np.ndarray, np.ndarray]:
        """Task and occurrence of each example of window w, in the order of the stream."""
        first, end = self._mixture.drawn(w), self._mixture.drawn(w + 1)
        task_W = np.random.default_rng([self._seed, 1, w]).permutation(np.repeat(np.arange(len(first)), end - first))
        occurrence_W = np.empty(len(task_W), np.int64)
        for t, (a, b) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
            occurrence_W[task_W == t] = np.arange(a, b)
        if self._epochs is not None:
            over = occurrence_W >= (self._sizes * self._epochs)[task_W]
            if over.any():
                stop = int(over.argmax())
                task_W, occurrence_W = task_W[:stop], occurrence_W[:stop]
        return task_W, occurrence_W

    def _numbers(self, task_W: np.ndarray, occurrence_W: np.ndarray) -> np.ndarray:
        """The examples at places of their tasks' endless streams; every epoch is shuffled anew."""
        epoch_W, place_W = np.divmod(occurrence_W, self._sizes[task_W])
        orders, which_W = np.unique(np.stack([task_W, epoch_W]), axis=1, return_inverse=True)
        seeds = [stable_hash("shuffle", self._seed, self.names[t], e, bits=64) for t, e in orders.T.tolist()]
        return shuffled(place_W, self._sizes[task_W], np.array(seeds, np.uint64)[which_W])

    def window(self, w: int) -> Window:
        """Plans window w."""
        task_W, occurrence_W = self._draw(w)
        number_W = self._numbers(task_W, occurrence_W)
        lengths_W2 = np.empty((len(task_W), 2), np.int64)
        cut_W2 = np.empty((len(task_W), 2), np.int64)
        for t in np.unique(task_W).tolist():
            of_t = task_W == t
            kept_2n, cut_2n = self.sources[t].lengths(number_W[of_t])
            lengths_W2[of_t], cut_W2[of_t] = kept_2n.T, cut_2n.T
        if self._packed:
            rows = rows_of(pack(lengths_W2[:, 0], lengths_W2[:, 1], *self.slots))
            # The packer takes the longest first; without this, batches would differ by length.
            order = np.random.default_rng([self._seed, 2, w]).permutation(len(rows))
            rows = [rows[i] for i in order]
        else:
            rows = [np.array([i]) for i in range(len(task_W))]
        gather = np.concatenate(rows)
        starts = np.cumsum([0] + [len(r) for r in rows[:-1]])
        return Window(
            task_W,
            number_W,
            occurrence_W,
            rows,
            np.add.reduceat(lengths_W2[gather], starts, axis=0),
            np.add.reduceat(cut_W2[gather], starts, axis=0),
            np.add.reduceat((cut_W2[gather] > 0).any(axis=1).astype(np.int64), starts),
        )

    def read_rows(self, window: Window, rows: Sequence[int] | range) -> list[list[Pair]]:
        """Reads the tokens of some rows of a window.

        Raises:
          DataError: a record cannot be read, or does not have the length it had when the stream was planned.
        """
        chosen = [window.rows[r] for r in rows]
        wanted = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
        pairs: dict[int, Pair] = {}
        for t in np.unique(window.task_W[wanted]).tolist():
            of_t = wanted[window.task_W[wanted] == t]
            numbers = window.number_W[of_t]
            found = self.sources[t].read(numbers, window.occurrence_W[of_t])
            expected_2n, _ = self.sources[t].lengths(numbers)
            for i, n, pair, a, b in zip(of_t.tolist(), numbers.tolist(), found, *expected_2n.tolist(), strict=True):
                if (len(pair[0]), len(pair[1])) != (a, b):
                    raise DataError(
                        f"{self.names[t]}: example {n} has {len(pair[0])} and {len(pair[1])} tokens, but the table of "
                        f"lengths says {a} and {b}. Delete the .lengths files in its cache directory."
                    )
                pairs[i] = pair
        return [[pairs[i] for i in row.tolist()] for row in chosen]

    def drawn(self, window: int, row: int) -> np.ndarray:
        """Examples of each task in the stream before a row of a window: int64 [tasks]."""
        if self.num_windows is not None and window == self.num_windows:  # The last window may not be a whole one.
            window, row = window - 1, None
        before = self._mixture.drawn(window)
        if row != 0:
            plan = self.window(window)
            tasks = plan.task_W[np.concatenate(plan.rows[:row])]
            before = before + np.bincount(tasks, minlength=len(self.names))
        return before
