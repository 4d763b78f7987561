"""Reading official files without changing a byte of their text, and naming file, line and field when one is bad."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xtr.errors import DataError


def bad(path: Path, where: str, problem: str) -> DataError:
    """Returns the DataError for one bad place in a file: 'FILE, WHERE: PROBLEM'."""
    return DataError(f"{path}, {where}: {problem}")


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


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file."""
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as e:
        raise bad(path, f"byte {e.start}", "not UTF-8.") from e
    except json.JSONDecodeError as e:
        raise bad(path, f"line {e.lineno}", f"not JSON ({e.msg} at column {e.colno}).") from e


def read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    """Yields (line number, object) of a file with one JSON object a line."""
    for number, line in read_lines(path):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as e:
            raise bad(path, f"line {number}", f"not JSON ({e.msg} at column {e.colno}).") from e
        if not isinstance(value, dict):
            raise bad(path, f"line {number}", f"expected a JSON object, found {type(value).__name__}.")
        yield number, value


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
