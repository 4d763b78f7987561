"""Multiple choice in English: HellaSwag, Cosmos QA, CommonsenseQA and Social IQa.

A prompt is a context and a question with a space between them, or the one of the two that there is; prompt and choices
are then the strings of jiant's tasks and of XTREME's run_xcopa.py. The labels of the test sets that are not splits here
are withheld.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..examples import MultipleChoice
from . import Dataset, Found, Sources, Split
from .files import DataError, bad, field, read_csv, read_jsonl, read_lines, unique

_COSMOS_CHOICES = ("answer0", "answer1", "answer2", "answer3")
_SIQA_CHOICES = ("answerA", "answerB", "answerC")


def read_hellaswag(files: tuple[Path, ...], tally: Counter) -> Iterator[MultipleChoice]:
    """Reads HellaSwag: `ctx_a` is the context, `ctx_b` + ' ' + an ending is a choice. Ids are row numbers from 0.

    As in jiant, a choice begins with a space where `ctx_b` is empty, as it is in all rows out of WikiHow. Where a row
    has no `ctx_a`, but `ctx` alone, all of that is the context and `ctx_b` counts as empty: the same strings for rows
    out of WikiHow, not for those out of ActivityNet, whose last, unfinished sentence is in `ctx` (counted).
    """
    for path in files:
        for index, (number, record) in enumerate(read_jsonl(path)):
            tally["rows"] += 1
            get = functools.partial(field, path, f"line {number}", record)
            if "ctx_a" in record:
                context, start = get("ctx_a", str), get("ctx_b", str)
            else:
                tally["noted: no ctx_a, the context is all of ctx"] += 1
                context, start = get("ctx", str), ""
            endings = dict(enumerate(get("endings", list)))
            where = f"line {number}, field 'endings'"
            choices = tuple(f"{start} {field(path, where, endings, i, str)}" for i in endings)
            label = get("label", int)
            if not 0 <= label < len(choices):
                raise bad(path, f"line {number}, field 'label'", f"{label} is none of the {len(choices)} endings.")
            yield MultipleChoice(str(index), context, "", choices, label)


def read_cosmosqa(files: tuple[Path, ...], tally: Counter) -> Iterator[MultipleChoice]:
    """Reads Cosmos QA's CSV. Every field is text (the answers "None" and "nan" too). Ids are the column `id`."""
    seen: Counter = Counter()
    for path in files:
        for number, record in read_csv(path, ("id", "context", "question", *_COSMOS_CHOICES, "label")):
            tally["rows"] += 1
            choices = tuple(record[name] for name in _COSMOS_CHOICES)
            label = _index(path, number, "label", record["label"], ("0", "1", "2", "3"))
            yield MultipleChoice(unique(record["id"], seen), record["context"], record["question"], choices, label)


def read_commonsenseqa(files: tuple[Path, ...], tally: Counter) -> Iterator[MultipleChoice]:
    """Reads CommonsenseQA: the stem is the question, the choices are in the order of their letters. Ids are `id`."""
    seen: Counter = Counter()
    for path in files:
        for number, record in read_jsonl(path):
            tally["rows"] += 1
            where = f"line {number}"
            question = field(path, where, record, "question", dict)
            choices: dict[str, str] = {}
            for i, choice in enumerate(field(path, f"{where}, question", question, "choices", list)):
                at = f"{where}, question.choices[{i}]"
                letter = field(path, at, choice, "label", str)
                if letter in choices:
                    raise bad(path, f"{at}, field 'label'", f"{letter!r} is there twice.")
                choices[letter] = field(path, at, choice, "text", str)
            letters = sorted(choices)
            yield MultipleChoice(
                unique(field(path, where, record, "id", str), seen),
                "",
                field(path, f"{where}, question", question, "stem", str),
                tuple(choices[letter] for letter in letters),
                _index(path, number, "answerKey", field(path, where, record, "answerKey", str), letters),
            )


