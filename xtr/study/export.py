"""A finished study for TensorBoard: what `xtr.export.tensorboard` makes of its rows, and what the transfer table says.

    <logdir>/                                          answer, tables, samples, heat maps, texts, page layouts
    <logdir>/<model>/                                  scores and gains with their intervals
    <logdir>/scale-<family>/                           gain by size (the step is the number of parameters), slope
    <logdir>/<model>/<intermediate>/<target>/seed<n>/  a session of the HParams table; seeds share one line

Everything is made from the transfer table and the result rows, so exporting again replaces what was exported before.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from xtr.errors import DataError
from xtr.evaluate.results import ResultStore
from xtr.export import summary
from xtr.export import tensorboard as board
from xtr.export.figures import to_png
from xtr.export.source import place_of
from xtr.study import plots, scale_plots
from xtr.study.scaling import Scaling, headline, scalings
from xtr.study.transfer import POOLED, ZERO_SHOT, Cell, Model, TransferTable
from xtr.study.words import answer, marks
from xtr.tensorboard import SummaryWriter, escape_markdown, markdown_table

_SUFFIX = ".study"


def export_tensorboard(
    study_dir: str | os.PathLike,
    table: TransferTable,
    store: ResultStore,
    provenance: Mapping[str, str | Sequence[str]],
    read_predictions: Callable[[str, str, str, str], Sequence[Mapping]] | None = None,
    samples: int = 5,
    answers: Sequence[Scaling] | None = None,
) -> Path:
    """Writes the study into `<study_dir>/tensorboard`, replacing an earlier export.

    Args:
      study_dir: the study's directory; its operative_config.gin is shown where there is one.
      table: from `transfer.build`.
      store: holds the rows that the table was built from.
      provenance: as for `report.write_report`; shown as one text.
      read_predictions: gives the records of (run_id, target, language, split); by default those of `store`. Places
        without predictions show no samples.
      samples: sample predictions a target and language; the same examples for every system.
      answers: from `scaling.scalings`; computed where they are not given.

    Returns:
      What `tensorboard --logdir` is to be pointed at.
    """
    logdir = Path(study_dir) / "tensorboard"
    answers = scalings(table, mixed=False) if answers is None else answers
    opening = headline(answers)
    families = list(dict.fromkeys(model.family for model in table.models))
    board.remove(logdir, _SUFFIX)
    rows = store.read()
    rows = summary.with_systems(rows[rows["target"].isin(table.targets)])

    def read(row: Mapping) -> Sequence[Mapping] | None:
        with contextlib.suppress(DataError):  # the table's problems already name it
            return (read_predictions or store.read_predictions)(*place_of(row))

    gains = {name: [f"transfer/{name}/gain/.*"] for name in (*table.targets, *table.averages())}
    with SummaryWriter(logdir, _SUFFIX) as writer:
        board.overview(writer, rows, read, samples, {"gains by intermediate": gains})
        said = [f"**{escape_markdown(one.sentence)}** {escape_markdown(one.power.sentence)}" for one in opening]
        writer.text("answer", "\n\n".join([*said, *map(escape_markdown, answer(table))]))
        if trends := [one for one in opening if one.slope is not None]:
            figure = scale_plots.gain_by_size(trends, families, scale_plots.limits(trends))
            writer.image("gain by model size", to_png(figure))
            writer.text("verdicts", _verdicts(answers))
        if table.problems:
            writer.text("missing", "\n".join(f"* {problem}" for problem in table.problems))
        writer.text("provenance", _provenance(provenance))
        board.origins(writer, [Path(study_dir)])
        for model in table.models:
            writer.text(f"transfer table/{model.name}", _markdown(table, model))
            if len(table.intermediates) > 1:
                writer.image(f"zero-shot gains/{model.name}", to_png(plots.gain_heat_map(table, model)))
    for model in table.models:
        with SummaryWriter(logdir / model.name, _SUFFIX) as writer:
            for cell in table.cells:
                if cell.model == model:
                    _cell(writer, cell)
    for family in families:
        if trends := [one for one in answers if one.family == family and one.slope is not None]:
            with SummaryWriter(logdir / f"scale-{family}", _SUFFIX) as writer:
                for one in trends:
                    _trend(writer, one)
    board.sessions(logdir, rows, _SUFFIX)
    return logdir


def _trend(writer: SummaryWriter, one: Scaling) -> None:
    """scale/<target>/{gain,slope,largest_minus_smallest}[_low|_high]/<intermediate>; a gain's step is the size."""
    numbers = [("gain", size.gain, size.model.parameters) for size in one.gains]
    numbers += [("slope", one.slope, 0), ("largest_minus_smallest", one.contrast, 0)]
    for name, number, step in numbers:
        for suffix, value in (("", number.value), ("_low", number.low), ("_high", number.high)):
            writer.scalar(f"scale/{one.target}/{name}{suffix}/{one.intermediate}", value, step)


def _verdicts(answers: Sequence[Scaling]) -> str:
    lines = [
        (
            one.family,
            one.intermediate,
            one.target,
            one.slope.text(signed=True),
            one.contrast.text(signed=True),
            one.verdict,
        )
        for one in answers
        if one.slope is not None
    ]
    header = ["family", "intermediate", "target", "slope", "largest − smallest", "verdict"]
    return markdown_table(header, lines) + "\n\nPoints per tenfold parameters; points."


def _provenance(provenance: Mapping[str, str | Sequence[str]]) -> str:
    lines = [(name, text if isinstance(text, str) else "; ".join(text)) for name, text in provenance.items()]
    return markdown_table(["", ""], [line for line in lines if line[1]])


def _cell(writer: SummaryWriter, cell: Cell) -> None:
    """Zero-shot cells as transfer/<target>/{score,gain}[_low|_high]/<intermediate>."""
    if cell.view != ZERO_SHOT:
        return
    for name, number in (("score", cell.score), ("gain", cell.gain)):
        if number is not None:
            for suffix, value in (("", number.value), ("_low", number.low), ("_high", number.high)):
                writer.scalar(f"transfer/{cell.target}/{name}{suffix}/{cell.intermediate}", value, 0)


def _markdown(table: TransferTable, model: Model) -> str:
    columns = [*table.targets, *table.averages()]
    names = [*table.intermediates, POOLED] if len(table.intermediates) > 2 else list(table.intermediates)

    def entry(cell: Cell | None) -> str:
        if cell is None:
            return "–"
        gain = f"; {cell.gain.text(signed=True)}{marks(cell)}" if cell.gain else ""
        return cell.score.text() + gain

    lines = [[name, *(entry(table.cell(model, name, column)) for column in columns)] for name in names]
    note = "Zero-shot score; gain over none. \\* differs from 0 after Holm's correction, † shared training data."
    return markdown_table(["intermediate", *columns], lines) + "\n\n" + note
