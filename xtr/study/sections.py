"""The report's sections and their order, made from a transfer table, its rows and what is known of their origin."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from xtr.study import grids, plots, published, scale_plots
from xtr.study.best_of import WHOLE
from xtr.study.document import (
    Answer,
    Beside,
    Block,
    Document,
    Drawing,
    Facts,
    Fold,
    Grid,
    Prose,
    Section,
    slug,
)
from xtr.study.layers import by_layer
from xtr.study.scaling import Scaling, headline
from xtr.study.spent import Spent
from xtr.study.transfer import AVERAGE, AVERAGES, NONE, POOLED, RETRIEVAL, SIGNIFICANCE, TransferTable
from xtr.study.words import MARKS, answer, heading, incomplete, selection

Provenance = Mapping[str, str | Sequence[str]]

_MOST_LINES = 20  # of a table that stands open
_MOST_ROWS = 40  # of a figure with one row a (target, intermediate), before it is folded


def document(
    table: TransferTable,
    rows: pd.DataFrame,
    provenance: Provenance,
    answers: Sequence[Scaling],
    spent: Sequence[Spent] = (),
) -> Document:
    """The whole report.

    Args:
      table: from `transfer.build`.
      rows: the rows it was built from; layers, published numbers and every metric come from them.
      provenance: as for `report.write_report`.
      answers: from `scaling.scalings`.
      spent: from `spent.spent`; without it no cost is shown.
    """
    sentences = _lacking(table, provenance)
    sections = [
        _scale(table, answers),
        _gains(table),
        _transfer(table),
        _best_of(table),
        _languages(table),
        _layers(table, rows),
        _split(table),
        _english(table),
        _published(table, rows),
        _cost(spent),
        _metrics(table, rows),
        _protocol(table, provenance),
        _origin(provenance),
        _missing(sentences),
    ]
    return Document(
        title=str(provenance.get("title", "Transfer of English intermediate training")),
        notice=joined(provenance.get("notice", "")),
        answers=_answers(table, answers),
        opening=_opening(table, answers, len(sentences)),
        sections=[section for section in sections if section],
    )


def joined(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "\n".join(value)


# ---------------------------------------------------------------------------------------------------------------------
# The answer
# ---------------------------------------------------------------------------------------------------------------------


def _families(table: TransferTable) -> list[str]:
    return list(dict.fromkeys(model.family for model in table.models))


def _answers(table: TransferTable, answers: Sequence[Scaling]) -> list[Answer]:
    opening = headline(answers)
    limits = scale_plots.limits([one for one in opening if one.slope]) if any(one.slope for one in opening) else (0, 0)
    found = []
    for one in opening:
        drawing = None
        if one.slope is not None:
            figure = scale_plots.gain_by_size([one], _families(table), limits)
            what = f"{one.family}: zero-shot gain of {one.intermediate} on {one.target} by number of parameters"
            drawing = Drawing(f"gain-by-size-{slug(one.family)}", f"Gain by model size · {one.family}", figure, what)
        elif len(table.models) == 1:
            drawing = _one_size(table, one)
        found.append(Answer(one.family, one.verdict, one.sentence, one.power.sentence, drawing))
    return found


def _one_size(table: TransferTable, one: Scaling) -> Drawing:
    """The gains of the intermediate tasks, where there is one model."""
    (model,) = table.models
    cells = [(name, table.cell(model, name, one.target)) for name in grids.intermediates_of(table)]
    gains = [(name, cell.gain) for name, cell in cells if cell is not None and cell.gain is not None]
    text = f"{model.name}: zero-shot gain on {one.target} of each intermediate task"
    return Drawing("gain-by-intermediate", "Gain by intermediate task", scale_plots.one_size(gains), text)


def _opening(table: TransferTable, answers: Sequence[Scaling], lacking: int) -> list[Block]:
    """Below the answers: how to read the figures of several sizes; each model; whether something is missing."""
    blocks: list[Block] = []
    opening = headline(answers)
    if any(one.slope for one in opening):
        blocks.append(
            Prose(
                [
                    f"Whiskers: {table.confidence:.0%} interval of each size. Band: the fitted line's, pointwise."
                    + " All families have the same axis of gains; they are never pooled." * (len(opening) > 1)
                ]
            )
        )
    sentences = answer(table)
    if len(sentences) > 2:
        blocks.append(Fold("Model by model", f"{len(sentences)} models", [Prose(sentences, bullets=True)]))
    else:
        blocks.append(Prose(sentences))
    if lacking:
        places = f"{lacking} place{'s' * (lacking != 1)}"
        blocks.append(Prose([f"This report lacks something in {places}: its last section names each."]))
    return blocks


# ---------------------------------------------------------------------------------------------------------------------
# Sections
# ---------------------------------------------------------------------------------------------------------------------


def _scale(table: TransferTable, answers: Sequence[Scaling]) -> Section | None:
    found = {(one.family, one.intermediate, one.target): one for one in answers if one.slope is not None}
    if not found:
        return None
    families, pooled = _families(table), grids.pooled_name(table)
    trained = [name for name in grids.intermediates_of(table) if name != NONE]
    columns = grids.columns_of(table)
    whole = AVERAGE if AVERAGE in columns else columns[0]
    blocks: list[Block] = []
    each = {name: [x for f in families if (x := found.get((f, name, whole)))] for name in trained if name != POOLED}
    each = {name: of_families for name, of_families in each.items() if of_families}
    if len(each) > 1:
        limits = scale_plots.limits([one for of_families in each.values() for one in of_families])
        panels = []
        for name, of_families in each.items():
            figure = scale_plots.gain_of_intermediate(of_families, families, limits)
            text = f"{name}: zero-shot gain on {whole} by number of parameters"
            panels.append(Drawing(f"gain-by-size-of-{slug(name)}", name, figure, text))
        blocks.append(Beside(panels))
        if len(families) > 1:
            names = [plots.COLOR_NAMES[place % len(plots.COLOR_NAMES)] for place in range(len(families))]
            colors = ", ".join(map("{} {}".format, families, names))
            blocks.append(Prose([f"Each intermediate task on {whole}. Colours: {colors}."]))
    for family in families:
        lines = [(heading(c), found[family, pooled, c]) for c in columns if (family, pooled, c) in found]
        if not lines:
            continue
        title = f"{family}: {'the mean of intermediates' if pooled == POOLED else pooled} on each target"
        blocks.append(grids.by_size(f"scaling-{slug(family)}", title, "target", lines))
        if mixed := next((one.mixed for _, one in lines if one.mixed), None):
            opinion = f"[{mixed.low:+.2f}, {mixed.high:+.2f}]"
            said = f"slope {mixed.slope:+.2f} {opinion}: {mixed.note}" if mixed.slope == mixed.slope else mixed.note
            blocks.append(Prose([f"Second opinion on the slope of {family}, a linear mixed model: {said}."]))
        lines = [(name, found[family, name, whole]) for name in trained if (family, name, whole) in found]
        title = f"{family}: each intermediate on {'the ' * (whole in AVERAGES)}{whole}"
        blocks.append(grids.by_size(f"scaling-{slug(family)}-intermediates", title, "intermediate", lines))
        rest = [
            (f"{name} → {target}", found[family, name, target])
            for name in trained
            for target in table.targets
            if name != POOLED and (family, name, target) in found
        ]
        title = f"{family}: every intermediate on every target"
        grid = grids.by_size(f"scaling-{slug(family)}-all", title, "intermediate → target", rest)
        blocks.append(Fold(title, f"{len(rest)} pairs", [grid]))
    note = (
        f"Zero-shot gains in points, each with its {table.confidence:.0%} interval. Slope: points per tenfold"
        " parameters. Of many pairs some will look like a trend by chance: the verdict of the mean of intermediates on"
        " the whole average is the one that was to be reached."
    )
    if table.compared:
        note += (
            " Sizes are compared over the targets and intermediate tasks that all of a family have; means in other"
            " sections are over what each model has."
        )
    return Section("scale", "Gain by model size", blocks, note)


def _best_of(table: TransferTable) -> Section:
    grid = grids.best_of(table)
    if grid is None:
        return Section("best-of", grids.BEST_OF_TITLE, [Prose(_no_best_of(table))])
    said = [sentence for one, sentence in zip(table.best_of, selection(table), strict=True) if one.target == WHOLE]
    words: list[Block] = [Prose(said, bullets=True)] if said else []
    if len(said) > 2:
        words = [Fold("In words", f"{len(said)} models", words)]
    words += [Prose(_no_best_of(table), bullets=True)] if table.no_best_of else []
    return Section("best-of", grid.title, [*_short_or_folded(grid), *words])


def _no_best_of(table: TransferTable) -> list[str]:
    """Why models have no such comparison, one sentence a reason."""
    models: dict[str, list[str]] = {}
    for model, why in table.no_best_of.items():
        models.setdefault(why, []).append(model)
    return [f"No comparison for {', '.join(names)}: {why}." for why, names in models.items()]


def _short_or_folded(grid: Grid) -> list[Block]:
    """A table; of a long one the lines of means, and all of it folded."""
    short = [line for line in grid.lines if line.mean]
    if len(grid.lines) <= _MOST_LINES:
        return [grid]
    if not short:
        return [Fold(grid.title, f"{len(grid.lines)} lines", [grid])]
    whole = dataclasses.replace(grid, name=f"{grid.name}-all", title="All of it", note="")
    return [dataclasses.replace(grid, lines=short), Fold("All of it", f"{len(grid.lines)} lines", [whole])]


def _gains(table: TransferTable) -> Section | None:
    extent = grids.extent_of(table)
    maps = [grid for model in table.models if (grid := grids.heat_map(table, model, extent))]
    if not maps:
        return None
    note = (
        f"Points over {NONE}; mean over all languages but English. Full colour from {extent:.1f} points, in all tables."
        f" {MARKS}. Bold: * or, of means, the interval excludes 0."
    )
    note += "".join(f" {sentence}" for sentence in table.notes)
    blocks: list[Block] = [Beside(maps)] if len(grids.columns_of(table)) < 7 else list(maps)
    drawings = []
    if len(grids.columns_of(table)) * len(table.intermediates) <= _MOST_ROWS:
        for model in table.models:
            if (figure := plots.gains_with_intervals(table, model)) is not None:
                title = f"Gains with their intervals · {model.name}"
                drawings.append(Drawing(f"intervals-{slug(model.name)}", title, figure, title))
    if drawings:
        inner = [
            Beside(drawings),
            Prose(["Filled: differs from 0 after Holm's correction (averages are always filled)."]),
        ]
        title = "Gains with their intervals"
        blocks += inner if len(drawings) < 3 else [Fold(title, _count(drawings, "figure"), inner)]
    return Section("gains", "Zero-shot gains", blocks, note)


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'s' * (len(things) != 1)}"


def _transfer(table: TransferTable) -> Section:
    found = [grids.transfer(table, model) for model in table.models]
    note = (
        f"Score in percent and gain over {NONE} in points, each with its {table.confidence:.0%} interval; mean over all"
        f" languages but English, whose own score is shown as en. {MARKS}."
    )
    note += "".join(f" {sentence}" for sentence in table.notes)
    if any(cell.score.seeds == 1 for cell in table.cells):
        note += " With 1 seed an interval is over examples only: another training seed may give another result."
    return Section("transfer", "Transfer table", _open_or_folded(found), note)


def _open_or_folded(found: Sequence[Grid]) -> list[Block]:
    """Tables of one or two models as they are, of more each folded."""
    if len(found) < 3:
        return list(found)
    return [Fold(grid.title, f"{len(grid.lines)} lines", [grid]) for grid in found]


def _languages(table: TransferTable) -> Section | None:
    folds = []
    for target in table.targets:
        found = [grid for model in table.models if (grid := grids.languages(table, model, target))]
        if found:
            small = f"{grids.metric_of(table, target)}, {len(table.languages[target])} languages"
            folds.append(Fold(f"{target}: every language", small, found, f"languages-{slug(target)}"))
    return Section("languages", "Language by language", folds) if folds else None


def _layers(table: TransferTable, rows: pd.DataFrame) -> Section | None:
    found = by_layer(table, rows)
    if not found:
        return None
    drawings = []
    for one in found:
        title = f"{one.target} by layer · {one.model}"
        figure = scale_plots.score_by_layer(f"{one.model} · {one.target}", one.curves, one.fixed)
        drawings.append(Drawing(f"layers-{slug(one.model)}-{slug(one.target)}", title, figure, title))
    summary, *whole = grids.by_layers(found, "layers")
    note = (
        "The layer that counts was fixed before any result was seen; every other one is shown because intermediate"
        " training moves what retrieval reads between layers. Means over languages but English and over seeds."
    )
    fold = Fold("Every layer's score", _count(whole, "table"), whole)
    return Section("layers", "Retrieval by layer", [Beside(drawings), *_short_or_folded(summary), fold], note)


def _split(table: TransferTable) -> Section | None:
    retrieval = [target for target in table.targets if target in RETRIEVAL]
    grid = grids.split(table, retrieval)
    if grid is None:
        return None
    blocks: list[Block] = []
    name = grids.pooled_name(table)
    found = [(model, grids.parts(table, model, retrieval)) for model in table.models]
    bars = [(model, points, table.cell(model, name, AVERAGE).gain) for model, points in found if points]
    if bars:
        text = (
            "What retrieval, TyDiQA and the other targets add to the gain on the average of all targets, model by model"
        )
        blocks.append(Drawing("parts", "What the gain is made of", scale_plots.parts_of_gain(bars), text))
    left_out = [model.name for model, points in found if not points]
    note = "The parts of a bar add up to the gain on the average of all targets."
    if left_out:
        note += f" Without a bar, since some target or language is missing: {', '.join(left_out)}."
    return Section("split", "Retrieval, TyDiQA and the rest", [*blocks, grid], note)


def _english(table: TransferTable) -> Section | None:
    found = [grid for model in table.models if (grid := grids.english_gap(table, model))]
    if not found:
        return None
    many = len(table.targets) * len(table.intermediates) > _MOST_ROWS or len(table.models) > 2
    drawings, extent = [], plots.english_extent(table)
    for model in table.models:
        figure = plots.english_gains(table, model, extent) if many else plots.english_gap(table, model)
        if figure is not None:
            title = f"English against the other languages · {model.name}"
            drawings.append(Drawing(f"english-{slug(model.name)}", title, figure, title))
    note = (
        "Tables: English minus the mean of the others, in points, and below it how the intermediate changes that gap."
    )
    if many:
        note = (
            "Figures: a point is one intermediate task on one target; above the broken line the other languages gain"
            f" more than English. {note}"
        )
    return Section("english", "English against the other languages", [Beside(drawings), *_open_or_folded(found)], note)


def _published(table: TransferTable, rows: pd.DataFrame) -> Section | None:
    found = published.compared(table, rows)
    if not found:
        return None
    note = (
        "Means over all languages, English among them, as the benchmarks have it, and so unlike the zero-shot means"
        " elsewhere in this report. Theirs and these differ by more than chance: read the column of what differs first."
    )
    return Section("published", "Published numbers beside these", [grids.published(found)], note)


def _cost(spent: Sequence[Spent]) -> Section | None:
    return Section("cost", "What it took", [grids.cost(spent)]) if spent else None


def _metrics(table: TransferTable, rows: pd.DataFrame) -> Section | None:
    grid = grids.metrics(table, rows)
    if grid is None:
        return None
    fold = Fold(grid.title, _count(grid.lines, "line"), [grid], "metrics")
    return Section("metrics", "Every metric", [fold])


def _protocol(table: TransferTable, provenance: Provenance) -> Section:
    lines = [x for x in joined(provenance.get("protocol", "")).split("\n") if x]
    lines += [
        "Headline: mean over all languages but English (zero-shot); all languages count the same, then all targets.",
        "A gain is paired: the same seeds and the same test examples with and without the intermediate task.",
        f"Intervals: {table.confidence:.0%}, over seeds and examples: {table.resamples:,} bootstrap resamples of the"
        " examples and the variance of the seeds, crossed. Languages that share a test set share the draw of examples;"
        " all share one of seeds.",
        f"Significance: Holm's correction over all gains of single targets of a model, at {SIGNIFICANCE:g}.",
        *(f"Score of {target}: {grids.metric_of(table, target)}." for target in table.targets),
    ]
    return Section("protocol", "How it was measured", [Prose(lines, bullets=True)])


_STAGES = "missing stages"  # of the provenance: those without a result, and why


def _origin(provenance: Provenance) -> Section | None:
    elsewhere = ("title", "notice", "protocol", _STAGES)
    shown = [(k, joined(v).strip("\n")) for k, v in provenance.items() if k not in elsewhere]
    return Section("origin", "Where it comes from", [Facts(shown)]) if shown else None


def _lacking(table: TransferTable, provenance: Provenance) -> list[str]:
    """What is not there, one sentence each: stages, then cells and parts of means."""
    stages = provenance.get(_STAGES, "none")
    return [*([] if stages == "none" else joined(stages).split("\n")), *table.problems, *incomplete(table)]


def _missing(sentences: Sequence[str]) -> Section:
    if not sentences:
        return Section("missing", "What is missing", [Prose(["Nothing: every expected cell has its results."])])
    return Section("missing", "What is missing", [Prose(sentences, bullets=True)])
