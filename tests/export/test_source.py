"""Rows of one directory or of several, and the predictions behind them."""

import dataclasses
import os

import pytest

from xtr.errors import UserError
from xtr.evaluate.results import COLUMNS, Place, ResultStore
from xtr.export import source


def aged(store, seconds):
    os.utime(store.path, (seconds, seconds))


def test_of_one_identity_the_newest_directory_wins_in_any_order(tmp_path, row):
    for name, value, age in (("a", 1.0, 200), ("b", 2.0, 100)):
        store = ResultStore(tmp_path / name)
        store.append([dataclasses.replace(row, value=value), dataclasses.replace(row, language=f"only-{name}")])
        store.write_predictions("run", "xnli", "en", "test", [{"id": name, "prediction": "", "gold": "", "contributions": 0}])  # fmt: skip  # noqa: E501
        aged(store, age)
    for names in ("ab", "ba"):
        results = source.read([tmp_path / name for name in names])
        found = results.rows.set_index("language")
        assert list(results.table().columns) == list(COLUMNS) and len(found) == 3
        assert found.loc["en", "value"] == 1.0
        (record,) = results.predictions(int(found.loc["en", "directory"]), Place("run", "xnli", "en", "test"))
        assert record["id"] == "a"  # of the directory that the row comes from


def test_models_that_nobody_named_a_run_for_stay_apart(tmp_path, row):
    for name in ("mt5-small", "mt5-base"):
        ResultStore(tmp_path / name).append([dataclasses.replace(row, model=name)])
    results = source.read([tmp_path / "mt5-small", tmp_path / "mt5-base"])
    assert set(results.rows["model"]) == {"mt5-small", "mt5-base"}


def test_a_study_gives_the_predictions_of_its_stages(study, tmp_path):
    results = source.read([study])
    assert len(results.predictions(0, Place("mnli-1", "xnli", "sw", "test"))) == 7
    assert results.predictions(0, Place("mnli-1", "xnli", "fr", "test")) is None
    assert results.predictions(0, Place("another", "xnli", "sw", "test")) is None


def test_what_cannot_be_read_is_said(tmp_path, make, few):
    make(tmp_path / "evals" / "one", few)
    with pytest.raises(UserError, match="evals holds no results.parquet.*Did you mean .*evals/one"):
        source.read([tmp_path / "evals"])
    with pytest.raises(UserError, match="name the directory"):
        source.read([])
    empty = ResultStore(tmp_path / "empty")
    empty.directory.mkdir()
    empty.path.write_bytes(ResultStore(tmp_path / "none").read().to_parquet(index=False))
    with pytest.raises(UserError, match="no results yet"):
        source.read([empty.directory])
