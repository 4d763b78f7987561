"""Tagging as XTREME scores it: F1 of the chunks that seqeval 0.0.12 finds, and token accuracy.

google-research/xtreme `evaluate.py` scores UD-POS and PAN-X alike. seqeval reads a tag's prefix from its first letter
and its type from what follows the last hyphen, so a bare part of speech is its own type: equal neighbours are one
chunk, but those that begin with S (SCONJ, SYM) stand alone. Later versions of seqeval read UD-POS otherwise and do not
give XTREME's numbers.
"""

from collections.abc import Sequence

import numpy as np

from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned
from xtr.evaluate.metrics.metric import micro_f1

_OUTSIDE = "O."


def chunks(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The chunks of one sentence: (type, first token, last token).

    Raises:
      DataError: an empty tag.
    """
    found = set()
    before, type_before, first = "O", "", 0
    for index, tag in enumerate([*tags, "O"]):
        if not tag:
            raise DataError(f"token {index}: its tag is empty")
        prefix, type_ = tag[0], tag.rpartition("-")[2]
        changed = type_ != type_before
        if before in "ES" or (before in "BI" and prefix in "BSO") or (changed and before not in _OUTSIDE):
            found.add((type_before, first, index - 1))
        if prefix in "BS" or (prefix in "EI" and before in "ESO") or (changed and prefix not in _OUTSIDE):
            first = index
        before, type_before = prefix, type_
    return found


def span_f1(predictions: Sequence, golds: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """Micro F1 over the chunks of all sentences, in percent; 0 where neither side has a chunk.

    Args:
      predictions: [N] lists of tags, one a token; None (no prediction) has no chunks.
      golds: [N] lists of tags.

    Returns:
      (value, counts_N3 of tp, fp, fn).

    Raises:
      DataError: the numbers of sentences, or of tags of a sentence, differ. (The official script shifts what follows.)
    """
    counts_N3 = np.zeros((len(golds), 3))
    for n, predicted, gold in _sentences(predictions, golds):
        found, wanted = chunks(predicted or ()), chunks(gold)
        counts_N3[n] = len(found & wanted), len(found - wanted), len(wanted - found)
    return micro_f1(counts_N3)


def token_accuracy(predictions: Sequence, golds: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """Percentage of tokens with the right tag, over the tokens of all sentences.

    Arguments, result and errors as `span_f1`: a wrong tag is one too many and one too few, so that F1 is the accuracy.
    """
    counts_N3 = np.zeros((len(golds), 3))
    for n, predicted, gold in _sentences(predictions, golds):
        right = sum(a == b for a, b in zip(predicted, gold, strict=True)) if predicted is not None else 0
        counts_N3[n] = right, len(gold) - right, len(gold) - right
    return micro_f1(counts_N3)


def _sentences(predictions, golds):
    check_aligned(predictions, golds)
    for n, (predicted, gold) in enumerate(zip(predictions, golds, strict=True)):
        for side, tags in (("prediction", predicted), ("gold", gold)):
            if isinstance(tags, str):
                raise DataError(f"sentence {n}: its {side} must be a list of tags, not {tags!r}")
        if predicted is not None and len(predicted) != len(gold):
            raise DataError(f"sentence {n}: {len(predicted)} predicted tags for {len(gold)} tokens")
        yield n, predicted, gold
