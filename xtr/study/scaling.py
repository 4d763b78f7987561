"""Does the gain persist when the model grows: gain by size, its slope on log10(parameters), and a verdict in words.

    TransferTable ──scalings()──> one Scaling a (family, intermediate, target) ──headline()──> those a report opens with

Families are never pooled. Every number is a combination of the samples behind the table's own gains (`combine`): each
model's seeds are its own, the examples are shared. It speaks of new seeds and new examples of these very models, tasks
and languages; how far the sizes scatter about the line is another question, which the mixed model answers.

The decision rule (`verdict_of`), with "largest" the gain at the largest size:

    largest > 0, slope > 0                               grows
    largest > 0, slope < 0                               shrinks
    largest > 0, slope not distinguishable from 0        persists         where the study is adequate
    largest not > 0, a smaller size > 0                  vanishes         where largest < 0 or the study is adequate
    largest not > 0, no smaller size > 0                 absent           where the study is adequate
    everything else                                      underpowered

A number is > 0 where its interval is; the smaller sizes are tested together (Holm) at a fifth of the level, so that the
two tests that find a gain where there is none do so in less than 5 % of studies together. Where a size has one seed, or
there is one size, the verdict is underpowered. A study is adequate where both the gain at the largest size and the
change along the fitted line from the smallest to the largest are known to within `width` points either way, and where a
smaller size's gain of 2.5 times `width` would be seen in their test: with 3 seeds it often is not, and a gain that
vanished looks like one that never was. Single sizes are judged by the noise of all sizes together: with few seeds one
size's own interval may be narrow by luck, and studies picked for that are wrong more often. Where the largest size's
own is wider than twice `width`, a gain is not taken for none.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtrinc, ndtri

from xtr.study.mixed_model import MixedModel, fit
from xtr.study.statistics import Estimate, combine, holm, quantile
from xtr.study.transfer import AVERAGE, AVERAGES, ENGLISH, NONE, POOLED, Cell, Model, TransferTable

PERSISTS, GROWS, SHRINKS, VANISHES, ABSENT = "persists", "grows", "shrinks", "vanishes", "absent"
UNDERPOWERED = "underpowered"
VERDICTS = (PERSISTS, GROWS, SHRINKS, VANISHES, ABSENT, UNDERPOWERED)
WIDTH = 1.0  # points: what a verdict may leave open either way
_SMALLER_WIDTHS = 2.5  # times the width: a gain of a smaller size that an adequate study sees
_BAND_POINTS = 25
_DETECTED = 0.95  # share of studies in which a detectable effect is found


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
class Power:
    """What the data at hand can tell.

    Attributes:
      half_width: of the interval of the gain at the largest size, in points, by the noise of all sizes together.
      smaller_gain: the least gain, in points, that the test of the smaller sizes takes for one, by the same noise; None
        with fewer than 2 sizes.
      detectable_gain: gain at the largest size that is found in 95 % of such studies, in points.
      detectable_slope: the same of the slope, in points per tenfold parameters; None with fewer than 2 sizes.
      lacks: what keeps a verdict from resting on what is not seen, in words; see the module's docstring.
      sentence: the same in words.
    """

    half_width: float
    smaller_gain: float | None
    detectable_gain: float
    detectable_slope: float | None
    lacks: tuple[str, ...]
    sentence: str

    @property
    def adequate(self) -> bool:
        """Whether a verdict may rest on what is not seen."""
        return not self.lacks


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
      mixed: the mixed model's opinion, for those of `headline` alone; None with fewer than 2 sizes.
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


def scalings(table: TransferTable, width: float = WIDTH, mixed: bool = True) -> tuple[Scaling, ...]:
    """The answers for every family, intermediate task (`POOLED` too) and target (averages too) that has a gain.

    The sizes of a family are compared over what all of them have (`TransferTable.comparable`); the sentence says what
    is left out.

    Args:
      width: points either way to which an adequate study knows the gain and its change along the line.
      mixed: whether the mixed model is fitted too, which takes a second or so.
    """
    found = []
    names = [*(name for name in table.intermediates if name != NONE), POOLED]
    for family in dict.fromkeys(model.family for model in table.models):
        models = [model for model in table.models if model.family == family]
        for name in names:
            for target in (*table.targets, *AVERAGES):
                cells = [table.comparable(model, name, target) for model in models]
                cells = [cell for cell in cells if cell is not None and cell.gain is not None]
                if cells:
                    gains = tuple(SizeGain(cell.model, cell.gain) for cell in cells)
                    found.append(scaling(family, name, target, gains, table.confidence, width, left_out(cells)))
    opening = {id(one) for one in headline(found)} if mixed else set()
    return tuple(_with_mixed(one, table) if id(one) in opening else one for one in found)


def scaling(
    family: str,
    intermediate: str,
    target: str,
    gains: Sequence[SizeGain],
    confidence: float = 0.95,
    width: float = WIDTH,
    parts: str = "",
) -> Scaling:
    """The answer for one family, intermediate task and target, without the mixed model.

    Args:
      gains: of models of one family with samples, smallest first; at least one.
      confidence, width: as in `scalings`.
      parts: what the gains are over, where that is not everything; from `left_out`.
    """
    gains = tuple(gains)
    sizes_M = np.log10([one.model.parameters for one in gains])
    samples = [one.gain.sample for one in gains]
    slope = contrast = None
    band: tuple[BandPoint, ...] = ()
    if len(set(sizes_M)) > 1:
        slope = combine(samples, slope_coefficients(sizes_M), confidence)
        ends_M = np.zeros(len(gains))
        ends_M[-1], ends_M[0] = 1, -1
        contrast = combine(samples, ends_M, confidence)
        places = np.linspace(sizes_M[0], sizes_M[-1], _BAND_POINTS)
        fitted = [combine(samples, line_coefficients(sizes_M, x), confidence) for x in places]
        band = tuple(BandPoint(float(10**x), e.low, e.value, e.high) for x, e in zip(places, fitted, strict=True))
    power = power_of(gains, slope, width)
    verdict = verdict_of([one.gain for one in gains], slope, power.adequate, width)
    return Scaling(
        family=family,
        intermediate=intermediate,
        target=target,
        gains=gains,
        slope=slope,
        contrast=contrast,
        band=band,
        mixed=None,
        power=power,
        verdict=verdict,
        sentence=_sentence(family, intermediate, target, gains, slope, verdict, power, parts),
    )


def line_coefficients(sizes_M: np.ndarray, place: float) -> np.ndarray:
    """The weight of each size's gain in the least-squares line at `place`: [M].

    Args:
      sizes_M: log10(parameters) of the sizes, not all equal.
      place: log10(parameters).
    """
    return 1 / len(sizes_M) + (place - np.mean(sizes_M)) * slope_coefficients(sizes_M)


def slope_coefficients(sizes_M: np.ndarray) -> np.ndarray:
    """The weight of each size's gain in the slope of the least-squares line: [M]; argument as `line_coefficients`."""
    centred_M = sizes_M - np.mean(sizes_M)
    return centred_M / (centred_M**2).sum()


