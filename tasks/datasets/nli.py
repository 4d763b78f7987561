"""Natural language inference: SNLI, MultiNLI (its own files, GLUE's and XNLI-MT's), ANLI and XNLI."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Classification
from . import Dataset, Found, Sources, Split, task_name
from .files import bad, field, read_jsonl, read_lines, read_table, read_tsv, unique

LABELS = ("entailment", "neutral", "contradiction")
# XNLI-MT spells the third label differently from XNLI and MultiNLI; ANLI has letters.
_LABEL_IDS = {**{name: i for i, name in enumerate(LABELS)}, "contradictory": 2}
_ANLI_LABELS = ("e", "n", "c")
_UNLABELLED = "-"
_GOLD = ("gold_label", "sentence1", "sentence2")
_LANGUAGE = r"(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)"
_MULTINLI_JSONL = "multinli_1.0/multinli_1.0_{}.jsonl"
_MULTINLI_TSV = ("XNLI-MT-1.0/multinli", "xnli/XNLI-MT-1.0/multinli")
_GLUE_MNLI = ("MNLI/{}.tsv", "glue/MNLI/{}.tsv", "glue_data/MNLI/{}.tsv")
_XNLI = ("XNLI-1.0/xnli.{}.tsv", "xnli/XNLI-1.0/xnli.{}.tsv", "XNLI-1.0/xnli.{}.jsonl", "xnli/XNLI-1.0/xnli.{}.jsonl")
_PARTS = {"validation": "dev", "test": "test"}


def _examples(rows: Iterator[tuple[Path, int, str, str, str]], tally: Counter) -> Iterator[Classification]:
    for index, (path, number, premise, hypothesis, label) in enumerate(rows):
        tally["rows"] += 1
        if label == _UNLABELLED:
            # SNLI's and MultiNLI's annotators found no majority: official practice leaves these rows out.
            tally["dropped: no gold label"] += 1
            continue
        if label not in _LABEL_IDS:
            raise bad(path, f"line {number}, field 'label'", f"{label!r} is none of {sorted(_LABEL_IDS)} or '-'.")
        yield Classification(str(index), premise, hypothesis, _LABEL_IDS[label], LABELS)


def read_xnli_tsv(files: tuple[Path, ...], tally: Counter, *, header: bool) -> Iterator[Classification]:
    """Reads premise TAB hypothesis TAB label, with XNLI-MT's header line or without. Ids are row numbers from 0."""
    columns = ("premise", "hypo", "label")
    rows = ((path, number, *fields) for path in files for number, fields in read_tsv(path, columns, header=header))
    return _examples(rows, tally)


def read_gold(files: tuple[Path, ...], tally: Counter, *, language: str = "") -> Iterator[Classification]:
    """Reads gold_label, sentence1 and sentence2 of JSON lines, or of a table with a header (without quoting).

    These are the files of SNLI, MultiNLI and XNLI. Rows without a gold label ('-') are dropped, counted. Ids are row
    numbers from 0.

    Args:
      language: reads the rows of this language only, where a file holds many.
    """

    def rows():
        for path in files:
            for number, record in _records(path, ("language", *_GOLD) if language else _GOLD):
                get = functools.partial(field, path, f"line {number}", record, kind=str)
                if not language or get("language") == language:
                    yield path, number, get("sentence1"), get("sentence2"), get("gold_label")

    return _examples(rows(), tally)


def _records(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict]]:
    return read_jsonl(path) if path.suffix == ".jsonl" else read_table(path, columns)


def read_anli(files: tuple[Path, ...], tally: Counter) -> Iterator[Classification]:
    """Reads ANLI's JSON lines: context, hypothesis and a label of e, n, c. Ids are `uid`s (see `files.unique`)."""
    seen: Counter = Counter()
    for path in files:
        for number, record in read_jsonl(path):
            tally["rows"] += 1
            get = functools.partial(field, path, f"line {number}", record, kind=str)
            label = get("label")
            if label not in _ANLI_LABELS:
                raise bad(path, f"line {number}, field 'label'", f"{label!r} is none of {', '.join(_ANLI_LABELS)}.")
            name = unique(get("uid"), seen)
            yield Classification(name, get("context"), get("hypothesis"), _ANLI_LABELS.index(label), LABELS)


_read_mt = functools.partial(read_xnli_tsv, header=True)
_read_xtreme = functools.partial(read_xnli_tsv, header=False)


def find_snli(sources: Sources) -> Found:
    """Finds `snli`: train, validation and test from snli_1.0/snli_1.0_{train,dev,test}.jsonl."""
    names = {split: f"snli_1.0/snli_1.0_{part}.jsonl" for split, part in {"train": "train", **_PARTS}.items()}
    splits = {split: Split((path,), read_gold) for split, name in names.items() if (path := sources.file(name))}
    if "train" not in splits:
        return Found(absent={"snli": sources.no_file(names["train"])})
    return Found((Dataset("snli", "en", Classification, splits),))


