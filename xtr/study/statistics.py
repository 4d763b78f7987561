"""Uncertainty of scores and gains: the paired bootstrap crossed over seeds and examples.

A score varies with the training seed and with the test examples. A gain is paired: the same seeds and the same examples
on both sides. A mean over languages takes the seeds once for all languages (one trained model is evaluated in all of
them) and the examples within each language. Whatever is estimated (a score, a gain, a mean, a slope over sizes) is a
linear combination of `Sample`s, and has its interval from `combine`: there is no other estimator.

The examples are resampled, the same draw for every seed. Resampling the seeds has a closed form, which is used in its
place. Two faults of the plain crossed ("pigeonhole") bootstrap (Owen 2007, Annals of Applied Statistics 1(2)) are
mended: its variance over S seeds is (S - 1) / S of the unbiased one, and it counts the interaction of seeds and
examples twice. What is left is the analysis of variance of the crossed design, for any statistic that can be resampled:

    variance = var(seeds) / S + variance of the seed mean over resampled examples - the interaction, which both hold

With few seeds the first term is itself uncertain, and the interval needs more than normal quantiles: see `p_value_of`.
docs/statistics.md has the measured coverage.

Axes: R resamples, S seeds, N examples, L languages, K any stacked vectors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from xtr.errors import DataError

_CHUNK_ENTRIES = 2_000_000  # resample counts held at once: 16 MB
_WELCH_HALF = 0.05  # the p-value at which Welch's and Fisher's answers weigh the same
_LOG_CHI2 = np.linspace(-32, 7, 240)  # where the chi-square density is integrated, log scale
_CHI2 = np.exp(_LOG_CHI2)
_ROUNDING = 1e-9  # points; what is smaller is what floating point left of 0
_SHARES = np.linspace(1e-3, 1, 129) ** 3  # nodes of an interpolation, denser where the quantile is steep


@dataclass(frozen=True, eq=False)
class Sample:
    """What is known of one statistic: under each seed, and under resampled examples.

    Attributes:
      value_S: the statistic under each seed, from all examples.
      draws_R: its mean over the seeds, from each resample of the examples.
      interaction: the part of the variance of that mean that seeds and examples make together.
      examples: how many examples stand behind it.
    """

    value_S: np.ndarray
    draws_R: np.ndarray
    interaction: float
    examples: int

    @property
    def seeds(self) -> int:
        return len(self.value_S)

    @cached_property
    def value(self) -> float:
        """Mean over the seeds."""
        return float(self.value_S.mean())

    @cached_property
    def seed_variance(self) -> float:
        """Of that mean over new seeds; needs 2 seeds."""
        return float(self.value_S.var(ddof=1)) / self.seeds


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, which is symmetric: `value` and `standard_error` times a quantile.

    Attributes:
      value: the estimate from all seeds and examples.
      low, high: the interval's ends.
      confidence: its nominal level, e.g. 0.95.
      standard_error: estimated standard deviation of `value` over new seeds and new examples.
      seeds: how many seeds; with 1 the interval is over examples only and says nothing about other seeds.
      examples: how many examples, summed over languages.
      seed_share: the share of the variance that was estimated from the seeds.
      degrees: degrees of freedom of that share: seeds - 1 for one model.
      sample: what it was made from, where it is kept for further combinations.
    """

    value: float
    low: float
    high: float
    confidence: float
    standard_error: float
    seeds: int
    examples: int
    seed_share: float = 0.0
    degrees: float = math.inf
    sample: Sample | None = field(default=None, compare=False, repr=False)

    @property
    def over(self) -> str:
        """What the interval accounts for, in words."""
        return f"{self.seeds} seeds and examples" if self.seeds > 1 else "examples only, 1 seed"

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true value is 0"; below 1 - confidence where the interval excludes 0.

        Not the share of resamples beyond 0: that cannot go below 2 / resamples, too coarse for Holm over many cells.
        """
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return p_value_of(abs(self.value) / self.standard_error, self.seed_share, self.degrees)

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval."""
        return not self.low <= value <= self.high

    def text(self, signed: bool = False, digits: int = 1) -> str:
        """'71.2 [70.1, 72.4]', or with signs for a difference."""
        form = f"{'+' if signed else ''}z.{digits}f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


# ---------------------------------------------------------------------------------------------------------------------
# From contributions to estimates
# ---------------------------------------------------------------------------------------------------------------------


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
      confidence: level of the interval.

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
    if shared_examples:
        if len({d_SN.shape for d_SN in d_LSN}) > 1:
            raise DataError("shared_examples needs the same number of examples in every language")
        draws_RS = example_draws(np.mean(d_LSN, axis=0), resamples, rng)
    else:
        draws_RS = np.mean([example_draws(d_SN, resamples, rng) for d_SN in d_LSN], axis=0)
    value_S = np.mean([d_SN.mean(axis=1) for d_SN in d_LSN], axis=0)
    return estimate(value_S, draws_RS, sum(d_SN.shape[1] for d_SN in d_LSN), confidence)


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


def sample(value_S: np.ndarray, draws_RS: np.ndarray, examples: int) -> Sample:
    """What is known of one statistic.

    Args:
      value_S: the statistic under each seed, from all examples.
      draws_RS: the same from each resample of the examples (`example_draws`, one column a seed).
      examples: how many examples stand behind it.
    """
    draws_R = draws_RS.mean(axis=1)
    seeds = len(value_S)
    interaction = (draws_RS.var(axis=0).mean() - draws_R.var()) / (seeds - 1) if seeds > 1 else 0.0
    return Sample(np.asarray(value_S, np.float64), draws_R, float(interaction), int(examples))


