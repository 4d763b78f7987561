import dataclasses
import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from rich.console import Console

from xtr.export.figures import to_png
from xtr.study import plots, scale_plots, transfer
from xtr.study.grids import entry
from xtr.study.report import print_table, write_report
from xtr.study.scaling import headline, scalings
from xtr.study.statistics import Estimate
from xtr.study.transfer import AVERAGE, POOLED
from xtr.study.words import answer, incomplete, marks

PROVENANCE = {
    "title": "A study of <nothing>",
    "notice": "Generated: no model was trained.",
    "protocol": ["Selection on English.", "Last layer."],
    "code": "xtr & friends",
    "configuration": "\n".join(f"LINE_{i} = {i}" for i in range(20)),
}
VOID = {"meta", "br", "img", "link"}


class Checker(HTMLParser):
    """Collects visible text; fails on tags that are not closed and on anything fetched from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.ids, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert name not in ("src", "srcset"), (tag, value)
            if name in ("href", "xlink:href"):
                assert value.startswith("#"), (tag, value)
                self.links.append(value[1:])
            self.ids += [value] * (name == "id")
            assert not re.search(r"url\(\s*['\"]?http", value or ""), value

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text.append(data)


def check(path):
    checker = Checker()
    checker.feed(path.read_bytes().decode())
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids) and set(checker.links) <= set(checker.ids)
    return re.sub(r"\s+", " ", " ".join(checker.text))


@pytest.fixture
def build(make_study, expected, chance):
    def build(recipe=None, expected=expected):
        store = make_study(recipe) if recipe else make_study()
        rows = store.read()
        return transfer.build(rows, store.contributions, expected, chance, resamples=300), rows

    return build


def test_the_report_says_what_the_table_holds(build, tmp_path):
    table, rows = build()
    path = write_report(tmp_path / "study", table, rows, PROVENANCE)
    text = check(path)
    (model,) = table.models
    said = ["A study of <nothing>", "Generated: no model was trained.", "xtr & friends", "LINE_19", "Last layer."]
    for words in said:
        assert words in text, words
    gain = table.cell(model, POOLED, AVERAGE).gain
    assert f"{gain.text(signed=True)} points (interval over 3 seeds and examples)" in text
    for cell in table.cells:
        assert f"[{cell.score.low:.1f}, {cell.score.high:.1f}]" in text, cell
        assert cell.gain is None or f"[{cell.gain.low:+.1f}, {cell.gain.high:+.1f}]" in text
    assert "Nothing: every expected cell has its results." in text
    assert "xnli · test · accuracy" in text and "tatoeba · test · accuracy/layer_1" in text
    assert path == tmp_path / "study" / "report" / "report.html"
    source = path.read_text()
    assert "prefers-color-scheme: dark" in source and "#010203" not in source and "<script" not in source
    drawn = {p.stem for p in path.parent.glob("figures/*.svg")}
    assert drawn == {p.stem for p in path.parent.glob("figures/*.png")} and source.count("<svg") == len(drawn)
    frame = pd.read_csv(path.parent / "transfer.csv")
    assert len(frame) == len(table.cells)
    assert frame["gain"].notna().tolist() == [cell.gain is not None for cell in table.cells]
    assert write_report(tmp_path / "study", table, rows, PROVENANCE).read_text() == source  # same study, same bytes


def test_what_is_missing_and_how_little_is_known_is_said(build, recipe, tmp_path):
    skip = [("mnli", "xnli", "sw"), ("squad_v1", "tatoeba", None)]
    table, rows = build(recipe(seeds=(0,), examples=40, skip=skip))
    stages = {
        "missing stages": ["mt5-small, squad_v1, tatoeba, seed 0: failed", "target.x failed on host: out of memory"]
    }
    text = check(write_report(tmp_path, table, rows, stages))
    count = len(table.problems) + len(incomplete(table)) + 2
    assert f"lacks something in {count} places" in text and "target.x failed on host: out of memory" in text
    assert "mt5-small, mnli -> xnli: no results in sw" in text
    assert "squad_v1, average: incomplete mean of 3 targets, without tatoeba" in text
    assert "With 1 seed an interval is over examples only" in text and "interval over examples only, 1 seed" in text
    assert "average of 3 targets (incomplete: without tatoeba after squad_v1)" in answer(table)[0]


def test_sentences_count_what_was_averaged(make_study, recipe, expected):
    skip = [(None, "xquad", None), ("squad_v1", None, None)]
    gains = {name: dict.fromkeys(expected, 3.0) for name in ("mnli", "qqp", "squad_v1")}
    store = make_study(recipe(intermediates=gains, seeds=(0, 1), examples=40, skip=skip))
    planned = {"mt5-small": {(name, target) for name in ("none", *gains) for target in expected}}
    table = transfer.build(store.read(), store.contributions, expected, resamples=100, planned=planned)
    (sentence,) = answer(table)
    assert "(mean of 2 of 3 tasks)" in sentence and "average of 2 of 3 targets" in sentence
    assert "(incomplete: without xquad, squad_v1)" in sentence
    assert any("mnli, average: incomplete mean of 3 targets, without xquad" in one for one in incomplete(table))
    (cell,) = (c for c in table.cells if (c.intermediate, c.target) == ("mnli", AVERAGE))
    assert entry(cell).incomplete


def test_why_there_is_no_best_of_several_is_said(build, tmp_path):
    table, rows = build()
    text = check(write_report(tmp_path, table, rows, {}))
    assert "The best of several against the best of as many seeds" in text
    assert "No comparison for mt5-small: there are no results on English development data" in text


def test_what_is_not_zero_shot_is_said_beside_the_gains(build, tmp_path):
    table, rows = build()
    note = "mnli is trained in de, on data of xnli: after it these languages are not zero-shot there."
    text = check(write_report(tmp_path, dataclasses.replace(table, notes=(note,)), rows, {}))
    assert text.count(note) == 2  # gains, transfer table


def test_sizes_of_different_results_are_said_to_be_compared_over_the_same(build, recipe, tmp_path):
    models = (("mt5-small", 300_176_768), ("mt5-base", 582_401_280))
    table, rows = build(recipe(models=models, examples=40, seeds=(0, 1)))
    note = "Sizes are compared over the targets and intermediate tasks that all of a family have"
    assert note not in check(write_report(tmp_path / "even", table, rows, {}))
    uneven = dataclasses.replace(table, compared=table.cells)
    assert note in check(write_report(tmp_path / "uneven", uneven, rows, {}))


def test_scores_at_chance_are_marked(build, tmp_path):
    table, rows = build()
    (model,) = table.models
    cells = [dataclasses.replace(c, chance=c.score.value) if c.target == "xnli" else c for c in table.cells]
    text = check(write_report(tmp_path, dataclasses.replace(table, cells=tuple(cells)), rows, {}))
    assert f"not above chance ({table.cell(model, 'none', 'xnli').score.value:.1f})" in text
    plain = check(write_report(tmp_path, table, rows, {}))
    assert text.count("not above chance") > plain.count("not above chance")


def test_what_an_earlier_report_left_is_taken_away(build, tmp_path):
    table, rows = build()
    report = tmp_path / "report"
    (report / "tables").mkdir(parents=True)
    for name in ("tables/languages-gone.tex", "languages-gone.md"):
        (report / name).write_text("old")
    write_report(tmp_path, table, rows, {})
    assert not (report / "tables" / "languages-gone.tex").exists() and not (report / "languages-gone.md").exists()


def test_several_models_one_target_and_no_gain(build, recipe, tmp_path):
    models = (("mt5-small", 300_176_768), ("mt5-base", 582_401_280))
    table, rows = build(recipe(models=models, examples=40, seeds=(0, 1)))
    text = check(write_report(tmp_path / "models", table, rows, {}))
    assert "mt5: the mean of intermediates on each target" in text and "mt5-base (582M parameters)" in text
    assert [sentence.split(":")[0] for sentence in answer(table)] == ["mt5-small", "mt5-base"]
    xnli = {"xnli": ("en", "de")}
    alone, rows = build(recipe(intermediates={}, expected=xnli, examples=20), xnli)
    text = check(write_report(tmp_path / "alone", alone, rows, {}))
    assert "no gain can be computed yet" in text and "Zero-shot gains" not in text
    assert plots.gains_with_intervals(alone, alone.models[0]) is None


def test_a_single_intermediate_names_itself(build, recipe):
    table, _ = build(recipe(intermediates={"mnli": {"xnli": 30.0, "xquad": 30.0, "tatoeba": 30.0}}))
    (sentence,) = answer(table)
    assert sentence.startswith("mt5-small: English intermediate training on mnli raises the zero-shot average of 3")
    assert "Single tasks" not in sentence


def test_the_terminal_table(build):
    table, _ = build()
    console = Console(file=io.StringIO(), width=140)
    print_table(table, console)
    text = console.file.getvalue()
    (model,) = table.models
    cell = table.cell(model, "mnli", "xnli")
    assert marks(cell).endswith("†") and f"{cell.gain.value:+.1f}{marks(cell)}" in text
    assert f"[{cell.score.low:.1f}, {cell.score.high:.1f}]" in text
    assert "without" in text and "mean of intermediates" in text and "Holm" in text
    (opening,) = headline(scalings(table, mixed=False))
    assert " ".join(text.split()).startswith(opening.sentence)


def test_figures(build):
    table, _ = build()
    (model,) = table.models
    assert to_png(plots.gain_heat_map(table, model)).startswith(b"\x89PNG")
    figure = plots.english_gap(table, model)
    svg = plots.to_svg(figure)
    inline = plots.inline(svg, figure, 'a "title"')
    assert inline.startswith("<svg") and "currentColor" in inline and "a &quot;title&quot;" in inline
    assert "xquad" in inline and 'fill="white"' in plots.on_white(svg) and 'fill="white"' not in inline


def test_a_gain_of_rounding_errors_does_not_fill_its_figure():
    tiny = Estimate(1e-15, -1e-15, 3e-15, 0.95, 1e-15, 3, 100)
    low, high = scale_plots.one_size([("mnli", tiny)]).axes[0].get_xlim()
    assert low <= -1 and high >= 1
