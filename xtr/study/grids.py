"""The tables of a report, as `document.Grid`s."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xtr.evaluate.results import is_mean
from xtr.study.best_of import WHOLE
from xtr.study.document import Entry, Grid, Line, slug
from xtr.study.layers import ByLayer
from xtr.study.published import Compared, own_intermediate
from xtr.study.scale_plots import parameters_text, short_name
from xtr.study.scaling import Scaling
from xtr.study.spent import Spent
from xtr.study.transfer import (
    AVERAGE,
    AVERAGES,
    ENGLISH,
    GAP,
    NONE,
    POOLED,
    RETRIEVAL_ALONE,
    TYDIQA,
    WITHOUT_RETRIEVAL,
    WITHOUT_RETRIEVAL_TYDIQA,
    ZERO_SHOT,
    Cell,
    Model,
    TransferTable,
)
from xtr.study.words import heading, marks


def columns_of(table: TransferTable) -> list[str]:
    """Targets, then averages over them."""
    return [*table.targets, *table.averages()]


def intermediates_of(table: TransferTable) -> list[str]:
    """`NONE` first, the mean of the others last where there are several."""
    names = list(table.intermediates)
    return [*names, POOLED] if any(cell.intermediate == POOLED for cell in table.cells) else names


def metric_of(table: TransferTable, target: str) -> str:
    return "(EM + F1) / 2" if len(table.metrics[target]) == 2 else table.metrics[target][0]


def _grid(name: str, title: str, corner: str, columns: Sequence[str], lines: Sequence[Line], note: str = "") -> Grid:
    """A grid whose columns are targets and averages."""
    means = frozenset(heading(column) for column in columns if column in AVERAGES)
    return Grid(name, title, corner, [heading(column) for column in columns], lines, means, note)


# ---------------------------------------------------------------------------------------------------------------------
# Scale
# ---------------------------------------------------------------------------------------------------------------------


def by_size(name: str, title: str, corner: str, answers: Sequence[tuple[str, Scaling]], note: str = "") -> Grid:
    """Gains by size, slope, contrast and verdict: a line for each (heading, answer) of one family."""
    models = list(dict.fromkeys(size.model for _, one in answers for size in one.gains))
    models.sort(key=lambda model: (model.parameters, model.name))
    lines = []
    for label, one in answers:
        of_model = {size.model: size.gain for size in one.gains}
        entries = [Entry(gain=of_model[model]) if model in of_model else None for model in models]
        entries += [Entry(gain=number) if number else None for number in (one.slope, one.contrast)]
        mean = label in (POOLED, *map(heading, AVERAGES))
        lines.append(Line(label, [*entries, Entry(text=one.verdict)], mean))
    sizes = [f"{short_name(model)} {parameters_text(model.parameters)}" for model in models]
    return Grid(
        name, title, corner, [*sizes, "slope", "largest − smallest", "verdict"], lines, frozenset({"verdict"}), note
    )


BEST_OF_TITLE = "The best of several against the best of as many seeds"


def best_of(table: TransferTable) -> Grid | None:
    """The best intermediate of each target against the best of as many seeds."""
    if not table.best_of:
        return None
    lines = []
    for one in table.best_of:
        most = sorted(one.chosen.items(), key=lambda item: -item[1])
        chosen = ", ".join(f"{name} {share:.0%}" for name, share in most[:3])
        numbers = [Entry(gain=number) for number in (one.gain, one.control, one.difference)]
        entries = [Entry(text=one.target), Entry(text=str(one.candidates)), *numbers, Entry(text=chosen)]
        lines.append(Line(one.model.name, entries, mean=one.target == WHOLE))
    columns = ["target", "chosen among", "best intermediate", "best seed", "difference", "most often chosen"]
    note = (
        "Gains over the mean of the seeds without an intermediate task. Both sides choose on English development data,"
        " one target at a time; a gain of the best of several is selection as far as the best of as many seeds has it."
        f" The {WHOLE} leaves out retrieval, for which nothing is trained, and targets whose runs are incomplete."
    )
    return Grid("best-of", BEST_OF_TITLE, "model", columns, lines, note=note)


# ---------------------------------------------------------------------------------------------------------------------
# One model
# ---------------------------------------------------------------------------------------------------------------------


def extent_of(table: TransferTable) -> float:
    """The gain that has the full colour, the same for all models: one outlier does not pale all others."""
    gains = [
        abs(c.gain.value)
        for c in table.cells
        if c.gain is not None and c.view == ZERO_SHOT and c.target not in AVERAGES
    ]
    return max(2.0, float(np.percentile(gains, 95))) if gains else 2.0


def heat_map(table: TransferTable, model: Model, extent: float) -> Grid | None:
    """Intermediate x target gains in colour; None without any.

    Args:
      extent: from `extent_of`.
    """
    columns = columns_of(table)
    lines = []
    for name in (name for name in intermediates_of(table) if name != NONE):
        entries = []
        for column in columns:
            cell = table.cell(model, name, column)
            if cell is None or cell.gain is None:
                entries.append(None)
                continue
            strong = cell.significant or (_is_mean(cell) and cell.gain.excludes(0))
            share = float(np.clip(cell.gain.value / extent, -1, 1))
            entries.append(Entry(gain=cell.gain, marks=_marks(cell), share=share, strong=strong))
        if any(entries):
            lines.append(Line(name, entries, mean=name == POOLED))
    return _grid(f"gains-{slug(model.name)}", model_title(model), "intermediate", columns, lines) if lines else None


def _is_mean(cell: Cell) -> bool:
    return cell.target in AVERAGES or cell.intermediate == POOLED


def _marks(cell: Cell) -> str:
    return marks(cell) + "‡" * bool(cell.lacks)


def model_title(model: Model) -> str:
    return f"{model.name} ({parameters_text(model.parameters)} parameters)"


def entry(cell: Cell | None, english: Cell | None = None) -> Entry | None:
    """Score and gain of a cell, what chance says of it, and the English score beside it."""
    if cell is None:
        return None
    beside = []
    if cell.against_chance in ("below", "not distinguishable"):
        word = "below chance" if cell.against_chance == "below" else "not above chance"
        beside.append(f"{word} ({cell.chance:.1f})")
    if english is not None:
        beside.append(f"en {english.score.value:.1f}")
    return Entry(cell.score, cell.gain, marks(cell), bool(cell.lacks), beside)


def transfer(table: TransferTable, model: Model) -> Grid:
    """Intermediate x target: scores, gains, their intervals, English, and how much there is of each."""
    columns = columns_of(table)
    lines = [
        Line(
            name,
            [entry(table.cell(model, name, c), table.cell(model, name, c, ENGLISH)) for c in columns],
            mean=name == POOLED,
        )
        for name in intermediates_of(table)
        if any(table.cell(model, name, column) for column in columns)
    ]
    counts = []
    for column in columns:
        cells = [c for name in table.intermediates if (c := table.cell(model, name, column))]
        seeds = {cell.score.seeds for cell in cells}
        span = "–".join(str(x) for x in dict.fromkeys((min(seeds), max(seeds)))) if seeds else "0"
        texts = (
            [f"{span} {'seed' if span == '1' else 'seeds'}", f"{cells[0].score.examples:,} examples"] if cells else []
        )
        counts.append(Entry(beside=texts) if cells else None)
    lines.append(Line("from", counts))
    return _grid(f"transfer-{slug(model.name)}", model_title(model), "intermediate", columns, lines)


def english_gap(table: TransferTable, model: Model) -> Grid | None:
    """English minus the mean of the others, and how the intermediate changes it; None where nothing has English."""
    targets = [t for t in table.targets if any(table.cell(model, n, t, GAP) for n in table.intermediates)]
    lines = [
        Line(name, [entry(table.cell(model, name, target, GAP)) for target in targets])
        for name in table.intermediates
        if any(table.cell(model, name, target, GAP) for target in targets)
    ]
    return _grid(f"english-{slug(model.name)}", model_title(model), "intermediate", targets, lines) if targets else None


def languages(table: TransferTable, model: Model, target: str) -> Grid | None:
    """Languages x intermediates of one target; None without results."""
    views = [ZERO_SHOT, *sorted(table.languages[target], key=lambda x: (x != ENGLISH, x))]
    names = [name for name in table.intermediates if any(table.cell(model, name, target, v) for v in views)]
    lines = [
        Line(view, [entry(table.cell(model, name, target, view)) for name in names], mean=view == ZERO_SHOT)
        for view in views
        if any(table.cell(model, name, target, view) for name in names)
    ]
    name = f"languages-{slug(model.name)}-{slug(target)}"
    return Grid(name, f"{target} · {model.name}", "language", names, lines) if lines else None


# ---------------------------------------------------------------------------------------------------------------------
# What a gain is made of
# ---------------------------------------------------------------------------------------------------------------------

SPLIT = (AVERAGE, WITHOUT_RETRIEVAL, WITHOUT_RETRIEVAL_TYDIQA, TYDIQA, RETRIEVAL_ALONE)


def pooled_name(table: TransferTable) -> str:
    """The mean of intermediates, or the only one."""
    trained = [name for name in table.intermediates if name != NONE]
    return POOLED if len(trained) > 1 or not trained else trained[0]


def split(table: TransferTable, retrieval: Sequence[str]) -> Grid | None:
    """Models x (average, without retrieval, ..., retrieval alone): the mean of the intermediates' gains."""
    name = pooled_name(table)
    wanted = [*SPLIT[:-1], *(retrieval if len(retrieval) == 1 else [RETRIEVAL_ALONE])]
    columns = [c for c in wanted if any((x := table.cell(m, name, c)) and x.gain for m in table.models)]
    if len(columns) < 2 or not (retrieval or TYDIQA in columns):
        return None
    lines = []
    for model in table.models:
        cells = [table.cell(model, name, column) for column in columns]
        if any(cells):
            entries = [c and c.gain and Entry(gain=c.gain, marks=_marks(c), strong=c.gain.excludes(0)) for c in cells]
            lines.append(Line(model.name, [x or None for x in entries]))
    note = f"Zero-shot gain of {'the ' * (name == POOLED)}{name}, in points; bold where its interval excludes 0."
    return _grid("split", "Retrieval, TyDiQA and the rest", "model", columns, lines, note)


