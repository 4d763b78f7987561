"""The transfer table: what each intermediate task does to each target, with intervals.

    rows, predictions ──build()──> TransferTable: one Cell for (model, intermediate, target, view)

A view is a language code, `ZERO_SHOT` (mean over all languages but English: the headline), or `GAP` (English minus
that mean). Averages over targets are cells too, under the targets in `AVERAGES`; the mean over the intermediates is a
zero-shot cell under the intermediate `POOLED`. Models are never averaged or pooled.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xtr import coverage
from xtr.errors import UserError
from xtr.evaluate.results import ContributionKey
from xtr.export.summary import score_metrics
from xtr.study.best_of import BestOf, best_of_model, development_scores, why_none
from xtr.study.overlaps import RELATED
from xtr.study.panels import ENGLISH, NONE, Model, Panel, load, score_rows
from xtr.study.shared import Pair, Shared, shared_by_family
from xtr.study.statistics import Estimate, estimate, holm

POOLED = "mean of intermediates"
ZERO_SHOT, GAP = "zero-shot", "English gap"
AVERAGE, WITHOUT_RETRIEVAL, WITHOUT_OVERLAPS = "average", "average without retrieval", "average without overlaps"
WITHOUT_RETRIEVAL_TYDIQA, RETRIEVAL_ALONE = "average without retrieval and TyDiQA", "retrieval alone"
COVERED = "average on covered languages"  # those in the family's pretraining corpus
AVERAGES = (AVERAGE, WITHOUT_RETRIEVAL, WITHOUT_RETRIEVAL_TYDIQA, RETRIEVAL_ALONE, WITHOUT_OVERLAPS, COVERED)
TYDIQA = "tydiqa"
RETRIEVAL = frozenset({"tatoeba", "bucc2018", "lareqa", "mewslix"})
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Cell:
    """One cell of the transfer table. Scores are percentages; gains and gaps are percentage points.

    Attributes:
      model: whose.
      intermediate: intermediate task, `NONE`, or `POOLED`.
      target: target task, or one of `AVERAGES`.
      view: language code, `ZERO_SHOT` or `GAP`.
      score: the score (for `GAP`: English minus zero-shot mean).
      gain: score minus that of `NONE`, paired by seed and example; None for `NONE`, or without a baseline.
      chance: score of guessing, where known.
      expected: how many languages (for an average: targets) it ought to be a mean over.
      missing: those of them that are not in it at all.
      pooled: of `POOLED`, the intermediates that it is a mean over.
      absent: of `POOLED`, those that ought to be among them.
      partly: of `POOLED`, what is in it after some of them alone: `tatoeba after qqp` is not.
      overlap: the intermediate is trained on the target's data; see `xtr.study.overlaps`.
      p_adjusted: Holm-adjusted p-value of the gain among all (intermediate, target) pairs of this model; zero-shot
        cells of single targets only.
    """

    model: Model
    intermediate: str
    target: str
    view: str
    score: Estimate
    gain: Estimate | None
    chance: float | None
    expected: int
    missing: tuple[str, ...]
    overlap: bool
    p_adjusted: float | None = None
    pooled: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is not in the mean and ought to be."""
        return (*self.missing, *self.partly, *self.absent)

    @property
    def significant(self) -> bool:
        """Whether the gain differs from 0 after Holm's correction."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANCE

    @property
    def against_chance(self) -> str | None:
        """'above', 'below', or 'not distinguishable' by the score's interval; None where chance is not known."""
        if self.chance is None:
            return None
        if not self.score.excludes(self.chance):
            return "not distinguishable"
        return "above" if self.score.value > self.chance else "below"


