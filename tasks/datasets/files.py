"""Reading official files without changing a byte of their text, and naming file, line and field when one is bad."""

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xtr.errors import DataError

_LONGEST = 600  # characters of what a message quotes from a file


def bad(path: Path, where: str, problem: str) -> DataError:
    """Returns the DataError for one bad place in a file: 'FILE, WHERE: PROBLEM', long quotations shortened."""
    where, problem = (
        text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}"
        for text in (where, problem)
    )
    return DataError(f"{path}, {where}: {problem}")


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Makes a DataError of the operating system's refusal to read a file or a folder.

    Raises:
      DataError: naming it, with the system's reason.
    """
    try:
        yield
    except OSError as e:
        if e.filename is None:
            raise
        raise DataError(f"{e.filename}: it cannot be read ({e.strerror}).") from e


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yields (line number from 1, line without its '\n'). Lines end at '\n' alone: other line separators are text."""
    with open(path, "rb") as f:
        yield from decode_lines(path, f)


def decode_lines(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """`read_lines` of bytes that are not a file of their own, such as a member of an archive; errors name `path`."""
    for number, raw in enumerate(lines, 1):
        try:
            yield number, raw.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as e:
            raise bad(path, f"line {number}", f"not UTF-8 at byte {e.start} of the line.") from e


def read_tsv(path: Path, columns: tuple[str, ...], *, header: bool) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, fields) of a tab-separated file without quoting; every row must have all the columns."""
    for number, line in read_lines(path):
        fields = line.split("\t")
        if len(fields) != len(columns):
            expected = f"{len(columns)} tab-separated columns ({', '.join(columns)})"
            missing = f"; field '{columns[len(fields)]}' is missing" if len(fields) < len(columns) else ""
            raise bad(path, f"line {number}", f"expected {expected}, found {len(fields)}{missing}.")
        if header and number == 1:
            if tuple(fields) != columns:
                raise bad(path, "line 1", f"expected the header {columns}, found {tuple(fields)}.")
            continue
        yield number, fields


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    r"""Yields (line number, {column: field}) of a tab-separated file without quoting whose header names the columns.

    The header may name further ones, in any order. A row that ends early lacks the last columns. Where the header ends
    in '\r\n' that is the end of every line.
    """
    lines = read_lines(path)
    _, first = next(lines, (1, ""))
    end = "\r" if first.endswith("\r") else ""
    names = first.removesuffix(end).split("\t")
    _check_header(path, names, columns)
    for number, line in lines:
        fields = line.removesuffix(end).split("\t")
        if len(fields) > len(names):
            raise bad(path, f"line {number}", f"expected {len(names)} tab-separated columns, found {len(fields)}.")
        yield number, dict(zip(names, fields, strict=False))


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (number of its last line, {column: field}) of comma-separated values whose header names the columns.

    Quoted fields may hold line ends; empty lines between rows are none, as in Python's csv.DictReader.
    """
    reader = csv.reader(line + "\n" for _, line in read_lines(path))
    try:
        names = next(reader, [])
        _check_header(path, names, columns)
        for fields in reader:
            if len(fields) not in (0, len(names)):
                expected = f"expected {len(names)} comma-separated columns, found {len(fields)}."
                raise bad(path, f"line {reader.line_num}", expected)
            if fields:
                yield reader.line_num, dict(zip(names, fields, strict=True))
    except csv.Error as e:
        raise bad(path, f"line {reader.line_num}", f"not CSV ({e}).") from e


def _check_header(path: Path, names: list[str], columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in names]
    if missing or len(set(names)) < len(names):
        what = f"column '{missing[0]}' is missing" if missing else "a column is there twice"
        raise bad(path, "line 1", f"expected a header with {', '.join(columns)}; {what} in {', '.join(names)!r}.")


def unique(name: str, seen: Counter) -> str:
    """Returns a name, followed by '#2', '#3' ... where it was there before; `seen` counts the names of a split."""
    seen[name] += 1
    return name if seen[name] == 1 else unique(f"{name}#{seen[name]}", seen)


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file."""
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as e:
        raise bad(path, f"byte {e.start}", "not UTF-8.") from e
    except (ValueError, RecursionError) as e:
        raise _not_json(path, getattr(e, "lineno", 1), e) from e


def read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    """Yields (line number, object) of a file with one JSON object a line."""
    for number, line in read_lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise _not_json(path, number, e) from e
        if not isinstance(value, dict):
            raise bad(path, f"line {number}", f"expected a JSON object, found {type(value).__name__}.")
        yield number, value


def _not_json(path: Path, line: int, error: Exception) -> DataError:
    """Of what Python cannot read as JSON: bad syntax, numbers of thousands of digits, and values nested too deep."""
    why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return bad(path, f"line {line}", f"not JSON ({why}).")


def field(path: Path, where: str, record: Any, name: str, kind: type) -> Any:
    """Returns record[name], checked: it is there, of the kind, and (text) can be written as UTF-8."""
    if not isinstance(record, dict) or name not in record:
        raise bad(path, f"{where}, field '{name}'", "missing.")
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise bad(path, f"{where}, field '{name}'", f"expected {kind.__name__}, found {type(value).__name__}.")
    if kind is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as e:
            raise bad(path, f"{where}, field '{name}'", f"lone surrogate at character {e.start}.") from e
    return value
