"""Tatoeba bitext as LASER publishes it: two line-aligned files a language pair, English queries, foreign candidates."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Retrieval
from ..languages import short_code
from . import Dataset, Found, Sources, Split
from .files import DataError, read_lines

_FOLDER = "tatoeba/v1"
_XTREME = "tatoeba"


def read_side(files: tuple[Path, ...], tally: Counter) -> Iterator[Retrieval]:
    """Reads the first of two line-aligned files; line i (from 0) has the id 'i' and its gold is line i of the second.

    Raises:
      DataError: when the two files have different numbers of lines.
    """
    path, other = files
    for number, text in read_lines(path):
        tally["rows"] += 1
        yield Retrieval(str(number - 1), text, (str(number - 1),))
    lines = sum(1 for _ in read_lines(other))
    if lines != tally["rows"]:
        raise DataError(f"{path} has {tally['rows']} lines, {other} has {lines}: they must be aligned line by line.")


def find_tatoeba(sources: Sources) -> Found:
    """Finds `tatoeba.<language>`: splits queries (English) and candidates (foreign), from LASER's files.

    XTREME's tatoeba/<language>-en.{<language>,en} are of no use: their English sentences are sorted, so that nobody can
    tell which belongs to which.
    """
    datasets, absent = [], {}
    pattern = r"tatoeba\.(?P<language>[a-z0-9_]+)-eng\.(?P<side>[a-z0-9_]+)"
    sides = {(m["language"], m["side"]): path for path, m in sources.matching(pattern, _FOLDER)}
    for language in sorted({language for language, _ in sides}):
        name = f"tatoeba.{short_code(language)}"
        foreign, english = sides.get((language, language)), sides.get((language, "eng"))
        if foreign and english:
            sides_of = {"queries": (english, foreign), "candidates": (foreign, english)}
            splits = {split: Split(files, read_side) for split, files in sides_of.items()}
            datasets.append(Dataset(name, short_code(language), Retrieval, splits))
        else:
            missing = f"{_FOLDER}/tatoeba.{language}-eng.{'eng' if foreign else language}"
            absent[name] = f"the other side of its pair is not there: {sources.no_file(missing)}"
    here = {dataset.name for dataset in datasets}
    for path, m in sources.matching(r"(?P<language>[a-z]{2,3})-en\.en", _XTREME):
        if (name := f"tatoeba.{m['language']}") not in here:
            absent[name] = (
                f"{path} is sorted by XTREME's preprocessing, so that its translations are unknown: "
                f"{sources.no_file(f'{_FOLDER}/tatoeba.<language>-eng.eng')}"
            )
    looked_for = sources.no_file(f"{_FOLDER}/tatoeba.<language>-eng.{{<language>,eng}}")
    return Found(tuple(datasets), absent, looked_for)