def parts(table: TransferTable, model: Model, retrieval: Sequence[str]) -> dict[str, float] | None:
    """What each part adds to the gain on the average of all targets, in points; None where the mean is incomplete."""
    name = pooled_name(table)
    cells = {target: table.cell(model, name, target) for target in table.targets}
    whole = table.cell(model, name, AVERAGE)
    complete = all(c is not None and c.gain is not None and not c.lacks for c in (whole, *cells.values()))
    if not complete:
        return None
    groups: dict[str, list[str]] = {"other targets": [], "TyDiQA": [], "retrieval": []}
    for target in table.targets:
        kind = "TyDiQA" if target == TYDIQA else "retrieval" if target in retrieval else "other targets"
        groups[kind].append(target)
    return {kind: sum(cells[target].gain.value for target in own) / len(cells) for kind, own in groups.items() if own}


def by_layers(found: Sequence[ByLayer], name: str) -> list[Grid]:
    """Of each model and target the gain at the layer that counts and at either side's best, and all scores."""
    grids = []
    lines = []
    for one in found:
        for intermediate in one.curves:
            if intermediate == NONE and len(one.curves) > 1:
                continue
            gains = (one.gain(intermediate), one.gain_of_best(intermediate))
            texts = ["–" if gain is None else f"{gain:+z.1f}" for gain in gains]
            best = [str(one.best(i)) if i in one.curves else "–" for i in (NONE, intermediate)]
            fixed = "–" if one.fixed is None else str(one.fixed)
            lines.append(
                Line(
                    f"{one.model} · {one.target}",
                    [Entry(text=x) for x in (intermediate, fixed, texts[0], *best, texts[1])],
                )
            )
    columns = [
        "intermediate",
        "layer that counts",
        "gain there",
        "best layer, none",
        "best layer, with it",
        "gain, best against best",
    ]
    note = (
        "Zero-shot means in points. The best layers are chosen on the test data: they describe, they are no result."
        " A gain that is much smaller between best layers is largely a move of what retrieval reads to another layer."
    )
    grids.append(
        Grid(
            name,
            "Gain at the layer that counts, and between the best layers",
            "model · target",
            columns,
            lines,
            note=note,
        )
    )
    for one in found:
        layers = sorted({layer for curve in one.curves.values() for layer in curve})
        lines = [
            Line(
                f"{layer}{' (counts)' * (layer == one.fixed)}",
                [Entry(text=f"{curve[layer]:.1f}") if layer in curve else None for curve in one.curves.values()],
                mean=layer == one.fixed,
            )
            for layer in layers
        ]
        title = f"{one.target} by layer · {one.model} ({one.metric}, %)"
        grids.append(Grid(f"{name}-{slug(one.model)}-{slug(one.target)}", title, "layer", list(one.curves), lines))
    return grids


