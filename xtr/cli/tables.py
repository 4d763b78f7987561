"""Tables of facts: fitted to the terminal's width there, one whole line a row anywhere else."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
_GAP = 2
_LONGEST_WORD = 20


def plain(value: Any) -> str:
    """One line of text for a fact: thousands apart, lists and the names of a dict by spaces, line ends escaped."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping | list | tuple):
        return " ".join(map(str, value))
    return "".join(c if unicodedata.category(c) not in ("Cc", "Zl", "Zp") else repr(c)[1:-1] for c in str(value))


def print_table(facts: Sequence[Mapping[str, Any]]) -> None:
    """Prints facts of the same names as a table; columns without any value are left out.

    Where it is wider than the terminal, columns that repeat their values become headings of the rows that share them,
    what is too wide even so is wrapped between words, and what is far too wide is a list of names and values a row.
    """
    names = [name for name in facts[0] if any(plain(fact[name]) for fact in facts)]
    columns = {name: [plain(fact[name]) for fact in facts] for name in names}
    right = {name: any(isinstance(fact[name], int | float) for fact in facts) for name in names}
    if not sys.stdout.isatty():
        print_lines([names, *zip(*columns.values(), strict=True)], list(right.values()))
        return
    headings = _headings(columns, console.width)
    if headings:
        _print_below_headings(columns, headings, right)
        return
    least = {name: _least_width(name, column, name == names[0] or right[name]) for name, column in columns.items()}
    if sum(least.values()) + _GAP * (len(names) - 1) > console.width:
        for row in zip(*columns.values(), strict=True):
            console.print(Text(row[0], style="bold"))
            print_fields([(name, value) for name, value in zip(names, row, strict=True) if value][1:])
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for name in names:
        justify = "right" if right[name] else "left"
        table.add_column(name, overflow="fold", min_width=least[name], justify=justify)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def _width(name: str, column: Sequence[str]) -> int:
    return max(map(cell_len, (name, *column)))


def _least_width(name: str, column: Sequence[str], whole: bool) -> int:
    """What a column needs: room for its longest word, or for all of its longest cell."""
    if whole:
        return _width(name, column)
    return min(_LONGEST_WORD, max(cell_len(word) for text in (name, *column) for word in text.split() or [""]))


def _headings(columns: Mapping[str, Sequence[str]], room: int) -> list[str]:
    """The columns that must become headings for the others to fit; none where that is not enough."""
    left = dict(columns)
    changes = {name: sum(a != b for a, b in zip(c, c[1:], strict=False)) for name, c in columns.items()}
    first, headings = next(iter(columns)), []
    while sum(_width(name, column) + _GAP for name, column in left.items()) - _GAP > room:
        short = [name for name in left if name != first and _width(name, left[name]) <= room // 2]
        repeating = [name for name in short if changes[name] * 2 < len(columns[first]) - 1]
        if not repeating:
            return []
        headings.append(min(repeating, key=changes.get))
        del left[headings[-1]]
    return headings


def _print_below_headings(
    columns: Mapping[str, Sequence[str]], headings: Sequence[str], right: Mapping[str, bool]
) -> None:
    body = {name: column for name, column in columns.items() if name not in headings}
    lines = _aligned([list(body), *zip(*body.values(), strict=True)], [right[name] for name in body])
    console.print(Text(lines[0], style="bold"))
    before = None
    for i, line in enumerate(lines[1:]):
        heading = ", ".join(f"{name} {columns[name][i]}" for name in columns if name in headings and columns[name][i])
        if heading != before:
            console.print(Text(f"\n{heading}", style="italic"))
            before = heading
        console.print(Text(line))


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = [_width("", column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [gap + cell if r else cell + gap for cell, gap, r in zip(row, gaps, right, strict=True)]
        lines.append((" " * _GAP).join(cells).rstrip())
    return lines


def print_lines(rows: Sequence[Sequence[str]], right: Sequence[bool] | None = None) -> None:
    """Prints rows of equally many cells, a line each, aligned by spaces."""
    print("\n".join(_aligned(rows, right or [False] * len(rows[0]))))


def print_fields(fields: Sequence[tuple[str, str]], indent: int = 2) -> None:
    """Prints names and values: hanging behind the names on a terminal, a line each elsewhere."""
    rows = [(" " * indent + name, plain(value)) for name, value in fields]
    if not sys.stdout.isatty():
        print_lines(rows)
        return
    grid = Table.grid(padding=(0, _GAP))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(value))
    console.print(grid)
