"""Predictions in the layout of XTREME's and XTREME-R's submissions, which google-research/xtreme's evaluate.py reads.

    <output>/<xtreme | xtreme-r>/predictions/<task>/test-<language>.<tsv | json | jsonl>

The official script stops at the first task that lacks a language, so that a task is written whole or not at all.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtr import rundir
from xtr.errors import DataError, UserError
from xtr.evaluate.metrics.benchmark import XTREME, XTREME_R, Benchmark
from xtr.evaluate.results import Place
from xtr.export import summary
from xtr.export.source import Results, place_of

# As evaluate.py's --xtreme_version calls them.
VERSIONS: Mapping[str, Benchmark] = {"xtreme": XTREME, "xtreme-r": XTREME_R}
# The official names of labels, in the order of a task's choices.
_LABELS = {"xnli": ("entailment", "neutral", "contradiction"), "pawsx": ("0", "1")}
_UNREAD = "the official script has no reader for it, and stops where there is a folder of it"

# (language, how many queries) -> query numbers in the official order.
Order = Callable[[str, int], Sequence[int] | None]


@dataclass(frozen=True)
class Submission:
    """What was written.

    Attributes:
      files: all files, in order.
      left_out: '<version>, <system>: <task>' -> why there are no files of it.
      notes: what must be known of the files before they are submitted.
    """

    files: tuple[Path, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]


def write(
    results: Results,
    output: str | os.PathLike,
    versions: Sequence[str] = tuple(VERSIONS),
    tatoeba_order: Order = lambda language, count: None,
) -> Submission:
    """Writes the last predictions of every system; of several systems or seeds each has a folder of its own below
    `output`.

    Args:
      output: files of an earlier export are replaced.
      versions: 'xtreme', 'xtreme-r'.
      tatoeba_order: gives the official order of Tatoeba's English queries: XTREME sorts them by their text. Where it
        gives none, they stay in the order in which LASER publishes them, and a note says so.

    Raises:
      UserError: nothing can be written.
      DataError: a prediction is not of its task's form.
    """
    rows = summary.final(summary.with_systems(results.rows))
    files: list[Path] = []
    left_out: dict[str, str] = {}
    unordered: dict[str, None] = {}
    submissions = list(rows.groupby(["system", "seed"], sort=False))
    for (system, seed), own in submissions:
        folder, name = Path(output), str(system)
        if len(submissions) > 1:
            folder, name = folder.joinpath(*system.names, f"seed{seed}"), f"{system} · seed {seed}"
        for version in versions:
            texts, why = _files(results, own, version, tatoeba_order, unordered)
            left_out |= {f"{version}, {name}: {task}": reason for task, reason in why.items()}
            base = folder / version / "predictions"
            for old in (path for task in VERSIONS[version].tasks for path in base.glob(f"{task}/test-*")):
                old.unlink()
            for path, text in texts.items():
                files.append(base / path)
                rundir.write_atomic(files[-1], text)
    if not files:
        some = [task for task in dict.fromkeys(rows["target"]) if task in _WRITERS]
        there = f"There are results of {', '.join(some)}, but not" if some else "There are none"
        raise UserError(
            f"no task of {' or '.join(versions)} is complete, and the official script reads no part of one. {there} "
            "with predictions in all languages."
        )
    notes = ()
    if unordered:
        notes = (
            f"tatoeba ({', '.join(unordered)}): one line an English sentence in LASER's order, not in that of XTREME's "
            "files, which are sorted: give --data_dir with LASER's tatoeba/v1.",
        )
    return Submission(tuple(files), left_out, notes)


def _files(results: Results, rows, version: str, tatoeba_order: Order, unordered: dict) -> tuple[dict, dict]:
    """Path below predictions/ -> text, of one system and seed; and task -> why it is left out."""
    texts, left_out = {}, {}
    languages = summary.LANGUAGES[VERSIONS[version].name]
    for task in VERSIONS[version].tasks:
        if task not in _WRITERS:
            left_out[task] = _UNREAD
            continue
        own = rows[rows["target"] == task]
        places = {row["language"]: row for row in own.to_dict("records")}
        due = languages[task].split()
        if not places:
            left_out[task] = "no results"
        elif set(own["split"]) & {"validation", "dev"}:
            left_out[task] = "only the development set was evaluated"
        elif lacking := [language for language in due if language not in places]:
            left_out[task] = f"no results in {', '.join(lacking)}"
        else:
            suffix, form = _WRITERS[task]
            of_task = {}
            for language in due:
                place = place_of(places[language])
                records = results.predictions(int(places[language]["directory"]), place)
                if records is None:
                    left_out.setdefault(task, f"no predictions file in {language}")
                    continue
                if task == "tatoeba":
                    order = tatoeba_order(language, len(records))
                    if order is None:
                        unordered[language] = None
                    else:
                        records = _ordered(records, order, place)
                of_task[f"{task}/test-{language}.{suffix}"] = form(records, place)
            texts |= {} if task in left_out else of_task
    return texts, left_out


def _ordered(records: Sequence[Mapping], order: Sequence[int], place: Place) -> list[Mapping]:
    by_id = {str(record["id"]): record for record in records}
    if sorted(by_id) != sorted(map(str, order)):
        raise _bad(place, "id", f"{len(by_id)} queries, but the English file has {len(order)} lines")
    return [by_id[str(number)] for number in order]


def _bad(place: Place, field: str, what: str) -> DataError:
    return DataError(f"predictions of {place.target}.{place.language}.{place.split}, field {field!r}: {what}.")


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _word(value: object, place: Place, record: Mapping, field: str = "prediction") -> str:
    """A value that stands in a line of its own: the official script strips lines, and ends tags at empty ones."""
    text = str(value)
    if not text or text != text.strip() or len(text.split()) > 1:
        raise _bad(place, field, f"{value!r} of example {record['id']!r} cannot stand in a line of a tsv file")
    return text


def _choice(record: Mapping, place: Place) -> int:
    """The number of the predicted choice."""
    choices, scores = record.get("choices"), record.get("scores", ())
    if choices:
        if len(scores) == len(choices):
            return int(np.argmax(scores))
        if record["prediction"] in choices:
            return choices.index(record["prediction"])
    names = _LABELS.get(place.target, ())
    if record["prediction"] in names:
        return names.index(record["prediction"])
    if str(record["prediction"]).isdecimal() and int(record["prediction"]) < max(2, len(names)):
        return int(record["prediction"])
    raise _bad(place, "prediction", f"{record['prediction']!r} of example {record['id']!r} is none of the choices")


def _labels(records: Sequence[Mapping], place: Place) -> str:
    names = _LABELS[place.target]
    numbers = [_choice(record, place) for record in records]
    if numbers and max(numbers) >= len(names):
        raise _bad(place, "choices", f"more than {len(names)}")
    return _lines([names[number] for number in numbers])


def _choices(records: Sequence[Mapping], place: Place) -> str:
    return _lines([json.dumps({"label": _choice(record, place)}) for record in records])


def _tags(records: Sequence[Mapping], place: Place) -> str:
    """One tag a line, an empty line between sentences."""
    return "\n".join(_lines([_word(tag, place, record) for tag in record["prediction"]]) for record in records)


def _answers(records: Sequence[Mapping], place: Place) -> str:
    for record in records:
        if not isinstance(record["prediction"], str):
            raise _bad(place, "prediction", f"{record['prediction']!r} of example {record['id']!r} is no text")
    return json.dumps({str(record["id"]): record["prediction"] for record in records}) + "\n"


def _found(record: Mapping) -> list:
    """What was retrieved, best first."""
    value = record["prediction"]
    return list(value) if isinstance(value, list) else [] if value in (None, "") else [value]


def _nearest(records: Sequence[Mapping], place: Place) -> str:
    """One number of a foreign sentence a line."""
    if empty := [record["id"] for record in records if not _found(record)]:
        raise _bad(place, "prediction", f"example {empty[0]!r} has none")
    return _lines([_word(_found(record)[0], place, record) for record in records])


def _pairs(records: Sequence[Mapping], place: Place) -> str:
    """Foreign and English id of every mined pair."""
    return _lines(
        [
            f"{_word(record['id'], place, record, 'id')}\t{_word(found, place, record)}"
            for record in records
            for found in _found(record)
        ]
    )


def _ranked(records: Sequence[Mapping], place: Place) -> str:
    """The best 20 of each query; the official script counts a query without any as wrong."""
    ranked = {str(record["id"]): list(map(str, _found(record)[:20])) for record in records if _found(record)}
    return json.dumps(ranked) + "\n"


_WRITERS: Mapping[str, tuple[str, Callable[[Sequence[Mapping], Place], str]]] = {
    "xnli": ("tsv", _labels),
    "pawsx": ("tsv", _labels),
    "xcopa": ("jsonl", _choices),
    "udpos": ("tsv", _tags),
    "panx": ("tsv", _tags),
    "xquad": ("json", _answers),
    "mlqa": ("json", _answers),
    "tydiqa": ("json", _answers),
    "tatoeba": ("tsv", _nearest),
    "bucc2018": ("tsv", _pairs),
    "mewslix": ("json", _ranked),
}
