"""SQuAD v1.1 exact match and F1, and the way back from mT5's padded answers to the passage's own text.

XQuAD and TyDiQA-GoldP are scored with the same English rules in every language (google-research/xtreme
`third_party/evaluate_squad.py` is the official SQuAD v1.1 script), so an unsegmented language has one token an answer
unless it holds a space.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation (nothing left in its place), no a/an/the, single spaces: in this order."""
    text = text.lower().translate(_DROP_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(predictions: Sequence[str | None], golds: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """Percentage of answers equal to one of their golds after `normalize_answer`.

    Args:
      predictions: [N] answers; None (no answer given) counts 0.
      golds: [N] lists of one or more acceptable answers.

    Returns:
      (value in 0..100, contributions_N float64 whose mean is the value).

    Raises:
      DataError: the lengths differ, there is no example, or an example has no gold answer.
    """
    return best_over_golds(predictions, golds, lambda a, b: float(normalize_answer(a) == normalize_answer(b)))


def f1(predictions: Sequence[str | None], golds: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """Mean best token F1 over the golds, in percent; arguments, result and errors as `exact_match`.

    Tokens are the white-space tokens of the normalised answers, compared as multisets. Two answers that both
    normalise to nothing have F1 0 in v1.1, although their exact match is 1.
    """
    return best_over_golds(
        predictions, golds, lambda a, b: token_f1(normalize_answer(a).split(), normalize_answer(b).split())
    )


def best_over_golds(predictions, golds, score: Callable[[str, str], float]) -> tuple[float, np.ndarray]:
    """Each prediction's best `score` (0..1) over its golds, in percent; arguments, result, errors as `exact_match`."""
    check_aligned(predictions, golds)
    contributions_N = np.zeros(len(golds))
    for n, (prediction, answers) in enumerate(zip(predictions, golds, strict=True)):
        if isinstance(answers, str) or not len(answers):
            raise DataError(f"example {n}: golds must be a list of one or more answers, not {answers!r}")
        if prediction is not None:
            contributions_N[n] = 100.0 * max(score(prediction, answer) for answer in answers)
    return float(contributions_N.mean()), contributions_N


def token_f1(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    """F1 of two multisets of tokens, in 0..1; 0 where they have none in common, be it that both are empty."""
    common = sum((Counter(predicted) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def unpad_answer(prediction: str, context: str) -> str:
    """Gives a generated answer back the passage's own spelling: "U . S ." becomes "U.S." where the passage says so.

    mT5's question answering puts spaces round punctuation in passages and answers, which the official metric (raw
    golds) would punish. The answer is looked up in the passage: first with both padded alike, then without invisible
    characters, which many a vocabulary's normaliser drops, then with no white space at all; all compared after
    compatibility decomposition, since a normaliser may have rewritten characters ("½", full-width forms). An occurrence
    that starts and ends at word borders is preferred, then the first. What is not in the passage as a whole is split
    into the longest runs of tokens that are, each given its own spelling; tokens found nowhere stay as they are.

    Args:
      prediction: decoded model output.
      context: the raw passage.

    Returns:
      The answer to score; only its white space and its character forms can differ from `prediction`.
    """
    exact = _key(prediction, invisible=True)[0].strip(" ")
    tokens = _key(prediction)[0].split()
    whole = (
        _find(exact, context, invisible=True)
        or _find(" ".join(tokens), context)
        or _find("".join(tokens), context, spaces=False)
    )
    if whole is not None or not tokens:
        return whole or prediction.strip()
    pieces, start = [], 0
    while start < len(tokens):
        for end in range(len(tokens), start, -1):
            piece = _find(" ".join(tokens[start:end]), context, borders=True)
            if piece is not None:
                break
        else:
            end, piece = start + 1, unicodedata.normalize("NFC", tokens[start])
        pieces.append(piece)
        start = end
    return " ".join(pieces)


def _key(text: str, invisible: bool = False) -> tuple[str, list[int]]:
    """Padded, decomposed form of `text`, and for each of its characters the index of its source character (-1: none).

    Letters, marks and numbers stay; white space and control characters become one space, as do format characters and
    the like unless `invisible`; every other character stands between spaces. Decomposition works character by
    character, so the way back is exact.
    """
    out: list[str] = []
    source: list[int] = []

    def put(character: str, index: int) -> None:
        if character == " " and (not out or out[-1] == " "):
            return
        out.append(character)
        source.append(index)

    for index, original in enumerate(text):
        for character in original if original.isascii() else unicodedata.normalize("NFKD", original):
            kind = unicodedata.category(character)
            if kind[0] in "LMN":
                put(character, index)
            elif kind[0] in "ZC" and (kind[0] == "Z" or kind == "Cc" or not invisible):
                put(" ", -1)
            else:
                put(" ", -1)
                put(character, index)
                put(" ", -1)
    return "".join(out), source


@functools.lru_cache(maxsize=512)
def _passage_key(context: str, spaces: bool, invisible: bool) -> tuple[str, list[int]]:
    text, source = _key(context, invisible)
    if spaces:
        return text, source
    kept = [(c, s) for c, s in zip(text, source, strict=True) if c != " "]
    return "".join(c for c, _ in kept), [s for _, s in kept]


def _find(
    needle: str, context: str, *, spaces: bool = True, invisible: bool = False, borders: bool = False
) -> str | None:
    """The passage's text whose key is `needle`, or None; `borders` demands word borders at both ends."""
    if not needle:
        return None
    text, source = _passage_key(context, spaces, invisible)
    first = None
    at = text.find(needle)
    while at >= 0:
        end = at + len(needle)
        begin_source, end_source = source[at], source[end - 1]
        # A match must not cut a source character in two, nor a letter from its combining marks.
        whole = (at == 0 or source[at - 1] != begin_source) and (end == len(text) or source[end] != end_source)
        if whole and not (end < len(text) and unicodedata.combining(text[end])):
            span = context[begin_source : end_source + 1]
            if _is_border(context, begin_source) and _is_border(context, end_source + 1):
                return span
            first = first if first is not None else span
        at = text.find(needle, at + 1)
    return None if borders else first


def _is_border(text: str, index: int) -> bool:
    """Whether position `index` of `text` does not lie between two letters, marks or numbers."""
    if index <= 0 or index >= len(text):
        return True
    return not all(unicodedata.category(c)[0] in "LMN" for c in text[index - 1 : index + 1])
