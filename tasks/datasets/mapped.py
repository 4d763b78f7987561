"""Files of any layout: JSON lines and tables, read as examples of a kind by the names of their fields."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtr.errors import DataError, did_you_mean

from ..examples import Answer, Classification, MultipleChoice, Pair, Retrieval, SpanQA, Tagging, Text
from .files import bad, read_jsonl, read_table, read_tsv, unique

Field = str | Sequence[str]


@dataclass(frozen=True)
class Layout:
    """How records of a file become examples.

    Attributes:
      kind: the kind of example.
      fields: field of the example -> name in the file, or names.
      label_names: the labels, or the tags, in the order of their numbers.
      columns: of a table without a header; None where it has one, or for JSON lines.
      table: whether the file is a table.
    """

    kind: str
    fields: Mapping[str, Field]
    label_names: tuple[str, ...]
    table: bool
    columns: tuple[str, ...] | None = None


def read_examples(files: tuple[Path, ...], tally: Counter, *, layout: Layout) -> Iterator[Any]:
    """Reads the examples of a split in the order of the files; ids that come again are followed by '#2', '#3', ...

    Raises:
      DataError: names file, line and field.
    """
    seen: Counter = Counter()
    make = _MAKERS[layout.kind]
    for path in files:
        for number, record in _records(path, layout):
            row = _Row(path, number, record, layout)
            name = row.text("id") if "id" in layout.fields else str(tally["rows"])
            tally["rows"] += 1
            yield make(unique(name, seen), row)


def _records(path: Path, layout: Layout) -> Iterator[tuple[int, dict]]:
    if not layout.table:
        yield from read_jsonl(path)
    elif layout.columns is None:
        yield from read_table(path, ())
    else:
        for number, fields in read_tsv(path, layout.columns, header=False):
            yield number, dict(zip(layout.columns, fields, strict=True))


@dataclass(frozen=True)
class _Row:
    """One record, and where it stands."""

    path: Path
    number: int
    record: Mapping[str, Any]
    layout: Layout

    def bad(self, name: str, problem: str) -> DataError:
        return bad(self.path, f"line {self.number}, field '{name}'", problem)

    def value(self, name: str) -> Any:
        """The value of a field of the file."""
        if name not in self.record:
            raise self.bad(name, f"missing; there is {', '.join(self.record)}.{did_you_mean(name, self.record)}")
        return self.record[name]

    def string(self, name: str) -> str:
        """The text of a field of the file."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.bad(name, f"expected a text, found {type(value).__name__}.")
        return _encodable(self, name, value)

    def text(self, field: str, default: str = "") -> str:
        """The text of a field of the example; `default` where it was not named. An id may be a number."""
        if field not in self.layout.fields:
            return default
        name = self.layout.fields[field]
        value = self.value(name)
        if field in ("id", "gold", "group") and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.string(name)

    def strings(self, field: str) -> tuple[str, ...]:
        """The texts of a list, of several fields, or (in a table) of one with spaces between."""
        name = self.layout.fields[field]
        if not isinstance(name, str):
            return tuple(self.string(part) for part in name)
        value = self.value(name)
        if self.layout.table:
            return tuple(value.split(" ")) if value else ()
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise self.bad(name, f"expected a list of texts, found {value!r:.80}.")
        return tuple(_encodable(self, name, part) for part in value)

    def number_of(self, names: Sequence[str], size: int) -> int:
        """The number of a label, which the file may have by name or by number from 0."""
        name = self.layout.fields["label"]
        value = self.value(name)
        if isinstance(value, str | int) and str(value) in names:
            return names.index(str(value))
        # Where the names are numbers themselves, another number is none.
        counted = not any(label.isdigit() for label in names)
        if counted and self.layout.table and value.isascii() and value.isdigit():
            value = int(value)
        if counted and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size:
            return value
        known = [*names, f"the numbers 0 to {size - 1}"] if counted else names
        hint = did_you_mean(str(value), names)
        raise self.bad(name, f"{value!r} is no label; there are {', '.join(known)}.{hint}")


