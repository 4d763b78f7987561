"""Does the gain persist when the model grows: gain by size, its slope on log10(parameters), and a verdict in words.

    TransferTable ──scalings()──> one Scaling a (family, intermediate, target) ──headline()──> those a report opens with

Families are never pooled. `docs/statistics.md` states the estimator and the decision rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xtr.study.statistics import Estimate
from xtr.study.transfer import AVERAGE, POOLED, Model

PERSISTS, GROWS, SHRINKS, VANISHES, ABSENT = "persists", "grows", "shrinks", "vanishes", "absent"
UNDERPOWERED = "underpowered"
VERDICTS = (PERSISTS, GROWS, SHRINKS, VANISHES, ABSENT, UNDERPOWERED)


@dataclass(frozen=True)
class SizeGain:
    """The zero-shot gain of one size of a family."""

    model: Model
    gain: Estimate


@dataclass(frozen=True)
class BandPoint:
    """The fitted line at one size: `middle` and its pointwise interval, in points."""

    parameters: float
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class MixedModel:
    """A second opinion on the slope, in points per tenfold parameters: a linear mixed model (statsmodels).

    Attributes:
      slope, low, high: the fixed effect of log10(parameters) and its interval; NaN where it did not converge.
      note: what was fitted, and where it did not converge or has too little data.
    """

    slope: float
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Power:
    """What the data at hand can tell.

    Attributes:
      half_width: of the interval of the gain at the largest size, in points.
      detectable_gain: gain at the largest size that would be found in 80 % of such studies, in points.
      detectable_slope: the same of the slope, in points per tenfold parameters; None with fewer than 2 sizes.
      adequate: whether `half_width` is at most the width that a verdict needs.
      sentence: the same in words.
    """

    half_width: float
    detectable_gain: float
    detectable_slope: float | None
    adequate: bool
    sentence: str


@dataclass(frozen=True)
class Scaling:
    """The answer for one family, intermediate task and target.

    Attributes:
      family: its models only.
      intermediate: intermediate task, or `POOLED`.
      target: target task, or one of `AVERAGES`.
      gains: zero-shot gains, smallest model first.
      slope: points per tenfold parameters; None with fewer than 2 sizes.
      contrast: gain of the largest minus gain of the smallest; None with fewer than 2 sizes.
      band: the fitted line with its pointwise interval, log-spaced; empty with fewer than 2 sizes.
      mixed: the mixed model's opinion; None with fewer than 2 sizes.
      power: what these data can tell.
      verdict: one of `VERDICTS`.
      sentence: the answer, with the interval.
    """

    family: str
    intermediate: str
    target: str
    gains: tuple[SizeGain, ...]
    slope: Estimate | None
    contrast: Estimate | None
    band: tuple[BandPoint, ...]
    mixed: MixedModel | None
    power: Power
    verdict: str
    sentence: str


def headline(scalings: Sequence[Scaling]) -> tuple[Scaling, ...]:
    """Those that a report opens with: for each family the mean of intermediates on the whole average.

    Where a study has one intermediate task or one target, the first of each stands in for the mean.
    """
    chosen = {}
    for scaling in scalings:
        rank = (scaling.intermediate != POOLED, scaling.target != AVERAGE)
        if scaling.family not in chosen or rank < chosen[scaling.family][0]:
            chosen[scaling.family] = rank, scaling
    return tuple(scaling for _, scaling in chosen.values())
