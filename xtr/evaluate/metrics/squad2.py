"""SQuAD 2.0: exact match and F1 where a question may have no answer, and the threshold for giving none.

Source of the rules: rajpurkar/SQuAD-explorer `evaluate-v2.0.py`. An empty answer says that there is none. Unlike v1.1,
F1 is 1 where both sides normalise to nothing, and golds that normalise to nothing are left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned
from xtr.evaluate.metrics.squad import normalize_answer, token_f1


def exact_match(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, no_answer: str = ""
) -> tuple[float, np.ndarray]:
    """Percentage of answers equal to one of their golds after SQuAD's `normalize_answer`.

    Args:
      predictions: [N] answers, '' for none; None (no prediction) counts 0, where the official script leaves it out.
      golds: [N] lists of acceptable answers, empty for a question without an answer.
      no_answer: another text that says that there is none.

    Returns:
      (value in 0..100, contributions_N float64 whose mean is the value).

    Raises:
      DataError: the lengths differ, there is no example, or golds are no list.
    """
    return _best_over_golds(predictions, golds, no_answer, lambda a, b: float(a == b))


def f1(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, no_answer: str = ""
) -> tuple[float, np.ndarray]:
    """Mean best token F1 over the golds, in percent; arguments, result and errors as `exact_match`."""
    return _best_over_golds(predictions, golds, no_answer, _f1)


def _f1(prediction: str, gold: str) -> float:
    if not prediction or not gold:
        return float(prediction == gold)
    return token_f1(prediction.split(), gold.split())


def _best_over_golds(predictions, golds, no_answer: str, score) -> tuple[float, np.ndarray]:
    check_aligned(predictions, golds)
    contributions_N = np.zeros(len(golds))
    for n, (prediction, answers) in enumerate(zip(predictions, golds, strict=True)):
        if isinstance(answers, str):
            raise DataError(f"example {n}: golds must be a list of answers, not {answers!r}")
        if prediction is not None:
            answer = "" if prediction.strip() == no_answer else normalize_answer(prediction)
            wanted = [text for text in map(normalize_answer, answers) if text] or [""]
            contributions_N[n] = 100.0 * max(score(answer, text) for text in wanted)
    return float(contributions_N.mean()), contributions_N


def answers_given_up(
    contributions_N: np.ndarray, answerable_N: np.ndarray, null_N: np.ndarray, threshold: float
) -> np.ndarray:
    """Contributions where a question with `null > threshold` is given no answer: 100 where it has none, else 0."""
    return np.where(np.asarray(null_N) > threshold, 100.0 * ~np.asarray(answerable_N, bool), contributions_N)


def best_threshold(
    contributions_N: np.ndarray, answerable_N: np.ndarray, answered_N: np.ndarray, null_N: np.ndarray
) -> tuple[float, float]:
    """The threshold on `null` above which to give no answer, chosen for the greatest mean on a development set.

    Questions are taken by rising `null`, equal ones in their order. As officially, an unanswerable question costs
    something only if it is answered, and the threshold of a tie may lie between equal values.

    Args:
      contributions_N: of `exact_match` or `f1`, with every question answered.
      answerable_N: whether the question has an answer.
      answered_N: whether the model's answer is not ''.
      null_N: how sure the model is that there is none: a probability, or a difference of scores.

    Returns:
      (the best mean in percent, the threshold). Where giving no answer at all is best, that is 0 as officially, which
      supposes probabilities, or -inf where some `null` is not above 0.
    """
    answerable_N = np.asarray(answerable_N, bool)
    gain_N = np.where(answerable_N, contributions_N, -100.0 * np.asarray(answered_N, bool))
    order_N = np.argsort(null_N, kind="stable")
    # Summed one by one, from "no answers", as officially: rounding decides between sums that are equal on paper.
    best = total = 100.0 * (~answerable_N).sum()
    threshold = 0.0 if np.min(null_N) > 0 else -np.inf
    for n in order_N:
        total += gain_N[n]
        if total > best:
            best, threshold = total, null_N[n]
    return float(best / len(gain_N)), float(threshold)


def average_precision(contributions_N: np.ndarray, answerable_N: np.ndarray, null_N: np.ndarray) -> float:
    """Area under precision and recall of answering, in percent, answering by rising `null`; arguments as
    `best_threshold`.

    Raises:
      DataError: no question has an answer.
    """
    answerable_N = np.asarray(answerable_N, bool)
    if not answerable_N.any():
        raise DataError("average precision needs a question that has an answer")
    order_N = np.argsort(null_N, kind="stable")
    null_N = np.asarray(null_N)[order_N]
    right_N = np.cumsum(np.where(answerable_N, contributions_N, 0.0)[order_N] / 100.0)
    last_N = np.append(null_N[1:] != null_N[:-1], True)  # Equal values are one step of the curve.
    precision_N = (right_N / np.arange(1, len(right_N) + 1))[last_N]
    recall_N = (right_N / answerable_N.sum())[last_N]
    return float(100.0 * (precision_N * np.diff(recall_N, prepend=0.0)).sum())


def evaluate(
    predictions: Sequence[str | None],
    golds: Sequence[Sequence[str]],
    null_N: Sequence[float] | None = None,
    threshold: float = 1.0,
    *,
    no_answer: str = "",
) -> Mapping[str, float]:
    """Everything that the official script reports, under its names, in percent.

    Args:
      predictions, golds, no_answer: as of `exact_match`.
      null_N: probability that there is no answer; without it the best thresholds and average precisions are not told.
      threshold: probability above which an answer is given up.
    """
    raw = {
        "exact": exact_match(predictions, golds, no_answer=no_answer)[1],
        "f1": f1(predictions, golds, no_answer=no_answer)[1],
    }
    answerable_N = np.array([len(answers) > 0 for answers in golds])
    final = raw
    if null_N is not None:
        if len(null_N) != len(golds):
            raise DataError(f"{len(null_N)} probabilities of no answer for {len(golds)} questions")
        final = {name: answers_given_up(scores_N, answerable_N, null_N, threshold) for name, scores_N in raw.items()}
    found = {}
    for prefix, rows_N in (("", answerable_N | True), ("HasAns_", answerable_N), ("NoAns_", ~answerable_N)):
        if rows_N.any():
            found |= {f"{prefix}{name}": float(scores_N[rows_N].mean()) for name, scores_N in final.items()}
            found[f"{prefix}total"] = int(rows_N.sum())
    if null_N is not None:
        answered_N = np.array([bool(text) and text.strip() != (no_answer or None) for text in predictions])
        for name, scores_N in raw.items():
            best = best_threshold(scores_N, answerable_N, answered_N, null_N)
            found[f"best_{name}"], found[f"best_{name}_thresh"] = best
        if answerable_N.any():
            oracle = {**raw, "oracle": 100.0 * answerable_N}
            for name, scores_N in oracle.items():
                found[f"pr_{name}_ap"] = average_precision(scores_N, answerable_N, null_N)
    return found
