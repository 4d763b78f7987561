"""The templates of XTREME-R's MultiCheckList: a table of texts with a column, or several, for each language.

Rows are in blocks, one a test: its name and capability, its contexts, its questions each with the answer behind it, and
lists of what is filled in (`adj`, `animal`, ...). A language that needs several forms of a text has a column for each,
`<language>`, and beside it `<language>-placeholders`: the English fill-ins that this form is for.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .files import bad, read_lines

_BESIDE = "-placeholders"
_COMMAS = re.compile(r"\s*[,\u060c\uff0c\u3001\u104a]+\s*")  # Latin, Arabic, full-width, Japanese, Burmese
_SLOT = re.compile(r"\{(?:\w+:)?([\w.]+)(?:\[(\d+)\])?\}")
_LIST_OF = {"s": "state"}  # a slot that is not called as its list is
_TEXTS = 4096  # remembered: every text is filled in many times
NAME = "first_name"
PROPERTIES = "property"  # the list of names of lists, of which 'p.v1' is a value and 'p.p1' the name


class Variant(NamedTuple):
    """One form of a text, and what it is for: English fill-ins with commas between them; '' for all."""

    text: str
    condition: str


class Slot(NamedTuple):
    """Where something is filled in: its name ('adj', 'first_name1', 'p.v1'), and which of the fill-in's forms, from 0;
    None for all of it."""

    name: str
    form: int | None

    @property
    def list(self) -> str:
        """The list that it is filled from; of 'p.v1' the list of properties, one of which names that list."""
        base = self.name.partition(".")[0].rstrip("0123456789")
        return PROPERTIES if "." in self.name else _LIST_OF.get(base, base)


@dataclass(frozen=True)
class Row:
    """The text of one row in every language: language -> its forms."""

    line: int
    variants: Mapping[str, tuple[Variant, ...]]

    @property
    def english(self) -> str:
        return self.variants["en"][0].text


@dataclass(frozen=True)
class Template:
    """One test.

    Attributes:
      questions: each with its answer, whose forms are for different contexts.
      lists: name of a list -> what may be filled in. A list that the test lacks is that of a test before it.
    """

    name: str
    capability: str
    contexts: tuple[Row, ...]
    questions: tuple[tuple[Row, Row], ...]
    lists: Mapping[str, tuple[Row, ...]]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row with slots."""
        return *self.contexts, *(row for pair in self.questions for row in pair)


@functools.lru_cache(_TEXTS)
def slots(text: str) -> tuple[Slot, ...]:
    """What is filled in a text, in its order. An option before a name ('a:', an English article) plays no part."""
    return tuple(Slot(name, int(form) if form else None) for name, form in _SLOT.findall(text))


@functools.lru_cache(_TEXTS)
def pieces(text: str) -> tuple[str | Slot, ...]:
    """A text as what stands in it and what is filled in, in turn."""
    out: list[str | Slot] = []
    end = 0
    for match in _SLOT.finditer(text):
        out += [text[end : match.start()], *slots(match[0])]
        end = match.end()
    return (*out, text[end:])


@functools.lru_cache(_TEXTS)
def forms(text: str) -> tuple[str, ...]:
    """The forms of what is filled in: what stands between commas of any script, or without any between white space."""
    parts = tuple(part for part in _COMMAS.split(text) if part)
    return parts if len(parts) > 1 else tuple(text.split())


@functools.lru_cache(_TEXTS)
def named(condition: str) -> tuple[str, ...]:
    """What a condition names, in lower case."""
    return tuple(item for item in _COMMAS.split(condition.strip().casefold()) if item)


def languages(path: Path) -> list[str]:
    """The languages that the table has columns for, sorted.

    Raises:
      DataError: the first line is no header of such a table.
    """
    return sorted({name for name in _header(path) if not name.endswith(_BESIDE)})


