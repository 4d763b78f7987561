"""Extractive question answering in SQuAD's JSON: SQuAD v1.1 and v2.0, XQuAD, and what MLQA and TyDiQA-GoldP share."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..examples import Answer, SpanQA
from . import Dataset, Found, Sources, Split
from .files import bad, field, read_json, unique

_OF_LANGUAGE = re.compile("[a-z]+-")  # how ids begin in a file of many languages
_FIRST_ANSWER = re.compile(rb'"text"\s*:\s*"("?)')


def paragraphs(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yields (where it is, the paragraph's JSON, its context) of a file in SQuAD's JSON."""
    for a, article in enumerate(field(path, "top level", read_json(path), "data", list)):
        for p, paragraph in enumerate(field(path, f"data[{a}]", article, "paragraphs", list)):
            where = f"data[{a}].paragraphs[{p}]"
            yield where, paragraph, field(path, where, paragraph, "context", str)


def spans(path: Path, where: str, context: str, record: Any) -> tuple[Answer, ...]:
    """Returns the answers of a question's JSON, each the text of its span, offsets counted in code points.

    Raises:
      DataError: a span that is not its text, or an empty one.
    """
    answers = []
    for gold in field(path, where, record, "answers", list):
        text = field(path, where, gold, "text", str)
        start = field(path, where, gold, "answer_start", int)
        if not text:
            problem = "an empty answer; XTREME's preprocessed test files have their answers taken out."
            raise bad(path, f"{where}, field 'text'", problem)
        if start < 0 or context[start : start + len(text)] != text:
            found = context[max(start, 0) : max(start, 0) + len(text)]
            raise bad(
                path,
                f"{where}, field 'answer_start'",
                f"the answer {text!r} is not in the context at code point {start} (there is {found!r}).",
            )
        answers.append(Answer(text, start))
    return tuple(answers)


def read_squad(
    files: tuple[Path, ...],
    tally: Counter,
    *,
    beginning: str = "",
    repeated_ids: bool = False,
) -> Iterator[SpanQA]:
    """Reads SQuAD v1.1 JSON. Every question has answers, each of them the text of its span.

    Args:
      beginning: what the ids of the questions to read begin with; others are not counted either.
      repeated_ids: whether an id may come again; it is then followed by '#2', '#3' ...

    Raises:
      DataError: naming the file and the question, for a span that is not its text, no answer, or an id used twice.
    """
    return _read(files, tally, _answered, beginning, repeated_ids)


def read_squad_v2(files: tuple[Path, ...], tally: Counter) -> Iterator[SpanQA]:
    """Reads SQuAD v2.0 JSON: a question that `is_impossible` has no answers (its plausible ones are not read).

    Raises:
      DataError: as `read_squad`; also for an impossible question with answers, and a possible one without.
    """
    return _read(files, tally, _maybe_answered)


def _read(files, tally, answers_of, beginning="", repeated_ids=False) -> Iterator[SpanQA]:
    for path in files:
        seen: Counter = Counter()
        for place, paragraph, context in paragraphs(path):
            for q, record in enumerate(field(path, place, paragraph, "qas", list)):
                name = field(path, f"{place}.qas[{q}]", record, "id", str)
                if not name.startswith(beginning):
                    if not _OF_LANGUAGE.match(name):
                        raise bad(path, f"question id {name!r}, field 'id'", "no language's name and '-' before it.")
                    continue
                tally["rows"] += 1
                where = f"question id {name!r}"
                if name in seen:
                    if not repeated_ids:
                        raise bad(path, f"{where}, field 'id'", "used twice in the file.")
                    tally["noted: id used before"] += 1
                question = field(path, where, record, "question", str)
                answers = answers_of(path, where, context, record)
                if not answers:
                    tally["noted: unanswerable"] += 1
                yield SpanQA(unique(name, seen), context, question, answers, bool(answers))


def _answered(path: Path, where: str, context: str, record: Any) -> tuple[Answer, ...]:
    answers = spans(path, where, context, record)
    if not answers:
        raise bad(path, f"{where}, field 'answers'", "no answer; SQuAD v1.1 questions all have one.")
    return answers


def _maybe_answered(path: Path, where: str, context: str, record: Any) -> tuple[Answer, ...]:
    impossible = field(path, where, record, "is_impossible", bool)
    answers = spans(path, where, context, record)
    if impossible and answers:
        raise bad(path, f"{where}, field 'is_impossible'", f"true, but there is an answer ({answers[0].text!r}).")
    if not impossible and not answers:
        raise bad(path, f"{where}, field 'is_impossible'", "false, but there is no answer.")
    return answers


def answers_removed(path: Path) -> bool:
    """Whether the first answer of a file is the empty text, as XTREME's preprocessing leaves those of test sets."""
    with open(path, "rb") as f:
        first = _FIRST_ANSWER.search(f.read(2**20))
    return bool(first and first[1])


def why_removed(path: Path) -> str:
    """Says that a file has its answers removed, and what to do."""
    return f"{path} has its answers taken out (XTREME's preprocessing does so): lay the authors' own file there"


def find_squad(sources: Sources) -> Found:
    """Finds `squad_v1`: train and validation from squad/{train,dev}-v1.1.json."""
    return _find_squad(sources, "squad_v1", "1.1", read_squad)


def find_squad_v2(sources: Sources) -> Found:
    """Finds `squad_v2`: train and validation from squad/{train,dev}-v2.0.json."""
    return _find_squad(sources, "squad_v2", "2.0", read_squad_v2)


def _find_squad(sources: Sources, task: str, version: str, read) -> Found:
    names = {split: f"squad/{part}-v{version}.json" for split, part in (("train", "train"), ("validation", "dev"))}
    splits = {split: Split((path,), read) for split, name in names.items() if (path := sources.file(name))}
    if "train" not in splits:
        return Found(absent={task: sources.no_file(names["train"])})
    return Found((Dataset(task, "en", SpanQA, splits),))


def find_xquad(sources: Sources) -> Found:
    """Finds `xquad.<language>` (split test) from xquad/xquad.<language>.json."""
    datasets, absent = [], {}
    for path, m in sources.matching(r"xquad\.(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)\.json", "xquad"):
        name = f"xquad.{m['language']}"
        if answers_removed(path):
            absent[name] = why_removed(path)
        else:
            datasets.append(Dataset(name, m["language"], SpanQA, {"test": Split((path,), read_squad)}))
    return Found(tuple(datasets), absent, sources.no_file("xquad/xquad.<language>.json"))
