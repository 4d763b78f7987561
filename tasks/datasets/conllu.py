"""UD-POS from the official Universal Dependencies treebanks, as XTREME's preprocessing makes it from them.

XTREME tags written words: a multi-word token (French 'du', 'de' + 'le') stands once, in its written form, and bears the
tag of one of its words. Rules and treebanks were read in google-research/xtreme (utils_preprocess.py,
scripts/download_data.sh, third_party/ud-conversion-tools).
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..examples import Tagging
from . import Sources, Split
from .files import bad, read_lines

# In the order in which XTREME sorts them.
UPOS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM",
    "VERB", "X",
)  # fmt: skip
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
# XTREME's 33 languages are of release 2.5; the five that XTREME-R added are of 2.7.
_RELEASE = dict.fromkeys(("lt", "pl", "ro", "uk", "wo"), "2.7")
_OTHER_RELEASE = "2.5"
_FOLDERS = ("ud-treebanks-v{}", "udpos/ud-treebanks-v{}")
_FILE = r"(?P<language>[a-z]+)_[^-]+-ud-(?P<split>train|dev|test)(?:-.+)?\.conllu"
_COLUMNS = 10

# Whose tag a multi-word token bears, where several of its words are equally high in the graph.
_PRECEDENCE = (
    "VERB", "NOUN", "PROPN", "PRON", "ADJ", "NUM", "ADV", "INTJ", "AUX", "ADP", "DET", "PART", "CCONJ", "SCONJ", "X",
    "PUNCT",
)  # fmt: skip
_OWN_PRECEDENCE = {
    "es": ("VERB", "AUX", "PRON", "ADP", "DET"),
    "fr": ("VERB", "AUX", "PRON", "NOUN", "ADJ", "ADV", "ADP", "DET", "PART", "SCONJ"),
    "it": ("VERB", "AUX", "ADV", "PRON", "ADP", "DET", "INTJ"),
}


@dataclass(frozen=True)
class _Word:
    line: int
    form: str
    upos: str
    heads: frozenset[int]


@dataclass(frozen=True)
class _MultiWord:
    line: int
    last: int
    form: str


@dataclass(frozen=True)
class _Sentence:
    """Words by number, and multi-word tokens by the number of their first word."""

    path: Path
    words: Mapping[int, _Word]
    multi_words: Mapping[int, _MultiWord]


def find_treebanks(sources: Sources) -> dict[str, dict[str, Split]]:
    """Finds language -> SeqIO split -> the files of all the language's treebanks in XTREME's order, by file name.

    Release 2.7 counts for lt, pl, ro, uk and wo, release 2.5 for every other language; others are other data.
    """
    files: dict[tuple[str, str], dict[str, Path]] = {}
    for release in (_OTHER_RELEASE, *sorted(set(_RELEASE.values()))):
        for folder in (name.format(release) for name in _FOLDERS):
            for treebank in sources.folders(folder):
                for path, match in sources.matching(_FILE, f"{folder}/{treebank.name}"):
                    if _RELEASE.get(match["language"], _OTHER_RELEASE) == release:
                        files.setdefault((match["language"], match["split"]), {}).setdefault(path.name, path)
    found: dict[str, dict[str, Split]] = {}
    for language in sorted({language for language, _ in files}):
        read = functools.partial(read_conllu, language=language)
        found[language] = {
            split: Split(tuple(path for _, path in sorted(files[language, ud].items())), read)
            for ud, split in SPLITS.items()
            if (language, ud) in files
        }
    return found


def no_treebanks(sources: Sources) -> str:
    """Says which treebanks were looked for in vain."""
    folders = " or ".join(name.format("2.5") for name in _FOLDERS)
    return (
        f"no folder {folders} with UD_<Language>-<Treebank>/<language>_<treebank>-ud-test.conllu (v2.7 for "
        f"{', '.join(sorted(_RELEASE))}) below {', '.join(map(str, sources.roots))}"
    )


def read_conllu(files: tuple[Path, ...], tally: Counter, *, language: str) -> Iterator[Tagging]:
    """Reads CoNLL-U files into written words and their UPOS tags, as XTREME has them. Ids are row numbers from 0.

    Of a form, white space around it, spaces in it and U+200C are removed. Sentences whose text is withheld for its
    licence (all forms but at most one are '_') are dropped, counted.

    Args:
      language: two-letter code; Spanish, French and Italian choose a multi-word token's tag in a way of their own.

    Raises:
      DataError: naming file, line and field, for a line that is no CoNLL-U or a tag that is none of UPOS.
    """
    precedence = _OWN_PRECEDENCE.get(language, _PRECEDENCE)
    for index, sentence in enumerate(sentence for path in files for sentence in _sentences(path)):
        tally["rows"] += 1
        written = list(_written(sentence, precedence))
        forms = [form.strip() for _, form, _ in written]
        withheld = forms.count("_")
        if withheld and withheld >= len(forms) - 1:
            tally["dropped: text withheld ('_')"] += 1
            continue
        for line, _, tag in written:
            if tag not in UPOS:
                raise bad(sentence.path, f"line {line}, field 'UPOS'", f"{tag!r} is none of {', '.join(UPOS)}.")
        tokens = tuple(form.replace("\u200c", "").replace(" ", "") for form in forms)
        yield Tagging(str(index), tokens, tuple(tag for _, _, tag in written))


def _sentences(path: Path) -> Iterator[_Sentence]:
    words: dict[int, _Word] = {}
    multi_words: dict[int, _MultiWord] = {}

    def sentence() -> _Sentence:
        end = 0
        for first, token in multi_words.items():
            if first <= end or token.last not in words:
                raise bad(path, f"line {token.line}, field 'ID'", f"no words of its own: {first}-{token.last}.")
            end = token.last
        return _Sentence(path, words, multi_words)

    for number, line in read_lines(path):
        if not line:
            if words:
                yield sentence()
            words, multi_words = {}, {}
        elif not line.startswith("#"):
            columns = line.split("\t")
            if len(columns) != _COLUMNS:
                found = f"expected {_COLUMNS} tab-separated columns, found {len(columns)}."
                raise bad(path, f"line {number}", found)
            first, dash, last = columns[0].partition("-")
            if "." in first:
                continue  # An empty node of the enhanced graph: nothing that was written.
            expected = len(words) + 1
            if _whole(path, number, "ID", first) != expected:
                raise bad(path, f"line {number}, field 'ID'", f"expected {expected}, found {columns[0]!r}.")
            if dash:
                multi_words[expected] = _MultiWord(number, _whole(path, number, "ID", last), columns[1])
            else:
                basic = _whole(path, number, "HEAD", columns[6])
                enhanced = (edge.partition(":")[0] for edge in columns[8].split("|"))
                heads = frozenset((basic, *(int(head) for head in enhanced if head.isdecimal())))
                words[expected] = _Word(number, columns[1], columns[3], heads)
    if words:
        yield sentence()


def _whole(path: Path, line: int, field: str, text: str) -> int:
    if not text.isdecimal():
        raise bad(path, f"line {line}, field '{field}'", f"expected a whole number, found {text!r}.")
    return int(text)


def _written(sentence: _Sentence, precedence: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yields (line, form, tag) of each written word."""
    end = 0
    for number, word in sentence.words.items():
        if token := sentence.multi_words.get(number):
            end = token.last
            yield token.line, token.form, _tag(sentence.words, range(number, end + 1), precedence)
        elif number > end:
            yield word.line, word.form, word.upos


def _tag(words: Mapping[int, _Word], span: range, precedence: Sequence[str]) -> str:
    """The tag of the span's word that has the fewest ancestors; of several, of the one first in precedence.

    A tag that the precedence does not name comes last (XTREME's code fails there).
    """
    above = {number: _ancestors(words, number) for number in span}
    highest = [words[number].upos for number in span if above[number] == min(above.values())]
    rank = {tag: place for place, tag in enumerate(precedence)}
    return min(highest, key=lambda tag: rank.get(tag, len(rank)))


def _ancestors(words: Mapping[int, _Word], number: int) -> int:
    """How many nodes lead to a word in the graph of basic and enhanced edges, the root 0 among them, not itself."""
    seen: set[int] = set()
    todo = set(words[number].heads)
    while todo:
        head = todo.pop()
        if head not in seen:
            seen.add(head)
            if head in words:
                todo |= words[head].heads
    return len(seen - {number})