@dataclass(frozen=True)
class TransferTable:
    """All cells of a study.

    Attributes:
      cells: in the order models, intermediates, targets, views.
      models: smallest first within a family.
      intermediates: `NONE` first; without `POOLED`.
      targets: without the averages.
      languages: expected languages of each target.
      metrics: the metrics whose mean is the score, by target.
      problems: what is missing or does not fit, in sentences.
      confidence, resamples: of the intervals.
      best_of: the best intermediate chosen on English development data against the best seed chosen so.
      no_best_of: model -> why it has no such comparison.
      compared: of families whose sizes have different results, the cells over those that all sizes have; see
        `comparable`.
      notes: what the tables must say of the intermediate tasks, in sentences.
    """

    cells: tuple[Cell, ...]
    models: tuple[Model, ...]
    intermediates: tuple[str, ...]
    targets: tuple[str, ...]
    languages: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[str, ...]]
    problems: tuple[str, ...]
    confidence: float
    resamples: int
    best_of: tuple[BestOf, ...] = ()
    no_best_of: Mapping[str, str] = field(default_factory=dict)
    compared: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()

    def cell(self, model: Model, intermediate: str, target: str, view: str = ZERO_SHOT) -> Cell | None:
        """The cell, or None where there is no result."""
        return self._index.get((model, intermediate, target, view))

    def comparable(self, model: Model, intermediate: str, target: str, view: str = ZERO_SHOT) -> Cell | None:
        """The cell of an intermediate by which the sizes of a family are compared.

        The mean of intermediates on an average is over the pairs that all sizes have; the averages of one intermediate,
        or the mean of intermediates on one target, over those that all sizes with results of it have; so are the
        languages of one pair. None where there is no result.
        """
        place = (model, intermediate, target, view)
        return self._compared.get(place) if model.family in self._uneven else self._index.get(place)

    def __post_init__(self):
        for name, cells in (("_index", self.cells), ("_compared", self.compared)):
            object.__setattr__(self, name, {(c.model, c.intermediate, c.target, c.view): c for c in cells})
        object.__setattr__(self, "_uneven", {cell.model.family for cell in self.compared})

    def averages(self) -> tuple[str, ...]:
        """Those of `AVERAGES` that have cells, in their order."""
        present = {cell.target for cell in self.cells}
        return tuple(name for name in AVERAGES if name in present)

    def to_frame(self) -> pd.DataFrame:
        """One line a cell, flat columns: what a spreadsheet wants."""
        lines = []
        for cell in self.cells:
            line = {
                **{"family": cell.model.family, "model": cell.model.name, "parameters": cell.model.parameters},
                **{"intermediate": cell.intermediate, "target": cell.target, "view": cell.view},
            }
            for name, number in (("score", cell.score), ("gain", cell.gain)):
                for field_, column in (("value", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                    line[column] = getattr(number, field_) if number else np.nan
                line[f"{name}_seeds"] = number.seeds if number else 0
            line |= {"examples": cell.score.examples, "p_adjusted": cell.p_adjusted, "chance": cell.chance}
            line |= {"against_chance": cell.against_chance, "overlap": cell.overlap}
            lines.append(line | {"expected": cell.expected, "missing": ", ".join(cell.lacks)})
        return pd.DataFrame(lines)


def build(
    rows: pd.DataFrame,
    load_contributions: Callable[[ContributionKey], Mapping[str, float]],
    expected_languages: Mapping[str, Sequence[str]],
    chance: Mapping[str, float | Mapping[str, float]] | None = None,
    overlaps: Mapping[str, Collection[str]] = RELATED,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    development: pd.DataFrame | None = None,
    planned: Mapping[str, Collection[tuple[str, str]]] | None = None,
    notes: Sequence[str] = (),
) -> TransferTable:
    """Builds the transfer table.

    The score of a target is its accuracy, or (EM + F1) / 2 for question answering; other metrics of the rows are left
    aside. Of several steps of one run the last counts, of several splits the test split. A gain is taken over the
    seeds that both sides have. Rows of one run under several seeds (a checkpoint that no seed went into) count once.

    Args:
      rows: results with the columns of `ResultRow`, one run for each (model, intermediate, target, language, seed):
        the final evaluations of the study. Rows of targets that are not expected are left aside.
      load_contributions: gives {example id: contribution 0..100, or counts} for a key; `ResultStore.contributions`
        does.
      expected_languages: target -> languages that ought to be there (none where they are not known yet); a mean over
        fewer says so, and an average without one of these targets.
      chance: target -> score of guessing in percent, the same for all languages or for each.
      overlaps: intermediate -> targets that it shares data with; by default of intermediates named as their task.
      resamples, seed, confidence: of the bootstrap.
      development: rows of English development data under the run_id of the evaluation that they belong to; for
        `best_of`.
      planned: model -> the (intermediate, target) pairs that it ought to have, in the study's order; None: every
        intermediate found on every expected target.
      notes: of the table.

    Raises:
      UserError: no row belongs to an expected target; no score is defined for a target's metrics.
      DataError: two runs for one place; predictions that do not belong to their row, or that cover different examples.
    """
    rows = rows[rows["target"].isin(list(expected_languages))]
    if rows.empty:
        raise UserError(f"no results for {', '.join(expected_languages)}: nothing to make a table of")
    problems: list[str] = []
    targets = [target for target in expected_languages if (rows["target"] == target).any()]
    problems += [f"{target}: no results at all" for target in expected_languages if target not in targets]
    for target in targets:
        due, have = set(expected_languages[target]), set(rows[rows["target"] == target]["language"])
        if lacking := sorted(due - have):
            means = f"means are over {len(due & have)} of {len(due)} languages"
            problems.append(f"{target}: no results in {', '.join(lacking)}; {means}")
    metrics = {target: _score_metrics(target, set(rows[rows["target"] == target]["metric"])) for target in targets}
    found = list(dict.fromkeys(rows["intermediate"]))
    intermediates = [NONE] * (NONE in found) + [name for name in found if name != NONE]
    models = _models(rows)
    known = {model.name for model in models}
    problems += [f"{name}: no results at all" for name, pairs in (planned or {}).items() if pairs and name not in known]
    scored = {model: _score_rows(rows, model, metrics, expected_languages) for model in models}
    shared = shared_by_family(scored)
    cells: list[Cell] = []
    compared: list[Cell] = []
    best: list[BestOf] = []
    no_best: dict[str, str] = {}
    dev_scores = development_scores(development) if development is not None else {}
    for model, mine in scored.items():
        plan = _plan(None if planned is None else planned.get(model.name, ()), mine, intermediates, expected_languages)
        panels = {}
        for target in targets:
            if mine[target].empty:
                if any(target in due for due in plan.values()):
                    problems.append(f"{model.name}: no results for {target}")
                continue
            panels[target] = load(mine[target], load_contributions, metrics[target])
            panels[target].resample(resamples, seed)
        settings = (expected_languages, chance or {}, overlaps, resamples, seed, confidence, problems)
        maker = _Maker(model, intermediates, plan, panels, *settings)
        own = {name for rows_of_target in mine.values() for name in rows_of_target["intermediate"]}
        cells += maker.cells([name for name in intermediates if name in own])
        if shared[model.family] is not None:
            even = dataclasses.replace(maker, shared=shared[model.family], problems=[])  # said by the other already
            compared += even.cells([name for name in intermediates if name in own and name != NONE])
        best_here = best_of_model(model, panels, expected_languages, dev_scores, confidence)
        best += best_here
        if not best_here:
            no_best[model.name] = why_none(panels, dev_scores)
        problems += [f"{model.name}: no results for the intermediate {name}" for name in plan if name not in own]
    if NONE not in found:
        problems.append(f"no results without an intermediate task ({NONE!r}): gains cannot be computed")
    return TransferTable(
        cells=tuple(cells),
        models=tuple(models),
        intermediates=tuple(intermediates),
        targets=tuple(targets),
        languages={target: tuple(expected_languages[target]) for target in targets},
        metrics=metrics,
        problems=tuple(dict.fromkeys(problems)),
        confidence=confidence,
        resamples=resamples,
        best_of=tuple(best),
        no_best_of=no_best,
        compared=tuple(compared),
        notes=tuple(notes),
    )


def _score_metrics(target: str, found: set[str]) -> tuple[str, ...]:
    if metrics := score_metrics(target, sorted(found)):
        return metrics
    raise UserError(f"{target}: cannot tell its score from the metrics {', '.join(sorted(found))}")


def _models(rows: pd.DataFrame) -> list[Model]:
    """By family, smallest first."""
    keys = ["family", "model", "parameters"]
    models = [Model(str(f), str(m), int(p)) for f, m, p in rows[keys].drop_duplicates().itertuples(index=False)]
    return sorted(models, key=lambda model: (model.family, model.parameters, model.name))


def _score_rows(rows: pd.DataFrame, model: Model, metrics, expected_languages) -> dict[str, pd.DataFrame]:
    """Target -> the rows that a model's score is made of; empty where it has none."""
    mine = rows[(rows["model"] == model.name) & (rows["family"] == model.family)]
    mine = mine[mine["parameters"] == model.parameters]
    return {t: score_rows(mine[mine["target"] == t], metrics[t], expected_languages[t]) for t in metrics}


def _plan(
    pairs: Collection[tuple[str, str]] | None,
    mine: Mapping[str, pd.DataFrame],
    intermediates: Sequence[str],
    targets: Iterable[str],
) -> dict[str, tuple[str, ...]]:
    """Intermediate -> the targets that a model ought to have after it, in the study's order; without any left out."""
    if pairs is None:
        pairs = [(name, target) for name in intermediates for target in targets]
    due = dict.fromkeys([*pairs, *((name, target) for target, rows in mine.items() for name in rows["intermediate"])])
    names = dict.fromkeys([*intermediates, *(name for name, _ in due)])
    plan = {name: tuple(target for target in targets if (name, target) in due) for name in names}
    return {name: own for name, own in plan.items() if own}


# ---------------------------------------------------------------------------------------------------------------------
# Cells: every one of them is a weighted sum of language means
# ---------------------------------------------------------------------------------------------------------------------

_Terms = list[tuple[Panel, str, str, float]]  # (target, language, intermediate, weight)


@dataclass
class _Maker:
    """Makes the cells of one model; `names` are all intermediates of the study, `plan` is from `_plan`, the rest as in
    `build`. With `shared` cells are over what the sizes of the family share."""

    model: Model
    names: list[str]
    plan: Mapping[str, Sequence[str]]
    panels: dict[str, Panel]
    expected: Mapping[str, Sequence[str]]
    chance: Mapping[str, float | Mapping[str, float]]
    overlaps: Mapping[str, Collection[str]]
    resamples: int
    seed: int
    confidence: float
    problems: list[str]
    shared: Shared | None = None

    def cells(self, intermediates: list[str]) -> list[Cell]:
        """All cells of one model, of intermediates with results."""
        cells = []
        counts = [
            len(self._seeds([(panel, language, name, 1.0)]))
            for panel in self.panels.values()
            for language in panel.column
            for name in intermediates
        ]
        for intermediate in intermediates:
            for panel in self.panels.values():
                if panel.target in self.plan[intermediate]:
                    cells += self._of_target(intermediate, panel, max(counts, default=0))
            cells += self._averages([intermediate], intermediate)
        trained = [name for name in self.plan if name != NONE]
        if len(trained) > 1 and len([name for name in self.names if name != NONE]) > 1:
            cells += [cell for panel in self.panels.values() if (cell := self._pooled(trained, panel))]
            cells += self._averages(trained, POOLED)
        single = [
            i
            for i, c in enumerate(cells)
            if c.view == ZERO_SHOT and c.target in self.panels and c.intermediate != POOLED and c.gain
        ]
        for i, p in zip(single, holm([cells[i].gain.p_value for i in single]), strict=True):
            cells[i] = dataclasses.replace(cells[i], p_adjusted=float(p))
        return cells

    def _of_target(self, intermediate: str, panel: Panel, most: int) -> list[Cell]:
        target, expected = panel.target, list(self.expected[panel.target])
        have = self._have(intermediate, target)
        absent = tuple(language for language in expected if language not in have)
        place = f"{self.model.name}, {intermediate} -> {target}"
        if not have:
            self.problems.append(f"{place}: no results")
            return []
        # A language without results in any cell is said once, of the target.
        if lacking := [language for language in absent if language in panel.column]:
            self.problems.append(f"{place}: no results in {', '.join(lacking)}")
        foreign = [language for language in have if language != ENGLISH]
        views = [(language, [(panel, language, intermediate, 1.0)], 1, ()) for language in have]
        if foreign:
            mean = [(panel, language, intermediate, 1 / len(foreign)) for language in foreign]
            short = tuple(language for language in absent if language != ENGLISH)
            whole = len(foreign) + len(short)
            views.insert(0, (ZERO_SHOT, mean, whole, short))
            if ENGLISH in have:
                gap = [(panel, ENGLISH, intermediate, 1.0), *((*term[:3], -term[3]) for term in mean)]
                views.append((GAP, gap, whole, short))
        cells = []
        for view, terms, whole, missing in views:
            cell = self._cell(intermediate, target, view, terms, whole, missing)
            if cell:
                cells.append(cell)
        seeds = {seed for language in have for name, seed in panel.column[language] if name == intermediate}
        if len(seeds) < most and len(self._seeds(views[0][1])) < len(seeds):
            self.problems.append(f"{place}: the languages do not have the same seeds; means use those that all have")
        elif len(seeds) < most:
            self.problems.append(f"{place}: {len(seeds)} of {most} seeds")
        return cells

    def _pooled(self, trained: list[str], panel: Panel) -> Cell | None:
        """The mean of the zero-shot means that the intermediates have on one target."""
        pairs = self.shared and self.shared.of_target
        planned = [name for name in trained if panel.target in self.plan[name]]
        have = {name: languages for name in planned if (languages := self._foreign(name, panel.target, pairs))}
        terms = [
            (panel, language, name, 1 / len(have) / len(languages))
            for name, languages in have.items()
            for language in languages
        ]
        due = [language for language in self.expected[panel.target] if language != ENGLISH]
        return self._mean(POOLED, panel.target, terms, due, have, [name for name in planned if name not in have])

    def _averages(self, intermediates: list[str], title: str) -> list[Cell]:
        """Means over targets of the zero-shot means; with several intermediates, the mean of what each would get."""
        pairs = self.shared and (self.shared.everywhere if title == POOLED else self.shared.of_intermediate)
        cells = []
        for average, languages_of in self._choices(pairs).items():
            wanted: dict[str, None] = {}
            present: dict[str, list[str]] = {}
            absent, terms = [], []
            for name in intermediates:
                have = {target: languages_of(name, target) for target in self.plan[name]}
                have = {target: languages for target, languages in have.items() if languages is not None}
                wanted |= dict.fromkeys(have)
                if found := [target for target, languages in have.items() if languages]:
                    present[name] = found
                elif have:
                    absent.append(name)
                terms += [
                    (self.panels[target], language, name, 1 / len(found) / len(have[target]))
                    for target in found
                    for language in have[target]
                ]
            terms = [(*term[:3], term[3] / len(present)) for term in terms]
            if len(self._planned_targets) > 1:
                due = [target for target in self._planned_targets if target in wanted]
                cells.append(self._mean(title, average, terms, due, present, absent))
        return [cell for cell in cells if cell]

    def _mean(
        self,
        intermediate: str,
        target: str,
        terms: _Terms,
        due: Sequence[str],
        present: Mapping[str, Sequence[str]],
        absent: Sequence[str],
    ) -> Cell | None:
        """The zero-shot cell of a mean over intermediates, targets or both; None without terms.

        Args:
          due: the languages or targets that it ought to be a mean over.
          present: intermediate -> those that it has.
          absent: intermediates that have none.
        """
        if not terms:
            return None
        have = {part for parts in present.values() for part in parts}
        more = {}
        if intermediate == POOLED:
            partly = [
                f"{part} after {name}"
                for part in due
                for name, parts in present.items()
                if part in have and part not in parts and self._is_due(name, target, part)
            ]
            more = {"pooled": tuple(present), "absent": tuple(absent), "partly": tuple(partly)}
        missing = tuple(part for part in due if part not in have)
        return self._cell(intermediate, target, ZERO_SHOT, terms, len(due), missing, **more)

    def _is_due(self, name: str, target: str, part: str) -> bool:
        """Whether a part of a mean, a language or a target, ought to be in it after an intermediate."""
        if target not in AVERAGES:
            return True
        return part in self.plan[name] and self._choices()[target](name, part) is not None

    @functools.cached_property
    def _planned_targets(self) -> list[str]:
        return [target for target in self.expected if any(target in own for own in self.plan.values())]

    def _choices(self, pairs: frozenset[Pair] | None = None) -> dict[str, Callable[[str, str], list[str] | None]]:
        """Average -> (intermediate, target) -> the languages that it takes of them; None where it leaves them out.

        Args:
          pairs: the only ones that count; None for all.
        """
        targets = set(self._planned_targets)

        def of(counts: Callable[[str, str], bool]) -> Callable[[str, str], list[str] | None]:
            return lambda name, target: self._foreign(name, target, pairs) if counts(name, target) else None

        choices = {AVERAGE: of(lambda name, target: True)}
        if targets & RETRIEVAL:
            choices[WITHOUT_RETRIEVAL] = of(lambda name, target: target not in RETRIEVAL)
        if targets & RETRIEVAL and TYDIQA in targets:
            choices[WITHOUT_RETRIEVAL_TYDIQA] = of(lambda name, target: target not in RETRIEVAL | {TYDIQA})
        if len(targets & RETRIEVAL) > 1:
            choices[RETRIEVAL_ALONE] = of(lambda name, target: target in RETRIEVAL)
        overlapping = {name: set(found) & targets for name, found in self.overlaps.items()}
        if any(overlapping.get(name) for name in self.names):
            choices[WITHOUT_OVERLAPS] = of(lambda name, target: target not in overlapping.get(name, ()))
        lacking = set(coverage.lacking(self.model.family)) if self.model.family in coverage.FAMILIES else set()
        due = {target: {language for language in self.expected[target] if language != ENGLISH} for target in targets}
        if any(languages & lacking for languages in due.values()):

            def covered(name: str, target: str) -> list[str] | None:
                if due[target] and not due[target] - lacking:
                    return None
                return [language for language in self._foreign(name, target, pairs) if language not in lacking]

            choices[COVERED] = covered
        return choices

    def _have(self, intermediate: str, target: str) -> list[str]:
        """Languages with results, in the expected order."""
        have = self.panels[target].languages(intermediate) if target in self.panels else set()
        if self.shared is not None and intermediate != NONE:
            have &= self.shared.languages.get((intermediate, target), frozenset()) | {ENGLISH}
        return [language for language in self.expected[target] if language in have]

    def _foreign(self, intermediate: str, target: str, pairs: frozenset[Pair] | None) -> list[str]:
        """Languages but English that a mean over intermediates or targets is over, in the expected order.

        Args:
          pairs: as in `_choices`.
        """
        if pairs is not None and intermediate != NONE and (intermediate, target) not in pairs:
            return []
        return [language for language in self._have(intermediate, target) if language != ENGLISH]

    def _cell(
        self, intermediate: str, target: str, view: str, terms: _Terms, whole: int, missing: tuple[str, ...], **more
    ) -> Cell | None:
        place = f"{self.model.name}, {intermediate} -> {target} ({view})"
        score = self._estimate(terms)
        if score is None:
            self.problems.append(f"{place}: no common seed")
            return None
        gain = None
        if intermediate != NONE:
            if all(language in panel.languages(NONE) for panel, language, _, _ in terms):
                gain = self._estimate(terms + [(panel, language, NONE, -w) for panel, language, _, w in terms])
            if gain is None:
                self.problems.append(f"{place}: no baseline")
            elif gain.seeds < score.seeds:
                self.problems.append(
                    f"{place}: the gain is over {gain.seeds} of {score.seeds} seeds, those that the baseline has"
                )
        return Cell(
            model=self.model,
            intermediate=intermediate,
            target=target,
            view=view,
            score=dataclasses.replace(score, sample=None),
            # Kept where `scaling` combines them: a sample holds every resample.
            gain=gain if gain is None or view == ZERO_SHOT else dataclasses.replace(gain, sample=None),
            chance=self._chance(target, view, terms),
            expected=whole,
            missing=missing,
            overlap=target in self.overlaps.get(intermediate, ()),
            **more,
        )

    def _chance(self, target: str, view: str, terms: _Terms) -> float | None:
        chance = self.chance.get(target)
        if chance is None or view == GAP:
            return None
        if not isinstance(chance, Mapping):
            return float(chance)
        if any(language not in chance for _, language, _, _ in terms):
            return None
        return float(sum(weight * chance[language] for _, language, _, weight in terms))

    def _seeds(self, terms: _Terms) -> list[int]:
        """Seeds that every term has; of seeds that name the same runs everywhere only the first."""
        found = [{s for i, s in panel.column[language] if i == name} for panel, language, name, _ in terms]
        distinct = {}
        for s in sorted(set.intersection(*found)):
            runs = tuple(panel.column[language][name, s] for panel, language, name, _ in terms)
            distinct.setdefault(runs, s)
        return list(distinct.values())

    def _estimate(self, terms: _Terms) -> Estimate | None:
        seeds = self._seeds(terms)
        if not seeds:
            return None
        value_S = np.zeros(len(seeds))
        draws_RS = np.zeros((self.resamples, len(seeds)))
        for panel, language, name, weight in terms:
            rows_S = [panel.column[language][name, s] for s in seeds]
            value_S += weight * panel.scores(language)[rows_S]
            draws_RS += weight * panel.draws[language][:, rows_S]
        # A seed names one chain of trainings, so its scores in all languages and targets belong together.
        examples = sum(len(panel.ids[lang]) for panel, lang in {(id(p), x): (p, x) for p, x, _, _ in terms}.values())
        return estimate(value_S, draws_RS, examples, self.confidence)
