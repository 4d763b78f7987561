"""Figures of the scale question: gain against parameters, what a gain is made of, retrieval by layer."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from xtr.export.figures import INK, STYLE
from xtr.study.plots import COLORS, show_a_point
from xtr.study.scaling import Scaling
from xtr.study.statistics import Estimate
from xtr.study.transfer import NONE, Model

_MARKERS = "osD^v"
_MARGIN = 1.18  # of the axis of sizes, beyond the smallest and the largest


def parameters_text(parameters: float) -> str:
    """300176768 -> '300M', 3742619648 -> '3.7B', 312320 -> '312k'."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            value = parameters / unit
            return f"{value:.1f}{letter}" if value < 10 and round(value, 1) != round(value) else f"{value:.0f}{letter}"
    return f"{parameters:.0f}"


def short_name(model: Model) -> str:
    """A size within its family: 'small' of 'mt5-small'."""
    rest = model.name.removeprefix(model.family).lstrip("-_")
    return rest or model.name


def limits(answers: Sequence[Scaling]) -> tuple[float, float]:
    """A range of gains that holds all whiskers and half a point either way, to be shared by figures compared."""
    ends = [end for one in answers for size in one.gains for end in (size.gain.low, size.gain.high)]
    ends += [end for one in answers for point in one.band for end in (point.low, point.high)]
    low, high = min(-0.5, *ends), max(0.5, *ends)
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def gain_by_size(answers: Sequence[Scaling], families: Sequence[str], gains: tuple[float, float]) -> Figure:
    """Gain against parameters (logarithmic), a panel a family: whiskers a size, the fitted line and its band.

    Args:
      answers: one a family, with two sizes or more.
      families: all of the study, which fixes the colours.
      gains: the range shown, from `limits`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.4 + 4.3 * len(answers), 3.3), layout="constrained")
        panels = figure.subplots(1, len(answers), sharey=True, squeeze=False)[0]
        for axes, one in zip(panels, answers, strict=True):
            _trend(axes, one, families.index(one.family), strong=True)
            models = [size.model for size in one.gains]
            names = [f"{short_name(model)}\n{parameters_text(model.parameters)}" for model in models]
            _axis_of_sizes(axes, [one])
            axes.set_xticks([model.parameters for model in models], names)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylim(gains)
            axes.grid(axis="y", color=INK, alpha=0.12)
            axes.set_title(one.family, loc="left", fontsize=11, fontweight="bold")
        panels[0].set_ylabel("zero-shot gain (points)")
    return figure


def gain_of_intermediate(answers: Sequence[Scaling], families: Sequence[str], gains: tuple[float, float]) -> Figure:
    """The same of one intermediate task in one small panel, a colour a family."""
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=(3.3, 2.3), layout="constrained")
        axes = figure.subplots()
        for one in answers:
            _trend(axes, one, families.index(one.family), strong=False)
        _axis_of_sizes(axes, answers)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: parameters_text(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(gains)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", color=INK, alpha=0.12)
        axes.set_title(answers[0].intermediate, loc="left", fontsize=10, fontweight="bold")
    return figure


def _trend(axes, one: Scaling, place: int, strong: bool) -> None:
    """Band, line, whiskers and points of one family."""
    color, marker = COLORS[place % len(COLORS)], _MARKERS[place % len(_MARKERS)]
    axes.axhline(0, color=INK, linewidth=0.9)
    if one.band:
        sizes = [point.parameters for point in one.band]
        low, high = [point.low for point in one.band], [point.high for point in one.band]
        axes.fill_between(sizes, low, high, color=color, alpha=0.2 if strong else 0.12, linewidth=0)
        axes.plot(sizes, [point.middle for point in one.band], color=color, linewidth=1.6)
    sizes = [size.model.parameters for size in one.gains]
    found = [size.gain for size in one.gains]
    axes.vlines(sizes, [gain.low for gain in found], [gain.high for gain in found], color=color, linewidth=1.8)
    axes.plot(sizes, [gain.value for gain in found], marker, color=color, markersize=6 if strong else 4)


def _axis_of_sizes(axes, answers: Sequence[Scaling]) -> None:
    sizes = [size.model.parameters for one in answers for size in one.gains]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / _MARGIN, max(sizes) * _MARGIN)


def one_size(gains: Sequence[tuple[str, Estimate]]) -> Figure:
    """The gains of the intermediate tasks at one size, a whisker each: (intermediate, gain)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7, 0.9 + 0.34 * len(gains)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.9)
        for y, (_, gain) in enumerate(gains):
            axes.hlines(y, gain.low, gain.high, color=COLORS[0], linewidth=2)
            axes.plot(gain.value, y, "o", color=COLORS[0], markersize=6)
        axes.set_yticks(range(len(gains)), [name for name, _ in gains])
        axes.set_ylim(len(gains) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=INK, alpha=0.12)
        axes.set_xlabel("zero-shot gain (points)")
        show_a_point(axes)
    return figure


