"""A report as Markdown, with figures as image files beside it."""

from collections.abc import Sequence

from xtr.study.document import (
    ABSENT,
    Beside,
    Block,
    Document,
    Drawing,
    Entry,
    Facts,
    Fold,
    Grid,
    Prose,
    interval,
    number,
)
from xtr.tensorboard import escape_markdown as _text


def markdown(document: Document, figures: str) -> dict[str, str]:
    """File name -> Markdown: report.md, and a file for each fold that has a name, to which the report links.

    Args:
      figures: the folder of PNG images, as the files refer to it.
    """
    files: dict[str, str] = {}
    parts = [f"# {_text(document.title)}"]
    if document.notice:
        parts.append("\n".join(f"> {_text(line)}" for line in document.notice.split("\n")))
    for one in document.answers:
        parts.append(f"**{_text(one.sentence)}**")
        parts.append(_text(one.power))
        if one.drawing:
            parts.append(_image(one.drawing, figures))
    parts += _blocks(document.opening, figures, files)
    for section in document.sections:
        parts += [f"## {_text(section.title)}", *_blocks(section.blocks, figures, files, section.title)]
        if section.note:
            parts.append(_text(section.note))
    return {"report.md": "\n\n".join(parts) + "\n", **files}


def _blocks(blocks: Sequence[Block], figures: str, files: dict[str, str], skip: str = "") -> list[str]:
    parts: list[str] = []
    for block in blocks:
        match block:
            case Grid():
                parts += [f"### {_text(block.title)}"] * (block.title != skip)
                parts.append(grid_text(block))
                parts += [_text(block.note)] * bool(block.note)
            case Drawing():
                parts.append(_image(block, figures))
            case Prose(sentences, bullets=True):
                parts.append("\n".join(f"* {_text(sentence)}" for sentence in sentences))
            case Prose(sentences):
                parts += map(_text, sentences)
            case Facts(pairs):
                parts.append("\n".join(f"* **{_text(name)}**:{_fact(value)}" for name, value in pairs))
            case Fold(title, small, inner, name) if name:
                whole = [f"# {_text(title)}", f"{_text(small)}. [Back to the report](report.md)"]
                files[f"{name}.md"] = "\n\n".join([*whole, *_blocks(inner, figures, files, title)]) + "\n"
                parts.append(f"* [{_text(title)}]({name}.md) ({_text(small)})")
            case Fold(title, _, inner):
                parts += [f"### {_text(title)}", *_blocks(inner, figures, files, title)]
            case Beside(inner):
                parts += _blocks(inner, figures, files)
    return parts


def _image(drawing: Drawing, figures: str) -> str:
    return f"![{_text(drawing.text)}]({figures}/{drawing.name}.png)"


def _fact(value: str) -> str:
    """One line as it is, several as a block of code within the item."""
    if "\n" not in value:
        return f" {_text(value)}"
    fence = "```"
    while fence in value:
        fence += "`"
    return f"\n\n  {fence}\n" + "\n".join(f"  {line}" for line in value.split("\n")) + f"\n  {fence}"


def grid_text(grid: Grid) -> str:
    """The table alone."""
    header = [grid.corner, *grid.columns]
    lines = ["| " + " | ".join(map(_text, header)) + " |", "| --- |" + " ---: |" * len(grid.columns)]
    for line in grid.lines:
        heading = f"*{_text(line.heading)}*" if line.mean else _text(line.heading)
        lines.append("| " + " | ".join([heading, *map(_entry, line.entries)]) + " |")
    return "\n".join(lines)


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return ABSENT
    if entry.text:
        return _text(entry.text)
    parts = []
    if entry.score is not None:
        mark = "‡" * entry.incomplete
        parts.append(f"{number(entry.score, signed=False)}{mark} {interval(entry.score, signed=False)}")
    if entry.gain is not None:
        text = f"{number(entry.gain, signed=True)}{_text(entry.marks)}"
        parts.append(f"{f'**{text}**' if entry.strong else text} {interval(entry.gain, signed=True)}")
    return "<br>".join([*parts, *map(_text, entry.beside)])
