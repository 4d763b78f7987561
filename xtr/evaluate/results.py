"""Results as rows in one Parquet file, and the predictions behind them as JSON lines.

    <directory>/results.parquet
    <directory>/predictions/<run_id>/<target>.<language>.<split>.jsonl        one record an example
    <directory>/predictions/<run_id>/<target>.<language>.<split>.meta.json    what they are predictions of

The rows are the source of truth; tables, reports and TensorBoard files are made from them.
"""

import dataclasses
import hashlib
import json
import math
import numbers
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from xtr import rundir
from xtr.errors import DataError, UserError

KEY = ("run_id", "stage", "intermediate", "target", "language", "split", "seed", "step", "metric")


@dataclass(frozen=True)
class ResultRow:
    """One value of one metric.

    Attributes:
      run_id: the run that was evaluated; also the folder of its predictions.
      family: model family, e.g. "mt5".
      model: model name, e.g. "mt5-small".
      parameters: of the network, without a head.
      stage: which stage of the study the evaluated checkpoint comes from.
      intermediate: intermediate task or mixture, "none" for none.
      target: name of the evaluated group, e.g. "xnli".
      language: language code; of a mean over languages how many of those that the target has, as 'mean 9/15'.
      split: split that was evaluated.
      seed: training seed.
      step: step of the checkpoint.
      metric: e.g. "accuracy", "em", "f1".
      value: in percent where the metric is a proportion.
      n: number of examples.
      higher_is_better: direction of the metric.
    """

    run_id: str
    family: str
    model: str
    parameters: int
    stage: str
    intermediate: str
    target: str
    language: str
    split: str
    seed: int
    step: int
    metric: str
    value: float
    n: int
    higher_is_better: bool = True

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, _ACCEPTED[field.type]) or (isinstance(value, bool) and field.type is not bool):
                raise DataError(f"result row, field {field.name}: expected {field.type.__name__}, got {value!r}")
        if not math.isfinite(self.value):
            raise DataError(f"result row {self.target}.{self.language} {self.metric}, field value: {self.value}")


def sample_order(example_id: object) -> str:
    """Sample predictions are chosen by this key: it knows nothing of the run, nor of the place in the file."""
    return hashlib.sha256(str(example_id).encode()).hexdigest()


def is_mean(language: str) -> bool:
    """Whether a row's language says that it is a mean over languages."""
    return language.startswith("mean ")


def mean_rows(rows: Sequence[ResultRow], expected: Collection[str]) -> list[ResultRow]:
    """The unweighted mean over languages of each metric, as XTREME has it, for the rows of one target and split.

    Args:
      expected: the languages that the target has; the mean's row says how many of them it is over.
    """
    by_metric: dict[str, list[ResultRow]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    return [
        dataclasses.replace(
            of[0],
            language=f"mean {len(of)}/{len({row.language for row in of} | set(expected))}",
            value=sum(row.value for row in of) / len(of),
            n=sum(row.n for row in of),
        )
        for of in by_metric.values()
    ]


_ACCEPTED = {str: str, int: numbers.Integral, float: numbers.Real, bool: bool}
_DTYPE_OF = {str: "str", int: "int64", float: "float64", bool: "bool"}
_DTYPES = {field.name: _DTYPE_OF[field.type] for field in dataclasses.fields(ResultRow)}
COLUMNS = tuple(_DTYPES)


class Place(NamedTuple):
    """Names one predictions file."""

    run_id: str
    target: str
    language: str
    split: str


class ContributionKey(NamedTuple):
    """Names one metric's contributions in one predictions file."""

    run_id: str
    target: str
    language: str
    split: str
    metric: str


def _table(rows: Iterable[ResultRow]) -> pd.DataFrame:
    return pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=list(COLUMNS)).astype(_DTYPES)


