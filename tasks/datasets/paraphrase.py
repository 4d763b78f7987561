"""Paraphrase: Quora question pairs in GLUE's form, and PAWS-X."""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Classification
from . import Dataset, Found, Sources, Split, task_name
from .files import bad, field, read_lines, read_table, read_tsv, unique

# As T5 and multilingual-t5 name the labels 0 and 1.
QQP_LABELS = ("not_duplicate", "duplicate")
PAWSX_LABELS = ("different_meaning", "paraphrase")
_LABEL_IDS = {"0": 0, "1": 1}
_QQP_COLUMNS = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
_QQP = ("QQP/{}.tsv", "glue/QQP/{}.tsv", "glue_data/QQP/{}.tsv")
_PAWSX_COLUMNS = ("sentence1", "sentence2", "label")
_X_FINAL = ("x-final", "pawsx/x-final")
# PAWS-X's own names of the files; English's training set is no translation.
_X_FINAL_FILES = {
    "train": ("train.tsv", "translated_train.tsv"),
    "validation": ("dev_2k.tsv",),
    "test": ("test_2k.tsv",),
}
_LANGUAGE = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
# What stands where no translation was made.
_UNTRANSLATED = "NS"
_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')


def read_qqp(files: tuple[Path, ...], tally: Counter) -> Iterator[Classification]:
    """Reads GLUE's QQP: a table with a header, without quoting (quotation marks are text). Ids are the column `id`.

    Some rows of the official files are broken in two, so that columns are missing: GLUE's readers leave these out
    (TFDS's, by which T5 trains, drops a row with a value missing), and so does this, counted.
    """
    seen: Counter = Counter()
    for path in files:
        for number, record in read_table(path, _QQP_COLUMNS):
            tally["rows"] += 1
            if not record.get("is_duplicate"):
                tally["dropped: columns are missing"] += 1
                continue
            label = _label(path, number, record["is_duplicate"], "is_duplicate")
            texts = [field(path, f"line {number}", record, name, str) for name in ("question1", "question2")]
            if "" in texts:
                tally["noted: empty question"] += 1
            yield Classification(unique(record["id"], seen), *texts, label, QQP_LABELS)


def read_pawsx(files: tuple[Path, ...], tally: Counter, *, header: bool) -> Iterator[Classification]:
    """Reads PAWS-X: id, sentence1, sentence2, label below a header or, as XTREME has it, the last three without one.

    Kept as they are, and counted:
      - 'NS' in the place of a sentence that nobody translated, and sentences that machine translation left empty.
        XTREME scores these rows and multilingual-t5 trains on them; the authors' advice is to clean them up.
      - sentences in CSV's quotes (`"a ""b"" c"`). The official files have no quoting, so that reading them as CSV loses
        rows (TFDS, and with it multilingual-t5, has 1,961 of the 2,000 Spanish ones), but in XTREME's form they may
        have been written as CSV, and XTREME does not take the quotes off again.

    Ids are the column `id`, or row numbers from 0 where there is none. A row of the official form whose label is
    neither 0 nor 1 is dropped, counted, as TFDS drops it.
    """
    seen: Counter = Counter()
    for path in files:
        for index, (number, record) in enumerate(_pawsx_rows(path, header)):
            tally["rows"] += 1
            if header and record.get("label") not in _LABEL_IDS:
                tally["dropped: the label is neither 0 nor 1"] += 1
                continue
            label = _label(path, number, record["label"], "label")
            texts = (record["sentence1"], record["sentence2"])
            if _UNTRANSLATED in texts:
                tally["noted: sentence not translated (NS)"] += 1
            if "" in texts:
                tally["noted: empty sentence"] += 1
            if any(_QUOTED.fullmatch(text) for text in texts):
                tally["noted: sentence in CSV's quotes"] += 1
            yield Classification(unique(record.get("id", str(index)), seen), *texts, label, PAWSX_LABELS)


def _pawsx_rows(path: Path, header: bool) -> Iterator[tuple[int, dict[str, str]]]:
    if header:
        return read_table(path, ("id", *_PAWSX_COLUMNS))
    rows = read_tsv(path, _PAWSX_COLUMNS, header=False)
    return ((number, dict(zip(_PAWSX_COLUMNS, fields, strict=True))) for number, fields in rows)


def _label(path: Path, number: int, label: str, name: str) -> int:
    if label not in _LABEL_IDS:
        raise bad(path, f"line {number}, field '{name}'", f"{label!r} is neither 0 nor 1.")
    return _LABEL_IDS[label]


_read_x_final = functools.partial(read_pawsx, header=True)
_read_xtreme = functools.partial(read_pawsx, header=False)


def find_qqp(sources: Sources) -> Found:
    """Finds `qqp`: train and validation from GLUE's QQP/{train,dev}.tsv. Its test labels are withheld: no split."""
    splits = {
        split: Split((path,), read_qqp)
        for split, part in (("train", "train"), ("validation", "dev"))
        if (path := sources.file(*(name.format(part) for name in _QQP)))
    }
    if "train" not in splits:
        return Found(absent={"qqp": sources.no_file(*(name.format("train") for name in _QQP))})
    return Found((Dataset("qqp", "en", Classification, splits),))


def find_pawsx(sources: Sources) -> Found:
    """Finds `pawsx.<language>`: train, validation and test.

    They are the official x-final/<language>/{train or translated_train,dev_2k,test_2k}.tsv or, where a split of a
    language is not there in that form, XTREME's pawsx/{train,dev,test}-<language>.tsv. A test file of XTREME's without
    labels, as XTREME itself gives it out, is no split.
    """
    splits: dict[str, dict[str, Split]] = {}
    for language, split, path in _x_final(sources):
        splits.setdefault(language, {}).setdefault(split, Split((path,), _read_x_final))
    unlabelled = {}
    names = {"train": "train", "dev": "validation", "test": "test"}
    for path, match in sources.matching(rf"({'|'.join(names)})-({_LANGUAGE})\.tsv", "pawsx"):
        split, language = names[match[1]], match[2]
        if split == "test" and next((line.count("\t") == 1 for _, line in read_lines(path)), False):
            unlabelled[task_name(f"pawsx.{language}")] = f"{path} has no labels"
        else:
            splits.setdefault(language, {}).setdefault(split, Split((path,), _read_xtreme))
    datasets = tuple(
        Dataset(
            f"pawsx.{language}", language, Classification,
            {split: splits[language][split] for split in names.values() if split in splits[language]},
        )
        for language in sorted(splits)
    )  # fmt: skip
    here = {dataset.name for dataset in datasets}
    return Found(
        datasets,
        {name: why for name, why in unlabelled.items() if name not in here},
        sources.no_file(*(f"{folder}/<language>/test_2k.tsv" for folder in _X_FINAL), "pawsx/test-<language>.tsv"),
    )


def _x_final(sources: Sources) -> Iterator[tuple[str, str, Path]]:
    """Yields (language, split, file) of the official form."""
    for folder in _X_FINAL:
        for language in (path.name for path in sources.folders(folder)):
            for split, names in _X_FINAL_FILES.items():
                if path := sources.file(*(f"{folder}/{language}/{name}" for name in names)):
                    yield language, split, path
