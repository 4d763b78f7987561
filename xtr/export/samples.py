"""A few predictions of every language: the same examples of every system and in every export."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from xtr.evaluate.results import sample_order

_LONGEST = 300  # characters of a cell


@dataclass(frozen=True)
class Samples:
    """Examples of one model, target and language, answered by each of its systems.

    Attributes:
      header: id, input where it is known, gold, and the systems.
      lines: an example each.
    """

    model: str
    target: str
    language: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def samples(rows: pd.DataFrame, read: Callable[[Mapping], Sequence[Mapping] | None], count: int) -> Iterator[Samples]:
    """Chooses examples of what has predictions.

    Args:
      rows: from `summary.final`.
      read: the records behind a row; None where there are none.
      count: examples a language.
    """
    for (model, target, language), own in rows.groupby(["model", "target", "language"], sort=False):
        found: dict[str, Mapping[str, Mapping]] = {}
        for system, of_one in own.groupby("system", sort=False):
            records = read(of_one[of_one["seed"] == of_one["seed"].min()].iloc[-1].to_dict())
            if records:
                found[" · ".join(system.names[1:])] = {str(record["id"]): record for record in records}
        if not found:
            continue
        ids = sorted(next(iter(found.values())), key=sample_order)[:count]
        lines, inputs = [], []
        for i in ids:
            there = [records[i] for records in found.values() if i in records]
            inputs.append(next((record["input"] for record in there if "input" in record), ""))
            answers = [_text(records[i], "prediction") if i in records else "–" for records in found.values()]
            lines.append([i, _text(there[0], "gold"), *answers])
        header = ["id", "gold", *found]
        if any(inputs):
            header.insert(1, "input")
            lines = [[line[0], _cut(text), *line[1:]] for line, text in zip(lines, inputs, strict=True)]
        yield Samples(model, target, language, tuple(header), tuple(map(tuple, lines)))


def _text(record: Mapping, field: str) -> str:
    """A prediction or a gold: tags of words side by side, several right answers or a ranking with bars between."""
    value, other = record.get(field), record.get("gold" if field == "prediction" else "prediction")
    if not isinstance(value, list):
        return _cut(str(value))
    if isinstance(other, list) and len(other) == len(value):
        return _cut(" ".join(map(str, value)))
    return _cut(" | ".join(map(str, value[:5])) + " | …" * (len(value) > 5))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