class ResultStore:
    """Rows and predictions below one directory. One writer at a time; readers never see half a file."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.path = self.directory / "results.parquet"

    def append(self, rows: Iterable[ResultRow]) -> None:
        """Adds rows. A row with the key (`KEY`) of an older one replaces it."""
        new = _table(rows)
        if not new.empty:
            self._write(pd.concat([self.read(), new], ignore_index=True))

    def replace(self, rows: Iterable[ResultRow]) -> None:
        """Writes these rows in the place of all that are there."""
        self._write(_table(rows))

    def _write(self, table: pd.DataFrame) -> None:
        rundir.write_atomic(self.path, table.drop_duplicates(list(KEY), keep="last").to_parquet(index=False))

    def read(self) -> pd.DataFrame:
        """All rows, oldest first, with the columns of `ResultRow`; empty when nothing was written yet."""
        if not self.path.exists():
            return pd.DataFrame(columns=list(COLUMNS)).astype(_DTYPES)
        try:
            table = pd.read_parquet(self.path)
            return table[list(COLUMNS)].astype(_DTYPES)
        except (KeyError, ValueError, OSError) as error:
            raise DataError(f"{self.path} is not a results file: {error}") from error

    def predictions_path(self, run_id: str, target: str, language: str, split: str) -> Path:
        """Where the predictions of one task and language lie."""
        for name in (run_id, target, language, split):
            if not re.fullmatch(r"[\w+=@-][\w+=@.-]*", name):
                raise UserError(f"{name!r} cannot be part of a file name: use letters, digits and any of _ - + = @ .")
        return self.directory / "predictions" / run_id / f"{target}.{language}.{split}.jsonl"

    def write_predictions(
        self, run_id: str, target: str, language: str, split: str, records: Iterable[Mapping]
    ) -> Path:
        """Writes one JSON object an example, in one go, replacing an older file.

        Each record holds `id`, `prediction`, `gold` and `contributions` {metric: a percentage, or [tp, fp, fn]}; more
        fields are kept.

        Raises:
          DataError: a record lacks a field, or two have one id. Nothing is written then.
        """
        path = self.predictions_path(run_id, target, language, split)
        lines, seen = [], set()
        for number, record in enumerate(records):
            for field in ("id", "prediction", "gold", "contributions"):
                if field not in record:
                    raise DataError(f"{path}, record {number}: no field {field!r}")
            if str(record["id"]) in seen:
                raise DataError(f"{path}, record {number}, field 'id': {record['id']!r} occurs twice")
            seen.add(str(record["id"]))
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        rundir.write_atomic(path, "".join(lines))
        return path

    def journal_path(self, place: Place) -> Path:
        """Where predictions lie while they are made."""
        return self.predictions_path(*place).with_suffix(".partial")

    def write_meta(self, place: Place, meta: Mapping) -> None:
        """Says what the predictions of a place are of. Written after them: what has no such file is not whole."""
        text = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
        rundir.write_atomic(self.predictions_path(*place).with_suffix(".meta.json"), text)

    def read_meta(self, place: Place) -> dict | None:
        """What `write_meta` wrote; None where it did not.

        Raises:
          DataError: the file is damaged.
        """
        path = self.predictions_path(*place).with_suffix(".meta.json")
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); delete it, and this part is evaluated again") from error

    def places(self) -> list[Place]:
        """The places that have whole predictions, by name."""
        found = []
        for path in sorted(self.directory.glob("predictions/*/*.meta.json")):
            target, language, split = path.name.removesuffix(".meta.json").rsplit(".", 2)
            found.append(Place(path.parent.name, target, language, split))
        return found

    def read_predictions(self, run_id: str, target: str, language: str, split: str) -> list[dict]:
        """The records of `write_predictions`, in their order.

        Raises:
          DataError: the file is missing or a line is not a JSON object.
        """
        path = self.predictions_path(run_id, target, language, split)
        try:
            lines = path.read_bytes().decode().split("\n")
        except FileNotFoundError:
            raise DataError(f"no predictions file {path}: evaluate {target}.{language} of run {run_id}") from None
        records = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict) or "id" not in record:
                raise DataError(f"{path}, line {number}: expected an object with an 'id'")
            records.append(record)
        return records

    def contributions(self, key: ContributionKey) -> dict[str, float | tuple[float, float, float]]:
        """Each example's contribution to one metric: {id as text: 0..100, or counts of tp, fp, fn}.

        Raises:
          DataError: the file is missing, or an example has no contribution to that metric.
        """
        values = {}
        for record in self.read_predictions(key.run_id, key.target, key.language, key.split):
            try:
                own = record["contributions"][key.metric]
                values[str(record["id"])] = tuple(map(float, own)) if isinstance(own, list) else float(own)
            except (KeyError, TypeError, ValueError):
                path = self.predictions_path(key.run_id, key.target, key.language, key.split)
                raise DataError(f"{path}, id {record['id']!r}: no number for contributions[{key.metric!r}]") from None
        return values
