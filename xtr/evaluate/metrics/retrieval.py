"""Retrieval: exact nearest neighbours by cosine, and what ranked lists are worth.

Tatoeba's direction (google-research/xtreme `third_party/utils_retrieve.py`, `similarity_search`): the queries are the
English sentences, the candidates the foreign ones, and accuracy is over the English queries. The other direction gives
clearly different numbers.
"""

from collections.abc import Sequence

import numpy as np

from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned

_BLOCK = 1024


def nearest(query_QD: np.ndarray, candidate_CD: np.ndarray) -> np.ndarray:
    """Row of the candidate with the greatest cosine similarity, for each query: index_Q; otherwise as `top_k`."""
    return top_k(query_QD, candidate_CD, 1)[0][:, 0]


def top_k(query_QD: np.ndarray, candidate_CD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `k` candidates with the greatest cosine similarity, best first; the lowest row among equals.

    Computed in float64 over blocks of fixed size, so that the answer depends on the vectors alone, and [Q, C] scores
    are never held. A zero vector has similarity 0 with everything.

    Args:
      query_QD: [Q, D] vectors, any norm.
      candidate_CD: [C, D].
      k: how many; all candidates where there are fewer.

    Returns:
      (index_QK int64, score_QK float64, rounded to 10 digits).

    Raises:
      DataError: shapes that do not fit, no candidates, or a vector that is not finite.
    """
    if query_QD.ndim != 2 or candidate_CD.ndim != 2 or query_QD.shape[1] != candidate_CD.shape[1]:
        raise DataError(f"queries {query_QD.shape} and candidates {candidate_CD.shape} must be [Q, D] and [C, D]")
    if not len(candidate_CD):
        raise DataError("no candidates to retrieve from")
    query_QD, candidate_CD = _checked(query_QD, "query"), _checked(candidate_CD, "candidate")
    k = min(k, len(candidate_CD))
    index_QK = np.zeros((len(query_QD), k), np.int64)
    score_QK = np.full((len(query_QD), k), -np.inf)
    for c in range(0, len(candidate_CD), _BLOCK):
        unit_CD = _unit(candidate_CD[c : c + _BLOCK])
        for q in range(0, len(query_QD), _BLOCK):
            rows = slice(q, q + _BLOCK)
            # Rounding makes equal vectors tie exactly, whatever order the sums were taken in.
            score_QC = np.round(_unit(query_QD[rows]) @ unit_CD.T, 10)
            _merge(score_QK[rows], index_QK[rows], score_QC, c)
    return index_QK, score_QK


def _merge(score_QK: np.ndarray, index_QK: np.ndarray, score_QC: np.ndarray, first: int) -> None:
    """Puts a block of later candidates, whose first row is `first`, into sorted lists, in place."""
    k = score_QK.shape[1]
    # A later candidate enters only if it is better than the last of the list: equal ones stay behind.
    enters_QC = score_QC > score_QK[:, -1:]
    if np.isinf(score_QK[:, -1]).any() and score_QC.shape[1] > k:
        enters_QC &= score_QC >= np.partition(score_QC, -k, axis=1)[:, [-k]]
    q_E, c_E = np.nonzero(enters_QC)
    changed = np.unique(q_E)
    q_E = np.concatenate([np.repeat(changed, k), q_E])
    score_E = np.concatenate([score_QK[changed].ravel(), score_QC[q_E[len(changed) * k :], c_E]])
    index_E = np.concatenate([index_QK[changed].ravel(), c_E + first])
    order_E = np.lexsort((index_E, -score_E, q_E))
    starts = np.searchsorted(q_E[order_E], changed)
    kept = order_E[starts[:, None] + np.arange(k)]
    score_QK[changed], index_QK[changed] = score_E[kept], index_E[kept]


def _checked(vectors_ND: np.ndarray, side: str) -> np.ndarray:
    vectors_ND = np.asarray(vectors_ND)
    for start in range(0, len(vectors_ND), _BLOCK):
        finite_N = np.isfinite(vectors_ND[start : start + _BLOCK]).all(axis=1)
        if not finite_N.all():
            raise DataError(f"{side} {start + int(np.argmin(finite_N))}: its vector is not finite")
    return vectors_ND


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    vectors_ND = np.asarray(vectors_ND, np.float64)
    norm_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(norm_N1 == 0, 1.0, norm_N1)


# ---------------------------------------------------------------------------------------------------------------------
# Ranked lists
# ---------------------------------------------------------------------------------------------------------------------


def average_precision(ranked: Sequence, right: Sequence, k: int | None = 20) -> float:
    """Average precision of one ranked list, in 0..1: LAReQA's.

    The precision at each rank that holds a right answer, summed and divided by how many could have been found. An
    answer that comes again counts once but takes up its rank.

    Args:
      ranked: answers, best first.
      right: the right answers, one or more.
      k: how many ranks count; None: all.

    Raises:
      DataError: there is no right answer.
    """
    if not len(right):
        raise DataError("average precision needs a right answer")
    found: set = set()
    total = 0.0
    for rank, answer in enumerate(ranked[:k], 1):
        if answer in right and answer not in found:
            found.add(answer)
            total += len(found) / rank
    return total / min(len(right), k or len(right))


def reciprocal_rank(ranked: Sequence, right: str, k: int = 20) -> float:
    """1 / rank of the right answer, in 0..1; 0 where it is not among the first `k`. Mewsli-X's."""
    return next((1.0 / rank for rank, answer in enumerate(ranked[:k], 1) if answer == right), 0.0)


def map_at_20(predictions: Sequence[Sequence | None], golds: Sequence) -> tuple[float, np.ndarray]:
    """Mean average precision of the first 20 answers, in percent; with one right answer also the reciprocal rank.

    It is the metric of LAReQA and of Mewsli-X in XTREME-R (google-research/xtreme `third_party/utils_lareqa.py`,
    `utils_mewslix.py`).

    Args:
      predictions: [N] lists of answers, best first; None or an empty list counts 0.
      golds: [N] right answers, one or a list.

    Returns:
      (value in 0..100, contributions_N float64 whose mean is the value).

    Raises:
      DataError: the lengths differ, there is no example, a prediction is no list, or an example has no right answer.
    """
    check_aligned(predictions, golds)
    contributions_N = np.zeros(len(golds))
    for n, (ranked, gold) in enumerate(zip(predictions, golds, strict=True)):
        if isinstance(ranked, str):
            raise DataError(f"example {n}: its prediction must be a ranked list of answers, not {ranked!r}")
        right = gold if isinstance(gold, list | tuple) else [gold]
        contributions_N[n] = 100.0 * average_precision([] if ranked is None else ranked, right, 20)
    return float(contributions_N.mean()), contributions_N
