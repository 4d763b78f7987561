"""TyDiQA-GoldP (a paragraph with the answer is given), in SQuAD v1.1's JSON; its offsets count code points.

Its test set was never published: what is published as dev is the test set of XTREME, of XTREME-R and here. Models are
selected on English alone, hence on the English part of it, which is therefore the English validation set too.
"""

import functools
import re

from ..examples import SpanQA
from . import Dataset, Found, Sources, Split
from .files import bad
from .squad import answers_removed, read_squad, why_removed

# TyDiQA names languages in English, in names of files and at the front of ids.
_CODES = {
    "arabic": "ar", "bengali": "bn", "english": "en", "finnish": "fi", "indonesian": "id", "japanese": "ja",
    "korean": "ko", "russian": "ru", "swahili": "sw", "telugu": "te", "thai": "th",
}  # fmt: skip
_FOLDER = "tydiqa/tydiqa-goldp-v1.1-{}"
_ID = re.compile(rb'"id"\s*:\s*"([a-z]+)-')


def find_tydiqa(sources: Sources) -> Found:
    """Finds `tydiqa.<language>`: test (published as dev), train where it is there, and English validation (= test).

    The study trains on `tydiqa.en` alone. Files, the first of these that there is for a language:
    - the pooled tydiqa/tydiqa-goldp-v1.1-{train,dev}.json, whose ids begin with the language's name;
    - tydiqa/tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-<language's name>.json;
    - XTREME's tydiqa/tydiqa-goldp-v1.1-{train,dev}/tydiqa.goldp.<code>.{train,dev}.json. Its preprocessing cuts the ids
      of training questions to a last number, which comes again: it is followed by '#2', '#3' ... then. It also takes
      the answers out of the dev files, which are of no use without them.

    Raises:
      DataError: a pooled file without a question whose language is known.
    """
    train, test = _of_part(sources, "train"), _of_part(sources, "dev")
    absent = {}
    for code, split in list(test.items()):
        if answers_removed(split.files[0]):
            absent[f"tydiqa.{code}"] = why_removed(split.files[0])
            del test[code]
    datasets = []
    for code in sorted(train.keys() | test.keys()):
        splits = {"train": train.get(code), "validation": test.get(code) if code == "en" else None}
        splits["test"] = test.get(code)
        found = {name: split for name, split in splits.items() if split}
        datasets.append(Dataset(f"tydiqa.{code}", code, SpanQA, found))
        absent.pop(f"tydiqa.{code}", None)
    looked_for = sources.no_file(f"{_FOLDER.format('dev')}/tydiqa-goldp-dev-<language name>.json")
    return Found(tuple(datasets), absent, looked_for)


def _of_part(sources: Sources, part: str) -> dict[str, Split]:
    """Returns language code -> split, of 'train' or 'dev'."""
    folder = _FOLDER.format(part)
    found: dict[str, Split] = {}
    for path, m in sources.matching(rf"tydiqa\.goldp\.(?P<code>[A-Za-z0-9-]+)\.{part}\.json", folder, "tydiqa"):
        found[m["code"]] = Split((path,), functools.partial(read_squad, repeated_ids=part == "train"))
    for path, m in sources.matching(rf"tydiqa-goldp-{part}-(?P<name>[a-z]+)\.json", folder, "tydiqa"):
        found[_code(m["name"])] = Split((path,), read_squad)
    # XTREME moves the pooled file into the folder of its parts.
    if pooled := sources.file(f"{folder}.json", f"{folder}/tydiqa-goldp-v1.1-{part}.json"):
        names = sorted({m.decode() for m in _ID.findall(pooled.read_bytes())})
        if not names:
            raise bad(pooled, "field 'id'", "no question's id begins with a language's name.")
        for name in names:
            read = functools.partial(read_squad, beginning=f"{name}-")
            found[_code(name)] = Split((pooled,), read)
    return found


def _code(name: str) -> str:
    return _CODES.get(name, name)
