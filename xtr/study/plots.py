"""Figures of a transfer table: gains of a model, and English against the other languages.

Intervals are drawn as whiskers; a filled marker is a gain that differs from 0 after Holm's correction.
"""

import html
import io
import re
import zlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from xtr.export.figures import INK, STYLE, heat_map
from xtr.study.statistics import Estimate
from xtr.study.transfer import ENGLISH, NONE, Model, TransferTable
from xtr.study.words import heading

COLORS = ("#2f7ed8", "#d9822b", "#3f9d6b", "#b0508f", "#7a6fd0", "#8c8c2e", "#c4544d", "#2f9aa0", "#80685a", "#6b7a8f")
COLOR_NAMES = ("blue", "orange", "green", "magenta", "violet", "olive", "red", "teal", "brown", "grey")


def to_svg(figure: Figure) -> str:
    """The figure as an SVG file, without a background."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context(STYLE):  # the font and id settings are read when the file is written
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)


def on_white(svg: str) -> str:
    """An SVG file with a white background."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}<rect width="100%" height="100%" fill="white"/>{svg[start:]}'


def inline(svg: str, figure: Figure, title: str) -> str:
    """An <svg> element for a page: scales with its column, text in the page's colour and font, `title` for readers.

    Args:
      svg: of the figure, from `to_svg`.
    """
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r"font:\s*([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    width = figure.get_figwidth() * 72
    style = f"overflow:visible;width:100%;max-width:{width * 1.25:.0f}px;height:auto"
    opening = f'<svg role="img" aria-label="{html.escape(title)}" style="{style}"'
    head, rest = svg.split(">", 1)  # the <svg> tag; its own size would keep it from scaling
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return head.replace("<svg", opening, 1) + ">" + _own_ids(rest, title)


def _own_ids(svg: str, title: str) -> str:
    """The element with ids that no other figure of the page has; groups' ids, which nothing refers to, are left out."""
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    mine = f"{zlib.crc32(title.encode()):08x}"
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mine}-", svg)


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
                color = COLORS[names.index(cell.intermediate) % len(COLORS)]
                _whisker(axes, cell.gain, y, color, filled=cell.significant or cell.target not in table.targets)
                ticks_labels.append((y, cell.intermediate + "†" * cell.overlap, "normal"))
                y += 1
        _rows(axes, ticks_labels, y)
        axes.set_xlabel("gain over no intermediate task (points)")
        show_a_point(axes)
        axes.set_title(model.name, loc="left", fontsize=11, fontweight="bold")
    return figure


def show_a_point(axes) -> None:
    """Widens the axis of gains to a point either way at least, so that nothing looks like much."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1.0), max(high, 1.0))


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
                (others,) = axes.plot(ends[:1], [y], "o", color=COLORS[0], markersize=6)
                (own,) = axes.plot(ends[1:], [y], "s", color=COLORS[1], markersize=6)
                ticks_labels.append((y, name, "normal"))
                y += 1
        _rows(axes, ticks_labels, y)
        axes.set_xlabel("score (%)")
        axes.set_title(model.name, loc="left", fontsize=11, fontweight="bold")
        handles = [others, own]
        figure.legend(handles, ["other languages (mean)", "English"], loc="outside upper left", ncols=2)
    return figure


def _gain_pairs(table: TransferTable, model: Model) -> list[tuple[float, float]]:
    """(gain in English, mean gain of the others) for each target and intermediate."""
    return [
        (english.gain.value, others.gain.value)
        for target in table.targets
        for name in table.intermediates
        if (english := table.cell(model, name, target, ENGLISH)) and (others := table.cell(model, name, target))
        if english.gain is not None and others.gain is not None
    ]


def english_extent(table: TransferTable) -> float:
    """The range of gains, either way, that holds all but the 2 % largest; for `english_gains` of all models."""
    pairs = [pair for model in table.models for pair in _gain_pairs(table, model)]
    return max(2.0, 1.1 * float(np.percentile(np.abs(pairs), 98))) if pairs else 2.0


def english_gains(table: TransferTable, model: Model, extent: float) -> Figure | None:
    """Gain in English against the gain in the other languages, a point a (target, intermediate); on the line both are
    the same. None where nothing has English.

    Args:
      extent: of both axes, from `english_extent`; what lies beyond is drawn at the edge.
    """
    pairs = _gain_pairs(table, model)
    if not pairs:
        return None
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=(3.3, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        clipped = np.clip(pairs, -extent, extent)
        axes.plot(clipped[:, 0], clipped[:, 1], "o", color=COLORS[0], markersize=4.5, alpha=0.7, markeredgewidth=0)
        axes.set(xlim=(-extent * 1.05, extent * 1.05), ylim=(-extent * 1.05, extent * 1.05), aspect="equal")
        axes.set(xlabel="gain in English (points)", ylabel="gain in the others")
        axes.set_title(model.name, loc="left", fontsize=10, fontweight="bold")
    return figure
