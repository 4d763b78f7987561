"""TASK_FEATURE_LENGTHS = 'auto': the lengths of a row at which training costs the fewest FLOPs an example.

The rule:

1. *What must fit.* Of each task a share `kept` of the examples fits uncut, inputs and targets each by itself: no length
   is below that quantile of any task's lengths. Rounded up to the `multiples`, these are the least lengths.
2. *What is cheapest.* Rows are packed, so longer ones need not be emptier: every pair of lengths (multiples, from the
   least ones to `most`) is a candidate. Its cost is the model's FLOPs for a row, padding included, times the rows into
   which examples drawn from the mixture are packed, divided by the examples. The cheapest is chosen, of equals the
   shorter. Candidates are tried from the least that they could cost upwards (no packing has fewer rows than the
   tokens fill) until none that is left could be cheaper.

Rows that hold one example each (a head's, or without packing) are never cheaper for being longer: these have the least
lengths. A text is cut into chunks of any length, so it says nothing of lengths: beside tasks with examples of their own
the targets' length is at least what span corruption makes of a text that fills the inputs; alone it is refused.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.denoising import target_length
from xtr.data.labelled import ragged
from xtr.data.lengths import AUTO, AutoLengths
from xtr.data.packing import pack
from xtr.data.pipeline import SECOND_SIDE, TrainData, window_stream
from xtr.errors import UserError

# FLOPs of rows of (inputs, targets) tokens, which may be arrays: the sum of both in 'causal', whose rows hold both.
Flops = Callable[[np.ndarray, np.ndarray], np.ndarray]
_WINDOWS, _TRIED = 8, 2  # windows of examples that what is chosen is measured by, and that candidates are compared by
_ANY = 2**20  # a length that cuts nothing


@dataclasses.dataclass(frozen=True)
class Measured:
    """What lengths cost.

    Attributes:
      lengths: TASK_FEATURE_LENGTHS.
      flops: of an example, padding included.
      examples_a_row: mean.
      density: tokens / slots by feature ('inputs' holds both features of a causal model's rows).
      cut: share of each task's examples that lose tokens.
      tokens_cut: share of the tokens that is cut off.
    """

    lengths: dict[str, int]
    flops: float
    examples_a_row: float
    density: dict[str, float]
    cut: dict[str, float]
    tokens_cut: float


class Examples:
    """What lengths are chosen by: the lengths of each task's examples, and of some drawn from the mixture.

    Args:
      data: what is trained on; its lengths play no part.

    Raises:
      UserError: the objective or the tasks say nothing of lengths.
    """

    def __init__(self, data: TrainData):
        texts = tuple(task for task in data.tasks if task.info.get("kind") == "text")
        own = tuple(task for task in data.tasks if task not in texts and task.rate > 0)
        if not own or data.objective in ("denoise", "mlm"):
            raise UserError(
                f"TASK_FEATURE_LENGTHS = {AUTO!r}: {', '.join(t.name for t in data.tasks[:3])} is plain text, cut into "
                "chunks of any length, so no length follows from it. Give it, like {'inputs': 512, 'targets': 114} "
                "(T5's span corruption) or {'inputs': 512} (masked or next tokens)."
            )
        self.data = dataclasses.replace(
            data, tasks=own, lengths={"inputs": _ANY, "targets": _ANY}, pack=False, epochs=None
        )
        self.packed, self.one_row = data.pack, data.objective == "causal"
        self.texts = tuple(task for task in texts if task.rate > 0)
        stream = window_stream(self.data)
        self.of_task = {task.name: _lengths(self.data, task, data.split) for task in own}
        self.windows = []
        for w in range(min(stream.num_windows or _WINDOWS, _WINDOWS)):
            window = stream.window(w)
            found_W2 = np.zeros((len(window.task_W), 2), np.int64)
            for t, name in enumerate(stream.names):
                here = window.task_W == t
                found_W2[here] = self.of_task[name][:, window.number_W[here]].T
            self.windows.append(found_W2)

    @property
    def features(self) -> tuple[str, ...]:
        """The features that have a length."""
        return tuple(name for name, _ in self.data.lengths)

    def _cut(self, lengths_2N: np.ndarray, slots: Sequence[int]) -> np.ndarray:
        return np.minimum(lengths_2N, np.array(slots).reshape(2, 1))

    def _pack(self, lengths: Mapping[str, int], windows: Sequence[np.ndarray]) -> tuple[int, np.ndarray, int]:
        """Rows that windows of examples are packed into, their tokens on both sides, and the examples."""
        slots = lengths["inputs"], lengths.get("targets", 1)
        room = (sum(slots), 1) if self.one_row else slots
        rows, tokens_2 = 0, np.zeros(2)
        for window_W2 in windows:
            kept_2W = self._cut(window_W2.T, slots)
            if self.one_row:
                kept_2W = np.stack([np.maximum(kept_2W.sum(axis=0) - 1, 0), np.zeros(len(window_W2), np.int64)])
            rows += int(pack(*kept_2W, *room).max()) + 1 if self.packed else len(window_W2)
            tokens_2 += kept_2W.sum(axis=1)
        return rows, tokens_2, sum(map(len, windows))

    def measure(self, lengths: Mapping[str, int], flops: Flops) -> Measured:
        """What rows of these lengths cost, the drawn examples packed into them window by window."""
        slots = lengths["inputs"], lengths.get("targets", 1)
        room = (sum(slots), 1) if self.one_row else slots
        rows, tokens_2, count = self._pack(lengths, self.windows)
        names = self.features[:1] if self.one_row else self.features
        all_2N = np.concatenate(self.windows).T
        return Measured(
            {name: lengths[name] for name in self.features},
            float(flops(np.float64(slots[0]), np.float64(slots[1]))) * rows / count,
            count / rows,
            {name: float(t) / (rows * n) for name, t, n in zip(names, tokens_2, room, strict=False)},
            {name: float((own > self._cut(own, slots)).any(axis=0).mean()) for name, own in self.of_task.items()},
            1 - float(self._cut(all_2N, slots).sum() / all_2N.sum()),
        )

    def least(self, auto: AutoLengths, longest: int | None) -> dict[str, int]:
        """The least lengths that keep what must be kept, `longest` at the most: rule 1 of the module."""
        per_task = [_quantile(own, auto.kept) for own in self.of_task.values()]
        packed = self.packed and self.data.objective in ("seq2seq", "causal")
        multiples = auto.multiples if packed else (auto.multiples[1],) * 2
        found = {}
        for name, needed, multiple in zip(self.features, np.max(per_task, axis=0), multiples, strict=False):
            length = max(1, -(-int(needed) // multiple)) * multiple
            found[name] = min(length, longest or length)
        return found

    def choose(self, flops: Flops, auto: AutoLengths, longest: int | None = None) -> Measured:
        """The lengths that 'auto' stands for.

        Args:
          flops: the model's.
          auto: how to choose.
          longest: most tokens of inputs that the model has positions for; None: any number.
        """
        least = self.least(auto, longest)
        if not self.packed or self.data.objective not in ("seq2seq", "causal"):
            return self.measure(least, flops)
        inputs_C, targets_C = self._candidates(least, auto, longest)
        row_C = flops(inputs_C.astype(float), targets_C.astype(float))
        bound_C = row_C * self._least_rows(inputs_C, targets_C)
        best, cost = -1, np.inf
        for c in np.lexsort((inputs_C + targets_C, bound_C)).tolist():
            if bound_C[c] >= cost:
                break
            rows, _, count = self._pack({"inputs": inputs_C[c], "targets": targets_C[c]}, self.windows[:_TRIED])
            if row_C[c] * rows / count < cost:
                best, cost = c, row_C[c] * rows / count
        return self.measure({"inputs": int(inputs_C[best]), "targets": int(targets_C[best])}, flops)

    def _candidates(self, least: Mapping[str, int], auto: AutoLengths, longest: int | None):
        """Inputs and targets of every candidate: int64 [C] each."""
        (first, other), (step, other_step) = (least["inputs"], least["targets"]), auto.multiples
        most = max(first, min(auto.most, longest or auto.most))
        if self.one_row:  # Rows as long as the multiple says; how they are divided does not matter to the model.
            rows_C = np.arange(-(-(first + other) // step) * step, max(most, first + other) + step, step)
            inputs_C = np.unique(np.minimum(rows_C - other, longest or rows_C[-1]))
            return inputs_C, np.full(len(inputs_C), other)
        inputs_C, targets_C = np.meshgrid(
            np.arange(first, most + 1, step) if first % step == 0 else np.array([first]),
            np.arange(other, max(most, other) + 1, other_step),
            indexing="ij",
        )
        inputs_C, targets_C = inputs_C.ravel(), targets_C.ravel()
        if self.texts:
            unique, where = np.unique(inputs_C, return_inverse=True)
            vocabulary = self.data.vocabulary
            sentinels = len(vocabulary.sentinels) if vocabulary else None
            needed = np.array([target_length(int(n), sentinels, self.data.corruption) for n in unique])
            shortest = np.array([targets_C[(targets_C >= n)].min(initial=targets_C.max()) for n in needed])
            fits = targets_C >= shortest[where]
            inputs_C, targets_C = inputs_C[fits], targets_C[fits]
        return inputs_C, targets_C

    def _least_rows(self, inputs_C: np.ndarray, targets_C: np.ndarray) -> np.ndarray:
        """Rows an example that no packing can do without, for every candidate: float64 [C]."""
        all_2N = np.sort(np.concatenate(self.windows[:_TRIED]).T, axis=1)
        count = all_2N.shape[1]
        kept_2C = []
        for lengths_N, slots_C in zip(all_2N, (inputs_C, targets_C), strict=True):
            below_C = np.searchsorted(lengths_N, slots_C, side="right")
            kept_2C.append(np.concatenate([[0], np.cumsum(lengths_N)])[below_C] + (count - below_C) * slots_C)
        if self.one_row:
            return np.maximum(kept_2C[0] + kept_2C[1] - count, 0) / (inputs_C + targets_C) / count
        return np.maximum(kept_2C[0] / inputs_C, kept_2C[1] / targets_C) / count


def _lengths(data: TrainData, task: CachedTask, split: str) -> np.ndarray:
    """int64 [2, examples]: tokens of inputs and of targets; for 'choose' [2, examples], the longest choice of each."""
    if data.objective in ("seq2seq", "causal"):
        found, _ = task.lengths(split, ("inputs", "targets"))
        return np.maximum(found, 0).astype(np.int64)
    if data.objective == "choose":
        values, bounds = ragged(task, split, "choice_lengths")
        longest = np.maximum.reduceat(values, bounds[:-1]) if len(values) else np.zeros(0, np.int64)
        return np.stack([longest, np.ones_like(longest)]).astype(np.int64)
    source = data.source(task)
    kept_2N, _ = source.lengths(np.arange(len(source)))
    return kept_2N if data.objective in SECOND_SIDE else np.stack([kept_2N[0], np.ones_like(kept_2N[0])])


def _quantile(lengths_2N: np.ndarray, share: float) -> np.ndarray:
    """The smallest length of each side that so large a share of examples does not exceed: int64 [2]."""
    return np.quantile(lengths_2N, share, axis=1, method="inverted_cdf")
