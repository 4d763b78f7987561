"""Accuracy over aligned predictions and golds."""

from collections.abc import Sequence

import numpy as np

from xtr.errors import DataError


def check_aligned(predictions: Sequence, golds: Sequence) -> None:
    """Raises DataError unless both sequences have the same, non-zero length."""
    if len(predictions) != len(golds):
        raise DataError(f"{len(predictions)} predictions for {len(golds)} golds: every example needs exactly one")
    if not len(golds):
        raise DataError("no examples to score")


def accuracy(predictions: Sequence, golds: Sequence) -> tuple[float, np.ndarray]:
    """Percentage of predictions equal to their gold.

    Strings are compared without surrounding white space and with case, as google-research/xtreme `evaluate.py` does;
    other values by `==`, so that the string "0" is not the number 0. A prediction of None counts 0.

    Args:
      predictions: [N] labels, label indices, or the ids retrieved first.
      golds: [N], aligned with `predictions`; a gold may be a list of right answers.

    Returns:
      (value in 0..100, contributions_N float64, each 0 or 100, whose mean is the value).

    Raises:
      DataError: the lengths differ, or there is no example.
    """
    check_aligned(predictions, golds)
    pairs = zip(predictions, golds, strict=True)
    contributions_N = np.array([100.0 * _right(prediction, gold) for prediction, gold in pairs])
    return float(contributions_N.mean()), contributions_N


def _right(prediction, gold) -> bool:
    answers = gold if isinstance(gold, list | tuple) else [gold]
    return prediction is not None and any(_plain(prediction) == _plain(answer) for answer in answers)


def _plain(value):
    return value.strip() if isinstance(value, str) else value