def verdict_of(gains: Sequence[Estimate], slope: Estimate | None, adequate: bool, width: float = WIDTH) -> str:
    """One of `VERDICTS`, by the rule of the module's docstring.

    Args:
      gains: smallest size first.
      slope: None with one size.
      adequate: of `Power`.
      width: as in `scalings`.
    """
    largest = gains[-1]
    if slope is None or min(gain.seeds for gain in gains) < 2:
        return UNDERPOWERED
    if largest.low > 0:
        if slope.excludes(0):
            return GROWS if slope.value > 0 else SHRINKS
        return PERSISTS if adequate else UNDERPOWERED
    smaller = gains[:-1]
    clear = holm([gain.p_value for gain in smaller]) < _smaller_level(largest.confidence)
    gained = any(c and gain.value > 0 for c, gain in zip(clear, smaller, strict=True))
    if gained and largest.high < 0:
        return VANISHES
    if not adequate or largest.half_width > 2 * width:
        return UNDERPOWERED
    return VANISHES if gained else ABSENT


def _smaller_level(confidence: float) -> float:
    """The level at which smaller sizes are tested: where no size has a gain, the largest one's interval errs in half of
    the whole level already."""
    return (1 - confidence) / 5


def power_of(gains: Sequence[SizeGain], slope: Estimate | None, width: float = WIDTH) -> Power:
    """What the data can tell; arguments as in `scaling`."""
    found = [one.gain for one in gains]
    confidence = found[-1].confidence
    largest = _by_all_sizes(found, found[-1], confidence)
    first, last = gains[0].model, gains[-1].model
    known = f"The gain of {last.name} is known to within {largest.half_width:.1f} points either way"
    detectable = detectable_effect(largest)
    if slope is None:
        sentence = f"{known}; with one size nothing can be said of growth."
        return Power(largest.half_width, None, detectable, None, ("there is one size",), sentence)
    steepness = detectable_effect(slope)
    if lone := [one.model.name for one in gains if one.gain.seeds < 2]:
        sentence = f"{known}, but {', '.join(lone)} has 1 seed: another training may give another result."
        return Power(largest.half_width, None, detectable, steepness, ("some sizes have one seed",), sentence)
    if not any(gain.standard_error for gain in found):  # models that have learned nothing give all the same answers
        same = "no run differs from another"
        return Power(0.0, 0.0, detectable, steepness, (same,), f"{same.capitalize()}: nothing is measured.")
    change = slope.half_width * math.log10(last.parameters / first.parameters)
    strict = 1 - _smaller_level(confidence) / (len(found) - 1)
    smaller = max(_by_all_sizes(found, gain, strict).half_width for gain in found[:-1])
    facts = (
        (largest.half_width, width, f"the gain of {last.name} is known to within {{}} points"),
        (change, width, f"the change from {first.name} to {last.name} is known to within {{}} points"),
        (smaller, _SMALLER_WIDTHS * width, "a smaller size's gain is seen from {} points on"),
    )
    lacks = tuple(f"{text.format(f'{value:.1f}')}, not {most:g}" for value, most, text in facts if value > most)
    sentence = (
        f"{known}, the change from {first.name} to {last.name} to within {change:.1f}, and a smaller size's gain is "
        f"seen from {smaller:.1f} on: {'not ' if lacks else ''}enough for every verdict (at most {width:g}, {width:g} "
        f"and {_SMALLER_WIDTHS * width:g}). 95 of 100 such studies find a gain of {detectable:.1f} at the largest size "
        f"and a slope of {steepness:.1f} per tenfold parameters."
    )
    return Power(largest.half_width, smaller, detectable, steepness, lacks, sentence)


