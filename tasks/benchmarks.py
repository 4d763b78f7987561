"""The languages that each target should have: those of XTREME and XTREME-R, or the data's own."""

import json
from collections.abc import Mapping

from xtr.coverage import XTREME, XTREME_R
from xtr.errors import DataError

from .datasets import Sources

# XTREME-R's diagnostic tests, which are no part of its score. Their table has Hausa where XTREME-R has Romanian.
DIAGNOSTIC = {
    "multichecklist": "af ar az bg bn de el en es et eu fa fi fr gu ha he hi ht hu id it ja jv ka kk ko lt ml mr ms my "
    "nl pa pl pt qu ru sw ta te th tl tr uk ur vi wo yo zh",
}
OWN = "languages.json"


def languages(sources: Sources) -> Mapping[str, tuple[str, ...]]:
    """The languages that each target should have: {'xnli': ('ar', 'bg', ...), ...}, sorted.

    They are XTREME-R's, its diagnostic tests', and XTREME's for the targets that XTREME-R left out, unless the data
    bring `languages.json` with lists of their own ({"xnli": ["aa", "bb"], ...}), as a generated world does.

    Raises:
      DataError: `languages.json` is not such a table.
    """
    if path := sources.file(OWN):
        try:
            own = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(codes, list) and all(isinstance(c, str) for c in codes) for codes in own.values()):
                raise ValueError("a target has no list of strings")
            return {target: tuple(sorted(codes)) for target, codes in own.items()}
        except (ValueError, AttributeError, TypeError) as e:
            raise DataError(f'{path}: not a table like {{"xnli": ["en", "sw"]}} ({e}).') from e
    return {target: tuple(sorted(codes.split())) for target, codes in (XTREME | XTREME_R | DIAGNOSTIC).items()}
