"""Outputs that are no answer of their task's form, and outputs in a wrong language.

What a text-to-text model does wrong where it transfers badly: mT5, fine-tuned in English, answers some questions in
English ("accidental translation", arXiv 2010.11934, section 5) or writes the sentinels of its pretraining.

Nothing here identifies languages. A wrong language is one of a script that the right one is not written in, or English
by its function words; an answer that stands in its passage is in the right one. What neither shows is not guessed.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from xtr.evaluate.metrics.squad import normalize_answer

ILLEGAL, WRONG_LANGUAGE, UNDECIDED = "illegal_form", "wrong_language", "undecided_language"
NAMES = (ILLEGAL, WRONG_LANGUAGE, UNDECIDED)

_SENTINEL = re.compile(r"<extra_id_\d+>")

# ---------------------------------------------------------------------------------------------------------------------
# Form: what is wrong with an output, each fault with how often it occurs; nothing for a legal one
# ---------------------------------------------------------------------------------------------------------------------


def text_faults(text: str) -> Counter:
    """Of any output: 'empty' (white space alone is that too) and 'sentinel', a span corruption's <extra_id_n>."""
    return +Counter(empty=int(not text.strip()), sentinel=len(_SENTINEL.findall(text)))


def label_faults(text: str, label_names: Sequence[str]) -> Counter:
    """Of a class label that was generated: also 'no_label', which it is to be by exact comparison."""
    return text_faults(text) + Counter(no_label=int(text not in label_names))


def tag_faults(text: str, illegal: Counter) -> Counter:
    """Of the tags of a sentence: also what `parse_tags` says is illegal."""
    return text_faults(text) + illegal


def answer_faults(text: str, answer: str, context: str, no_answer: str | None = None) -> Counter:
    """Of an answer to a question that is to be a part of its passage: also 'not_in_context'.

    Args:
      text: the output.
      answer: what is scored of it, `unpad_answer(text, context)`.
      context: the passage.
      no_answer: the output that says that there is none, where that may be.
    """
    if text == no_answer:
        return Counter()
    elsewhere = bool(answer.strip()) and not is_span(answer, context)
    return text_faults(text) + Counter(not_in_context=int(elsewhere))


def is_span(answer: str, context: str) -> bool:
    """Whether an answer stands in a passage: as it is, or as whole words after SQuAD's `normalize_answer`."""
    if answer in context:
        return True
    words = normalize_answer(answer)
    return bool(words) and f" {words} " in _normalized(context)


@functools.lru_cache(maxsize=512)
def _normalized(context: str) -> str:
    return f" {normalize_answer(context)} "


# ---------------------------------------------------------------------------------------------------------------------
# Language
# ---------------------------------------------------------------------------------------------------------------------

# Script, as Unicode's character names begin -> languages written in it, of XTREME and XTREME-R.
_LANGUAGES = {
    "LATIN": "af az de en es et eu fi fr ht hu id it jv lt ms nl pl pt qu ro sw tl tr vi wo yo",
    "ARABIC": "ar fa ur",
    "BENGALI": "bn",
    "BOPOMOFO": "zh",
    "CJK": "ja ko zh",
    "CYRILLIC": "bg kk ru uk",
    "DEVANAGARI": "hi mr",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
}
SCRIPTS: Mapping[str, frozenset[str]] = {
    language: frozenset(script for script, languages in _LANGUAGES.items() if language in languages.split())
    for language in sorted({language for languages in _LANGUAGES.values() for language in languages.split()})
}
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
_JOINED = {"KATAKANA-HIRAGANA": "KATAKANA", "IDEOGRAPHIC": "CJK"}  # 'ー'; '〆'
# How names of letters begin that are of no script, or of several.
_COMMON = (
    "MODIFIER MATHEMATICAL SCRIPT DOUBLE-STRUCK BLACK-LETTER TURNED FEMININE MASCULINE MICRO KELVIN ANGSTROM OHM ALEF "
    "BET GIMEL DALET INFORMATION INFINITY"
)
_SHARE = 0.1  # of a passage's letters, from which on a script is one of its language's

