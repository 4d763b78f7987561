"""Tagged words, one a line with a blank line between sentences: UD-POS, and the entities of PAN-X (WikiANN)."""

import functools
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from ..examples import Tagging
from . import Dataset, Found, Sources, Split
from .conllu import SPLITS, UPOS, find_treebanks, no_treebanks
from .files import bad, decode_lines, read_lines
from .unpack import members

# Both orders are XTREME's: it sorts the tags that it finds.
ENTITY_TAGS = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
_LANGUAGE = r"(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)"
_PANX_FOLDERS = ("panx", "panx_dataset", "wikiann", "panx/panx_dataset", "wikiann/panx_dataset")

# The (line number, word, tag) of each word.
_Sentence = list[tuple[int, str, str]]


def read_udpos(files: tuple[Path, ...], tally: Counter) -> Iterator[Tagging]:
    """Reads word TAB UPOS, blank lines between sentences. Ids are row numbers from 0.

    Raises:
      DataError: naming file, line and field, for a line that is not a word and a tag, or a tag that is none of UPOS.
    """
    return _examples(((path, s) for path in files for s in _sentences(path, read_lines(path))), UPOS, tally)


def read_panx(files: tuple[Path, ...], tally: Counter, *, language: str, member: str = "") -> Iterator[Tagging]:
    """Reads word TAB IOB2 tag, blank lines between sentences. Ids are row numbers from 0.

    Where every word of a file begins with '<language>:', as in the release of PAN-X itself, that prefix is taken off.

    Args:
      member: the name of the file in the archive, where `files` are `<language>.tar.gz`.

    Raises:
      DataError: naming file, line and field, for a line that is not a word and a tag, an unknown tag, or a word without
        the prefix that most others have.
    """

    def sentences():
        for path in files:
            name = path / member if member else path
            lines = decode_lines(name, _member(path, member)) if member else read_lines(path)
            yield from ((name, s) for s in _without_prefix(name, list(_sentences(name, lines)), f"{language}:"))

    return _examples(sentences(), ENTITY_TAGS, tally)


def _member(archive: Path, name: str) -> Iterator[bytes]:
    missing = True
    try:
        for path, content in members(archive):
            if missing and PurePosixPath(path).name == name:
                missing = False
                yield from content
    except (tarfile.TarError, zlib.error, EOFError, OSError) as e:
        raise bad(archive, f"member '{name}'", f"not a readable .tar.gz ({e}).") from e
    if missing:
        raise bad(archive, f"member '{name}'", "missing.")


def _sentences(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[_Sentence]:
    sentence: _Sentence = []
    for number, line in lines:
        if line:
            word, *tags = line.split("\t")
            if len(tags) != 1:
                raise bad(path, f"line {number}", f"expected word TAB tag, found {1 + len(tags)} columns: {line!r}.")
            sentence.append((number, word, tags[0]))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _without_prefix(path: Path, sentences: list[_Sentence], prefix: str) -> Iterable[_Sentence]:
    words = sum(map(len, sentences))
    without = [number for sentence in sentences for number, word, _ in sentence if not word.startswith(prefix)]
    if not without:
        return ([(number, word.removeprefix(prefix), tag) for number, word, tag in s] for s in sentences)
    if 2 * len(without) < words:
        raise bad(path, f"line {without[0]}", f"no {prefix!r} before the word, which other lines of the file have.")
    return sentences


def _examples(
    sentences: Iterable[tuple[Path, _Sentence]], label_names: tuple[str, ...], tally: Counter
) -> Iterator[Tagging]:
    for index, (path, sentence) in enumerate(sentences):
        tally["rows"] += 1
        for number, _, tag in sentence:
            if tag not in label_names:
                raise bad(path, f"line {number}, field 'tag'", f"{tag!r} is none of {', '.join(label_names)}.")
        words = tuple(word for _, word, _ in sentence)
        if any(word.split() != [word] for word in words):
            tally["noted: a word is empty or holds white space"] += 1
        yield Tagging(str(index), words, tuple(tag for _, _, tag in sentence))


def find_udpos(sources: Sources) -> Found:
    """Finds `udpos.<language>` in XTREME's files udpos/{train,dev,test}-<language>.tsv, else in the UD treebanks.

    XTREME's own preprocessing withholds the tags of its test files: such a file is no split.
    """
    looked_for = f"{sources.no_file('udpos/test-<language>.tsv')}; {no_treebanks(sources)}"
    return _found("udpos", sources, lambda language: read_udpos, UPOS, find_treebanks(sources), looked_for)


def find_panx(sources: Sources) -> Found:
    """Finds `panx.<language>` in XTREME's files panx/{train,dev,test}-<language>.tsv, else in PAN-X's own release.

    The release is <language>/{train,dev,test} or <language>.tar.gz in a folder panx, panx_dataset or wikiann. XTREME's
    own preprocessing withholds the tags of its test files: such a file is no split.
    """
    release: dict[str, dict[str, Split]] = {}
    for path, match in sources.matching(rf"{_LANGUAGE}\.tar\.gz", *_PANX_FOLDERS):
        release[match["language"]] = {
            split: Split((path,), functools.partial(read_panx, language=match["language"], member=name))
            for name, split in SPLITS.items()
        }
    for folder in _PANX_FOLDERS:
        for language in (path.name for path in sources.folders(folder)):
            for name, split in SPLITS.items():
                if path := sources.file(f"{folder}/{language}/{name}"):
                    read = functools.partial(read_panx, language=language)
                    release.setdefault(language, {})[split] = Split((path,), read)
    looked_for = sources.no_file("panx/test-<language>.tsv", *(f"{f}/<language>.tar.gz" for f in _PANX_FOLDERS[:3]))

    def reader(language: str) -> functools.partial:
        return functools.partial(read_panx, language=language)

    return _found("panx", sources, reader, ENTITY_TAGS, release, looked_for)


def _found(
    name: str,
    sources: Sources,
    reader: Callable[[str], Callable],
    label_names: tuple[str, ...],
    others: Mapping[str, Mapping[str, Split]],
    looked_for: str,
) -> Found:
    """The data sets of XTREME's files, `reader(language)` reading them; splits that these lack are from `others`."""
    splits = {language: dict(found) for language, found in others.items()}
    untagged: dict[str, Path] = {}
    for path, match in sources.matching(rf"(?P<split>train|dev|test)-{_LANGUAGE}\.tsv", name):
        language = match["language"]
        if match["split"] == "test" and b"\t" not in path.read_bytes():
            untagged[language] = path
        else:
            splits.setdefault(language, {})[SPLITS[match["split"]]] = Split((path,), reader(language))
    return Found(
        tuple(
            Dataset(
                f"{name}.{language}", language, Tagging,
                {split: splits[language][split] for split in SPLITS.values() if split in splits[language]}, label_names,
            )
            for language in sorted(splits)
        ),
        {
            f"{name}.{language}": f"{path} holds words without tags (XTREME withholds those of its test files), or none"
            for language, path in untagged.items()
            if language not in splits
        },
        looked_for,
    )  # fmt: skip
