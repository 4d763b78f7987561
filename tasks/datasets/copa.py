"""COPA (in SuperGLUE's files and its own) and XCOPA: which of two alternatives is the cause or the effect of a premise.

The question is XTREME's, 'What was the cause?' or 'What was the effect?', in English for every language.
"""

import functools
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..examples import MultipleChoice
from . import Dataset, Found, Sources, Split
from .files import DataError, bad, field, read_jsonl

_QUESTIONS = ("cause", "effect")
_JSONL = ("copa/{}.jsonl", "COPA/{}.jsonl", "xcopa/{}-en.jsonl")
_XML = ("copa/copa-{}.xml", "COPA-resources/datasets/copa-{}.xml", "copa/COPA-resources/datasets/copa-{}.xml")
# SuperGLUE's training and validation sets are the first 400 and the last 100 items of COPA's development set.
_ITEMS = {"train": (1, 400), "validation": (401, 500)}
_PARTS = {"train": "train", "validation": "val"}
_XCOPA = {"validation": "val", "test": "test"}
_LANGUAGE = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"


class _Row(NamedTuple):
    where: str
    idx: int
    premise: str
    choices: tuple[str, str]
    question: str
    label: int

    def example(self) -> MultipleChoice:
        return MultipleChoice(str(self.idx), self.premise, asked(self.question), self.choices, self.label)


def asked(question: str) -> str:
    """Returns the whole question of 'cause' or 'effect'."""
    return f"What was the {question}?"


def read_copa(files: tuple[Path, ...], tally: Counter) -> Iterator[MultipleChoice]:
    """Reads COPA's JSON lines: premise, choice1, choice2, question, label, idx. Ids are `idx`."""
    for path in files:
        for row in _jsonl_rows(path):
            tally["rows"] += 1
            yield row.example()


def read_copa_xml(
    files: tuple[Path, ...], tally: Counter, *, items: tuple[int, int] | None = None
) -> Iterator[MultipleChoice]:
    """Reads COPA's own XML. Ids are the places of the items read, from 0: SuperGLUE's and XCOPA's `idx`.

    Args:
      files: the XML and, maybe, SuperGLUE's JSON lines of the same items, whose labels are not used.
      items: ids of the first and the last item to read; None for all.

    Raises:
      DataError: also where the two files do not have the same texts and questions.
    """
    path, *same = files
    rows = list(_xml_rows(path, items))
    if same:
        others = list(_jsonl_rows(same[0], labelled=False))
        for row, other in zip(rows, others, strict=False):
            if (row.premise, row.choices, row.question) != (other.premise, other.choices, other.question):
                raise bad(same[0], other.where, f"it is not what {path} has there ({row.where}).")
        if len(rows) != len(others):
            raise DataError(f"{path} has {len(rows)} items, {same[0]} has {len(others)} lines: they must be the same.")
    for row in rows:
        tally["rows"] += 1
        yield row.example()


def read_xcopa(files: tuple[Path, ...], tally: Counter, *, copa: Split | None = None) -> Iterator[MultipleChoice]:
    """Reads XCOPA's JSON lines. Ids are `idx`: rows of one `idx` are translations of each other, and of COPA's.

    The question is kept as it is published, right or wrong, since all published results are of it: in Thai it is
    'effect' in every row, and so it is in Turkish validation; Turkish test, Swahili, Indonesian and Italian have some
    wrong ones. Rows whose question is not COPA's are counted or, without COPA, those that ask for something else than
    most languages do.

    Args:
      files: the file to read and, without `copa`, the same split in other languages; with it, `copa.files`.
      copa: the English original.
    """
    path, *others = files
    votes: dict[str, Counter] = {}
    if copa:
        original = {example.id: example.question for example in copa.read(copa.files, Counter())}
    else:
        for other in others:
            for row in _jsonl_rows(other):
                example = row.example()
                votes.setdefault(example.id, Counter())[example.question] += 1
        original = {idx: question for idx, found in votes.items() if (question := _majority(found))}
    where = "COPA's" if copa else "that of most languages"
    for row in _jsonl_rows(path):
        tally["rows"] += 1
        example = row.example()
        if original.get(example.id, example.question) != example.question:
            tally[f"noted: the question is not {where} (kept as published)"] += 1
        yield example


def _majority(votes: Counter) -> str:
    """What more than half of the votes are for; '' if nothing is."""
    question, number = votes.most_common(1)[0]
    return question if 2 * number > votes.total() else ""