def parts_of_gain(parts: Sequence[tuple[Model, Mapping[str, float], Estimate]]) -> Figure:
    """What the gain on the average of all targets is made of: a bar a model, its parts in points.

    Args:
      parts: (model, part -> points, their sum with its interval).
    """
    names = list(parts[0][1])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 1.3 + 0.42 * len(parts)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.9)
        for y, (_, points, whole) in enumerate(parts):
            ends = {True: 0.0, False: 0.0}
            for place, name in enumerate(names):
                positive = points[name] >= 0
                axes.barh(y - 0.12, points[name], left=ends[positive], height=0.46, color=COLORS[place], linewidth=0)
                ends[positive] += points[name]
            axes.hlines(y + 0.27, whole.low, whole.high, color=INK, linewidth=1.6)
            axes.plot(whole.value, y + 0.27, "d", color=INK, markersize=5)
        axes.set_yticks(range(len(parts)), [model.name for model, *_ in parts])
        axes.set_ylim(len(parts) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=INK, alpha=0.12)
        axes.set_axisbelow(True)
        axes.set_xlabel("points of the gain on the average of all targets")
        show_a_point(axes)
        handles = [matplotlib.patches.Patch(color=COLORS[place]) for place in range(len(names))]
        whole = matplotlib.lines.Line2D([], [], color=INK, marker="d", markersize=5)
        figure.legend(
            [*handles, whole],
            [*names, "whole gain"],
            loc="outside upper left",
            ncols=4,
            fontsize=9,
            columnspacing=1,
            handlelength=1.4,
        )
    return figure


def score_by_layer(title: str, curves: Mapping[str, Mapping[int, float]], fixed: int | None) -> Figure:
    """Retrieval score by layer, a line an intermediate task.

    Args:
      title: stands above it.
      curves: intermediate -> layer -> score in per cent.
      fixed: the layer that counts; None where it is not known.
    """
    trained = [name for name in curves if name != NONE]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 2.9 + 0.18 * math.ceil(len(curves) / 3)), layout="constrained")
        axes = figure.subplots()
        if fixed is not None:
            axes.axvline(fixed, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "counts", (fixed, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="center", va="bottom", fontsize=9, color=INK,
            )  # fmt: skip
        for place, name in enumerate(trained):
            _curve(axes, curves[name], COLORS[place % len(COLORS)], name, 1.5)
        if NONE in curves:
            _curve(axes, curves[NONE], INK, f"{NONE} (no intermediate task)", 2.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="encoder layer (0: embeddings)", ylabel="zero-shot score (%)")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=INK, alpha=0.12)
        figure.suptitle(title, x=0.02, ha="left", fontsize=11, fontweight="bold")
        figure.legend(loc="outside lower left", ncols=3, fontsize=9, columnspacing=1.2)
    return figure


def _curve(axes, values: Mapping[int, float], color: str, label: str, width: float) -> None:
    layers = sorted(values)
    marker = "o" if len(layers) < 14 else None
    axes.plot(layers, [values[layer] for layer in layers], color=color, label=label, linewidth=width, marker=marker,
              markersize=4)  # fmt: skip
