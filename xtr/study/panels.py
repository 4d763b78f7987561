"""All contributions of one model and target, and the metric over resampled examples.

Axes: R resamples, K distinct runs, N examples.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xtr.errors import DataError, UserError
from xtr.evaluate.metrics import value_of_mean
from xtr.evaluate.results import ContributionKey
from xtr.study.statistics import example_draws

NONE, ENGLISH = "none", "en"


@dataclass(frozen=True)
class Model:
    """One pretrained model of the study."""

    family: str
    name: str
    parameters: int


@dataclass
class Panel:
    """Contributions of one model and target.

    Attributes:
      target: its name.
      ids: language -> example ids, in the order of the values.
      values: language -> contributions [K, N] or, of a metric of counts, [K, N, 3]; one row a distinct run.
      column: language -> (intermediate, seed) -> row of `values`.
      draws: language -> [R, K] the metric over resampled examples.
      runs: (intermediate, seed) -> run_id.
    """

    target: str
    ids: dict[str, tuple[str, ...]]
    values: dict[str, np.ndarray]
    column: dict[str, dict[tuple[str, int], int]]
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    runs: dict[tuple[str, int], str] = field(default_factory=dict)

    def resample(self, resamples: int, seed: int) -> None:
        """Resamples examples; languages with the same ids (translations of one test set) share their draw."""
        for language, values in self.values.items():
            group = zlib.crc32("\n".join((self.target, *self.ids[language])).encode())
            vectors = np.moveaxis(values, 1, -1)
            draws = example_draws(
                vectors.reshape(-1, vectors.shape[-1]), resamples, np.random.default_rng([seed, group])
            )
            self.draws[language] = value_of_mean(draws.reshape(resamples, *vectors.shape[:-1]), values.ndim == 3)

    def scores(self, language: str) -> np.ndarray:
        """[K] the metric over all examples."""
        values = self.values[language]
        return value_of_mean(values.mean(axis=1), values.ndim == 3)

    def languages(self, intermediate: str) -> set[str]:
        return {lang for lang, column in self.column.items() if any(name == intermediate for name, _ in column)}


def score_rows(rows: pd.DataFrame, metrics: Sequence[str], languages: Sequence[str]) -> pd.DataFrame:
    """The rows of one model and target that its score is made of.

    Args:
      rows: of several splits the test split counts.
      metrics: those whose mean is the score.
      languages: the others are left aside.

    Raises:
      UserError: several splits, none of them the test split.
    """
    rows = rows[rows["metric"].isin(metrics) & rows["language"].isin(list(languages))]
    splits = set(rows["split"])
    if len(splits) > 1:
        if "test" not in splits:
            target = rows["target"].iloc[0]
            raise UserError(f"{target}: results on {', '.join(sorted(splits))}; pass the rows of one split")
        rows = rows[rows["split"] == "test"]
    return rows


def load(
    rows: pd.DataFrame, load_contributions: Callable[[ContributionKey], Mapping[str, float]], metrics: Sequence[str]
) -> Panel:
    """Reads the contributions behind the rows of one model and target.

    Args:
      rows: from `score_rows`, at least one; of several steps of one run the last counts.
      load_contributions: gives {example id: contribution 0..100, or counts} for a key.
      metrics: those whose mean is the score.

    Raises:
      DataError: two runs for one place; predictions that do not belong to their row, or that cover different examples.
    """
    target = str(rows["target"].iloc[0])
    panel = Panel(target, {}, {}, {})
    places: dict[str, dict[tuple[str, int], list[dict]]] = {}
    for row in rows.to_dict("records"):  # a study has thousands of places: plain loops are ten times quicker here
        of_language = places.setdefault(str(row["language"]), {})
        of_language.setdefault((str(row["intermediate"]), int(row["seed"])), []).append(row)
    for language, of_language in places.items():
        vectors: dict[str, np.ndarray] = {}  # by run, so that a run under several seeds is loaded once
        panel.column[language] = {}
        for (intermediate, seed), found in of_language.items():
            runs = list(dict.fromkeys(row["run_id"] for row in found))
            if len(runs) > 1:
                raise DataError(
                    f"{target}.{language}, intermediate {intermediate}, seed {seed}: two runs, {runs[0]} and {runs[1]}"
                )
            if runs[0] not in vectors:
                step = max(row["step"] for row in found)
                last = [row for row in found if row["step"] == step]
                if {row["metric"] for row in last} != set(metrics):
                    raise DataError(f"{target}.{language}, run {runs[0]}: needs {' and '.join(metrics)} of one step")
                vectors[runs[0]] = _vector(last, load_contributions, panel.ids, language)
            panel.column[language][intermediate, seed] = list(vectors).index(runs[0])
            panel.runs[intermediate, seed] = runs[0]
        panel.values[language] = np.stack(list(vectors.values()))
    return panel


def _vector(rows: Sequence[dict], load_contributions, ids: dict[str, tuple[str, ...]], language: str) -> np.ndarray:
    """[N] contributions of one run (of counts [N, 3]), averaged over the score's metrics, after comparing them with the
    rows; of a failure rate what is left to 100."""
    vectors = []
    for row in rows:
        key = ContributionKey(*(row[name] for name in ContributionKey._fields))
        where = f"run {key.run_id}, {key.target}.{key.language}.{key.split}, {key.metric}"
        by_id = load_contributions(key)
        known = ids.setdefault(language, tuple(sorted(by_id)))
        if not by_id or set(by_id) != set(known):
            raise DataError(
                f"{where}: {len(by_id)} predictions for other examples than the {len(known)} of the first run:"
                " evaluate all runs on the same examples"
            )
        values = np.array([by_id[i] for i in known])
        value = float(value_of_mean(values.mean(axis=0), values.ndim == 2))
        if abs(value - row["value"]) > 1e-3:
            raise DataError(
                f"{where}: the row says {row['value']:.4f}, its predictions {value:.4f}: they come from"
                " different evaluations; evaluate this run again"
            )
        vectors.append(values if row["higher_is_better"] else 100.0 - values)
    return np.mean(vectors, axis=0)
