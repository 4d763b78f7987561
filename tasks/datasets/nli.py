"""Natural language inference: MultiNLI (XNLI-MT and MultiNLI 1.0 files) and XNLI (XTREME's files)."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Classification
from . import Dataset, Found, Sources, Split
from .files import bad, field, read_jsonl, read_tsv

LABELS = ("entailment", "neutral", "contradiction")
# XNLI-MT spells the third label differently from XNLI and MultiNLI.
_LABEL_IDS = {**{name: i for i, name in enumerate(LABELS)}, "contradictory": 2}
_UNLABELLED = "-"
_LANGUAGE = r"(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)"
_MULTINLI_JSONL = "multinli_1.0/multinli_1.0_{}.jsonl"
_MULTINLI_TSV = ("XNLI-MT-1.0/multinli", "xnli/XNLI-MT-1.0/multinli")


def _examples(rows: Iterator[tuple[Path, int, str, str, str]], tally: Counter) -> Iterator[Classification]:
    for index, (path, number, premise, hypothesis, label) in enumerate(rows):
        tally["rows"] += 1
        if label == _UNLABELLED:
            # MultiNLI's annotators found no majority: official practice leaves these rows out.
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


def read_multinli_jsonl(files: tuple[Path, ...], tally: Counter) -> Iterator[Classification]:
    """Reads MultiNLI 1.0 (gold_label, sentence1, sentence2); rows without a gold label ('-') are dropped, counted."""

    def rows():
        for path in files:
            for number, record in read_jsonl(path):
                get = functools.partial(field, path, f"line {number}", record, kind=str)
                yield path, number, get("sentence1"), get("sentence2"), get("gold_label")

    return _examples(rows(), tally)


_read_mt = functools.partial(read_xnli_tsv, header=True)
_read_xtreme = functools.partial(read_xnli_tsv, header=False)


def find_mnli(sources: Sources) -> Found:
    """Finds `mnli` (English) and `mnli.<language>` (the training set machine-translated by XNLI-MT)."""
    tsv = {m["language"]: path for path, m in sources.matching(rf"multinli\.train\.{_LANGUAGE}\.tsv", *_MULTINLI_TSV)}
    splits = {}
    if "en" in tsv:
        splits["train"] = Split((tsv["en"],), _read_mt)
    elif jsonl := sources.file(_MULTINLI_JSONL.format("train")):
        splits["train"] = Split((jsonl,), read_multinli_jsonl)
    if dev := sources.file(_MULTINLI_JSONL.format("dev_matched")):
        splits["validation"] = Split((dev,), read_multinli_jsonl)
    absent, datasets = {}, []
    if "train" in splits:
        datasets.append(Dataset("mnli", "en", Classification, splits))
    else:
        looked = (f"{folder}/multinli.train.en.tsv" for folder in _MULTINLI_TSV)
        absent["mnli"] = sources.no_file(*looked, _MULTINLI_JSONL.format("train"))
    datasets += [
        Dataset(f"mnli.{language}", language, Classification, {"train": Split((path,), _read_mt)})
        for language, path in tsv.items()
        if language != "en"
    ]
    return Found(tuple(datasets), absent)


def find_xnli(sources: Sources) -> Found:
    """Finds `xnli.<language>`: validation from dev-<language>.tsv, test from test-<language>.tsv."""
    splits: dict[str, dict[str, Split]] = {}
    for path, match in sources.matching(rf"(?P<split>dev|test)-{_LANGUAGE}\.tsv", "xnli"):
        split = {"dev": "validation", "test": "test"}[match["split"]]
        splits.setdefault(match["language"], {})[split] = Split((path,), _read_xtreme)
    order = ("validation", "test")
    return Found(
        tuple(
            Dataset(f"xnli.{language}", language, Classification, {s: found[s] for s in order if s in found})
            for language, found in splits.items()
        ),
        looked_for=sources.no_file("xnli/test-<language>.tsv"),
    )
