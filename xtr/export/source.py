"""What is exported: the rows of one or several directories, and the predictions behind them.

evaluation    <directory>/results.parquet, <directory>/predictions/
study         <directory>/results/results.parquet, <directory>/stages/*/predictions/
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xtr.errors import UserError
from xtr.evaluate.results import COLUMNS, KEY, Place, ResultStore

# Runs that nobody named have one run_id, whatever their model.
IDENTITY = (*KEY, "family", "model", "parameters")
CONFIG = "operative_config.gin"


@dataclass(frozen=True)
class Results:
    """Rows of all directories.

    Attributes:
      directories: of evaluations and studies.
      rows: the columns of `ResultRow`, and `directory`: the number of the directory that a row comes from.
    """

    directories: tuple[Path, ...]
    rows: pd.DataFrame

    @functools.cached_property
    def _stores(self) -> tuple[Mapping[str, ResultStore], ...]:
        """Of each directory: run_id -> where its predictions are."""
        patterns = ("predictions/*", "stages/*/predictions/*")
        return tuple(
            {folder.name: ResultStore(folder.parent.parent) for p in patterns for folder in sorted(directory.glob(p))}
            for directory in self.directories
        )

    def predictions(self, directory: int, place: Place) -> list[dict] | None:
        """The records of one place of a directory; None where it has none.

        Raises:
          DataError: the file is damaged.
        """
        store = self._stores[directory].get(place.run_id)
        if store is None or not store.predictions_path(*place).exists():
            return None
        return store.read_predictions(*place)

    def table(self) -> pd.DataFrame:
        """The rows with the columns of `ResultRow` alone."""
        return self.rows[list(COLUMNS)]

    def configurations(self) -> dict[str, str]:
        """Directory -> its operative gin configuration, of those that have one."""
        found = {}
        for directory in self.directories:
            if (path := directory / CONFIG).exists():
                found[str(directory)] = path.read_bytes().decode()
        return found


def read(directories: Sequence[str | os.PathLike]) -> Results:
    """Reads the rows of evaluations and studies; of rows of one identity the newest stays.

    What counts as newer is when a directory's results were last written.

    Raises:
      UserError: a directory holds no results, or none are given.
      DataError: a results file is damaged.
    """
    if not directories:
        raise UserError("nothing to export: name the directory of an evaluation or of a study.")
    found = {}
    for directory in map(Path, directories):
        found[directory] = _store(directory)
    by_age = sorted(found, key=lambda directory: found[directory].path.stat().st_mtime_ns)
    parts = []
    for number, directory in enumerate(by_age):
        parts.append(found[directory].read().assign(directory=number))
    rows = pd.concat(parts, ignore_index=True).drop_duplicates(list(IDENTITY), keep="last", ignore_index=True)
    if rows.empty:
        raise UserError(f"no results yet in {', '.join(map(str, found))}.")
    return Results(tuple(by_age), rows)


def _store(directory: Path) -> ResultStore:
    stores = [ResultStore(directory), ResultStore(directory / "results")]
    for store in stores:
        if store.path.exists():
            return store
    below = sorted({path.parent for path in directory.glob("*/results.parquet")})
    hint = f" Did you mean {', '.join(map(str, below[:3]))}?" if below else ""
    raise UserError(
        f"{directory} holds no results.parquet: name the EVAL_OUTPUT_DIR of an evaluation, or the directory of a study."
        f"{hint}"
    )


def place_of(row: Mapping) -> Place:
    """The predictions file of a row."""
    return Place(*(str(row[name]) for name in Place._fields))


def results_files(directories: Sequence[str | os.PathLike]) -> list[Path]:
    """The files that `read` reads."""
    return [_store(Path(directory)).path for directory in directories]