# ---------------------------------------------------------------------------------------------------------------------
# The rest
# ---------------------------------------------------------------------------------------------------------------------


def published(found: Sequence[Compared]) -> Grid:
    """Published numbers, ours, and how they differ."""
    lines = []
    for one in found:
        theirs = one.published
        texts = (
            f"{theirs.target} · {theirs.metric}",
            theirs.intermediate,
            f"{theirs.value:.1f}",
            f"{one.own:.1f}",
            f"{one.own - theirs.value:+z.1f}",
            own_intermediate(theirs),
            f"{one.languages} of {theirs.languages}" if one.languages < theirs.languages else str(one.languages),
            "; ".join(
                filter(
                    None,
                    [theirs.differs, f"theirs over {theirs.languages}" * (one.languages > theirs.languages)],
                )
            ),
            theirs.source,
        )
        lines.append(Line(one.name, [Entry(text=text) for text in texts]))
    columns = [
        "target",
        "theirs after",
        "theirs",
        "here",
        "difference",
        "here after",
        "languages",
        "what differs",
        "source",
    ]
    return Grid("published", "Published numbers beside these", "model", columns, lines)


def cost(found: Sequence[Spent]) -> Grid:
    """Stages, time and chip-hours by model and kind."""
    lines = [
        Line(
            one.model,
            [
                Entry(text=text)
                for text in (
                    one.kind,
                    str(one.stages),
                    one.device or "not recorded",
                    duration(one.seconds),
                    f"{one.chip_hours:.2f}" + "‡" * bool(one.unmeasured),
                )
            ],
        )
        for one in found
    ]
    total = (
        "all",
        str(sum(one.stages for one in found)),
        "",
        duration(sum(one.seconds for one in found)),
        f"{sum(one.chip_hours for one in found):.2f}",
    )
    lines.append(Line("total", [Entry(text=text) for text in total], mean=True))
    note = (
        "Measured, with compiling, reading data and starts that were interrupted. Chip-hours: hours times the devices "
        "of each run."
    )
    if lost := sum(one.unmeasured for one in found):
        note += f" ‡ {lost} stages did not record their devices and count for one."
    return Grid("cost", "What it took", "model", ["kind", "stages", "device", "time", "chip-hours"], lines, note=note)


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h'."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def metrics(table: TransferTable, rows: pd.DataFrame) -> Grid | None:
    """Every metric of the rows as recorded: plain means over languages but English and over seeds."""
    rows = rows[rows["target"].isin(table.targets) & (rows["language"] != ENGLISH) & ~rows["language"].map(is_mean)]
    lines = []
    for keys, group in rows.groupby(["model", "target", "split", "metric"], sort=True):
        means: Mapping[str, float] = group.groupby("intermediate")["value"].mean()
        entries = [Entry(text=f"{means[n]:.1f}") if n in means else None for n in table.intermediates]
        lines.append(Line(" · ".join(keys), entries))
    note = "Plain means over languages but English and over seeds. Of retrieval this holds every layer."
    title = "Every metric as recorded"
    return Grid("metrics", title, "metric", list(table.intermediates), lines, note=note) if lines else None
