"""MLQA's exact match and F1, by rules of the answer's language.

Source of the rules: facebookresearch/MLQA `mlqa_evaluation_v1.py`, which google-research/xtreme uses. Where question
and passage differ in language, the passage's counts, since answers are parts of it.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from xtr.errors import UserError, did_you_mean
from xtr.evaluate.metrics.squad import best_over_golds, token_f1


def _words(words: str) -> re.Pattern:
    return re.compile(rf"\b({'|'.join(words.split())})\b")


# What is replaced by a space: the Arabic article wherever its two letters stand, inside words too, as officially.
_ARTICLES: dict[str, re.Pattern | None] = {
    "en": _words("a an the"),
    "es": _words("un una unos unas el la los las"),
    "de": _words("ein eine einen einem eines einer der die das den dem des"),
    "vi": _words("của là cái chiếc những"),
    "ar": re.compile("ال"),
    "hi": None,
    "zh": None,
}
LANGUAGES = tuple(_ARTICLES)
_IDEOGRAPH = re.compile("([\u4e00-\u9fa5])")


class _Punctuation(dict):
    """A table for str.translate, filled as characters turn up: drops Unicode's and ASCII's punctuation."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        drop = character in string.punctuation or unicodedata.category(character)[0] == "P"
        self[code] = None if drop else code
        return self[code]


_DROP_PUNCTUATION = _Punctuation()


def normalize_answer(text: str, language: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: in this order. Chinese ideographs become words.

    Raises:
      UserError: MLQA has no rules for the language.
    """
    if language not in _ARTICLES:
        raise UserError(
            f"MLQA's metrics have no rules for {language!r}, but for {', '.join(LANGUAGES)}."
            f"{did_you_mean(language, LANGUAGES)}"
        )
    text = text.lower().translate(_DROP_PUNCTUATION)
    if articles := _ARTICLES[language]:
        text = articles.sub(" ", text)
    if language == "zh":
        text = _IDEOGRAPH.sub(r" \1 ", text)
    return " ".join(text.split())


def _normalizer(language: str) -> Callable[[str], str]:
    normalize_answer("", language)  # An unknown language is an error before any answer is read.
    return lambda text: normalize_answer(text, language)


def exact_match(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, language: str
) -> tuple[float, np.ndarray]:
    """Percentage of answers equal to one of their golds after `normalize_answer`; otherwise as SQuAD's `exact_match`.

    Args:
      language: of the answers, which is the passages'.

    Raises:
      UserError: MLQA has no rules for the language.
    """
    normalize = _normalizer(language)
    return best_over_golds(predictions, golds, lambda a, b: float(normalize(a) == normalize(b)))


def f1(predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, language: str) -> tuple[float, np.ndarray]:
    """Mean best token F1 over the golds, in percent; arguments and errors as `exact_match`."""
    normalize = _normalizer(language)
    return best_over_golds(predictions, golds, lambda a, b: token_f1(normalize(a).split(), normalize(b).split()))
