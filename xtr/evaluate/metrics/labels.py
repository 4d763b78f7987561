"""The metrics that multilingual-t5 and t5 have of their own, for comparison with their numbers.

Sources: google-research/multilingual-t5 `evaluation/metrics.py` (span_f1); google-research/text-to-text-transfer-
transformer `data/postprocessors.py` (string_label_to_class_id) and `evaluation/metrics.py` (f1_score_with_invalid).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned
from xtr.evaluate.metrics.metric import micro_f1

_SEPARATOR = " $$ "
_TINY = 1e-13


def entity_text_f1(predictions: Sequence[str | None], golds: Sequence) -> tuple[float, np.ndarray]:
    """mT5's own `span_f1` of entities written as text, 'PER: Ada $$ LOC: Paris', in percent (mT5 has a fraction).

    Not XTREME's F1: where an entity stands does not matter, and one whose text holds a colon is left out on both sides.

    Args:
      predictions: [N] texts; None (no prediction) has no entities.
      golds: [N] texts, or lists of one text.

    Returns:
      (value, slightly below 100 where all is right since mT5 adds 1e-13 to its divisors; counts_N3 of tp, fp, fn).

    Raises:
      DataError: the lengths differ, there is no example, or a gold is not one text.
    """
    check_aligned(predictions, golds)
    counts_N3 = np.zeros((len(golds), 3))
    for n, (prediction, gold) in enumerate(zip(predictions, golds, strict=True)):
        found, wanted = _entities(prediction or ""), _entities(_one(gold, n))
        right = (found & wanted).total()
        counts_N3[n] = right, found.total() - right, wanted.total() - right
    tp, fp, fn = counts_N3.sum(axis=0)
    precision, recall = tp / (tp + fp + _TINY), tp / (tp + fn + _TINY)
    return float(100.0 * 2 * precision * recall / (precision + recall + _TINY)), counts_N3


def _one(gold, n: int) -> str:
    texts = [gold] if isinstance(gold, str) else list(gold)
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise DataError(f"example {n}: gold must be one text, not {gold!r}")
    return texts[0]


def _entities(text: str) -> Counter:
    items = (item.split(":") for item in text.split(_SEPARATOR))
    return Counter((item[0].strip(), item[1].strip()) for item in items if len(item) == 2)


def class_id(text: str, label_names: Sequence[str]) -> int:
    """The number of the label that a text is, by exact comparison; -1 for any other text."""
    return label_names.index(text) if text in label_names else -1


def f1_with_invalid(predictions: Sequence[int | None], golds: Sequence[int]) -> tuple[float, np.ndarray]:
    """F1 of class 1 of two classes, in percent: t5's metric of QQP and MRPC. What is neither 0 nor 1 is wrong.

    Args:
      predictions: [N] classes; any other number, or None, is taken for the wrong class.
      golds: [N], 0 or 1.

    Returns:
      (value, counts_N3 of tp, fp, fn).

    Raises:
      DataError: the lengths differ, there is no example, or a gold is neither 0 nor 1.
    """
    check_aligned(predictions, golds)
    counts_N3 = np.zeros((len(golds), 3))
    for n, (prediction, gold) in enumerate(zip(predictions, golds, strict=True)):
        if gold not in (0, 1):
            raise DataError(f"example {n}: gold must be 0 or 1, not {gold!r}")
        found = prediction if prediction in (0, 1) else 1 - gold
        counts_N3[n] = found and gold, found and not gold, not found and gold
    return micro_f1(counts_N3)
