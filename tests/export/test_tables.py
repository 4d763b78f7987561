"""CSV, Parquet and LaTeX."""

import dataclasses
import re

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from xtr.evaluate.results import COLUMNS, ResultStore
from xtr.export import source, tables


def check_latex(text: str) -> list[list[list[str]]]:
    """Fails on what would not compile; returns the cells of every table."""
    assert re.sub(r"\\[{}]", "", text).count("{") == re.sub(r"\\[{}]", "", text).count("}")
    stack, found = [], []
    for begin, end in re.findall(r"\\begin\{(\w+)\}|\\end\{(\w+)\}", text):
        if begin:
            stack.append(begin)
        else:
            assert stack.pop() == end
    assert not stack
    bare = re.sub(r"\\[&%$#_{}]", "", "\n".join(text.split("\n")[1:]))
    assert not re.search(r"[%#~|<>\"]", bare) and bare.count("$") % 2 == 0
    assert not re.search(r"_|\^", re.sub(r"\$[^$]*\$", "", bare))
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels)
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.strip("\n").split("\n") if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert all(line.endswith(r" \\") for line in lines)
        cells = [re.split(r"(?<!\\) ?& ?", line.removesuffix(r" \\")) for line in lines]
        assert {len(line) for line in cells} == {len(columns)}
        found.append(cells)
    return found


def test_csv_and_parquet_lose_nothing(complete, tmp_path):
    results = source.read([complete])
    csv = pd.read_csv(tables.write_csv(results, tmp_path / "new/r.csv"), keep_default_na=False)
    parquet = pd.read_parquet(tables.write_parquet(results, tmp_path / "r.parquet"))
    rows = ResultStore(complete).read()
    assert list(csv.columns) == list(COLUMNS) and len(rows) > 400
    pd.testing.assert_frame_equal(parquet, rows)
    pd.testing.assert_frame_equal(csv, rows, check_dtype=False, rtol=0, atol=0)


def test_latex_of_everything(complete, tmp_path):
    text = tables.write_latex(source.read([complete]), tmp_path / "t.tex", digits=3).read_text()
    xtreme_r, xtreme, languages = check_latex(text)
    rows = {line[0]: line[1] for line in xtreme_r[1:]}
    assert len(xtreme_r[0]) == 2 and {"overall", "lareqa", r"multi\_choice"} <= set(rows)
    assert "pawsx" in {line[0] for line in xtreme} and "booktabs" in text.split("\n")[0]
    assert len(languages) == 1 + 50 + 3 and languages[1][0] == "en" and "\\scriptsize" in text
    values = ResultStore(complete).read().set_index(["target", "language", "metric"])["value"]
    cells = {(line[0], target): cell for line in languages[1:] for target, cell in zip(languages[0], line, strict=True)}
    assert cells["sw", "xnli"] == f"{values['xnli', 'sw', 'accuracy']:.3f}" and cells["sw", "xquad"] == "--"


def test_latex_of_several_systems_and_of_incomplete_means(study, tmp_path, row):
    name = '100% of {nli_qa} & $x^2$ #1 \\ ~|<>"'
    odd = ResultStore(tmp_path / "odd")
    odd.append([dataclasses.replace(row, intermediate=name, language=code) for code in ("de", "mean 1/3", "fr")])
    text = tables.write_latex(source.read([study, odd.directory]), tmp_path / "t.tex").read_text()
    found = check_latex(text)
    assert len(found) == 4 and "mean of 2 seeds" in text
    assert "$^\\ddagger$" in found[-1][-3][1] and "not all languages" in text
    assert "100\\% of \\{nli\\_qa\\}" in text


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=20))
def test_escaped_text_holds_no_command_but_the_escapes(text):
    bare = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\$\\(?:cdot|d?dagger|to|pm)\$", "", tables.escape(text))
    assert not set(bare) & set('\\{}$&#%_~^<>|"')
