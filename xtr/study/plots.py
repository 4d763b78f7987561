"""Figures of a transfer table, for TensorBoard or as SVG that takes its text colour from the page (report).

Intervals are drawn as whiskers; a filled marker is a gain that differs from 0 after Holm's correction.
"""

import html
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from xtr.export.figures import INK, STYLE, heat_map
from xtr.study.statistics import Estimate
from xtr.study.transfer import AVERAGE, ENGLISH, NONE, POOLED, ZERO_SHOT, Model, TransferTable
from xtr.study.words import heading

_COLORS = ("#2f7ed8", "#d9822b", "#3f9d6b", "#b0508f", "#7a6fd0", "#8c8c2e", "#c4544d", "#2f9aa0", "#80685a", "#6b7a8f")


def to_svg(figure: Figure, title: str) -> str:
    """An <svg> element for a page: scales with its column, text in the page's colour and font, `title` for readers."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context(STYLE):  # the font and id settings are read when the file is written
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r"font:\s*([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    width = figure.get_figwidth() * 72
    style = f"overflow:visible;width:100%;max-width:{width * 1.25:.0f}px;height:auto"
    opening = f'<svg role="img" aria-label="{html.escape(title)}" style="{style}"'
    head, rest = svg.split(">", 1)  # the <svg> tag; its own size would keep it from scaling
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return head.replace("<svg", opening, 1) + ">" + rest


def gain_heat_map(table: TransferTable, model: Model) -> Figure:
    """Intermediate x target matrix of zero-shot gains; * marks those that differ from 0 after Holm's correction."""
    columns = [*table.targets, *table.averages()]
    names = [name for name in table.intermediates if name != NONE]
    cells = {}
    for name in names:
        for column in columns:
            cell = table.cell(model, name, column)
            if cell is not None and cell.gain is not None:
                text = f"{cell.gain.value:+z.1f}" + "*" * cell.significant + "†" * cell.overlap
                cells[name, heading(column)] = cell.gain.value, text
    title = f"{model.name}: zero-shot gain\nover no intermediate task (points)"
    return heat_map(title, names, [heading(column) for column in columns], cells)


def gains_with_intervals(table: TransferTable, model: Model) -> Figure | None:
    """One row a (target, intermediate): zero-shot gain and interval. None where there is no gain."""
    names = [name for name in table.intermediates if name != NONE]
    groups = []
    for target in [*table.targets, *table.averages()]:
        cells = [table.cell(model, name, target) for name in names]
        cells = [cell for cell in cells if cell is not None and cell.gain is not None]
        if cells:
            groups.append((heading(target), cells))
    if not groups:
        return None
    rows = sum(len(cells) + 1 for _, cells in groups)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 0.8 + 0.24 * rows), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.8)
        ticks_labels, y = [], 0
        for target, cells in groups:
            ticks_labels.append((y, target, "bold"))
            y += 1
            for cell in cells:
                color = _COLORS[names.index(cell.intermediate) % len(_COLORS)]
                _whisker(axes, cell.gain, y, color, filled=cell.significant or cell.target not in table.targets)
                ticks_labels.append((y, cell.intermediate + "†" * cell.overlap, "normal"))
                y += 1
        _rows(axes, ticks_labels, y)
        axes.set_xlabel("gain over no intermediate task (points)")
    return figure


def _rows(axes, ticks_labels: Sequence[tuple[float, str, str]], end: float) -> None:
    """Names the rows of a figure with one row a line: (position, text, font weight)."""
    axes.set_yticks([y for y, _, _ in ticks_labels], [text for _, text, _ in ticks_labels])
    for label, (_, _, weight) in zip(axes.get_yticklabels(), ticks_labels, strict=True):
        label.set_fontweight(weight)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(end - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=INK, alpha=0.12)


def _whisker(axes, estimate: Estimate, y: float, color: str, filled: bool) -> None:
    axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2, solid_capstyle="butt")
    face = color if filled else "none"
    axes.plot([estimate.value], [y], marker="o", markersize=6, markeredgecolor=color, markerfacecolor=face)


def english_gap(table: TransferTable, model: Model) -> Figure | None:
    """English score against the zero-shot mean, joined by a line: one row a (target, intermediate)."""
    groups = []
    for target in table.targets:
        pairs = [
            (name, table.cell(model, name, target), table.cell(model, name, target, ENGLISH))
            for name in table.intermediates
        ]
        pairs = [pair for pair in pairs if pair[1] is not None and pair[2] is not None]
        if pairs:
            groups.append((target, pairs))
    if not groups:
        return None
    rows = sum(len(pairs) + 1 for _, pairs in groups)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 1.2 + 0.24 * rows), layout="constrained")
        axes = figure.subplots()
        ticks_labels, y = [], 0
        for target, pairs in groups:
            ticks_labels.append((y, target, "bold"))
            y += 1
            for name, mean, english in pairs:
                ends = [mean.score.value, english.score.value]
                axes.plot(ends, [y, y], color=INK, alpha=0.35, linewidth=2)
                (others,) = axes.plot(ends[:1], [y], "o", color=_COLORS[0], markersize=6)
                (own,) = axes.plot(ends[1:], [y], "s", color=_COLORS[1], markersize=6)
                ticks_labels.append((y, name, "normal"))
                y += 1
        _rows(axes, ticks_labels, y)
        axes.set_xlabel("score (%)")
        handles = [others, own]
        figure.legend(handles, ["other languages (mean)", "English"], loc="outside upper left", ncols=2)
    return figure


def gain_by_size(table: TransferTable, family: str) -> Figure | None:
    """Average gain against parameters (logarithmic), one line an intermediate; None for fewer than 2 sizes."""
    models = [model for model in table.models if model.family == family]
    target = AVERAGE if AVERAGE in table.averages() else table.targets[0]
    names = [name for name in (*table.intermediates, POOLED) if name != NONE]
    lines: dict[str, Sequence] = {}
    for name in names:
        cells = [table.cell(model, name, target, ZERO_SHOT) for model in models]
        points = [(m.parameters, c.gain) for m, c in zip(models, cells, strict=True) if c is not None and c.gain]
        if len({parameters for parameters, _ in points}) > 1:
            lines[name] = points
    if not lines:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=INK, linewidth=0.8)
        for i, (name, points) in enumerate(lines.items()):
            color = INK if name == POOLED else _COLORS[i % len(_COLORS)]
            shift = 1.03 ** (i - len(lines) / 2)  # so that whiskers stand side by side
            sizes = [parameters * shift for parameters, _ in points]
            axes.plot(sizes, [gain.value for _, gain in points], "o-", color=color, label=name, markersize=5)
            axes.vlines(sizes, [g.low for _, g in points], [g.high for _, g in points], color=color, alpha=0.6)
        axes.set_xscale("log")
        axes.set_xticks([model.parameters for model in models], [model.name for model in models], rotation=20)
        axes.minorticks_off()
        axes.set_ylabel(f"gain, {target} (points)")
        axes.grid(axis="y", color=INK, alpha=0.12)
        axes.legend(fontsize=9)
    return figure
