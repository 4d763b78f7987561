"""Mewsli-X: to find, among a million entities described in 50 languages, the one that is mentioned in a news article.

Source of the files: google-research, dense_representations_for_entity_retrieval/mel/mewsli-x.md (offsets count code
points). Source of the texts, white space included: google-research/xtreme, third_party/utils_mewslix.py,
preprocess_mention and preprocess_entity_description.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..examples import Pair, Retrieval
from . import Dataset, Found, Sources, Split
from .files import bad, field, read_jsonl

_FOLDER = "mewslix"
_PARTS = {"": "test", "validation_": "dev"}
_LANGUAGE = re.compile(rb'"language"\s*:\s*"([^"\\]+)"')
_ENTITY = re.compile(rb'"entity_id"\s*:\s*"("?)')
_ESCAPED = re.compile(r"\{(.*?)\}")
_TEXT = (
    "it is without the articles' text, which get-mewsli-x.sh of google-research's "
    "dense_representations_for_entity_retrieval/mel puts in"
)


def read_mentions(files: tuple[Path, ...], tally: Counter, *, language: str) -> Iterator[Retrieval]:
    """Reads the mentions in the articles of one language; gold is the entity, the id the `example_id`.

    The text is '<mention>: <left> { <mention> } <right>' within the sentence of the mention. Other '{x}' become '(x)'.

    Raises:
      DataError: naming file and example, for a mention that is not its text or is not within one sentence.
    """
    for path in files:
        seen: set[str] = set()
        for number, article in read_jsonl(path):
            where = f"line {number}"
            context = field(path, where, article, "context", dict)
            if field(path, f"{where}, context", context, "language", str) != language:
                continue
            for mention in field(path, where, article, "mentions", list):
                tally["rows"] += 1
                name = _new(path, where, mention, "example_id", seen)
                text = _mention(path, f"example {name!r}", context, mention)
                yield Retrieval(name, text, (_entity(path, f"example {name!r}", mention),))


def read_entities(files: tuple[Path, ...], tally: Counter) -> Iterator[Retrieval]:
    """Reads the candidate entities; the text is the sentences of the description, the id the Wikidata item."""
    for path in files:
        seen: set[str] = set()
        for number, entity in read_jsonl(path):
            tally["rows"] += 1
            name = _new(path, f"line {number}", entity, "entity_id", seen)
            yield Retrieval(name, _description(path, f"entity {name!r}", entity), ())


def read_pairs(files: tuple[Path, ...], tally: Counter) -> Iterator[Pair]:
    """Reads pairs of a mention in English Wikipedia and its entity's description; pairs of one entity are one group."""
    for path in files:
        seen: set[str] = set()
        for number, pair in read_jsonl(path):
            tally["rows"] += 1
            where = f"line {number}"
            contextual = field(path, where, pair, "contextual_mention", dict)
            context, mention = (field(path, where, contextual, part, dict) for part in ("context", "mention"))
            entity = field(path, where, pair, "entity", dict)
            name = _new(path, where, mention, "example_id", seen)
            where = f"example {name!r}"
            query = _mention(path, where, context, mention)
            group = _entity(path, where, entity)
            yield Pair(name, query, _description(path, where, entity), group)


def _new(path: Path, where: str, record: Any, name: str, seen: set[str]) -> str:
    value = field(path, where, record, name, str)
    if value in seen:
        raise bad(path, f"{where}, field '{name}'", f"{value!r} is used twice in the file.")
    seen.add(value)
    return value


def _entity(path: Path, where: str, record: Any) -> str:
    name = field(path, where, record, "entity_id", str)
    if not name:
        raise bad(path, f"{where}, field 'entity_id'", "empty; XTREME's preprocessing takes it out of the test set.")
    return name


def _mention(path: Path, where: str, context: Any, mention: Any) -> str:
    text = field(path, where, context, "text", str)
    if not text:
        raise bad(path, f"{where}, field 'text'", f"empty; {_TEXT}.")
    span = field(path, where, mention, "mention_span", dict)
    start, end = _offsets(path, f"{where}, field 'mention_span'", span, text)
    name = field(path, where, span, "text", str)
    if text[start:end] != name:
        problem = f"the mention {name!r} is not in the text at code point {start} (there is {text[start:end]!r})."
        raise bad(path, f"{where}, field 'mention_span'", problem)
    for first, last in _sentences(path, where, context, text):
        if first <= start and end <= last:
            left, right = (_ESCAPED.sub(r"(\1)", side) for side in (text[first:start], text[end:last]))
            return _one_line(f"{name}: {left} {{ {name} }} {right}")
    raise bad(path, f"{where}, field 'sentence_spans'", f"the mention {name!r} is not within one sentence.")


