"""MultiCheckList's cases: what their examples are called, and which answers count as the same.

Source of the rules by language: google-research/xtreme, multichecklist/generate_test_utils.py, `clean`.
"""

import re
from typing import NamedTuple

from xtr.errors import DataError

# Articles (and a Wolof pronoun) that an answer may have or lack.
_ARTICLES = {
    language: re.compile(pattern)
    for language, pattern in {
        "af": r"’n\b",
        "ar": r"ال",
        "bn": r"\b(?:একটি|একজন)",
        "de": r"\b(?:ein|eine|einen)\b",
        "el": r"\b(?:Ο|ένα|μια)\b",
        "en": r"\b(?:a|an|the|in|at)\b",
        "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
        "eu": r"\bbat\b",
        "fa": r"\bیک\b",
        "fr": r"\b(?:un|une|le|la|en)\b",
        "hi": r"\bएक",
        "hu": r"\begy\b",
        "it": r"\b(?:un|una)\b",
        "ml": r"\bഒരു",
        "mr": r"\bएक",
        "my": r"\bတစ်ဦး",
        "nl": r"\been\b",
        "pa": r"\b(?:ਇੱਕ|ਇਕ)",
        "pt": r"\b(?:um|uma)\b",
        "ta": r"\bஒரு",
        "tl": r"\bSi\b",
        "tr": r"\bbir\b",
        "vi": r"\bmột\b",
        "wo": r"\bdafa\b",
        "yo": r"\bkan\b",
    }.items()
}
# What may stand before and behind an answer, besides ',', '.' and a space.
_ENDS = {"bn": "\u09f7", "hi": "\u09f7", "pa": "\u0964", "pl": "„”", "ur": "\u200f"}


def normalise(text: str, language: str) -> str:
    """An answer without its language's articles, and without the punctuation around it; case counts."""
    if articles := _ARTICLES.get(language):
        text = articles.sub(" ", text)
    return text.strip(",. " + _ENDS.get(language, ""))


class CaseId(NamedTuple):
    """Where an example belongs: `<capability>/<test>/<case>/<context>/<question>`.

    The contexts and questions of one case have the same fill-ins; numbers count from 1. A case of one number has the
    same fill-ins in every language.
    """

    capability: str
    test: str
    case: int
    context: int
    question: int

    def __str__(self) -> str:
        return "/".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> "CaseId":
        """Raises DataError where a text is no id of a case."""
        parts = text.split("/")
        if len(parts) != 5 or not all(parts[:2]) or not all(re.fullmatch("[0-9]+", part) for part in parts[2:]):
            raise DataError(f"example {text!r}, field 'id': not <capability>/<test>/<case>/<context>/<question>")
        return cls(*parts[:2], *map(int, parts[2:]))
