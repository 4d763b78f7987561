"""A finished study as one HTML file, as a CSV file, and as tables in the terminal.

The HTML is self-contained: inline CSS and SVG, nothing fetched. It follows the reader's light or dark setting.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from xtr import rundir
from xtr.evaluate.results import is_mean
from xtr.export import page
from xtr.study import plots
from xtr.study.export import export_tensorboard
from xtr.study.transfer import (
    AVERAGES,
    ENGLISH,
    GAP,
    NONE,
    POOLED,
    SIGNIFICANCE,
    ZERO_SHOT,
    Cell,
    Model,
    TransferTable,
)
from xtr.study.words import MARKS, answer, heading, incomplete, marks

__all__ = ["Provenance", "export_tensorboard", "print_table", "write_report"]

Provenance = Mapping[str, str | Sequence[str]]


# ---------------------------------------------------------------------------------------------------------------------
# HTML
# ---------------------------------------------------------------------------------------------------------------------


def write_report(
    study_dir: str | os.PathLike, table: TransferTable, rows: pd.DataFrame, provenance: Provenance
) -> Path:
    """Writes `report.html` and `transfer.csv` (every cell) into `study_dir`.

    Args:
      study_dir: the study's directory; made where needed.
      table: from `transfer.build`.
      rows: the rows it was built from; all their metrics are listed.
      provenance: what to say of the study's origin, in order: name -> text, or lines of text. `title` is the page's
        title; `notice` is shown on top of everything (what a reader must know first, such as that data or models are
        generated); `protocol` (lines) is listed under "How it was measured".

    Returns:
      The path of the report.
    """
    directory = Path(study_dir)
    title = str(provenance.get("title", "Transfer of English intermediate training"))
    notice = provenance.get("notice", "")
    body = [f"<header><h1>{page.text(title)}</h1>"]
    if notice:
        body.append(f'<p class="notice">{page.text(_joined(notice))}</p>')
    body += [f'<p class="answer">{page.text(sentence)}</p>' for sentence in answer(table)]
    body.append("</header>")
    body += [_scale(table, family) for family in dict.fromkeys(model.family for model in table.models)]
    for model in table.models:
        body += [_heat_map(table, model), _transfer(table, model)]
        body.append(f'<div class="pair">{_intervals(table, model)}{_gap(table, model)}</div>')
        body += [_languages(table, model, target) for target in table.targets]
    body += [_metrics(table, rows), _protocol(table, provenance), _provenance(provenance), _missing(table)]
    for name, content in (
        ("report.html", page.page(title, body)),
        ("transfer.csv", table.to_frame().to_csv(index=False)),
    ):
        rundir.write_atomic(directory / name, content)
    return directory / "report.html"


def _joined(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "\n".join(value)


def _of(table: TransferTable, model: Model) -> str:
    return f" · {model.name}" if len(table.models) > 1 else ""


def _columns(table: TransferTable) -> list[str]:
    return [*table.targets, *table.averages()]


def _headings(columns: Sequence[str]) -> list[str]:
    return [f'<span class="mean">{page.text(heading(c))}</span>' if c in AVERAGES else page.text(c) for c in columns]


def _intermediates(table: TransferTable) -> list[str]:
    names = list(table.intermediates)
    return [*names, POOLED] if any(cell.intermediate == POOLED for cell in table.cells) else names


def _scale(table: TransferTable, family: str) -> str:
    figure = plots.gain_by_size(table, family)
    if figure is None:
        return ""
    title = f"Gain by model size · {family}"
    return page.section(
        title, f"<figure>{plots.to_svg(figure, title)}</figure>", "Whiskers: intervals as in the tables."
    )


def _heat_map(table: TransferTable, model: Model) -> str:
    columns = _columns(table)
    names = [name for name in _intermediates(table) if name != NONE]
    cells = {(n, c): table.cell(model, n, c) for n in names for c in columns}
    gains = [cell.gain.value for cell in cells.values() if cell is not None and cell.gain is not None]
    if not gains:
        return ""
    extent = max(2.0, *(abs(gain) for gain in gains))
    lines = []
    for name in names:
        line = [page.text(name)]
        for column in columns:
            cell = cells[name, column]
            if cell is None or cell.gain is None:
                line.append('<td class="none">–</td>')
                continue
            color = "var(--up)" if cell.gain.value >= 0 else "var(--down)"
            share = 8 + 62 * abs(cell.gain.value) / extent
            strong = cell.significant or (cell.target in AVERAGES and cell.gain.excludes(0))
            line.append(
                f'<td class="heat{" strong" if strong else ""}" title="{page.text(cell.gain.text(signed=True))}"'
                f' style="background:color-mix(in srgb, {color} {share:.0f}%, transparent)">'
                f"{cell.gain.value:+z.1f}{marks(cell)}{'‡' * bool(cell.missing)}</td>"
            )
        lines.append(line)
    note = (
        f"Points over {page.text(NONE)}; mean over all languages but English. {page.text(MARKS)}."
        " Averages are bold where their interval excludes 0."
    )
    content = page.table(["intermediate", *_headings(columns)], lines)
    return page.section(f"Zero-shot gains{_of(table, model)}", content, note)


def _entry(cell: Cell | None, english: Cell | None = None) -> str:
    """Score, interval and gain of one cell as HTML, and the English score beside it."""
    if cell is None:
        return '<td class="none">–</td>'
    chance = ""
    if cell.against_chance in ("below", "not distinguishable"):
        word = "below chance" if cell.against_chance == "below" else "not above chance"
        chance = f'<span class="chance">{word} ({cell.chance:.1f})</span>'
    gain = ""
    if cell.gain is not None:
        sign = "up" if cell.gain.value >= 0 else "down"
        g = cell.gain
        text = f"{g.value:+z.1f}{marks(cell)}"
        gain = f'<span class="gain {sign}">{text} <small>[{g.low:+.1f}, {g.high:+.1f}]</small></span>'
    beside = f'<span class="chance">en {english.score.value:.1f}</span>' if english else ""
    s = cell.score
    score = f"<b>{s.value:.1f}</b>{'‡' * bool(cell.missing)} <small>[{s.low:.1f}, {s.high:.1f}]</small>"
    return f'<td><span class="score">{score}</span>{gain}{chance}{beside}</td>'


def _transfer(table: TransferTable, model: Model) -> str:
    columns = _columns(table)
    lines = [
        [page.text(n), *(_entry(table.cell(model, n, c), table.cell(model, n, c, ENGLISH)) for c in columns)]
        for n in _intermediates(table)
    ]
    counts = []
    for column in columns:
        cell = next((c for c in (table.cell(model, n, column) for n in table.intermediates) if c), None)
        seeds = {c.score.seeds for n in table.intermediates if (c := table.cell(model, n, column))}
        span = "–".join(str(x) for x in dict.fromkeys((min(seeds), max(seeds)))) if seeds else "0"
        unit = "seed" if span == "1" else "seeds"
        counts.append(f"{span} {unit}<br>{cell.score.examples:,} examples" if cell else "–")
    lines.append(['<span class="quiet">from</span>', *(f'<td class="quiet">{count}</td>' for count in counts)])
    alone = any(cell.score.seeds == 1 for cell in table.cells if cell.model == model)
    note = (
        f"Score in percent and gain over {page.text(NONE)} in points, each with its {table.confidence:.0%} interval;"
        f" mean over all languages but English, whose own score is shown as en. {page.text(MARKS)}."
    )
    if alone:
        note += " <b>With 1 seed an interval is over examples only: another training seed may give another result.</b>"
    title = f"Transfer table{_of(table, model)}"
    return page.section(title, page.table(["intermediate", *_headings(columns)], lines), note)


def _intervals(table: TransferTable, model: Model) -> str:
    figure = plots.gains_with_intervals(table, model)
    if figure is None:
        return ""
    title = f"Gains with their intervals{_of(table, model)}"
    note = "Filled: differs from 0 after Holm's correction (averages are always filled)."
    return page.section(title, f"<figure>{plots.to_svg(figure, title)}</figure>", note)


def _gap(table: TransferTable, model: Model) -> str:
    figure = plots.english_gap(table, model)
    if figure is None:
        return ""
    targets = [t for t in table.targets if any(table.cell(model, n, t, GAP) for n in table.intermediates)]
    lines = [
        [page.text(name), *(_entry(table.cell(model, name, target, GAP)) for target in targets)]
        for name in table.intermediates
    ]
    title = f"English against the other languages{_of(table, model)}"
    grid = page.table(["intermediate", *map(page.text, targets)], lines)
    content = f"<figure>{plots.to_svg(figure, title)}</figure>{grid}"
    return page.section(
        title, content, "Table: English minus the mean of the others, and how the intermediate changes it."
    )


def _languages(table: TransferTable, model: Model, target: str) -> str:
    views = [ZERO_SHOT, *sorted(table.languages[target], key=lambda x: (x != ENGLISH, x))]
    present = [name for name in table.intermediates if any(table.cell(model, name, target, v) for v in views)]
    lines = [
        [f'<span class="{"mean" if view == ZERO_SHOT else ""}">{page.text(view)}</span>']
        + [_entry(table.cell(model, name, target, view)) for name in present]
        for view in views
        if any(table.cell(model, name, target, view) for name in present)
    ]
    if not lines:
        return ""
    content = page.table(["language", *map(page.text, present)], lines)
    return page.folded(f"{target}: every language{_of(table, model)}", _metric(table, target), content)


def _metric(table: TransferTable, target: str) -> str:
    return "(EM + F1) / 2" if len(table.metrics[target]) == 2 else table.metrics[target][0]


def _metrics(table: TransferTable, rows: pd.DataFrame) -> str:
    """Every metric of the rows as recorded: mean over languages but English, seeds, and the evaluated runs."""
    rows = rows[rows["target"].isin(table.targets) & (rows["language"] != ENGLISH) & ~rows["language"].map(is_mean)]
    lines = []
    for keys, group in rows.groupby(["model", "target", "split", "metric"], sort=True):
        means = group.groupby("intermediate")["value"].mean()
        entries = [f"{means[name]:.1f}" if name in means else "–" for name in table.intermediates]
        lines.append([page.text(" · ".join(keys)), *entries])
    if not lines:
        return ""
    note = (
        '<p class="note">Plain means over languages but English and over seeds. For retrieval this holds every layer;'
        " the layer that counts was fixed beforehand.</p>"
    )
    content = page.table(["metric", *map(page.text, table.intermediates)], lines) + note
    return page.folded("Every metric as recorded", f"{len(rows)} rows", content)


def _protocol(table: TransferTable, provenance: Provenance) -> str:
    lines = [x for x in _joined(provenance.get("protocol", "")).split("\n") if x]
    lines += [
        "Headline: mean over all languages but English (zero-shot); all languages count the same, then all targets.",
        "A gain is paired: the same seeds and the same test examples with and without the intermediate task.",
        f"Intervals: {table.confidence:.0%} percentile intervals of {table.resamples:,} bootstrap resamples, crossed"
        " over seeds and examples. Languages that share a test set share the draw of examples; all share one of seeds.",
        f"Significance: Holm's correction over all gains of single targets of a model, at {SIGNIFICANCE:g}.",
        *(f"Score of {target}: {_metric(table, target)}." for target in table.targets),
    ]
    return page.section(
        "How it was measured", "<ul>" + "".join(f"<li>{page.text(line)}</li>" for line in lines) + "</ul>"
    )


def _provenance(provenance: Provenance) -> str:
    shown = {k: _joined(v) for k, v in provenance.items() if k not in ("title", "notice", "protocol")}
    if not shown:
        return ""
    items = []
    for name, value in shown.items():
        value = value.strip("\n")
        if value.count("\n") > 3:
            first = f"{value.count(chr(10)) + 1} lines"
            content = f"<details><summary>{first}</summary><pre>{page.text(value)}</pre></details>"
        else:
            content = "<br>".join(page.text(line) for line in value.split("\n"))
        items.append(f"<dt>{page.text(name)}</dt><dd>{content}</dd>")
    return page.section("Where it comes from", "<dl>" + "".join(items) + "</dl>")


def _missing(table: TransferTable) -> str:
    sentences = [*table.problems, *incomplete(table)]
    if not sentences:
        return page.section("What is missing", "<p>Nothing: every expected cell has its results.</p>")
    return page.section("What is missing", "<ul>" + "".join(f"<li>{page.text(s)}</li>" for s in sentences) + "</ul>")


# ---------------------------------------------------------------------------------------------------------------------
# Terminal
# ---------------------------------------------------------------------------------------------------------------------


def print_table(table: TransferTable, console: Console) -> None:
    """Prints the answer, one transfer table a model, and what is missing."""
    for sentence in answer(table):
        console.print(sentence, highlight=False, markup=False)
    columns = _columns(table)
    for model in table.models:
        title = f"\n{model.name} ({model.parameters:,} parameters): zero-shot score, gain over {NONE}"
        console.print(title, highlight=False, markup=False)
        grid = Table(show_lines=True)
        grid.add_column("intermediate", no_wrap=True)
        for column in columns:
            grid.add_column(heading(column), justify="right")
        for name in _intermediates(table):
            grid.add_row(name, *(_terminal_entry(table.cell(model, name, column)) for column in columns))
        console.print(grid)
    alone = " With 1 seed an interval is over examples only." if any(c.score.seeds == 1 for c in table.cells) else ""
    note = f"[low, high]: {table.confidence:.0%} interval. {MARKS}.{alone}"
    console.print(note, highlight=False, markup=False)
    for sentence in [*table.problems, *incomplete(table)]:
        console.print(f"missing: {sentence}", highlight=False, markup=False)


def _terminal_entry(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    s, g = cell.score, cell.gain
    lines = [f"{s.value:.1f}{'‡' * bool(cell.missing)}", f"\\[{s.low:.1f}, {s.high:.1f}]"]
    if g is not None:
        lines += [f"{g.value:+z.1f}{marks(cell)}", f"\\[{g.low:.1f}, {g.high:.1f}]"]
    if cell.against_chance in ("below", "not distinguishable"):
        lines.append(f"chance {cell.chance:.1f}")
    return "\n".join(lines)
