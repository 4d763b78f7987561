"""docs/results.md says what there is."""

import dataclasses
import re
from pathlib import Path

import pandas as pd

from xtr.cli.export import FORMS
from xtr.evaluate.results import ResultRow

TEXT = (Path(__file__).parents[2] / "docs/results.md").read_text()


def test_the_columns_are_those_of_the_rows():
    section = TEXT[TEXT.index("## Rows") : TEXT.index("## Predictions")]
    types = {"string": str, "int64": int, "float64": float, "bool": bool}
    listed = [(name, types[kind]) for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)]
    assert listed == [(field.name, field.type) for field in dataclasses.fields(ResultRow)]


def test_every_form_has_its_command():
    assert {name for name in FORMS if f"`xtr export {name} DIR" in TEXT} == set(FORMS)


def test_the_lines_of_pandas_read_a_store(complete):
    lines = re.findall(r"^pd\.read_\w+\(.*", TEXT, re.MULTILINE)
    table, records = (eval(line.replace("EVAL_OUTPUT_DIR", str(complete)), {"pd": pd}) for line in lines)
    assert table.loc["sw", ("xnli", "accuracy")] > 0 and list(records["id"]) == [f"q{n}" for n in range(7)]
