"""BUCC 2018: to mine pairs of translations out of two collections of sentences, of a language and English."""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Retrieval
from . import Dataset, Found, Sources, Split
from .files import bad, read_lines

_FOLDER = "bucc2018"
_LANGUAGE = re.compile(r"(?P<language>[a-z]{2,3})-en")
# Prefix of our splits -> (the part as published, as XTREME calls it). The gold of BUCC's own test was not published.
_PARTS = {"": ("training", "test"), "validation_": ("sample", "dev")}


def read_side(files: tuple[Path, ...], tally: Counter, *, foreign: bool) -> Iterator[Retrieval]:
    """Reads the sentences of the first file, 'id TAB text', with the ids as published.

    Args:
      files: the side to read, the other side, and the gold pairs, 'foreign id TAB English id'.
      foreign: whether the side to read is the foreign one.

    Raises:
      DataError: naming file and line, for a line without an id, an id used twice, or a pair of an unknown sentence.
    """
    path, other, pairs = files
    own, others = _ids(path), _ids(other)
    gold: dict[str, list[str]] = {}
    for number, line in read_lines(pairs):
        names = line.split("\t")
        if len(names) != 2:
            raise bad(pairs, f"line {number}", f"expected two ids with a tab between them, found {line!r}.")
        mine, theirs = names if foreign else reversed(names)
        for name, known, side in ((mine, own, path), (theirs, others, other)):
            if name not in known:
                raise bad(pairs, f"line {number}", f"there is no sentence {name!r} in {side}.")
        gold.setdefault(mine, []).append(theirs)
    for _, line in read_lines(path):
        tally["rows"] += 1
        name, _, text = line.partition("\t")
        yield Retrieval(name, text, tuple(gold.get(name, ())))


def _ids(path: Path) -> set[str]:
    names: set[str] = set()
    for number, line in read_lines(path):
        name, tab, _ = line.partition("\t")
        if not (name and tab):
            raise bad(path, f"line {number}", f"expected 'id TAB text', found {line!r}.")
        if name in names:
            raise bad(path, f"line {number}, field 'id'", f"{name!r} is used twice in the file.")
        names.add(name)
    return names


def find_bucc2018(sources: Sources) -> Found:
    """Finds `bucc2018.<language>`: queries (foreign) and candidates (English), validation_queries and -_candidates.

    Sentences of either side have the ids of their translations as gold; most have none, which mining must find out.
    Validation is for its threshold. Files: bucc2018/<language>-en/<language>-en.{training,sample}.{<language>,en,gold}
    as published, which are XTREME's bucc2018/<language>-en.{test,dev}.{<language>,en,gold}, in this order. XTREME's
    preprocessing takes away the gold of test, without which there is no such split.
    """
    datasets, absent = [], {}
    for pair in sorted(_pairs(sources)):
        language = pair.removesuffix("-en")
        splits, missing = {}, []
        for prefix, (published, xtreme) in _PARTS.items():
            names = (f"{_FOLDER}/{pair}/{pair}.{published}", f"{_FOLDER}/{pair}.{xtreme}")
            for name in names:
                files = [sources.file(f"{name}.{side}") for side in (language, "en", "gold")]
                if all(files):
                    foreign, english, gold = files
                    splits[f"{prefix}queries"] = Split(
                        (foreign, english, gold), functools.partial(read_side, foreign=True)
                    )
                    splits[f"{prefix}candidates"] = Split(
                        (english, foreign, gold), functools.partial(read_side, foreign=False)
                    )
                    break
                sides = zip((language, "en", "gold"), files, strict=True)
                missing += [f"{name}.{side}" for side, path in sides if any(files) and not path]
        if splits:
            datasets.append(Dataset(f"bucc2018.{language}", language, Retrieval, splits))
        else:
            missing = missing or [f"{_FOLDER}/{pair}/{pair}.training.gold"]
            absent[f"bucc2018.{language}"] = f"a part of it is not there: {sources.no_file(*missing)}"
    looked_for = sources.no_file(f"{_FOLDER}/<language>-en/<language>-en.training.gold")
    return Found(tuple(datasets), absent, looked_for)


def _pairs(sources: Sources) -> set[str]:
    """Returns the 'xx-en' that there are files of."""
    parts = "|".join(name for names in _PARTS.values() for name in names)
    found = {m["pair"] for _, m in sources.matching(rf"(?P<pair>{_LANGUAGE.pattern})\.(?:{parts})\..+", _FOLDER)}
    for folder in sources.folders(_FOLDER):
        if _LANGUAGE.fullmatch(folder.name) and any(folder.iterdir()):
            found.add(folder.name)
    return found
