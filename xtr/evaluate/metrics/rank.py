"""t5's metrics of rank classification: of the log-likelihoods of all choices of all inputs.

Source: google-research/text-to-text-transfer-transformer `t5/evaluation/metrics.py`, `rank_classification`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xtr.errors import DataError


class Choice(NamedTuple):
    """One choice of one input.

    Attributes:
      index: (input, choice) and perhaps more numbers; sorting by it puts an input's choices together, in their order.
      right: whether it is a right answer.
      weight: of the input.
      length: tokens of the choice.
    """

    index: tuple[int, ...]
    right: bool
    weight: float = 1.0
    length: int = 1


def rank_classification(
    choices: Sequence[Choice],
    scores: Sequence[float],
    num_classes: int | None = None,
    normalize_by_target_length: bool = False,
    index_length: int = 2,
) -> Mapping[str, float]:
    """What the choices with the greatest scores are worth, in percent; the first of equals is chosen.

    Args:
      choices: all of them, in any order.
      scores: [len(choices)] log-likelihoods.
      num_classes: the same classes for every input, which are then compared in float32, as officially; None: any number
        of choices an input.
      normalize_by_target_length: divide each score by its choice's length.
      index_length: numbers in an index.

    Returns:
      'accuracy'. With two classes also 'f1', 'auc-roc' (nan if all golds are alike) and 'auc-pr', of class 1; with more
      'mean_<n>class_f1', the unweighted mean of their F1. Neither, where an input has several right choices.

    Raises:
      DataError: the lengths differ, no choices, an index twice or of another length, or inputs that lack a class.
    """
    if len(choices) != len(scores) or not len(choices):
        raise DataError(f"{len(scores)} scores for {len(choices)} choices: every choice needs exactly one")
    choices = [Choice(tuple(index), *rest) for index, *rest in choices]
    if wrong := next((c for c in choices if len(c.index) != index_length), None):
        raise DataError(f"choice {wrong.index}: its index must have {index_length} numbers")
    if len({choice.index for choice in choices}) != len(choices):
        raise DataError("two choices have the same index")
    order = sorted(range(len(choices)), key=lambda i: choices[i].index)
    choices = [choices[i] for i in order]
    score_M = np.asarray(scores, np.float64)[order]
    if normalize_by_target_length:
        score_M = score_M / [choice.length for choice in choices]
    if num_classes is None:
        return _any_number(choices, score_M)
    if len(choices) % num_classes:
        raise DataError(f"{len(choices)} choices are not {num_classes} for each input")
    right_NC = np.array([choice.right for choice in choices]).reshape(-1, num_classes)
    weight_N = np.array([choice.weight for choice in choices], np.float64)[::num_classes]
    score_NC = score_M.astype(np.float32).reshape(-1, num_classes)
    chosen_N = score_NC.argmax(axis=1)
    correct_N = right_NC[np.arange(len(chosen_N)), chosen_N]
    found = {"accuracy": _percent((weight_N * correct_N).sum(), weight_N.sum())}
    if (right_NC.sum(axis=1) > 1).any():
        return found
    f1_C = [_f1(chosen_N == c, right_NC[:, c], weight_N) for c in range(num_classes)]
    if num_classes != 2:
        return found | {f"mean_{num_classes}class_f1": float(np.mean(f1_C))}
    likely_NC = np.exp(score_NC - score_NC.max(axis=1, keepdims=True))
    positive_N = likely_NC[:, 1] / likely_NC.sum(axis=1)
    curves = _areas(positive_N, right_NC.argmax(axis=1) == 1, weight_N)
    return found | {"f1": f1_C[1], "auc-roc": curves[0], "auc-pr": curves[1]}


def _any_number(choices: Sequence[Choice], score_M: np.ndarray) -> dict[str, float]:
    """Accuracy of inputs with any number of choices; the chosen choice's weight is the input's."""
    best: dict[tuple[int, ...], int] = {}
    for i, choice in enumerate(choices):
        place = choice.index[:1]
        if place not in best or score_M[i] > score_M[best[place]]:
            best[place] = i
    chosen = [choices[i] for i in best.values()]
    return {"accuracy": _percent(sum(c.weight for c in chosen if c.right), sum(c.weight for c in chosen))}


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else 0.0


def _f1(predicted_N: np.ndarray, gold_N: np.ndarray, weight_N: np.ndarray) -> float:
    right = weight_N[predicted_N & gold_N].sum()
    return _percent(2 * right, weight_N[predicted_N].sum() + weight_N[gold_N].sum())


def _areas(score_N: np.ndarray, gold_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, float]:
    """Areas in percent under the ROC curve (trapezoids) and under precision and recall (steps)."""
    order_N = np.argsort(-score_N, kind="stable")
    last_N = np.append(np.diff(score_N[order_N]) != 0, True)  # Equal scores are one point of the curve.
    true_K = np.cumsum((weight_N * gold_N)[order_N])[last_N]
    false_K = np.cumsum((weight_N * ~gold_N)[order_N])[last_N]
    roc = pr = float("nan")
    if true_K[-1] > 0:
        taken_K = np.where(true_K + false_K > 0, true_K + false_K, 1.0)
        pr = 100.0 * float((np.diff(true_K, prepend=0.0) * true_K / taken_K).sum() / true_K[-1])
        if false_K[-1] > 0:
            area = np.trapezoid(np.append(0.0, true_K), np.append(0.0, false_K))
            roc = 100.0 * float(area / true_K[-1] / false_K[-1])
    return roc, pr
