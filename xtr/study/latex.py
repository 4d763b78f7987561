"""A report's tables in LaTeX (booktabs), a file each, for \\input in a paper."""

from collections.abc import Callable, Sequence

from xtr.export.tables import escape, table
from xtr.study.document import Document, Entry, Grid, Line, blocks_of, interval, number

HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."
LEFT_OUT = "metrics"  # every metric as recorded: the rows themselves are the better file


def tables(document: Document) -> dict[str, str]:
    """Name of each table -> its file. What has scores and gains is two tables: scores, then gains."""
    return {
        grid.name: "\n\n".join([HEAD, *_tables(grid)]) + "\n"
        for grid in blocks_of(document)
        if isinstance(grid, Grid) and grid.name != LEFT_OUT
    }


def _tables(grid: Grid) -> list[str]:
    entries = [entry for line in grid.lines for entry in line.entries if entry]
    with_gain = any(entry.gain for entry in entries)
    if not any(entry.score for entry in entries):
        return [_table(grid, grid.title, grid.name, _gain)]
    found = [_table(grid, f"{grid.title}: scores (per cent)", f"{grid.name}-scores", _score)]
    if with_gain:
        found.append(_table(grid, f"{grid.title}: gains (points)", f"{grid.name}-gains", _gain))
    return found


Cell = Callable[[Entry], tuple[str, str]]  # (number or text, what stands below it)


def _table(grid: Grid, caption: str, label: str, cell: Cell) -> str:
    """One table; the intervals stand in small type below the numbers."""
    lines, rules = [], []
    for line in grid.lines:
        found = [("--", "") if entry is None else cell(entry) for entry in line.entries]
        if not any(upper.strip("-") or lower for upper, lower in found):
            continue
        if line.mean and lines:
            rules.append(len(lines))
        lines.append([_heading(line), *(upper for upper, _ in found)])
        if any(lower for _, lower in found):
            lines.append(["", *(f"{{\\tiny {lower}}}" if lower else "" for _, lower in found)])
    note = f". {escape(grid.note.rstrip('.'))}" if grid.note else ""
    header = [
        escape(grid.corner),
        *(f"\\textit{{{escape(c)}}}" if c in grid.means else escape(c) for c in grid.columns),
    ]
    rules = rules if len(rules) < 3 else []  # where most lines are means, rules tell nothing apart
    return table(escape(caption) + note, f"tab:{label}", header, lines, rules, small=True, fit=True)


def _heading(line: Line) -> str:
    return f"\\textit{{{escape(line.heading)}}}" if line.mean else escape(line.heading)


def _score(entry: Entry) -> tuple[str, str]:
    if entry.score is None:
        return _other(entry)
    mark = "$^{\\ddagger}$" if entry.incomplete else ""
    return number(entry.score, signed=False) + mark, interval(entry.score, signed=False)


def _gain(entry: Entry) -> tuple[str, str]:
    if entry.gain is None:
        return ("--", "") if entry.score is not None else _other(entry)
    marks = "".join({"*": "*", "†": "\\dagger", "‡": "\\ddagger"}[mark] for mark in entry.marks)
    text = number(entry.gain, signed=True) + (f"$^{{{marks}}}$" if marks else "")
    return f"\\textbf{{{text}}}" if entry.strong else text, interval(entry.gain, signed=True)


def _other(entry: Entry) -> tuple[str, str]:
    return escape(entry.text or ", ".join(entry.beside)), ""


def preview(names: Sequence[str]) -> str:
    """A document that shows all tables, for pdflatex in their folder."""
    inputs = "\n".join(f"\\input{{{name}}}\n\\clearpage" for name in names)
    return (
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n\\usepackage[margin=2cm]{geometry}\n"
        f"\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    )
