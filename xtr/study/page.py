"""A report as one HTML page: inline style and SVG, nothing fetched, no script. It follows the reader's light or dark
setting, scrolls wide tables in their own box and prints."""

from collections.abc import Mapping, Sequence

from xtr.export import page
from xtr.study.document import (
    ABSENT,
    Answer,
    Beside,
    Block,
    Document,
    Drawing,
    Entry,
    Facts,
    Fold,
    Grid,
    Prose,
    Section,
    interval,
    number,
)

_LONG = 3  # line breaks of a fact, above which it is folded
_SMALL = 4  # inches: figures that stand three or four side by side
_WORDS = 24  # letters of a text, above which it may break
_SIGNS = {"persists": "=", "grows": "↗", "shrinks": "↘", "vanishes": "→ 0", "absent": "0", "underpowered": "?"}


def html(document: Document, svgs: Mapping[str, str]) -> str:
    """The page.

    Args:
      svgs: name of each drawing -> its <svg> element.
    """
    body = [f"<header><h1>{page.text(document.title)}</h1>"]
    if document.notice:
        body.append(f'<p class="notice">{page.text(document.notice)}</p>')
    if document.answers:
        body.append(f'<div class="answers">{"".join(_answer(one, svgs) for one in document.answers)}</div>')
    body += [_block(block, svgs) for block in document.opening]
    body += ["</header>", _contents(document.sections)]
    body += [_section(section, svgs) for section in document.sections]
    return page.page(document.title, body)


def _answer(one: Answer, svgs: Mapping[str, str]) -> str:
    sign = _SIGNS.get(one.verdict, "")
    verdict = f'<p class="verdict {one.verdict}"><span aria-hidden="true">{sign}</span> {page.text(one.verdict)}</p>'
    words = f'<p class="answer">{page.text(one.sentence)}</p><p class="note">{page.text(one.power)}</p>'
    figure = _drawing(one.drawing, svgs) if one.drawing else ""
    return f'<section class="card"><div>{verdict}{words}</div>{figure}</section>'


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(f'<li><a href="#{section.anchor}">{page.text(section.title)}</a></li>' for section in sections)
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>'


def _section(section: Section, svgs: Mapping[str, str]) -> str:
    content = _blocks(section.blocks, svgs, skip=section.title)
    return page.section(section.title, content, page.text(section.note), section.anchor)


def _blocks(blocks: Sequence[Block], svgs: Mapping[str, str], skip: str = "") -> str:
    return "".join(_block(block, svgs, skip) for block in blocks)


def _block(block: Block, svgs: Mapping[str, str], skip: str = "") -> str:
    """One block as HTML; a title that is `skip`, the one of what holds it, is not said again."""
    match block:
        case Grid():
            title = f"<h3>{page.text(block.title)}</h3>" * (block.title != skip)
            note = f'<p class="note">{page.text(block.note)}</p>' * bool(block.note)
            return f'<div class="part">{title}{_grid(block)}{note}</div>'
        case Drawing():
            return _drawing(block, svgs)
        case Prose(sentences, bullets=True):
            return "<ul>" + "".join(f"<li>{page.text(sentence)}</li>" for sentence in sentences) + "</ul>"
        case Prose(sentences):
            return "".join(f'<p class="note">{page.text(sentence)}</p>' for sentence in sentences)
        case Facts(pairs):
            return "<dl>" + "".join(f"<dt>{page.text(k)}</dt><dd>{_fact(v)}</dd>" for k, v in pairs) + "</dl>"
        case Fold(title, small, blocks):
            summary = f"<summary>{page.text(title)} <small>({page.text(small)})</small></summary>"
            return f"<details>{summary}{_blocks(blocks, svgs, title)}</details>"
        case Beside(blocks):
            large = any(not isinstance(inner, Drawing) or inner.figure.get_figwidth() > _SMALL for inner in blocks)
            return f'<div class="beside{" large" * large}">{_blocks(blocks, svgs)}</div>'
    raise TypeError(block)


def _drawing(drawing: Drawing, svgs: Mapping[str, str]) -> str:
    return f"<figure>{svgs[drawing.name]}</figure>"


def _fact(value: str) -> str:
    if value.count("\n") > _LONG:
        lines = f"{value.count(chr(10)) + 1} lines"
        return f"<details><summary>{lines}</summary><pre>{page.text(value)}</pre></details>"
    return "<br>".join(page.text(line) for line in value.split("\n"))


def _grid(grid: Grid) -> str:
    columns = []
    for place, column in enumerate(grid.columns):
        entries = [line.entries[place] for line in grid.lines]
        left = any(entry is not None and len(entry.text) > _WORDS for entry in entries)
        classes = "head" + " mean" * (column in grid.means) + " left" * left
        columns.append(f'<span class="{classes}">{page.text(column)}</span>')
    lines = []
    for line in grid.lines:
        heading = page.text(line.heading)
        if line.mean:
            heading = f'<span class="mean">{heading}</span>'
        lines.append([heading, *map(_entry, line.entries)])
    return page.table([page.text(grid.corner), *columns], lines)


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return f'<td class="none">{ABSENT}</td>'
    if entry.text:
        return f'<td class="{"long" if len(entry.text) > _WORDS else "text"}">{page.text(entry.text)}</td>'
    if entry.share is not None:
        classes = f"heat {'up' if entry.share >= 0 else 'down'}{' strong' * entry.strong}"
        text = f"{number(entry.gain, signed=True)}{page.text(entry.marks)}"
        behind = page.text(entry.gain.text(signed=True))
        color = 8 + 62 * abs(entry.share) if float(number(entry.gain, signed=True)) else 0  # +0.0 has no side
        return f'<td class="{classes}" title="{behind}" style="--share:{color:.0f}%">{text}</td>'
    parts = []
    if entry.score is not None:
        mark = "‡" * entry.incomplete
        parts.append(
            f'<span class="score"><b>{number(entry.score, signed=False)}</b>{mark}'
            f" <small>{interval(entry.score, signed=False)}</small></span>"
        )
    if entry.gain is not None:
        sign = ("up" if entry.gain.value >= 0 else "down") if entry.score is not None else ""
        text = f"{number(entry.gain, signed=True)}{page.text(entry.marks)}"
        text = f"<b>{text}</b>" if entry.strong else text
        parts.append(f'<span class="gain {sign}">{text} <small>{interval(entry.gain, signed=True)}</small></span>')
    parts += [f'<span class="chance">{page.text(words)}</span>' for words in entry.beside]
    return f"<td>{''.join(parts)}</td>"
