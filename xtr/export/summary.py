"""From rows to the numbers that tables and pages show: final scores, means over languages, the benchmarks' averages.

    rows ──final()──> one value a (system, target, language, seed, metric)
         ──scores()──> one score a (system, target, language, seed)
         ──means()──> mean, zero-shot mean and gap to English a (system, target, seed)
         ──benchmarks()──> task scores and averages a (system, seed)

A system is a model after an intermediate task; seeds are repetitions of it, over which `over_seeds` takes the mean.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from xtr import coverage
from xtr.evaluate.metrics import forms
from xtr.evaluate.metrics.benchmark import SCORES, XTREME, XTREME_R, Benchmark
from xtr.evaluate.results import is_mean

ENGLISH, NONE = "en", "none"
MEAN, ZERO_SHOT, GAP = "mean", "zero-shot", "gap_to_en"
# As tables say them.
KINDS = {MEAN: "mean over all languages", ZERO_SHOT: "mean without English", GAP: "gap to English"}
# Shares of outputs, in percent, that no score is made of.
SHARES = forms.NAMES
_NO_SCORES = (*SHARES, "null_threshold")
BENCHMARKS = (XTREME_R, XTREME)
LANGUAGES = {XTREME_R.name: coverage.XTREME_R, XTREME.name: coverage.XTREME}


@dataclass(frozen=True, order=True)
class System:
    """A model after an intermediate task.

    Attributes:
      variant: what tells it from another of the same model and intermediate task: stage or run; mostly empty.
    """

    family: str
    parameters: int
    model: str
    intermediate: str
    variant: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Model, intermediate task, and the variant where there is one."""
        return (self.model, self.intermediate, *filter(None, [self.variant]))

    def __str__(self) -> str:
        return " · ".join(self.names)


_SYSTEM = ["family", "parameters", "model", "intermediate"]
_VALUE = ["target", "language", "split", "seed", "step", "metric"]


