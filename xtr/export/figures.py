"""Figures as PNG images."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK = "#010203"  # the colour of text: near black
STYLE = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "xtr",
    "figure.constrained_layout.w_pad": 0.12,  # the page's font may be wider than the one measured here
}
_GAINS = LinearSegmentedColormap.from_list("gain", ["#c4690f", "#f5f5f3", "#1b66b8"])


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure on white; `dpi` in dots an inch."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def heat_map(
    title: str,
    lines: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], tuple[float, str]],
    centre: float = 0.0,
    extent: float = 2.0,
) -> Figure:
    """A matrix of numbers on colours that part at `centre`.

    Args:
      cells: (line, column) -> the number and how it is written; those that are not there are grey.
      extent: the colours reach so far from the centre at least, or as far as the numbers do.
    """
    extent = max([extent, *(abs(value - centre) for value, _ in cells.values())])
    norm = TwoSlopeNorm(centre, centre - extent, centre + extent)
    with matplotlib.rc_context(STYLE):
        width = 1.0 + 0.09 * max(map(len, lines), default=0) + max(1.15 * len(columns), 2.5)
        height = 1.5 + (0.45 if len(lines) < 20 else 0.28) * max(2, len(lines))
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        for y, line in enumerate(lines):
            for x, column in enumerate(columns):
                value, text = cells.get((line, column), (None, ""))
                face = "#eeeeee" if value is None else _GAINS(norm(value))
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white"))
                strong = value is not None and abs(value - centre) > 0.55 * extent
                axes.text(x, y, text, ha="center", va="center", color="white" if strong else "black")
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(lines) - 0.5, -0.5))
        axes.set_xticks(range(len(columns)), columns)
        axes.tick_params(axis="x", rotation=30, length=0)
        axes.set_yticks(range(len(lines)), lines)
        axes.tick_params(axis="y", length=0)
        figure.suptitle(title, fontsize=11, x=0.02, ha="left")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure
