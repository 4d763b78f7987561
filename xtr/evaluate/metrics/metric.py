"""What a metric is, and what the examples contribute to it.

Every example contributes either one number, a percentage, and the metric is the mean of these; or three counts
(tp, fp, fn), and the metric is the micro F1 of their sums. Both are functions of the mean contribution alone
(`value_of_mean`), which is what resampling of examples needs: average the contributions of a resample, then call it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xtr.errors import UserError


@dataclass(frozen=True)
class Metric:
    """A metric of aligned predictions and golds: `metric(predictions, golds, **info) -> (value, contributions)`.

    Attributes:
      name: as in results.
      compute: (predictions, golds, **needs) -> (value in 0..100, contributions float64 [N], or [N, 3] of tp, fp, fn).
      needs: what `compute` must be told besides: 'language' (of the answers), 'no_answer' (the text by which a model
        says that there is none, '' for a model that points at spans) or 'ids' (of the examples, [N]).
      higher_is_better: its direction.
      parts: what it is of parts of the examples: as `compute`, but returns `<name>/<part>` -> (value, contributions).
    """

    name: str
    compute: Callable[..., tuple[float, np.ndarray]]
    needs: tuple[str, ...] = ()
    higher_is_better: bool = True
    parts: Callable[..., dict[str, tuple[float, np.ndarray]]] | None = None

    def __call__(self, predictions: Sequence, golds: Sequence, **info) -> tuple[float, np.ndarray]:
        """Computes the metric; of `info` it takes what it needs.

        Raises:
          UserError: something that it needs is not in `info`.
          DataError: from `compute`, what cannot be scored.
        """
        return self.compute(predictions, golds, **self._needed(info))

    def values(self, predictions: Sequence, golds: Sequence, **info) -> dict[str, tuple[float, np.ndarray]]:
        """Computes the metric, and what it is of parts of the examples: name -> (value, contributions)."""
        parts = self.parts(predictions, golds, **self._needed(info)) if self.parts else {}
        return {self.name: self(predictions, golds, **info), **parts}

    def _needed(self, info: Mapping) -> dict:
        if lacking := [name for name in self.needs if name not in info]:
            raise UserError(f"the metric {self.name} must be told the {' and the '.join(lacking)}")
        return {name: info[name] for name in self.needs}


def value_of_mean(mean: np.ndarray, counts: bool) -> np.ndarray:
    """The metric's value of mean contributions, for any number of resamples and runs at once.

    Args:
      mean: [...] of percentages, or [..., 3] of tp, fp, fn; sums of counts do as well.
      counts: whether these are counts.

    Returns:
      [...] in 0..100.
    """
    return precision_recall_f1(mean)[2] if counts else np.asarray(mean, np.float64)


def precision_recall_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1, each [...] in percent, of tp, fp, fn [..., 3]; 0 where nothing is to be divided by."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)

    def percent(part, whole):
        return 100.0 * np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)

    return percent(tp, tp + fp), percent(tp, tp + fn), percent(2 * tp, 2 * tp + fp + fn)


def micro_f1(counts_N3: np.ndarray) -> tuple[float, np.ndarray]:
    """(micro F1 in percent, the counts as float64): what a metric of counts returns."""
    counts_N3 = np.asarray(counts_N3, np.float64).reshape(-1, 3)
    return float(precision_recall_f1(counts_N3.sum(axis=0))[2]), counts_N3
