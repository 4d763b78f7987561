"""The best of several intermediate tasks against the best of as many seeds: how much of a gain is selection.

Published gains often name the best intermediate of each target: a maximum over models, which is greater than any one of
them even where no intermediate does anything. The control chooses in the same way among as many seeds of the models
without an intermediate. Both sides choose on English development data alone, one target at a time.

Axes: R resamples, S seeds, K distinct runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
import pandas as pd

from xtr.export.summary import score_metrics
from xtr.study.panels import ENGLISH, NONE, Model, Panel
from xtr.study.statistics import Estimate, estimate

# Not the average of all targets: retrieval, for which nothing is trained, has no development data to choose by.
WHOLE = "average of targets with English development data"
LEAST_SEEDS = 4


@dataclass(frozen=True)
class BestOf:
    """One target, or the average of targets chosen for one by one, of one model. Zero-shot means, in points.

    Attributes:
      model: whose.
      target: target task, or `WHOLE`.
      candidates: how many each side chooses among, n: the number of intermediates, or half the seeds where that is
        less (with more the interval would be too narrow). Where there are more, all choices of n count alike.
      intermediates: the names that are chosen among.
      chosen: intermediate -> share of the seeds for which it is the best of all on English development data.
      gain: score of the best of n intermediates minus the mean of the seeds without one: what is often published.
      control: score of the best of n seeds without an intermediate minus the same mean.
      difference: `gain` minus `control`.
    """

    model: Model
    target: str
    candidates: int
    intermediates: tuple[str, ...]
    chosen: Mapping[str, float]
    gain: Estimate
    control: Estimate
    difference: Estimate


def development_scores(rows: pd.DataFrame) -> dict[str, float]:
    """run_id -> score on English development data, more is better; runs whose score is not defined are left out.

    Args:
      rows: results on development data, with the columns of `ResultRow`; of several steps the last counts. Rows of
        other languages are left aside.
    """
    by_run: dict[str, list[dict]] = {}
    for row in rows[rows["language"] == ENGLISH].to_dict("records"):
        by_run.setdefault(str(row["run_id"]), []).append(row)
    found = {}
    for run, own in by_run.items():
        step = max(row["step"] for row in own)
        last = {row["metric"]: row for row in own if row["step"] == step}
        metrics = score_metrics(str(own[0]["target"]), sorted(last))
        values = [last[m]["value"] if last[m]["higher_is_better"] else 100.0 - last[m]["value"] for m in metrics]
        if values:
            found[run] = float(np.mean(values))
    return found


def best_of_model(
    model: Model,
    panels: Mapping[str, Panel],
    expected_languages: Mapping[str, Sequence[str]],
    dev_scores: Mapping[str, float],
    confidence: float = 0.95,
) -> list[BestOf]:
    """`BestOf` for each target with 2 or more intermediates, 4 or more seeds and English development scores for all of
    them, and for the average of these targets where there are several.

    Args:
      panels: target -> its contributions, resampled.
      expected_languages: target -> its languages, in order.
      dev_scores: from `development_scores`.
    """
    found, parts = [], {}
    for target, panel in panels.items():
        chances = _Chances.of(panel, dev_scores)
        languages = [
            language
            for language in expected_languages[target]
            if language != ENGLISH and set(chances.runs if chances else ()) <= set(panel.column.get(language, ()))
        ]
        if chances is None or not languages:
            continue
        parts[target] = chances, _statistics(panel, chances, languages), sum(len(panel.ids[x]) for x in languages)
        found.append(_best_of(model, target, [parts[target]], confidence))
    if len({(chances.seeds, chances.names) for chances, _, _ in parts.values()}) == 1 and len(parts) > 1:
        found.append(_best_of(model, WHOLE, list(parts.values()), confidence))
    return found


def why_none(panels: Mapping[str, Panel], dev_scores: Mapping[str, float]) -> str:
    """Why `best_of_model` finds nothing to compare, in words; arguments as there."""
    runs = {place: run for panel in panels.values() for place, run in panel.runs.items() if run in dev_scores}
    names = {name for name, _ in runs if name != NONE}
    seeds = {seed for name, seed in runs if name == NONE}
    if not runs:
        return "there are no results on English development data, by which both sides choose"
    if len(names) < 2:
        return f"it needs 2 intermediate tasks with results on English development data; there are {len(names)}"
    if len(seeds) < LEAST_SEEDS:
        return f"it needs {LEAST_SEEDS} seeds; there are {len(seeds)}"
    return "no target has results on English development data of every intermediate task and seed"


def rank_weights(scores: np.ndarray, chosen_from: int) -> np.ndarray:
    """The chance of each candidate to be the best of `chosen_from` drawn from all without replacement.

    Args:
      scores: of all candidates; of equal ones the later is taken for better.
    """
    count = len(scores)
    weights = np.zeros(count)
    for rank, candidate in enumerate(np.argsort(scores, kind="stable")):
        weights[candidate] = comb(rank, chosen_from - 1) / comb(count, chosen_from)
    return weights


@dataclass(frozen=True)
class _Chances:
    """Development scores of a target's runs: `dev_IS` for intermediates x seeds, `dev_S` without one."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    dev_IS: np.ndarray
    dev_S: np.ndarray

    @classmethod
    def of(cls, panel: Panel, dev_scores: Mapping[str, float]) -> "_Chances | None":
        known = {place: dev_scores[run] for place, run in panel.runs.items() if run in dev_scores}
        seeds = tuple(sorted(seed for name, seed in known if name == NONE))
        names = tuple(dict.fromkeys(name for name, _ in panel.runs if name != NONE))
        complete = all((name, seed) in known for name in names for seed in seeds)
        distinct = len({panel.runs[NONE, seed] for seed in seeds}) == len(seeds)
        if len(names) < 2 or len(seeds) < LEAST_SEEDS or not complete or not distinct:
            return None
        dev_IS = np.array([[known[name, seed] for seed in seeds] for name in names])
        return cls(names, seeds, dev_IS, np.array([known[NONE, seed] for seed in seeds]))

    @property
    def runs(self) -> list[tuple[str, int]]:
        return [(name, seed) for name in (*self.names, NONE) for seed in self.seeds]

    @property
    def candidates(self) -> int:
        return min(len(self.names), len(self.seeds) // 2)

    def weights(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights on `runs` of (gain, control) when only the seeds `kept` were there."""
        best_IS, control_S, mean_S = np.zeros_like(self.dev_IS), np.zeros(len(kept)), kept / kept.sum()
        for s in np.flatnonzero(kept):
            best_IS[:, s] = rank_weights(self.dev_IS[:, s], self.candidates) / kept.sum()
        control_S[kept] = rank_weights(self.dev_S[kept], self.candidates)
        none = np.zeros_like(best_IS)
        return np.append(best_IS, -mean_S), np.append(none, control_S - mean_S)


def _statistics(panel: Panel, chances: _Chances, languages: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(value_S, draws_RS) of (gain, control): jackknife pseudo-values, one a seed (Tukey 1958).

    They stand for seeds in the estimator: a choice among seeds has no value under one seed. The jackknife also takes
    the choice's bias of the first order away. Choices are held in the resamples, since development data are not
    resampled.
    """
    count = len(chances.seeds)
    whole = np.stack(chances.weights(np.ones(count, bool)))
    without = np.stack([chances.weights(np.arange(count) != s) for s in range(count)], axis=1)
    pseudo_2SW = count * whole[:, None] - (count - 1) * without
    value_W, draws_RW = 0.0, 0.0
    for language in languages:
        rows = [panel.column[language][run] for run in chances.runs]
        value_W = value_W + panel.scores(language)[rows] / len(languages)
        draws_RW = draws_RW + panel.draws[language][:, rows] / len(languages)
    return [(weights_SW @ value_W, draws_RW @ weights_SW.T) for weights_SW in pseudo_2SW]


def _best_of(model: Model, target: str, parts: list, confidence: float) -> BestOf:
    chances = parts[0][0]
    gain, control = (
        (np.mean([stats[i][0] for _, stats, _ in parts], axis=0), np.mean([stats[i][1] for _, stats, _ in parts], 0))
        for i in range(2)
    )
    examples = sum(count for *_, count in parts)
    shares = np.zeros(len(chances.names))
    for one, _, _ in parts:
        shares += np.bincount(one.dev_IS.argmax(axis=0), minlength=len(shares)) / len(one.seeds) / len(parts)
    difference = gain[0] - control[0], gain[1] - control[1]
    return BestOf(
        model=model,
        target=target,
        candidates=chances.candidates,
        intermediates=chances.names,
        chosen={name: float(share) for name, share in zip(chances.names, shares, strict=True) if share},
        gain=replace(estimate(*gain, examples, confidence), sample=None),
        control=replace(estimate(*control, examples, confidence), sample=None),
        difference=replace(estimate(*difference, examples, confidence), sample=None),
    )
