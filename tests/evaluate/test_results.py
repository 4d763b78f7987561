import dataclasses
import json

import numpy as np
import pytest

from xtr.errors import DataError, UserError
from xtr.evaluate.results import COLUMNS, ContributionKey, ResultRow, ResultStore, is_mean, mean_rows

ROW = ResultRow(
    run_id="run-1", family="mt5", model="mt5-small", parameters=300_176_768, stage="target", intermediate="none",
    target="xnli", language="de", split="test", seed=0, step=100, metric="accuracy", value=61.5, n=200,
)  # fmt: skip
RECORD = {"id": "é1", "prediction": "a\u2028b", "gold": ["x"], "contributions": {"em": 0.0, "f1": 50.0}}


def test_rows_come_back_and_the_newest_wins(tmp_path):
    store = ResultStore(tmp_path / "results")
    assert list(store.read().columns) == list(COLUMNS) and store.read().empty
    store.append([])
    assert not store.path.exists()
    store.append([ROW, dataclasses.replace(ROW, language="fr", value=50)])
    store.append([dataclasses.replace(ROW, value=70.0), dataclasses.replace(ROW, step=200, value=np.float32(80))])
    table = ResultStore(tmp_path / "results").read()
    columns = table[["language", "step", "value"]].values.tolist()
    assert columns == [["fr", 100, 50.0], ["de", 100, 70.0], ["de", 200, 80.0]]
    assert table.dtypes["seed"] == "int64" and table.dtypes["value"] == "float64" and table.dtypes["n"] == "int64"
    assert [p.name for p in store.directory.iterdir()] == ["results.parquet"]


def test_a_mean_over_languages_says_over_how_many():
    em = [dataclasses.replace(ROW, metric="em", language=code, value=v, n=7) for code, v in (("de", 1.0), ("fr", 2.0))]
    f1 = [dataclasses.replace(row, metric="f1", value=2 * row.value) for row in em]
    means = mean_rows([*em, *f1], expected=["de", "fr", "sw"])
    assert [(m.metric, m.language, m.value, m.n) for m in means] == [
        ("em", "mean 2/3", 1.5, 14),
        ("f1", "mean 2/3", 3.0, 14),
    ]
    assert all(is_mean(m.language) and m.run_id == ROW.run_id for m in means) and not is_mean("de")
    assert mean_rows([], ["de"]) == []


@pytest.mark.parametrize(("field", "value"), [("seed", "0"), ("value", float("nan")), ("language", None), ("n", True)])
def test_a_wrong_row_is_refused(field, value):
    with pytest.raises(DataError, match=f"field {field}"):
        dataclasses.replace(ROW, **{field: value})


def test_a_file_that_is_no_results_file_is_named(tmp_path):
    (tmp_path / "results.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="results.parquet is not a results file"):
        ResultStore(tmp_path).read()


def test_predictions_and_contributions(tmp_path):
    store = ResultStore(tmp_path)
    path = store.write_predictions("run-1", "xquad", "de", "test", [RECORD, {**RECORD, "id": 2}])
    assert path == tmp_path / "predictions/run-1/xquad.de.test.jsonl"
    assert store.read_predictions("run-1", "xquad", "de", "test")[0] == RECORD
    key = ContributionKey("run-1", "xquad", "de", "test", "f1")
    assert store.contributions(key) == {"é1": 50.0, "2": 50.0}
    with pytest.raises(DataError, match="contributions\\['accuracy'\\]"):
        store.contributions(key._replace(metric="accuracy"))
    with pytest.raises(DataError, match="no predictions file"):
        store.contributions(key._replace(language="fr"))
    store.write_predictions("run-1", "xquad", "de", "test", [RECORD])
    assert len(store.read_predictions("run-1", "xquad", "de", "test")) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    store = ResultStore(tmp_path)
    path = store.write_predictions("r", "xquad", "de", "test", [RECORD])
    before = path.read_bytes()
    with pytest.raises(DataError, match="record 1, field 'id'"):
        store.write_predictions("r", "xquad", "de", "test", [RECORD, RECORD])
    with pytest.raises(DataError, match="no field 'gold'"):
        store.write_predictions("r", "xquad", "de", "test", [{"id": 1, "prediction": ""}])
    with pytest.raises(TypeError):
        store.write_predictions("r", "xquad", "de", "test", [{**RECORD, "prediction": object()}])
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(UserError, match="file name"):
        store.write_predictions("../r", "xquad", "de", "test", [RECORD])


def test_a_broken_line_is_named(tmp_path):
    store = ResultStore(tmp_path)
    path = store.write_predictions("r", "xquad", "de", "test", [RECORD])
    path.write_text(json.dumps(RECORD) + "\n{oops\n")
    with pytest.raises(DataError, match="line 2: not JSON"):
        store.read_predictions("r", "xquad", "de", "test")
    path.write_text("[1]\n")
    with pytest.raises(DataError, match="line 1: expected an object"):
        store.read_predictions("r", "xquad", "de", "test")
