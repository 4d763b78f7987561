"""What a report says, apart from how it is written: a document of sections, tables, figures and lists.

    TransferTable, rows, ... ──sections.document()──> Document ──page | markdown | latex──> files

HTML, Markdown and LaTeX are made from one document, so they hold the same numbers in the same digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from xtr.study.statistics import Estimate

ABSENT = "–"


@dataclass(frozen=True)
class Entry:
    """One cell of a table; what is None or empty is not shown.

    Attributes:
      score: a number in per cent.
      gain: a difference in points.
      marks: footnote marks of the gain, or of the score where there is no gain.
      incomplete: the score is an incomplete mean.
      beside: short remarks below.
      text: instead of numbers.
      share: -1 to 1, how much colour the cell has; then it shows the gain alone, the interval is behind it.
      strong: bold.
    """

    score: Estimate | None = None
    gain: Estimate | None = None
    marks: str = ""
    incomplete: bool = False
    beside: Sequence[str] = ()
    text: str = ""
    share: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a table; `mean` sets it apart, as a mean over others. None is an absent entry."""

    heading: str
    entries: Sequence[Entry | None]
    mean: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
      name: of its file, without an ending.
      title: shown above it where a section has several, and as the caption in LaTeX.
      corner: heading of the first column.
      columns: headings of the others.
      means: those of the columns that are means over others.
      note: what a reader must know, in one or a few sentences.
    """

    name: str
    title: str
    corner: str
    columns: Sequence[str]
    lines: Sequence[Line]
    means: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure; `name` is of its files, `text` says what it shows to those who cannot see it."""

    name: str
    title: str
    figure: Figure
    text: str


@dataclass(frozen=True)
class Prose:
    """Sentences, each a paragraph or, as `bullets`, an item of a list."""

    sentences: Sequence[str]
    bullets: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and texts of one or more lines."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Fold:
    """What opens on a click where that can be; `small` says how much there is. In Markdown it is a file of its own, by
    `name`, where there is one."""

    title: str
    small: str
    blocks: Sequence["Block"]
    name: str = ""


@dataclass(frozen=True)
class Beside:
    """Figures or tables that stand side by side where there is room."""

    blocks: Sequence["Block"]


Block = Grid | Drawing | Prose | Facts | Fold | Beside


@dataclass(frozen=True)
class Section:
    """A part of the report; `anchor` is what links point to."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What the report opens with, of one family.

    Attributes:
      verdict: one of `scaling.VERDICTS`.
      sentence: the answer with its interval.
      power: what the data can tell.
      drawing: gain by size, or of one model by intermediate task; None where a family of several has one size.
    """

    family: str
    verdict: str
    sentence: str
    power: str
    drawing: Drawing | None


@dataclass(frozen=True)
class Document:
    """The report; `notice` is what a reader must know first, `opening` stands below the answers."""

    title: str
    notice: str
    answers: Sequence[Answer]
    opening: Sequence[Block]
    sections: Sequence[Section]


def number(estimate: Estimate, signed: bool) -> str:
    """'71.2', or '+1.3' of a difference."""
    return f"{estimate.value:{'+' if signed else ''}z.1f}"


def interval(estimate: Estimate, signed: bool) -> str:
    """'[70.1, 72.4]'."""
    form = f"{'+' if signed else ''}z.1f"
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def slug(name: str) -> str:
    """A name as part of a file's or an anchor's."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def leaves(blocks: Sequence[Block]) -> list[Block]:
    """The blocks without those that only hold others, whose own are in their place."""
    found = []
    for block in blocks:
        found += leaves(block.blocks) if isinstance(block, Fold | Beside) else [block]
    return found


def drawings(document: Document) -> list[Drawing]:
    """Every figure, the answers' first."""
    rest = leaves([*document.opening, *(block for section in document.sections for block in section.blocks)])
    found = [*(answer.drawing for answer in document.answers), *rest]
    return [block for block in found if isinstance(block, Drawing)]