def _by_all_sizes(gains: Sequence[Estimate], one: Estimate, confidence: float) -> Estimate:
    """One size's gain with the standard error that the noise of all sizes gives it."""
    per_seed = np.mean([gain.standard_error**2 * gain.seeds for gain in gains])
    of_seeds = np.mean([gain.standard_error**2 * gain.seeds * gain.seed_share for gain in gains])
    share = float(of_seeds / per_seed) if per_seed else 0.0
    error = math.sqrt(per_seed / one.seeds)
    half = error * quantile(confidence, share, one.degrees)
    return dataclasses.replace(
        one,
        low=one.value - half,
        high=one.value + half,
        confidence=confidence,
        standard_error=error,
        seed_share=share,
        sample=None,
    )


def detectable_effect(number: Estimate) -> float:
    """The true value that 95 % of such studies find on its right side of 0: a noncentral t, with Welch's degrees of
    freedom and this study's standard error."""
    if number.standard_error == 0:
        return 0.0
    ratio = number.half_width / number.standard_error
    degrees = number.degrees / number.seed_share**2 if number.seed_share > 0 else math.inf
    if degrees > 1e4:
        return number.half_width + float(ndtri(_DETECTED)) * number.standard_error
    return float(nctdtrinc(degrees, 1 - _DETECTED, ratio)) * number.standard_error