def find_anli(sources: Sources) -> Found:
    """Finds `anli_r1`, `anli_r2`, `anli_r3`: train, validation and test from anli_v1.0/R<n>/{train,dev,test}.jsonl."""
    datasets, absent = [], {}
    for n in (1, 2, 3):
        names = {split: f"anli_v1.0/R{n}/{part}.jsonl" for split, part in {"train": "train", **_PARTS}.items()}
        splits = {split: Split((path,), read_anli) for split, name in names.items() if (path := sources.file(name))}
        if "train" in splits:
            datasets.append(Dataset(f"anli_r{n}", "en", Classification, splits))
        else:
            absent[f"anli_r{n}"] = sources.no_file(names["train"])
    return Found(tuple(datasets), absent)


def find_mnli(sources: Sources) -> Found:
    """Finds `mnli` (English) and `mnli.<language>` (the training set machine-translated by XNLI-MT).

    The English splits are train, validation (dev_matched) and validation_mismatched. MultiNLI's own test sets have no
    labels. The training set is looked for in XNLI-MT, MultiNLI 1.0, GLUE and XTREME's form (xnli/train-en.tsv).
    """
    tsv = {m["language"]: path for path, m in sources.matching(rf"multinli\.train\.{_LANGUAGE}\.tsv", *_MULTINLI_TSV)}
    gold = (_MULTINLI_JSONL, *_GLUE_MNLI)
    splits = {}
    if "en" in tsv:
        splits["train"] = Split((tsv["en"],), _read_mt)
    elif path := sources.file(*(name.format("train") for name in gold)):
        splits["train"] = Split((path,), read_gold)
    elif path := sources.file("xnli/train-en.tsv"):
        splits["train"] = Split((path,), _read_xtreme)
    for split, part in {"validation": "dev_matched", "validation_mismatched": "dev_mismatched"}.items():
        if path := sources.file(*(name.format(part) for name in gold)):
            splits[split] = Split((path,), read_gold)
    absent, datasets = {}, []
    if "train" in splits:
        datasets.append(Dataset("mnli", "en", Classification, splits))
    else:
        looked = (f"{folder}/multinli.train.en.tsv" for folder in _MULTINLI_TSV)
        absent["mnli"] = sources.no_file(*looked, *(name.format("train") for name in gold), "xnli/train-en.tsv")
    datasets += [
        Dataset(f"mnli.{language}", language, Classification, {"train": Split((path,), _read_mt)})
        for language, path in tsv.items()
        if language != "en"
    ]
    return Found(tuple(datasets), absent)


def find_xnli(sources: Sources) -> Found:
    """Finds `xnli.<language>`: validation and test.

    They are XTREME's xnli/{dev,test}-<language>.tsv or, where a split of a language is not there in that form, of the
    official xnli.{dev,test}.tsv (or .jsonl), which hold all languages. A test file of XTREME's without labels, as
    XTREME itself gives it out, is no split.

    Raises:
      DataError: an official file without a language in each row.
    """
    splits: dict[str, dict[str, Split]] = {}
    unlabelled = {}
    for path, match in sources.matching(rf"(?P<part>dev|test)-{_LANGUAGE}\.tsv", "xnli"):
        if match["part"] == "test" and not _labelled(path):
            unlabelled[task_name(f"xnli.{match['language']}")] = f"{path} has no labels"
            continue
        splits.setdefault(match["language"], {})[match["part"]] = Split((path,), _read_xtreme)
    for part in _PARTS.values():
        if path := sources.file(*(name.format(part) for name in _XNLI)):
            for language in _languages(path):
                read = functools.partial(read_gold, language=language)
                splits.setdefault(language, {}).setdefault(part, Split((path,), read))
    datasets = tuple(
        Dataset(
            f"xnli.{language}", language, Classification,
            {split: splits[language][part] for split, part in _PARTS.items() if part in splits[language]},
        )
        for language in sorted(splits)
    )  # fmt: skip
    here = {dataset.name for dataset in datasets}
    return Found(
        datasets,
        {name: why for name, why in unlabelled.items() if name not in here},
        sources.no_file("xnli/test-<language>.tsv", *(name.format("test") for name in _XNLI)),
    )


def _labelled(path: Path) -> bool:
    """Whether the first row has a label behind its two texts."""
    return next((line.count("\t") != 1 for _, line in read_lines(path)), True)


def _languages(path: Path) -> list[str]:
    """The languages that the rows of an official XNLI file are in."""
    found: dict[str, int] = {}
    for number, record in _records(path, ("language", *_GOLD)):
        found.setdefault(field(path, f"line {number}", record, "language", str), number)
    if "" in found:
        raise bad(path, f"line {found['']}, field 'language'", "empty.")
    return sorted(found)
