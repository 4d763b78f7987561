"""The languages of XTREME and XTREME-R, target by target.

Source: the language lists of google-research/xtreme's evaluate.py. It lists none for LAReQA; those are XQuAD-R's.
"""

import json
from collections.abc import Mapping

from xtr.errors import DataError

from .datasets import Sources

XTREME = {
    "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
    "pawsx": "de en es fr ja ko zh",
    "udpos": "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh",
    "panx": "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl "
    "tr ur vi yo zh",
    "xquad": "ar de el en es hi ru th tr vi zh",
    "mlqa": "ar de en es hi vi zh",
    "tydiqa": "ar bn en fi id ko ru sw te",
    "bucc2018": "de fr ru zh",
    "tatoeba": "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur "
    "vi zh",
}
XTREME_R = {
    "xnli": XTREME["xnli"],
    "xcopa": "et ht id it qu sw ta th tr vi zh",
    "udpos": XTREME["udpos"] + " lt pl ro uk wo",
    "panx": XTREME["panx"] + " az gu lt pa pl qu ro uk",
    "xquad": XTREME["xquad"] + " ro",
    "mlqa": XTREME["mlqa"],
    "tydiqa": XTREME["tydiqa"],
    "tatoeba": XTREME["tatoeba"] + " az lt pl ro uk",
    "lareqa": "ar de el en es hi ru th tr vi zh",
    "mewslix": "ar de en es fa ja pl ro ta tr uk",
}
OWN = "languages.json"


def languages(sources: Sources) -> Mapping[str, tuple[str, ...]]:
    """The languages that each target should have: {'xnli': ('ar', 'bg', ...), ...}, sorted.

    They are XTREME-R's, and XTREME's for the targets that XTREME-R left out, unless the data bring `languages.json`
    with lists of their own ({"xnli": ["aa", "bb"], ...}), as a generated world does.

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
    return {target: tuple(sorted(codes.split())) for target, codes in (XTREME | XTREME_R).items()}