def read_siqa(files: tuple[Path, ...], tally: Counter) -> Iterator[MultipleChoice]:
    """Reads Social IQa: rows and, line-aligned, their labels 1, 2, 3; or rows that have `correct`, a letter.

    Ids are row numbers from 0.

    Raises:
      DataError: also where the two files have different numbers of lines.
    """
    path, *aligned = files
    labels = [label for other in aligned for _, label in read_lines(other)]
    for index, (number, record) in enumerate(read_jsonl(path)):
        tally["rows"] += 1
        get = functools.partial(field, path, f"line {number}", record, kind=str)
        choices = tuple(get(name) for name in _SIQA_CHOICES)
        if not aligned:
            label = _index(path, number, "correct", get("correct"), ("A", "B", "C"))
        elif index < len(labels):
            label = _index(aligned[0], number, "label", labels[index], ("1", "2", "3"))
        else:
            continue
        yield MultipleChoice(str(index), get("context"), get("question"), choices, label)
    if aligned and len(labels) != tally["rows"]:
        raise DataError(
            f"{path} has {tally['rows']} lines, {aligned[0]} has {len(labels)}: they must be aligned line by line."
        )


def _index(path: Path, number: int, name: str, value: str, values: Any) -> int:
    if value not in values:
        raise bad(path, f"line {number}, field '{name}'", f"{value!r} is none of {', '.join(values)}.")
    return values.index(value)


def _find(sources: Sources, name: str, read: Callable, train: tuple[str, ...], validation: tuple[str, ...]) -> Found:
    """Finds a data set of one training and one validation file, each under one of some names."""
    splits = {
        split: Split((path,), read)
        for split, names in {"train": train, "validation": validation}.items()
        if (path := sources.file(*names))
    }
    if "train" not in splits:
        return Found(absent={name: sources.no_file(*train)})
    return Found((Dataset(name, "en", MultipleChoice, splits),))


def find_hellaswag(sources: Sources) -> Found:
    """Finds `hellaswag`: hellaswag_{train,val}.jsonl in hellaswag/ or the repository's hellaswag/data/."""
    names = ("hellaswag/hellaswag_{}.jsonl", "hellaswag/data/hellaswag_{}.jsonl")
    train, validation = (tuple(name.format(part) for name in names) for part in ("train", "val"))
    return _find(sources, "hellaswag", read_hellaswag, train, validation)


def find_cosmosqa(sources: Sources) -> Found:
    """Finds `cosmosqa`: {train,valid}.csv in cosmosqa/ or the repository's cosmosqa/data/."""
    names = ("cosmosqa/{}.csv", "cosmosqa/data/{}.csv")
    train, validation = (tuple(name.format(part) for name in names) for part in ("train", "valid"))
    return _find(sources, "cosmosqa", read_cosmosqa, train, validation)


def find_commonsenseqa(sources: Sources) -> Found:
    """Finds `commonsenseqa`: commonsenseqa/{train,dev}_rand_split.jsonl, the random split."""
    train, validation = (f"commonsenseqa/{part}_rand_split.jsonl" for part in ("train", "dev"))
    return _find(sources, "commonsenseqa", read_commonsenseqa, (train,), (validation,))


def find_siqa(sources: Sources) -> Found:
    """Finds `siqa`: socialiqa-train-dev/{train,dev}.jsonl, each with its -labels.lst.

    XTREME's siqa/socialIQa_v1.4_{trn,dev,tst}.jsonl, which hold the labels, give a test split besides.
    """
    folders = ("socialiqa-train-dev", "socialiqa/socialiqa-train-dev")
    splits = {}
    for split, part, v14 in (("train", "train", "trn"), ("validation", "dev", "dev"), ("test", "", "tst")):
        rows = part and sources.file(*(f"{folder}/{part}.jsonl" for folder in folders))
        if rows and (labels := sources.file(*(f"{folder}/{part}-labels.lst" for folder in folders))):
            splits[split] = Split((rows, labels), read_siqa)
        elif path := sources.file(f"siqa/socialIQa_v1.4_{v14}.jsonl"):
            splits[split] = Split((path,), read_siqa)
    if "train" not in splits:
        looked = (f"{folder}/train{end}" for folder in folders for end in (".jsonl", "-labels.lst"))
        return Found(absent={"siqa": sources.no_file(*looked, "siqa/socialIQa_v1.4_trn.jsonl")})
    return Found((Dataset("siqa", "en", MultipleChoice, splits),))