def with_systems(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `system`, sorted by it: by family, size, then `none` first.

    Where a model and intermediate task have several values for one place, their stages tell systems apart, else their
    runs.
    """
    rows = rows.assign(variant="")
    for _, own in rows.groupby(_SYSTEM, sort=False):
        for columns in ([], ["stage"], ["stage", "run_id"]):
            if not own.duplicated([*columns, *_VALUE]).any():
                break
        if columns:
            rows.loc[own.index, "variant"] = own[columns].agg(" ".join, axis=1)
    names = rows[[*_SYSTEM, "variant"]].itertuples(index=False)
    rows = rows.assign(system=[System(f, int(p), m, i, v) for f, p, m, i, v in names]).drop(columns="variant")
    order = {system: n for n, system in enumerate(sorted(set(rows["system"]), key=_order))}
    return rows.sort_values("system", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def _order(system: System) -> tuple:
    return system.family, system.parameters, system.model, system.intermediate != NONE, system


def main_split(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the split that is the target's test, target by target: `test`, or the one that is no development
    set."""
    chosen = {}
    for target, own in rows.groupby("target", sort=False):
        splits = list(dict.fromkeys(own["split"]))
        chosen[target] = min(splits, key=lambda split: (split != "test", split in ("validation", "dev"), split))
    return rows[rows["split"] == rows["target"].map(chosen)]


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """The values that count: of the test split and the last step, without means over languages and single layers.

    Args:
      rows: with the column `system`.
    """
    rows = main_split(rows[~rows["language"].map(is_mean) & ~rows["metric"].str.contains("/layer_", regex=False)])
    last = rows.groupby(["system", "target", "seed"], sort=False)["step"].transform("max")
    return rows[rows["step"] == last]


def score_metrics(target: str, found: Collection[str]) -> tuple[str, ...]:
    """The metrics whose mean is a target's score; none where that cannot be told.

    Args:
      found: those that the target has.
    """
    found = [name for name in found if name not in _NO_SCORES and "/" not in name]
    for choice in dict.fromkeys([SCORES.get(target, ()), *SCORES.values()]):
        if choice and set(found).issuperset(choice):
            return choice
    return tuple(found) if len(set(found)) == 1 else ()


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """One score a system, target, language and seed: columns system, target, language, seed, value.

    More is better: of a failure rate the score is what is left to 100.

    Args:
      rows: from `final`, or those of one step.
    """
    kept = []
    for target, own in rows.groupby("target", sort=False):
        metrics = score_metrics(target, own["metric"].unique())
        own = own[own["metric"].isin(metrics)]
        own = own.assign(value=own["value"].where(own["higher_is_better"], 100.0 - own["value"]))
        keys = ["system", "target", "language", "seed"]
        grouped = own.groupby(keys, sort=False)["value"].agg(["mean", "count"])
        kept.append(grouped[grouped["count"] == len(metrics)]["mean"].rename("value").reset_index())
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def expected(rows: pd.DataFrame) -> dict[str, int]:
    """Target -> how many languages it should have: as the rows of means say, else as many as there are."""
    found = {}
    for target, own in rows.groupby("target", sort=False):
        means = [int(name.rpartition("/")[2]) for name in own["language"] if is_mean(name)]
        found[target] = max([*means, own[~own["language"].map(is_mean)]["language"].nunique()])
    return found


def means(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means over languages: columns `by`, kind, value, languages (how many of them).

    Kinds: `MEAN` over all, as XTREME has it; `ZERO_SHOT` over all but English; `GAP`, English minus `ZERO_SHOT`.
    What has one language has none of them.
    """
    lines = []
    for keys, own in values.groupby(by, sort=False):
        if own["language"].nunique() < 2:
            continue
        english = own["language"] == ENGLISH
        others = own[~english]["value"]
        found = {MEAN: own["value"].mean(), ZERO_SHOT: others.mean()}
        if english.any():
            found[GAP] = own[english]["value"].mean() - found[ZERO_SHOT]
        counts = {MEAN: len(own), ZERO_SHOT: len(others), GAP: len(own)}
        lines += [(*keys, kind, value, counts[kind]) for kind, value in found.items()]
    return pd.DataFrame(lines, columns=[*by, "kind", "value", "languages"])


def benchmarks(values: pd.DataFrame) -> pd.DataFrame:
    """What each system and seed has of the benchmarks: columns system, seed, benchmark, name, value.

    `name` is a task, a group, or one of the averages over all tasks; only what is complete is there.

    Args:
      values: from `scores`.
    """
    lines = []
    for (system, seed), own in values.groupby(["system", "seed"], sort=False):
        for benchmark in BENCHMARKS:
            tasks = task_scores(own, benchmark)
            named = tasks | benchmark.means(tasks)
            lines += [(system, seed, benchmark.name, name, value) for name, value in named.items()]
    return pd.DataFrame(lines, columns=["system", "seed", "benchmark", "name", "value"])


def task_scores(values: pd.DataFrame, benchmark: Benchmark) -> dict[str, float]:
    """The scores of those of a benchmark's tasks that have all their languages.

    Args:
      values: scores of one system and seed.
    """
    found = {}
    for task in benchmark.tasks:
        own = values[values["target"] == task].set_index("language")["value"]
        languages = LANGUAGES[benchmark.name][task].split()
        if set(languages) <= set(own.index):
            found[task] = float(own[languages].mean())
    return found


def over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of each value, and `seeds`, how many there are."""
    by = [name for name in values.columns if name not in ("seed", "value", "languages")]
    grouped = values.groupby(by, sort=False)["value"].agg(["mean", "count"])
    return grouped.rename(columns={"mean": "value", "count": "seeds"}).reset_index()


def gains(values: pd.DataFrame) -> pd.DataFrame:
    """What an intermediate task adds to the zero-shot mean, in points: columns system, target, seed, value.

    Paired: of the same model, seed and languages as without one; where there is no such pair there is no gain.

    Args:
      values: from `scores`.
    """
    foreign = values[values["language"] != ENGLISH]
    found = {
        keys: own.set_index("language")["value"]
        for keys, own in foreign.groupby(["system", "target", "seed"], sort=False)
    }
    lines = []
    for (system, target, seed), own in found.items():
        for variant in dict.fromkeys([system.variant, ""]):
            base = found.get((dataclasses.replace(system, intermediate=NONE, variant=variant), target, seed))
            if system.intermediate != NONE and base is not None and set(base.index) == set(own.index):
                lines.append((system, target, seed, own.mean() - base.mean()))
                break
    return pd.DataFrame(lines, columns=["system", "target", "seed", "value"])