def estimate(value_S: np.ndarray, draws_RS: np.ndarray, examples: int, confidence: float = 0.95) -> Estimate:
    """The mean over seeds of one statistic with its interval; arguments as `sample`."""
    return combine([sample(value_S, draws_RS, examples)], [1.0], confidence)


def combine(samples: Sequence[Sample], coefficients: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The sum of statistics times coefficients, with its interval.

    The seeds of each sample are its own (other models, trained apart); the examples are shared: resample r of one is
    resample r of the others, so that what their test sets have in common is not taken for independent. The degrees of
    freedom of the seeds' variance are Satterthwaite's. Where a sample has one seed, the result has: its interval
    leaves that sample's seeds out.

    Args:
      samples: all with the same number of resamples.
      coefficients: one a sample.
      confidence: level of the interval.
    """
    weighted = [(s, c) for s, c in zip(samples, coefficients, strict=True) if c]
    value = sum(c * s.value for s, c in weighted)
    parts = [(c**2 * s.seed_variance, s.seeds - 1) for s, c in weighted if s.seeds > 1]
    of_seeds = sum(part for part, _ in parts)
    spread = sum(part**2 / degrees for part, degrees in parts)
    draws_R = sum(c * s.draws_R for s, c in weighted) if weighted else np.zeros(1)
    of_examples = np.var(draws_R) - sum(c**2 * s.interaction for s, c in weighted)
    variance = of_seeds + max(float(of_examples), 0.0)
    if abs(value) < _ROUNDING and variance < _ROUNDING**2:
        value = variance = 0.0
    share = float(of_seeds / variance) if variance > 0 else 0.0
    degrees = float(of_seeds**2 / spread) if spread > 0 else math.inf
    error = math.sqrt(variance)
    half = error * quantile(confidence, share, degrees)
    return Estimate(
        value=float(value),
        low=float(value - half),
        high=float(value + half),
        confidence=confidence,
        standard_error=error,
        seeds=min(s.seeds for s in samples),
        examples=max(s.examples for s in samples),
        seed_share=share,
        degrees=degrees,
        sample=samples[0] if len(samples) == 1 and coefficients[0] == 1 else None,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The reference distribution
# ---------------------------------------------------------------------------------------------------------------------


def p_value_of(ratio: float, seed_share: float, degrees: float) -> float:
    """Two-sided p-value of an estimate that lies `ratio` standard errors from the hypothesis.

    A share of the variance was estimated from few seeds, the rest is as good as known (the examples are many). Two
    answers are classic. Welch's (1947, Biometrika 34) is a t distribution with degrees / share^2 degrees of freedom; it
    is close around 0.05 but too bold in the far tail, where seeds that agree by chance make the whole variance small.
    Fisher's (1935, Annals of Eugenics 6; of Behrens' problem) is the sum of a normal and a t variable; it never claims
    too much, and covers too much around 0.05. Here Fisher's p-value p is drawn to Welch's with the weight
    p / (p + 0.05): halfway around 0.05, hardly at all in the tail that Holm's correction reads.

    Args:
      ratio: at least 0.
      seed_share: of the variance, 0..1.
      degrees: degrees of freedom of that share.
    """
    if seed_share <= 0 or math.isinf(degrees):
        return float(2 * ndtr(-ratio))
    welch = 2 * stdtr(min(degrees / seed_share**2, 1e9), -ratio)
    variances = 1 - seed_share + seed_share * degrees / _CHI2
    fisher = 2 * (_chi2_weights(degrees) @ ndtr(-ratio / np.sqrt(variances)))
    weight = fisher / (fisher + _WELCH_HALF)
    return float(fisher + weight * (welch - fisher))


@lru_cache(maxsize=64)
def _chi2_weights(degrees: float) -> np.ndarray:
    """The chi-square density at `_CHI2`, to be summed over."""
    log_density = degrees / 2 * _LOG_CHI2 - _CHI2 / 2
    weights = np.exp(log_density - log_density.max())
    return weights / weights.sum()


def quantile(confidence: float, seed_share: float, degrees: float) -> float:
    """Half the width of an interval in standard errors: where `p_value_of` is 1 - confidence."""
    if seed_share <= 0 or math.isinf(degrees):
        return float(ndtri((1 + confidence) / 2))
    if degrees == int(degrees):  # every cell of a table: a model's own seeds
        return float(np.interp(seed_share, _SHARES, _quantiles(confidence, degrees)))
    return _solve(confidence, seed_share, degrees)


@lru_cache(maxsize=64)
def _quantiles(confidence: float, degrees: float) -> np.ndarray:
    """The quantile at `_SHARES`, for interpolation: to half a thousandth, at a hundredth of the time."""
    return np.array([_solve(confidence, share, degrees) for share in _SHARES])


def _solve(confidence: float, seed_share: float, degrees: float) -> float:
    normal = float(ndtri((1 + confidence) / 2))
    widest = float(stdtrit(degrees, (1 + confidence) / 2)) * 1.01
    return brentq(lambda x: p_value_of(x, seed_share, degrees) - (1 - confidence), normal * 0.99, widest, xtol=1e-6)


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