def bent(gains: Sequence[SizeGain], confidence: float = 0.95) -> tuple[str, ...]:
    """The models whose gains lie off the fitted line, by Holm over the sizes; () with fewer than 3 sizes."""
    sizes_M = np.log10([one.model.parameters for one in gains])
    if len(set(sizes_M)) < 3 or min(one.gain.seeds for one in gains) < 2:
        return ()
    away = []
    for m, size in enumerate(sizes_M):
        off_M = -line_coefficients(sizes_M, size)
        off_M[m] += 1
        away.append(combine([one.gain.sample for one in gains], off_M, confidence).p_value)
    return tuple(one.model.name for one, p in zip(gains, holm(away), strict=True) if p < 1 - confidence)


def left_out(cells: Sequence[Cell]) -> str:
    """What the means of several sizes (one intermediate, target and view) are over, and what they lack, in words; ''
    where they lack nothing."""
    missing = dict.fromkeys(part for cell in cells for part in cell.missing)
    absent = dict.fromkeys(name for cell in cells for name in cell.absent)
    partly = dict.fromkeys(place for cell in cells for place in cell.partly)
    whole, pooled = max(cell.expected for cell in cells), min(len(cell.pooled) for cell in cells)
    kind = "targets" if cells[0].target in AVERAGES else "languages"
    counts = [f"{whole - len(missing)} of {whole} {kind}"] if missing else []
    counts += [f"{pooled} of {pooled + len(absent)} intermediate tasks"] if absent else []
    lacks = f"without {', '.join((*missing, *absent, *partly))}"
    if not counts:
        return lacks if partly else ""
    several = len(cells) > 1
    return f"over {'the ' * several}{' and '.join(counts)}{' that all sizes have' * several} ({lacks})"


def _sentence(family, intermediate, target, gains, slope, verdict, power, parts) -> str:
    """The answer in one sentence."""
    largest = gains[-1].gain
    who = "English intermediate training" if intermediate == POOLED else intermediate
    what = f"the zero-shot gain of {who} on {'the ' if target.startswith(AVERAGE) else ''}{target}"
    size = gains[-1].model.name
    gain = f"{largest.text(signed=True)} points at {size}"
    parts = parts and f", {parts}"
    if slope is None:
        return f"{family}: one size cannot tell whether {what} persists with scale: {gain}{parts}."
    trend = f"{slope.text(signed=True)} per tenfold parameters ({len(gains)} sizes)"
    facts = f"{gain}, {trend}{parts}"
    if verdict == UNDERPOWERED:
        alone = f"the gain of {size} by itself is known to within {largest.half_width:.1f} points"
        why = (*power.lacks, alone)[0]
        sentence = f"{family}: underpowered: whether {what} persists with scale cannot be told, since {why}: {facts}"
    elif verdict == ABSENT:
        harm = "and the largest model loses by it" if largest.high < 0 else "at the largest size or any other"
        sentence = f"{family}: {what} is absent, {harm}: {facts}"
    elif verdict == VANISHES:
        end = "turns into a loss" if largest.high < 0 else "vanishes"
        sentence = f"{family}: {what} {end} with scale: {facts}"
    else:
        sentence = f"{family}: {what} {verdict} with scale: {facts}"
    if away := bent(gains, largest.confidence):
        sentence += f"; the line does not fit {', '.join(away)}"
    return sentence + "."


def _with_mixed(one: Scaling, table: TransferTable) -> Scaling:
    if one.slope is None:
        return one
    targets = [one.target] if one.target in table.targets else list(table.targets)
    names = [name for name in table.intermediates if name != NONE] if one.intermediate == POOLED else [one.intermediate]
    lines = [
        (math.log10(gain.model.parameters), target, language, float(np.mean(found)))
        for gain in one.gains
        for target in targets
        for language in table.languages[target]
        if language != ENGLISH
        and (
            found := [
                cell.gain.value
                for name in names
                if all(_gained(table, size.model, name, target, language) for size in one.gains)
                and (cell := table.comparable(gain.model, name, target, language))
            ]
        )
    ]
    return dataclasses.replace(one, mixed=fit(lines, table.confidence))


def _gained(table: TransferTable, model: Model, intermediate: str, target: str, language: str) -> bool:
    cell = table.comparable(model, intermediate, target, language)
    return cell is not None and cell.gain is not None
