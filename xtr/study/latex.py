"""A report's tables in LaTeX (booktabs), a file each, for \\input in a paper."""

import textwrap
from collections.abc import Callable, Sequence

from xtr.export.tables import escape, table
from xtr.study.document import Document, Entry, Grid, Line, interval, leaves, number

HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."
LEFT_OUT = "metrics"  # every metric as recorded: the rows themselves are the better file
_LINES = 28  # of a table: with their intervals they fill a page
_TEXT = 28  # letters of a text, above which it is broken
_HEADER = 12  # letters of a heading, above which it is broken

Cell = Callable[[Entry], tuple[str, str]]  # (number or text, what stands below it)


def tables(document: Document) -> dict[str, str]:
    """Name of each table -> its file. What has scores and gains is two tables, scores then gains; what fills more than
    a page is several."""
    return {
        grid.name: "\n\n".join([HEAD, *_tables(grid, section.title)]) + "\n"
        for section in document.sections
        for grid in leaves(section.blocks)
        if isinstance(grid, Grid) and grid.name != LEFT_OUT
    }


def _tables(grid: Grid, topic: str) -> list[str]:
    title = grid.title if topic == grid.title else f"{topic}: {grid.title}"
    entries = [entry for line in grid.lines for entry in line.entries if entry]
    parts = [grid.lines[start : start + _LINES] for start in range(0, len(grid.lines), _LINES)]
    kinds = [("gains", ", gains in points", _gain)]
    if any(entry.score for entry in entries):
        kinds = [("scores", ", scores in per cent", _score), *(kinds if any(e.gain for e in entries) else [])]
    else:
        kinds = [("", "", _gain)]
    found = []
    for kind, what, cell in kinds:
        for n, lines in enumerate(parts):
            of = f" ({n + 1} of {len(parts)})" if len(parts) > 1 else ""
            label = "-".join(filter(None, [grid.name, kind, str(n + 1) if of else ""]))
            found.append(_table(grid, lines, title + what + of, label, cell))
    return found


def _table(grid: Grid, of_grid: Sequence[Line], caption: str, label: str, cell: Cell) -> str:
    """One table; the intervals stand in small type below the numbers."""
    lines, rules = [], []
    for line in of_grid:
        found = [("--", "") if entry is None else cell(entry) for entry in line.entries]
        if not any(upper.strip("-") or lower for upper, lower in found):
            continue
        if line.mean and lines:
            rules.append(len(lines))
        lines.append([_heading(line), *(upper for upper, _ in found)])
        if any(lower for _, lower in found):
            lines.append([r"\rule[-4pt]{0pt}{0pt}", *(f"{{\\tiny {lower}}}" if lower else "" for _, lower in found)])
    note = f". {escape(grid.note.rstrip('.'))}" if grid.note else ""
    columns = [f"\\textit{{{_broken(c)}}}" if c in grid.means else _broken(c) for c in grid.columns]
    rules = rules if len(rules) < 3 else []  # where most lines are means, rules tell nothing apart
    header = [escape(grid.corner), *columns]
    return table(escape(caption) + note, f"tab:{label}", header, lines, rules, small=True, fit=True)


def _broken(heading: str) -> str:
    """A long heading on several lines."""
    lines = textwrap.wrap(heading, _HEADER, break_long_words=False)
    whole = r"\\".join(map(escape, lines))
    return f"\\shortstack[r]{{{whole}}}" if len(lines) > 1 else whole


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
    upper, *lower = entry.beside if entry.beside and not entry.text else [entry.text]
    text = escape(upper)
    if len(upper) > _TEXT:
        text = f"\\parbox[t]{{13em}}{{\\raggedright {text}}}"
    return text, escape(", ".join(lower))


def preview(names: Sequence[str]) -> str:
    """A document that shows all tables, for pdflatex in their folder."""
    inputs = "\n".join(f"\\input{{{name}}}\n\\clearpage" for name in names)
    return (
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n\\usepackage[margin=2cm]{geometry}\n"
        f"\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    )