# Words that no text is written in English without, and that other languages in Latin script do not have.
_ENGLISH = (
    "the and with from which who whose were have his their they this that those into between through during before "
    "because would could should there when where while against within without such only about being"
)
ENGLISH = frozenset(_ENGLISH.split())


@functools.lru_cache(maxsize=65536)
def script_of(letter: str) -> str | None:
    """The script of a letter, as its name in Unicode begins ('LATIN', 'CJK'); None for other characters, and letters
    of none or several."""
    if unicodedata.category(letter)[0] != "L":
        return None
    name = unicodedata.name(letter, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    first = name.split(" ")[0]
    script = _JOINED.get(first, first)
    return None if not script or script in _COMMON.split() else script


def scripts_of(language: str, context: str | None = None) -> frozenset[str]:
    """The scripts of a language by its code ('zh', 'pt-BR'); of one that is not known those that a tenth of the letters
    of a passage are of. Empty where neither is told."""
    code = re.split("[-_]", language)[0].lower()
    if code in SCRIPTS:
        return SCRIPTS[code]
    counts = Counter(map(script_of, context or ""))
    del counts[None]
    return frozenset(script for script, n in counts.items() if n >= _SHARE * counts.total())


def wrong_language(text: str, language: str, context: str | None = None) -> bool | None:
    """Whether an output is in another language than it should be, as far as its letters and function words show.

    An output is right if it is a part of the passage, has no letters, or has no word but the passage's, be it a name in
    another script. Of the others

    - wrong is one with more letters of scripts that the language is not written in, those of the passage's words aside,
      than of its own;
    - wrong is one with an English function word that the passage lacks, where the language is written in Latin script
      and is not English;
    - right is any other where the language is not written in Latin script: it is not English. (Russian in place of
      Bulgarian is not seen.)

    Nothing is said (None) of other words in Latin script where that is the language's, and where its scripts are not
    known.

    Args:
      text: the output; of an answer to a passage what `unpad_answer` makes of it.
      language: that it should be in; the passage's, of extracted answers.
      context: the passage, if there is one.
    """
    if context is not None and is_span(text, context):
        return False
    known, words = _words_of(context or ""), _words(text)
    unseen = [word for word in words if word not in known]
    if not unseen:
        return False
    scripts = scripts_of(language, context)
    if not scripts:
        return None
    own = sum(script_of(c) in scripts for word in words for c in word)
    foreign = sum(script_of(c) not in scripts | {None} for word in unseen for c in word)
    if foreign > own:
        return True
    if "LATIN" not in scripts:
        return False
    english = re.split("[-_]", language)[0].lower() == "en"
    return True if not english and ENGLISH.intersection(unseen) else None


def _words(text: str) -> list[str]:
    """Runs of letters of one script and of their marks, in lower case."""
    words: list[str] = []
    before: str | None = None
    for character in text.casefold():
        kind = unicodedata.category(character)[0]
        script = script_of(character)
        if kind == "L" and words and before is not None and script in (before, None):
            words[-1] += character
        elif kind == "L":
            words.append(character)
            before = script or ""
        elif kind == "M" and before is not None:
            words[-1] += character
        else:
            before = None
    return words


@functools.lru_cache(maxsize=512)
def _words_of(context: str) -> frozenset[str]:
    return frozenset(_words(context))


# ---------------------------------------------------------------------------------------------------------------------
# Shares
# ---------------------------------------------------------------------------------------------------------------------


def contributions(records: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """What each record contributes, 100 or 0, to the shares of outputs in percent: name of `NAMES` -> float64 [N].

    A record has `illegal`, its faults by name, where its form was looked at; and `wrong_language`, as that function
    says, where its language was. A share is told where every record has what it reads. That of undecided languages
    bounds the wrong ones from above: they are between `wrong_language` and the sum of both.
    """
    found = {}
    if records and all("illegal" in record for record in records):
        found[ILLEGAL] = [bool(record["illegal"]) for record in records]
    if records and all("wrong_language" in record for record in records):
        found[WRONG_LANGUAGE] = [record["wrong_language"] is True for record in records]
        found[UNDECIDED] = [record["wrong_language"] is None for record in records]
    return {name: 100.0 * np.array(flags, np.float64) for name, flags in found.items()}