def _jsonl_rows(path: Path, *, labelled: bool = True) -> Iterator[_Row]:
    seen = set()
    for number, record in read_jsonl(path):
        where = f"line {number}"
        get = functools.partial(field, path, where, record)
        idx, question, label = get("idx", int), get("question", str), get("label", int) if labelled else 0
        if idx in seen:
            raise bad(path, f"{where}, field 'idx'", f"{idx} is used twice in the file.")
        if question not in _QUESTIONS:
            raise bad(path, f"{where}, field 'question'", f"{question!r} is none of {', '.join(_QUESTIONS)}.")
        if label not in (0, 1):
            raise bad(path, f"{where}, field 'label'", f"{label} is neither 0 nor 1.")
        seen.add(idx)
        yield _Row(where, idx, get("premise", str), (get("choice1", str), get("choice2", str)), question, label)


def _xml_rows(path: Path, items: tuple[int, int] | None) -> Iterator[_Row]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as e:
        raise bad(path, f"line {e.position[0]}", f"not XML ({e}).") from e
    place = 0
    for item in root.iter("item"):
        number = item.get("id", "")
        where = f"item {number!r}"
        if not number.isdecimal():
            raise bad(path, f"{where}, attribute 'id'", "not a number.")
        if items and not items[0] <= int(number) <= items[1]:
            continue
        question = _one_of(path, where, item, "asks-for", _QUESTIONS)
        label = ("1", "2").index(_one_of(path, where, item, "most-plausible-alternative", ("1", "2")))
        premise, *choices = (item.findtext(name) for name in ("p", "a1", "a2"))
        if premise is None or None in choices:
            raise bad(path, where, "an element of p, a1, a2 is missing.")
        yield _Row(where, place, premise, tuple(choices), question, label)
        place += 1


def _one_of(path: Path, where: str, item: ElementTree.Element, name: str, values: tuple[str, ...]) -> str:
    value = item.get(name, "")
    if value not in values:
        raise bad(path, f"{where}, attribute '{name}'", f"{value!r} is none of {', '.join(values)}.")
    return value


def _copa_splits(sources: Sources) -> dict[str, Split]:
    splits = {}
    for split, part in _PARTS.items():
        if path := sources.file(*(name.format(part) for name in _JSONL)):
            splits[split] = Split((path,), read_copa)
        elif path := sources.file(*(name.format("dev") for name in _XML)):
            splits[split] = Split((path,), functools.partial(read_copa_xml, items=_ITEMS[split]))
    if path := sources.file(*(name.format("test") for name in _XML)):
        same = sources.file(*(name.format("test") for name in _JSONL))
        splits["test"] = Split((path, same) if same else (path,), read_copa_xml)
    return splits


def find_copa(sources: Sources) -> Found:
    """Finds `copa`: train and validation from SuperGLUE's {train,val}.jsonl or COPA's own copa-dev.xml, test from
    copa-test.xml alone: SuperGLUE's test.jsonl has no labels, or all 0, and only its texts are compared."""
    splits = _copa_splits(sources)
    if "train" not in splits:
        looked = (*(name.format("train") for name in _JSONL), *(name.format("dev") for name in _XML))
        return Found(absent={"copa": sources.no_file(*looked)})
    return Found((Dataset("copa", "en", MultipleChoice, splits),))


def find_xcopa(sources: Sources) -> Found:
    """Finds `xcopa.<language>`: validation and test, {val,test}.<language>.jsonl in xcopa/<language>/ or the
    repository's xcopa/data/<language>/, or XTREME's xcopa/{val,test}-<language>.jsonl.

    XCOPA has no English: that is COPA, which the questions of a split are compared with where it is there.
    """
    files: dict[str, dict[str, Path]] = {split: {} for split in _XCOPA}
    for folder in ("xcopa", "xcopa/data"):
        for language in (path.name for path in sources.folders(folder)):
            for split, part in _XCOPA.items():
                if path := sources.file(f"{folder}/{language}/{part}.{language}.jsonl"):
                    files[split].setdefault(language, path)
    for split, part in _XCOPA.items():
        for path, match in sources.matching(rf"{part}-({_LANGUAGE})\.jsonl", "xcopa"):
            if match[1] != "en":
                files[split].setdefault(match[1], path)
    originals = _copa_splits(sources)
    datasets = []
    for language in sorted({language for found in files.values() for language in found}):
        splits = {}
        for split, found in files.items():
            if language in found:
                copa = originals.get(split)
                others = copa.files if copa else tuple(found[other] for other in sorted(found) if other != language)
                splits[split] = Split((found[language], *others), functools.partial(read_xcopa, copa=copa))
        datasets.append(Dataset(f"xcopa.{language}", language, MultipleChoice, splits))
    return Found(tuple(datasets), looked_for=sources.no_file("xcopa/<language>/test.<language>.jsonl"))
