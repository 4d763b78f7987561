"""CCG supertagging: the lexical categories of CCGbank's words (Hockenmaier and Steedman 2007).

The split is the usual one: sections 02-21 of the Wall Street Journal for training, 00 for validation, 23 for test.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..examples import Tagging
from . import Dataset, Found, Sources, Split
from .files import bad, read_lines

_SECTIONS = {"train": range(2, 22), "validation": range(1), "test": range(23, 24)}
_AUTO = tuple(f"{above}ccgbank_1_1/data/AUTO" for above in ("", "LDC2005T13/", "ccg/"))
_STAGGED = {
    split: tuple(f"{folder}/wsj{sections}.stagged" for folder in ("ccg", "ccg/gold", f"CCG{part}", f"ccg/CCG{part}"))
    for split, part, sections in (("train", "train", "02-21"), ("validation", "dev", "00"), ("test", "test", "23"))
}
_LEAF = ("CCGcat", "mod_POS-tag", "orig_POS-tag", "word", "PredArgCat")
_ITEM = ("word", "POS", "supertag")
# Besides the space itself, which is between words.
_SPACE = re.compile("[\t-\r]")
# Where the category of a word stands in a file of each suffix.
_CATEGORY = {".auto": re.compile(rb"\(<L (\S+) "), ".stagged": re.compile(rb"\|([^|\s]+)(?=\s|$)")}


def read_auto(files: tuple[Path, ...], tally: Counter) -> Iterator[Tagging]:
    """Reads CCGbank's derivations (data/AUTO): a line `ID=...`, and one that holds `(<L CCGcat POS POS word cat>)`.

    Words are as published ('-LRB-', '1\\/2'). Ids are row numbers from 0.

    Raises:
      DataError: naming file, line and field, for a word without its five fields, or lines that are no such pair.
    """
    for index, (path, number, line) in enumerate(_derivations(files)):
        tally["rows"] += 1
        leaves = []
        for place, part in enumerate(line.split("(<L ")[1:], 1):
            leaf, end, _ = part.partition(">)")
            if not end:
                raise bad(path, f"line {number}, word {place}", "expected '>)' behind it.")
            leaves.append(_fields(path, number, place, leaf.split(" "), _LEAF))
        parts = line.split(" ")
        if parts.count("(<T") != parts.count(")"):
            raise bad(path, f"line {number}", "the derivation ends early: not all of its brackets are closed.")
        yield Tagging(str(index), tuple(leaf[3] for leaf in leaves), tuple(leaf[0] for leaf in leaves))


def _derivations(files: Iterable[Path]) -> Iterator[tuple[Path, int, str]]:
    for path in files:
        named, number = False, 0
        for number, line in read_lines(path):
            if line.startswith("(<") and named:
                yield path, number, line
                named = False
            elif line.startswith("ID=") and not named:
                named = True
            elif line:
                expected = "a derivation '(<...'" if named else "'ID='"
                raise bad(path, f"line {number}", f"expected {expected}, found {line[:40]!r}.")
        if named:
            raise bad(path, f"line {number}", "the sentence has no derivation below its 'ID='.")


def read_stagged(files: tuple[Path, ...], tally: Counter) -> Iterator[Tagging]:
    """Reads `word|POS|supertag`, one sentence a line, as C&C's tools make it from CCGbank. Ids are row numbers from 0.

    Lines of a preface ('# ...') and empty lines are none.

    Raises:
      DataError: naming file, line and field, for a word that does not have the three fields.
    """
    index = 0
    for path in files:
        for number, line in read_lines(path):
            items = [item for item in line.split(" ") if item]
            if not items or items[0] == "#":
                continue
            tally["rows"] += 1
            words = [_fields(path, number, i, item.rsplit("|", 2), _ITEM) for i, item in enumerate(items, 1)]
            yield Tagging(str(index), tuple(word for word, _, _ in words), tuple(tag for _, _, tag in words))
            index += 1


def _fields(path: Path, number: int, place: int, fields: list[str], names: tuple[str, ...]) -> list[str]:
    """The fields of one word, checked: all are there, and none is empty or holds white space."""
    if len(fields) != len(names):
        expected = f"expected {len(names)} fields ({', '.join(names)}), found {len(fields)}"
        missing = f"; field '{names[len(fields)]}' is missing" if len(fields) < len(names) else ""
        raise bad(path, f"line {number}, word {place}", f"{expected}{missing}.")
    for name, field in zip(names, fields, strict=True):
        if not field or _SPACE.search(field):
            what = f"is empty or holds white space: {field!r}."
            raise bad(path, f"line {number}, word {place}, field '{name}'", what)
    return fields


def find_ccg(sources: Sources) -> Found:
    """Finds `ccg`: train, validation and test, all of CCGbank's own files or all of `word|POS|supertag`.

    The former are ccgbank_1_1/data/AUTO/<section>/wsj_<number>.auto, the latter wsj{02-21,00,23}.stagged in one of a
    few folders. The tags are all that occur: first those of the training set, sorted, then those that only validation
    and test have (no head can learn these: they count as errors, as in the literature).
    """
    files = {split: _auto_files(sources, sections) for split, sections in _SECTIONS.items()}
    read = read_auto
    if not files["train"]:
        found = {split: sources.file(*names) for split, names in _STAGGED.items()}
        files = {split: (path,) for split, path in found.items() if path}
        read = read_stagged
    if not files.get("train"):
        looked = (*(f"{folder}/<section>/wsj_<number>.auto" for folder in _AUTO), *_STAGGED["train"])
        return Found(absent={"ccg": f"the LDC sells CCGbank (LDC2005T13), and there is {sources.no_file(*looked)}"})
    splits = {split: Split(paths, read) for split, paths in files.items() if paths}
    tags: dict[str, None] = {}
    for split in splits.values():
        tags |= dict.fromkeys(sorted(_categories(_state(split.files))))
    return Found((Dataset("ccg", "en", Tagging, splits, tuple(tags)),))


def _auto_files(sources: Sources, sections: Iterable[int]) -> tuple[Path, ...]:
    folders = (f"{folder}/{section:02d}" for folder in _AUTO for section in sections)
    return tuple(path for path, _ in sources.matching(r"wsj_\d{4}\.auto", *folders))


def _state(files: Iterable[Path]) -> tuple[tuple[Path, int, int], ...]:
    """The files with what tells when they change."""
    stats = ((path, path.stat()) for path in files)
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)


@functools.lru_cache(maxsize=8)
def _categories(files: tuple[tuple[Path, int, int], ...]) -> frozenset[str]:
    """The categories in files, found without parsing: 0.15 seconds for all of CCGbank."""
    found = {name for path, *_ in files for name in _CATEGORY[path.suffix].findall(path.read_bytes())}
    return frozenset(name.decode("utf-8", "replace") for name in found)
