"""Uncertainty of scores and gains: the paired bootstrap crossed over seeds and examples.

A score varies with the training seed and with the test examples, so both are resampled, independently of each other
(the "pigeonhole" bootstrap; Owen 2007, Annals of Applied Statistics 1(2)). A gain is paired: the same seeds and the
same examples on both sides. A mean over languages resamples the seeds once for all languages (one trained model is
evaluated in all of them) and the examples within each language.

Axes: R resamples, S seeds, N examples, L languages, K any stacked vectors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.errors import DataError

_CHUNK_ENTRIES = 2_000_000  # resample counts held at once: 16 MB


@dataclass(frozen=True)
class Estimate:
    """A number with its percentile interval.

    Attributes:
      value: the estimate from all seeds and examples.
      low, high: the interval's ends.
      confidence: its nominal level, e.g. 0.95.
      standard_error: standard deviation of the resampled values.
      seeds: how many seeds; with 1 the interval is over examples only and says nothing about other seeds.
      examples: how many examples, summed over languages.
    """

    value: float
    low: float
    high: float
    confidence: float
    standard_error: float
    seeds: int
    examples: int

    @property
    def over(self) -> str:
        """What the interval accounts for, in words."""
        return f"{self.seeds} seeds and examples" if self.seeds > 1 else "examples only, 1 seed"

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true value is 0": normal, from the bootstrap standard error.

        Not the share of resamples beyond 0: that cannot go below 2 / resamples, too coarse for Holm over many cells.
        """
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return math.erfc(abs(self.value) / self.standard_error / math.sqrt(2))

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval."""
        return not self.low <= value <= self.high

    def text(self, signed: bool = False, digits: int = 1) -> str:
        """'71.2 [70.1, 72.4]', or with signs for a difference."""
        form = f"{'+' if signed else ''}z.{digits}f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def crossed_bootstrap(
    a_SN: np.ndarray,
    b_SN: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of `a`, or of the gain `a - b`, for one language, with its crossed bootstrap interval.

    Args:
      a_SN: [S, N] contribution of each example under each seed, in points (0..100).
      b_SN: [S, N] of the baseline, row by row the same seeds and column by column the same examples.
      resamples: bootstrap resamples.
      seed: of the resampling; the same seed gives the same interval.
      confidence: level of the percentile interval.

    Raises:
      DataError: shapes that do not fit, no data, or values that are not finite.
    """
    return crossed_bootstrap_mean([a_SN], None if b_SN is None else [b_SN], resamples, seed, confidence)


def crossed_bootstrap_mean(
    a_LSN: Sequence[np.ndarray],
    b_LSN: Sequence[np.ndarray] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    shared_examples: bool = False,
) -> Estimate:
    """Unweighted mean over languages of the score `a`, or of the gain `a - b`.

    Args:
      a_LSN: for each language an array [S, N]; S is the same everywhere, N may differ.
      b_LSN: the baseline, aligned with `a_LSN`.
      shared_examples: the languages are translations of the same examples in the same order (XNLI, XQuAD): one draw of
        examples serves all languages, so that their correlation shows in the interval.

    Other arguments and errors as `crossed_bootstrap`.
    """
    d_LSN = _differences(a_LSN, b_LSN)
    rng = np.random.default_rng(seed)
    seed_weights_RS = seed_weights(len(d_LSN[0]), resamples, rng)
    if shared_examples:
        if len({d_SN.shape for d_SN in d_LSN}) > 1:
            raise DataError("shared_examples needs the same number of examples in every language")
        draws_RS = example_draws(np.mean(d_LSN, axis=0), resamples, rng)
    else:
        draws_RS = np.mean([example_draws(d_SN, resamples, rng) for d_SN in d_LSN], axis=0)
    value_S = np.mean([d_SN.mean(axis=1) for d_SN in d_LSN], axis=0)
    return estimate(value_S, draws_RS, seed_weights_RS, sum(d_SN.shape[1] for d_SN in d_LSN), confidence)


def _differences(a_LSN, b_LSN) -> list[np.ndarray]:
    a_LSN = [np.asarray(a_SN, np.float64) for a_SN in a_LSN]
    if not a_LSN:
        raise DataError("no language to average over")
    if b_LSN is not None:
        b_LSN = [np.asarray(b_SN, np.float64) for b_SN in b_LSN]
        if [a.shape for a in a_LSN] != [b.shape for b in b_LSN]:
            raise DataError(f"not paired: shapes {[a.shape for a in a_LSN]} against {[b.shape for b in b_LSN]}")
        a_LSN = [a_SN - b_SN for a_SN, b_SN in zip(a_LSN, b_LSN, strict=True)]
    for d_SN in a_LSN:
        if d_SN.ndim != 2 or not d_SN.size or len(d_SN) != len(a_LSN[0]):
            raise DataError(f"expected [seeds, examples] with {len(a_LSN[0])} seeds, got shape {d_SN.shape}")
        if not np.isfinite(d_SN).all():
            raise DataError("a contribution is not finite")
    return a_LSN


def example_draws(values_KN: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of K vectors over resampled examples, the same draw of examples for all of them: [R, K]."""
    count = values_KN.shape[1]
    draws_RK = np.empty((resamples, len(values_KN)))
    step = max(1, _CHUNK_ENTRIES // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        picks = rng.integers(0, count, (rows, count), dtype=np.int32) + count * np.arange(rows, dtype=np.int32)[:, None]
        counts_RN = np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count)
        draws_RK[start : start + rows] = counts_RN.astype(np.float64) @ values_KN.T / count
    return draws_RK


def seed_weights(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Weight of each seed in each resample: [R, S], rows summing to 1."""
    return rng.multinomial(seeds, [1 / seeds] * seeds, size=resamples) / seeds


def estimate(
    value_S: np.ndarray, draws_RS: np.ndarray, seed_weights_RS: np.ndarray, examples: int, confidence: float = 0.95
) -> Estimate:
    """Puts resampled examples (`example_draws`, one column a seed) and resampled seeds together.

    Args:
      value_S: the statistic under each seed, from all examples.
      draws_RS: the same from each resample of the examples.
      seed_weights_RS: from `seed_weights`.
      examples: how many examples stand behind it.
      confidence: level of the percentile interval.
    """
    draws_R = (draws_RS * seed_weights_RS).sum(axis=1)
    low, high = np.quantile(draws_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(
        value=float(np.mean(value_S)),
        low=float(low),
        high=float(high),
        confidence=confidence,
        standard_error=float(draws_R.std()),
        seeds=len(value_S),
        examples=int(examples),
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given.

    Rejecting where the adjusted value is at most alpha keeps the chance of one or more false rejections below alpha.
    """
    p_K = np.asarray(p_values, np.float64)
    order = np.argsort(p_K, kind="stable")
    scaled = p_K[order] * np.arange(len(p_K), 0, -1)
    adjusted_K = np.empty_like(p_K)
    adjusted_K[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted_K
