"""Extractive question answering in SQuAD v1.1's JSON: SQuAD itself and XQuAD."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Answer, SpanQA
from . import Dataset, Found, Sources, Split
from .files import bad, field, read_json


def read_squad(files: tuple[Path, ...], tally: Counter) -> Iterator[SpanQA]:
    """Reads SQuAD v1.1 JSON. Every answer must be the text of its span, offsets counted in code points.

    Raises:
      DataError: naming the file and the question, for a span that is not its text, no answer, or an id used twice.
    """
    for path in files:
        seen: set[str] = set()
        for a, article in enumerate(field(path, "top level", read_json(path), "data", list)):
            for p, paragraph in enumerate(field(path, f"data[{a}]", article, "paragraphs", list)):
                where = f"data[{a}].paragraphs[{p}]"
                context = field(path, where, paragraph, "context", str)
                for q, record in enumerate(field(path, where, paragraph, "qas", list)):
                    tally["rows"] += 1
                    example = _question(path, f"{where}.qas[{q}]", context, record)
                    if example.id in seen:
                        raise bad(path, f"question id {example.id!r}, field 'id'", "used twice in the file.")
                    seen.add(example.id)
                    yield example


def _question(path: Path, where: str, context: str, record: dict) -> SpanQA:
    name = field(path, where, record, "id", str)
    where = f"question id {name!r}"
    answers = []
    for gold in field(path, where, record, "answers", list):
        text = field(path, where, gold, "text", str)
        start = field(path, where, gold, "answer_start", int)
        if start < 0 or context[start : start + len(text)] != text:
            found = context[max(start, 0) : max(start, 0) + len(text)]
            raise bad(
                path,
                f"{where}, field 'answer_start'",
                f"the answer {text!r} is not in the context at code point {start} (there is {found!r}).",
            )
        answers.append(Answer(text, start))
    if not answers:
        raise bad(path, f"{where}, field 'answers'", "no answer; SQuAD v1.1 questions all have one.")
    return SpanQA(name, context, field(path, where, record, "question", str), tuple(answers), True)


def find_squad(sources: Sources) -> Found:
    """Finds `squad_v1`: train and validation from squad/{train,dev}-v1.1.json."""
    names = {split: f"squad/{part}-v1.1.json" for split, part in (("train", "train"), ("validation", "dev"))}
    splits = {split: Split((path,), read_squad) for split, name in names.items() if (path := sources.file(name))}
    if "train" not in splits:
        return Found(absent={"squad_v1": sources.no_file(names["train"])})
    return Found((Dataset("squad_v1", "en", SpanQA, splits),))


def find_xquad(sources: Sources) -> Found:
    """Finds `xquad.<language>` (split test) from xquad/xquad.<language>.json."""
    found = sources.matching(r"xquad\.(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)\.json", "xquad")
    return Found(
        tuple(
            Dataset(f"xquad.{m['language']}", m["language"], SpanQA, {"test": Split((path,), read_squad)})
            for path, m in found
        ),
        looked_for=sources.no_file("xquad/xquad.<language>.json"),
    )