def _header(path: Path) -> list[str]:
    _, line = next(read_lines(path), (1, ""))
    first, *names = line.removesuffix("\r").split("\t")
    if first != "Field" or "en" not in names or not all(names):
        raise bad(path, "line 1", f"expected a header with 'Field', 'en' and other languages; found {line!r}.")
    for before, name in zip(["", *names], names, strict=False):
        if name.endswith(_BESIDE) and before + _BESIDE != name:
            raise bad(path, "line 1", f"the column {name!r} must stand behind its language's, not behind {before!r}.")
    return names


def read_templates(path: Path) -> list[Template]:
    """Reads every test of the table.

    Raises:
      DataError: naming the line and what is wrong with it.
    """
    header = _header(path)
    blocks: list[list[tuple[str, Row]]] = []
    for number, line in read_lines(path):
        fields = line.removesuffix("\r").split("\t")
        name = fields[0]
        if number == 1 or not name.strip():
            continue
        if len(fields) != len(header) + 1:
            expected = f"expected {len(header) + 1} tab-separated columns, found {len(fields)}."
            raise bad(path, f"line {number}", expected)
        row = Row(number, _variants(header, fields[1:]))
        if not row.variants["en"]:
            raise bad(path, f"line {number}, field {name!r}", "no English text.")
        if name == "Name":
            blocks.append([])
        if not blocks:
            raise bad(path, f"line {number}, field {name!r}", "stands before the first 'Name'.")
        blocks[-1].append((name, row))
    templates: list[Template] = []
    for block in blocks:
        templates.append(_template(path, block, templates))
    return templates


def _variants(header: list[str], cells: list[str]) -> dict[str, tuple[Variant, ...]]:
    out: dict[str, list[Variant]] = {name: [] for name in header if not name.endswith(_BESIDE)}
    beside = [*header[1:], ""]
    for place, (name, text) in enumerate(zip(header, cells, strict=True)):
        if name in out and text:
            out[name].append(Variant(text, cells[place + 1] if beside[place] == name + _BESIDE else ""))
    return {name: tuple(found) for name, found in out.items()}


def _template(path: Path, block: list[tuple[str, Row]], before: list[Template]) -> Template:
    by_name: dict[str, list[Row]] = {}
    for name, row in block:
        by_name.setdefault(name, []).append(row)
    (start,) = by_name.pop("Name")
    questions, answers = by_name.pop("Question", []), [_alternatives(row) for row in by_name.pop("Answer", [])]
    order = [name for name, _ in block if name in ("Question", "Answer")]
    for what in ("Capability", "Context"):
        if what not in by_name:
            raise bad(path, f"line {start.line}, field 'Name'", f"the test {start.english!r} has no {what!r}.")
    if not questions or order != ["Question", "Answer"] * len(questions):
        problem = f"the test {start.english!r} must have questions, each with its answer in the next such row."
        raise bad(path, f"line {start.line}, field 'Name'", problem)
    capability, contexts = by_name.pop("Capability")[0].english, tuple(by_name.pop("Context"))
    lists = {name: rows for earlier in before for name, rows in earlier.lists.items()}
    lists |= {name: tuple(rows) for name, rows in by_name.items()}
    template = Template(start.english, capability, contexts, tuple(zip(questions, answers, strict=True)), lists)
    _check_lists(path, template)
    return template


def _alternatives(row: Row) -> Row:
    """The row of an answer: what stands beside one is no condition, but the answer in another context."""
    texts = {language: [text for of in variants for text in of if text] for language, variants in row.variants.items()}
    return Row(row.line, {language: tuple(Variant(text, "") for text in found) for language, found in texts.items()})


def _check_lists(path: Path, template: Template) -> None:
    for row in template.rows:
        for slot in slots(row.english):
            needed = [slot.list]
            if slot.list == PROPERTIES:
                needed += [of.english for of in template.lists.get(PROPERTIES, ())]
            for name in needed:
                if name != NAME and name not in template.lists:
                    problem = f"the slot {slot.name!r} is filled from rows {name!r}, and there is none."
                    raise bad(path, f"line {row.line}", problem)
