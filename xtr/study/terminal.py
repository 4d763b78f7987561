"""A transfer table in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from xtr.study.grids import columns_of, intermediates_of
from xtr.study.scaling import Scaling, headline, scalings
from xtr.study.transfer import NONE, Cell, TransferTable
from xtr.study.words import MARKS, answer, heading, incomplete, marks


def print_table(table: TransferTable, console: Console, answers: Sequence[Scaling] | None = None) -> None:
    """Prints the answer, one transfer table a model, and what is missing.

    Args:
      answers: from `scaling.scalings`; computed where they are not given.
    """
    opening = headline(scalings(table, mixed=False) if answers is None else answers)
    for sentence in [*(one.sentence for one in opening), *answer(table)]:
        console.print(sentence, highlight=False, markup=False)
    columns = columns_of(table)
    for model in table.models:
        title = f"\n{model.name} ({model.parameters:,} parameters): zero-shot score, gain over {NONE}"
        console.print(title, highlight=False, markup=False)
        grid = Table(show_lines=True)
        grid.add_column("intermediate", no_wrap=True)
        for column in columns:
            grid.add_column(heading(column), justify="right")
        for name in intermediates_of(table):
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
    lines = [f"{s.value:.1f}{'‡' * bool(cell.lacks)}", f"\\[{s.low:.1f}, {s.high:.1f}]"]
    if g is not None:
        lines += [f"{g.value:+z.1f}{marks(cell)}", f"\\[{g.low:.1f}, {g.high:.1f}]"]
    if cell.against_chance in ("below", "not distinguishable"):
        lines.append(f"chance {cell.chance:.1f}")
    return "\n".join(lines)