def _description(path: Path, where: str, entity: Any) -> str:
    text = field(path, where, entity, "description", str)
    return _one_line(" ".join(text[start:end] for start, end in _sentences(path, where, entity, text)))


def _sentences(path: Path, where: str, record: Any, text: str) -> Iterator[tuple[int, int]]:
    where = f"{where}, field 'sentence_spans'"
    for span in field(path, where, record, "sentence_spans", list):
        yield _offsets(path, where, span, text)


def _offsets(path: Path, where: str, span: Any, text: str) -> tuple[int, int]:
    start, end = field(path, where, span, "start", int), field(path, where, span, "end", int)
    if not 0 <= start < end <= len(text):
        raise bad(path, where, f"{start} to {end} is not within the text of {len(text)} code points.")
    return start, end


def _one_line(text: str) -> str:
    # All that str.splitlines calls a line end becomes a space, and each pair of spaces one, once: as in XTREME.
    return " ".join(text.splitlines()).replace("  ", " ").strip()


def find_mewslix(sources: Sources) -> Found:
    """Finds `mewslix.<language>`, splits queries (test) and validation_queries (dev), and `mewslix.candidates`.

    Files, the first of these that there is: mewslix/wikinews_mentions-{test,dev}.jsonl, as get-mewsli-x.sh makes them,
    and XTREME's mewslix/wikinews_mentions/{test,dev}-<language>.jsonl, whose test files have lost their entities; and
    mewslix/candidate_set_entities.jsonl.
    """
    splits: dict[str, dict[str, Split]] = {}
    absent: dict[str, str] = {}
    for prefix, part in _PARTS.items():
        for language, path in _by_language(sources, part).items():
            if why := _no_gold(path):
                absent[f"mewslix.{language}"] = why
                continue
            read = functools.partial(read_mentions, language=language)
            splits.setdefault(language, {})[f"{prefix}queries"] = Split((path,), read)
    datasets = [
        Dataset(f"mewslix.{language}", language, Retrieval, found, candidates="mewslix.candidates")
        for language, found in sorted(splits.items())
    ]
    entities = f"{_FOLDER}/candidate_set_entities.jsonl"
    if path := sources.file(entities):
        candidates = Split((path,), read_entities)
        datasets.append(Dataset("mewslix.candidates", "mul", Retrieval, {"candidates": candidates}))
    else:
        absent["mewslix.candidates"] = sources.no_file(entities)
    absent = {name: why for name, why in absent.items() if name.partition(".")[2] not in splits}
    looked_for = sources.no_file(f"{_FOLDER}/wikinews_mentions-test.jsonl")
    if bare := sources.file(f"{_FOLDER}/wikinews_mentions_no_text-test.jsonl"):
        looked_for += f"; there is {bare.name}, but {_TEXT}"
    return Found(tuple(datasets), absent, looked_for)


def _by_language(sources: Sources, part: str) -> dict[str, Path]:
    found = {
        m["language"]: path
        for path, m in sources.matching(
            rf"{part}-(?P<language>[A-Za-z0-9-]+)\.jsonl", f"{_FOLDER}/wikinews_mentions"
        )
    }  # fmt: skip
    if path := sources.file(f"{_FOLDER}/wikinews_mentions-{part}.jsonl"):
        codes = {code.decode() for code in _LANGUAGE.findall(path.read_bytes())}
        if not codes:
            raise bad(path, "field 'language'", "no article has one.")
        found |= dict.fromkeys(codes, path)
    return found


def _no_gold(path: Path) -> str:
    """Says why the mentions of a file cannot be used, '' where they can: the first one's entity is taken out."""
    with open(path, "rb") as f:
        first = _ENTITY.search(f.readline())
    if first and first[1]:
        return f"{path} has its entities taken out (XTREME's preprocessing does so): lay the authors' own file there"
    return ""


def find_mewslix_pairs(sources: Sources) -> Found:
    """Finds `mewslix_pairs`, to train on: train and validation from mewslix/wikipedia_pairs-{train,dev}.jsonl."""
    names = {"train": f"{_FOLDER}/wikipedia_pairs-train.jsonl", "validation": f"{_FOLDER}/wikipedia_pairs-dev.jsonl"}
    splits = {split: Split((path,), read_pairs) for split, name in names.items() if (path := sources.file(name))}
    if "train" not in splits:
        return Found(absent={"mewslix_pairs": sources.no_file(names["train"])})
    return Found((Dataset("mewslix_pairs", "en", Pair, splits),))
