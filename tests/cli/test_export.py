"""`xtr export` from the command line."""

import dataclasses
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from xtr.cli.main import run
from xtr.coverage import XTREME
from xtr.errors import UserError
from xtr.evaluate.results import ResultRow, ResultStore

ROW = ResultRow(
    run_id="run", family="mt5", model="mt5-small", parameters=300, stage="target", intermediate="none",
    target="tatoeba", language="en", split="queries", seed=0, step=10, metric="accuracy", value=50.0, n=3,
)  # fmt: skip


@pytest.fixture
def evaluation(tmp_path):
    """An evaluation of Tatoeba in all of XTREME's languages, of three sentences each."""
    store = ResultStore(tmp_path / "eval")
    languages = XTREME["tatoeba"].split()
    store.append([dataclasses.replace(ROW, language=code) for code in languages])
    for code in languages:
        records = [{"id": str(n), "prediction": str(n), "gold": str(n), "contributions": {}} for n in range(3)]
        store.write_predictions("run", "tatoeba", code, "queries", records)
    return store


def export(form, store, output, *more):
    return run(["export", form, str(store.directory), "--output", str(output), *more])


@pytest.mark.parametrize("form", ["csv", "parquet", "latex", "html", "tensorboard"])
def test_every_form(form, evaluation, tmp_path, capsys):
    output = tmp_path / "new" / f"results.{form}"
    assert export(form, evaluation, output) == 0
    assert capsys.readouterr().out == f"36 rows: {output}\n"
    assert output.is_dir() == (form == "tensorboard")
    assert export(form, evaluation, output, "--json") == 0  # again, over it
    assert json.loads(capsys.readouterr().out) == {"rows": 36, "files": [str(output)]}


def test_a_submission_says_what_it_lacks_and_takes_the_official_order(evaluation, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XTR_DATA_DIR", raising=False)
    assert export("xtreme", evaluation, tmp_path / "a") == 0
    said = capsys.readouterr()
    assert said.out == f"36 files of 1 task below {tmp_path / 'a'}\n"
    assert "left out: xtreme-r, mt5-small · none: tatoeba: no results in az, lt, pl, ro, uk\n" in said.err
    assert "left out: xtreme, mt5-small · none: pawsx: no results\n" in said.err and "note: tatoeba" in said.err

    texts = {"eng": ["b", " c", "a"], "swh": ["1", "2", "3"]}
    for side, lines in texts.items():
        path = tmp_path / f"data/tatoeba/v1/tatoeba.swh-eng.{side}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))
    more = ["--data_dir", str(tmp_path / "data"), "--benchmark", "xtreme", "--json"]
    assert export("xtreme", evaluation, tmp_path / "b", *more) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tasks"] == ["xtreme/tatoeba"] and len(facts["files"]) == 36 and len(facts["left_out"]) == 8
    assert ", sw," not in facts["notes"][0]
    assert (tmp_path / "b/xtreme/predictions/tatoeba/test-sw.tsv").read_text() == "2\n0\n1\n"
    assert (tmp_path / "b/xtreme/predictions/tatoeba/test-zh.tsv").read_text() == "0\n1\n2\n"


def test_the_official_order_is_that_of_the_sorted_english_files(data_dir, tmp_path, capsys):
    """A perfect answer to every English sentence, in the order of XTREME's files, names that sentence's translation."""
    store, languages = ResultStore(tmp_path / "eval"), XTREME["tatoeba"].split()
    store.append([dataclasses.replace(ROW, language=code) for code in languages])
    english = (data_dir / "tatoeba/v1/tatoeba.deu-eng.eng").read_bytes().decode().split("\n")[:-1]
    for code in languages:
        count = len(english) if code == "de" else 3
        records = [{"id": str(n), "prediction": str(n), "gold": str(n), "contributions": {}} for n in range(count)]
        store.write_predictions("run", "tatoeba", code, "queries", records)
    export("xtreme", store, tmp_path / "out", "--data_dir", str(data_dir), "--benchmark", "xtreme")
    numbers = (tmp_path / "out/xtreme/predictions/tatoeba/test-de.tsv").read_text().split()
    released = sorted(line.strip() for line in english)
    assert [english[int(number)].strip() for number in numbers] == released
    assert sorted(map(int, numbers)) == list(range(len(english)))


def test_several_directories_are_merged(evaluation, tmp_path):
    other = ResultStore(tmp_path / "other")
    other.append([dataclasses.replace(ROW, target="xnli"), dataclasses.replace(ROW, language="af", value=1.0)])
    output = tmp_path / "r.parquet"
    run(["export", "parquet", str(other.directory), str(evaluation.directory), "--output", str(output)])
    rows = pd.read_parquet(output).set_index(["target", "language"])["value"]
    assert len(rows) == 37 and rows["tatoeba", "af"] == 1.0  # the other is newer


def test_mistakes(evaluation, tmp_path):
    own = str(evaluation.directory)
    cases = {
        "Did you mean csv": ["export", "cvs", "x", "--output", "y"],
        "required: --output": ["export", "csv", "x"],
        "holds no results.parquet": ["export", "csv", str(tmp_path), "--output", "y"],
        "is a folder": ["export", "csv", str(evaluation.directory), "--output", str(tmp_path)],
        "is what is read": ["export", "parquet", str(evaluation.directory), "--output", str(evaluation.path)],
        "is a file": ["export", "tensorboard", str(evaluation.directory), "--output", str(evaluation.path)],
        "at least 0": ["export", "html", str(evaluation.directory), "--output", "y", "--samples=-1"],
        "no task of xtreme-r": ["export", "xtreme", own, "--output", str(tmp_path / "z"), "--benchmark=xtreme-r"],
    }  # fmt: skip
    before = evaluation.path.read_bytes()
    for message, arguments in cases.items():
        with pytest.raises(UserError, match=re.escape(message)):
            run(arguments)
    assert evaluation.path.read_bytes() == before and not (tmp_path / "z").exists()


def test_nothing_heavy_is_imported(evaluation, tmp_path, data_dir):
    code = (
        "import sys; from xtr.cli.main import run\n"
        f"own, out, data = {str(evaluation.directory)!r}, {str(tmp_path)!r}, {str(data_dir)!r}\n"
        "for form in ('html', 'tensorboard', 'xtreme'):\n"
        "    run(['export', form, own, '--output', f'{out}/{form}', '--data_dir', data])\n"
        "assert not {'tensorflow', 'jax', 'seqio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