def _encodable(row: _Row, name: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise row.bad(name, f"lone surrogate at character {e.start}.") from e
    return text


def _classification(name: str, row: _Row) -> Classification:
    names = row.layout.label_names
    return Classification(name, row.text("text_a"), row.text("text_b"), row.number_of(names, len(names)), names)


def _multiple_choice(name: str, row: _Row) -> MultipleChoice:
    choices = row.strings("choices")
    if len(choices) < 2:
        raise row.bad(str(row.layout.fields["choices"]), f"{len(choices)} choices; at least 2 are needed.")
    label = row.number_of(row.layout.label_names, len(choices))
    if label >= len(choices):
        raise row.bad(str(row.layout.fields["label"]), f"there are {len(choices)} choices, but this is number {label}.")
    return MultipleChoice(name, row.text("context"), row.text("question"), choices, label)


def _span_qa(name: str, row: _Row) -> SpanQA:
    context, field = row.text("context"), row.layout.fields["answers"]
    if isinstance(field, str):
        pairs = _listed_answers(row, field)
    else:
        text_name, start_name = field
        text = row.string(text_name)
        pairs = [(text, row.value(start_name))] if text else []
    answers = []
    for text, start in pairs:
        if row.layout.table and str(start).isdigit():
            start = int(start)
        if not isinstance(text, str) or not isinstance(start, int) or not text:
            raise row.bad(str(field), f"an answer is a text and where it starts, not {text!r} and {start!r}.")
        if start < 0 or context[start : start + len(text)] != text:
            found = context[max(start, 0) : max(start, 0) + len(text)]
            problem = f"the answer {text!r} is not in the context at code point {start} (there is {found!r})."
            raise row.bad(str(field), problem)
        answers.append(Answer(text, start))
    return SpanQA(name, context, row.text("question"), tuple(answers), bool(answers))


def _listed_answers(row: _Row, name: str) -> list[tuple[Any, Any]]:
    value = row.value(name)
    if isinstance(value, dict):  # a table of columns, as TFDS and Hugging Face's data sets have it
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    if isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        return [(answer.get("text"), answer.get("answer_start")) for answer in value]
    raise row.bad(name, f'expected [{{"text": ..., "answer_start": ...}}, ...], found {value!r:.80}.')


def _tagging(name: str, row: _Row) -> Tagging:
    tokens, tags = row.strings("tokens"), row.strings("tags")
    if len(tokens) != len(tags):
        raise row.bad(str(row.layout.fields["tags"]), f"{len(tags)} tags of {len(tokens)} tokens.")
    for tag in tags:
        if tag not in row.layout.label_names:
            hint = did_you_mean(tag, row.layout.label_names)
            known = ", ".join(row.layout.label_names)
            raise row.bad(str(row.layout.fields["tags"]), f"{tag!r} is none of {known}.{hint}")
    return Tagging(name, tokens, tags)


def _retrieval(name: str, row: _Row) -> Retrieval:
    field = row.layout.fields.get("gold")
    if field is None or field not in row.record:  # candidates need not say what they belong to
        return Retrieval(name, row.text("text"), ())
    several = row.layout.table or isinstance(row.value(field), list)
    return Retrieval(name, row.text("text"), row.strings("gold") if several else (row.text("gold"),))


def _pair(name: str, row: _Row) -> Pair:
    positive = row.text("positive")
    return Pair(name, row.text("query"), positive, row.text("group", positive))


def _text(name: str, row: _Row) -> Text:
    return Text(name, row.text("text"))


_MAKERS = {
    "classification": _classification,
    "multiple_choice": _multiple_choice,
    "span_qa": _span_qa,
    "tagging": _tagging,
    "retrieval": _retrieval,
    "pairs": _pair,
    "text": _text,
}
