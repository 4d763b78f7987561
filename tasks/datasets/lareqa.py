"""LAReQA: to find, among the sentences of all languages, those that answer a question (XQuAD-R); and pairs to train on.

Source of ids, right answers and texts: google-research/xtreme, third_party/utils_lareqa.py, evaluate_retrieval.py and
processors/lareqa.py.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..examples import Pair, Retrieval
from . import Dataset, Found, Sources, Split
from .files import bad, field
from .sentences import sentences
from .squad import paragraphs, spans

_FOLDER = "lareqa/xquad-r"


class _Question(NamedTuple):
    """A question of a paragraph, and the places of the sentences that answer it: none where no sentence does."""

    id: str
    text: str
    answers: tuple[int, ...]


class _Paragraph(NamedTuple):
    number: int
    context: str
    breaks: list[tuple[int, int]]
    questions: list[_Question]


def read_queries(files: tuple[Path, ...], tally: Counter) -> Iterator[Retrieval]:
    """Reads the questions of the first file, named `<question id>_<language>`; gold are candidates of all the others.

    A question belongs to the sentence that its answer begins in, and every sentence of the paragraph with the same
    text is right too. A question whose answer begins in no sentence is dropped.

    Args:
      files: the language's own `<language>.json`, and then those of all languages.
    """
    own, *others = files
    gold: dict[str, list[str]] = {}
    for path in others:
        for paragraph in _read(path):
            for question in paragraph.questions:
                names = gold.setdefault(question.id, [])
                names += [_candidate(path, paragraph, place) for place in question.answers]
    seen: set[str] = set()
    for paragraph in _read(own):
        for question in paragraph.questions:
            tally["rows"] += 1
            if question.id in seen:
                raise bad(own, f"question id {question.id!r}, field 'id'", "used twice in the file.")
            seen.add(question.id)
            if question.answers:
                yield Retrieval(f"{question.id}_{own.stem}", question.text, tuple(gold[question.id]))
            else:
                tally["dropped: answer begins in no sentence"] += 1


def read_candidates(files: tuple[Path, ...], tally: Counter) -> Iterator[Retrieval]:
    """Reads every sentence of every paragraph of the files, named `<language>_<paragraph from 1>_<sentence from 0>`.

    The text is the sentence and then its paragraph, without anything between them and without line ends. A paragraph
    without questions has no candidates.
    """
    for path in files:
        for paragraph in _read(path):
            for place, (start, end) in enumerate(paragraph.breaks):
                tally["rows"] += 1
                if any(question.answers for question in paragraph.questions):
                    text = _text(paragraph.context[start:end], paragraph.context)
                    yield Retrieval(_candidate(path, paragraph, place), text, ())
                else:
                    tally["dropped: paragraph without questions"] += 1


def read_pairs(files: tuple[Path, ...], tally: Counter) -> Iterator[Pair]:
    """Reads SQuAD v1.1 as pairs of a question and the sentence that its first answer begins in, before its paragraph.

    Sentences are those of `sentences`, which finds the sentence that XTREME trains with for 99.8 % of SQuAD's
    questions. A question whose answer begins in no sentence is dropped, as there; those few whose answer holds white
    space other than ASCII's are dropped there, and kept here. Pairs with one positive are one group.
    """
    for path in files:
        seen: set[str] = set()
        for place, paragraph, context in paragraphs(path):
            breaks = list(sentences(context))
            for q, record in enumerate(field(path, place, paragraph, "qas", list)):
                tally["rows"] += 1
                name = field(path, f"{place}.qas[{q}]", record, "id", str)
                where = f"question id {name!r}"
                if name in seen:
                    raise bad(path, f"{where}, field 'id'", "used twice in the file.")
                seen.add(name)
                answers = spans(path, where, context, record)
                if not answers:
                    raise bad(path, f"{where}, field 'answers'", "no answer; SQuAD v1.1 questions all have one.")
                question = field(path, where, record, "question", str)
                sentence = _sentence(breaks, answers[0].start)
                if sentence is None:
                    tally["dropped: answer begins in no sentence"] += 1
                    continue
                positive = _text(context[slice(*sentence)], context)
                yield Pair(name, question, positive, hashlib.sha256(positive.encode()).hexdigest()[:16])


def _read(path: Path) -> Iterator[_Paragraph]:
    for number, (place, paragraph, context) in enumerate(paragraphs(path), 1):
        breaks = _breaks(path, place, paragraph, context)
        questions = []
        for q, record in enumerate(field(path, place, paragraph, "qas", list)):
            name = field(path, f"{place}.qas[{q}]", record, "id", str)
            where = f"question id {name!r}"
            answers = spans(path, where, context, record)
            if len(answers) != 1:
                raise bad(path, f"{where}, field 'answers'", f"{len(answers)} answers; questions of XQuAD-R have one.")
            sentence = _sentence(breaks, answers[0].start)
            text = context[slice(*sentence)] if sentence else None
            places = tuple(i for i, (start, end) in enumerate(breaks) if context[start:end] == text)
            questions.append(_Question(name, field(path, where, record, "question", str), places))
        yield _Paragraph(number, context, breaks, questions)


def _breaks(path: Path, place: str, paragraph: Any, context: str) -> list[tuple[int, int]]:
    breaks = []
    for pair in field(path, place, paragraph, "sentence_breaks", list):
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(offset) is int for offset in pair)):
            raise bad(path, f"{place}, field 'sentence_breaks'", f"expected [start, end], found {pair!r}.")
        if not 0 <= pair[0] <= pair[1] <= len(context):
            problem = f"{pair} is not within the context of {len(context)} code points."
            raise bad(path, f"{place}, field 'sentence_breaks'", problem)
        breaks.append((pair[0], pair[1]))
    return breaks


def _sentence(breaks: list[tuple[int, int]], offset: int) -> tuple[int, int] | None:
    return next(((start, end) for start, end in breaks if start <= offset < end), None)


def _candidate(path: Path, paragraph: _Paragraph, place: int) -> str:
    return f"{path.stem}_{paragraph.number}_{place}"


def _text(sentence: str, context: str) -> str:
    return (sentence + context).replace("\n", "")


def find_lareqa(sources: Sources) -> Found:
    """Finds `lareqa.<language>` (split queries) and `lareqa.candidates` (split candidates: the sentences of every
    language), from lareqa/xquad-r/<language>.json. All languages' questions search all candidates."""
    found = sources.matching(r"(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)\.json", _FOLDER)
    looked_for = sources.no_file(f"{_FOLDER}/<language>.json")
    if not found:
        return Found(looked_for=looked_for)
    files = tuple(path for path, _ in found)
    datasets = [
        Dataset(
            f"lareqa.{m['language']}", m["language"], Retrieval,
            {"queries": Split((path, *files), read_queries)}, candidates="lareqa.candidates",
        )
        for path, m in found
    ]  # fmt: skip
    candidates = Dataset("lareqa.candidates", "mul", Retrieval, {"candidates": Split(files, read_candidates)})
    return Found((*datasets, candidates), looked_for=looked_for)


def find_lareqa_squad(sources: Sources) -> Found:
    """Finds `lareqa_squad`, what LAReQA is trained on: train and validation from squad/{train,dev}-v1.1.json."""
    names = {"train": "squad/train-v1.1.json", "validation": "squad/dev-v1.1.json"}
    splits = {split: Split((path,), read_pairs) for split, name in names.items() if (path := sources.file(name))}
    if "train" not in splits:
        return Found(absent={"lareqa_squad": sources.no_file(names["train"])})
    return Found((Dataset("lareqa_squad", "en", Pair, splits),))
