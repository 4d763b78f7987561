"""Plain text: a folder below text/ is a corpus, of <language>.txt files (a document a line) or UDHR XML files."""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..examples import Text
from ..languages import short_code
from . import Dataset, Found, Sources, Split
from .files import bad, read_lines

_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
# The white space XML lays files out with; others, such as U+00A0, are text.
_LAYOUT = " \t\r\n"


def read_documents(files: tuple[Path, ...], tally: Counter) -> Iterator[Text]:
    """Reads one document a line; empty lines are dropped and counted. Ids are '<file name>:<line number>'."""
    for path in files:
        for number, line in read_lines(path):
            tally["rows"] += 1
            if line:
                yield Text(f"{path.name}:{number}", line)
            else:
                tally["dropped: empty line"] += 1


def read_udhr(files: tuple[Path, ...], tally: Counter) -> Iterator[Text]:
    r"""Reads the Universal Declaration of Human Rights in XML: a file is a document, its paragraphs joined by '\n'."""
    for path in files:
        tally["rows"] += 1
        try:
            root = ET.parse(path).getroot()
        except ET.ParseError as e:
            raise bad(path, f"line {e.position[0]}", f"not XML ({e}).") from e
        paragraphs = [(element.text or "").strip(_LAYOUT) for element in root.iter()]
        yield Text(path.name, "\n".join(p for p in paragraphs if p))


def _udhr_language(path: Path) -> str | None:
    """Returns the language that a UDHR file states of itself, or None for any other XML file (such as the index)."""
    try:
        _, root = next(ET.iterparse(path, events=("start",)))
    except ET.ParseError as e:
        raise bad(path, f"line {e.position[0]}", f"not XML ({e}).") from e
    if root.tag.rpartition("}")[2] != "udhr":
        return None
    # xml:lang is a BCP 47 tag; its first subtag is the language, the rest a script, country or spelling.
    code = root.get(_XML_LANG, "").split("-")[0] or root.get("iso639-3", "")
    if not code:
        raise bad(path, "root element, field 'xml:lang'", "neither xml:lang nor iso639-3 states the language.")
    return short_code(code)


def find_text(sources: Sources) -> Found:
    """Finds `text.<corpus>.<language>` (split train), a corpus for each folder below text/.

    A language may be two (`de-en`: bilingual documents, the task `text.<corpus>.de_en`).
    """
    datasets = []
    for corpus in sources.folders("text"):
        folder = f"text/{corpus.name}"
        documents = sources.matching(r"(?P<language>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)\.txt", folder)
        splits = {match["language"]: Split((path,), read_documents) for path, match in documents}
        udhr: dict[str, tuple[Path, ...]] = {}
        for path, _ in sources.matching(r".*\.xml", folder):
            if language := _udhr_language(path):
                udhr[language] = (*udhr.get(language, ()), path)
        for language, paths in udhr.items():
            if language in splits:
                raise bad(corpus, f"language {language!r}", f"both {language}.txt and {paths[0].name} claim it.")
            splits[language] = Split(paths, read_udhr)
        for language, split in sorted(splits.items()):
            datasets.append(Dataset(f"text.{corpus.name}.{language}", language, Text, {"train": split}))
    absent = {} if datasets else {"text": sources.no_file("text/<corpus>/<language>.txt", "text/<corpus>/*.xml (UDHR)")}
    return Found(tuple(datasets), absent)
