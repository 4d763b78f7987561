"""Retrieval: exact nearest neighbours, and what ranked lists are worth.

Tatoeba's direction (google-research/xtreme `third_party/utils_retrieve.py`, `similarity_search`): the queries are the
English sentences, the candidates the foreign ones, and accuracy is over the English queries. The other direction gives
clearly different numbers.

Axes: Q queries, C candidates, D dimension, K neighbours, N vectors of either side, E pairs of a query and a candidate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from xtr.errors import DataError, UserError
from xtr.evaluate.metrics.accuracy import check_aligned

Similarity = Literal["cosine", "dot"]

DIGITS = 10  # of a score, of which equal ones tie
_BLOCK = 1024
_NUMBERS = 2**19  # of a side that pairs are taken of at a time: 4 MB in float64
# More than float64 sums of up to a million products of unit vectors can err by, and the rounding to DIGITS.
_SLACK = 1e-9


class Vectors(Protocol):
    """Vectors [N, D] that are read a part at a time: an array, one mapped into memory, or an index on disk."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Rows:
    """Some rows of vectors, in any order, without a copy of them."""

    vectors_ND: Vectors
    rows_M: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows_M), self.vectors_ND.shape[1]

    def __len__(self) -> int:
        return len(self.rows_M)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.vectors_ND[self.rows_M[rows]]


def nearest(query_QD: np.ndarray, candidate_CD: np.ndarray) -> np.ndarray:
    """Row of the candidate with the greatest cosine similarity, for each query: index_Q; otherwise as `top_k`."""
    return top_k(query_QD, candidate_CD, 1)[0][:, 0]


def top_k(
    query_QD: Vectors, candidate_CD: Vectors, k: int, similarity: Similarity = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `k` candidates that are most similar, best first; the lowest row among equals.

    A score is a float64 function of its two vectors alone (`pair_scores`), so that neither blocks nor the order of
    queries or of sums can change the answer. [Q, C] scores are never held, nor a second copy of the vectors.

    Args:
      query_QD: [Q, D] vectors, any norm.
      candidate_CD: [C, D].
      k: how many; all candidates where there are fewer.
      similarity: 'cosine' (a zero vector has 0 with everything) or 'dot' (the inner product).

    Returns:
      (index_QK int64, score_QK float64). Scores are rounded to 10 digits after the point, those of 'dot' as multiples
      of the query's norm times the greatest norm of a candidate.

    Raises:
      DataError: shapes that do not fit, no candidates, or a vector that is not finite.
    """
    k = check_sides(query_QD, candidate_CD, k)
    longest = longest_norm(candidate_CD) if similarity == "dot" else None
    index_QK, score_QK = empty_lists(len(query_QD), k)
    for c, candidates in blocks(candidate_CD):
        unit_CD = scaled(candidates, "candidate", c, longest)
        for q, queries in blocks(query_QD):
            lists = slice(q, q + len(queries))
            score_QC = scaled(queries, "query", q) @ unit_CD.T
            # A row enters only where it may be better than the last of the list, or than the k-th of this block.
            least_Q1 = score_QK[lists, -1:]
            if np.isneginf(least_Q1).any() and score_QC.shape[1] > k:
                least_Q1 = np.maximum(least_Q1, np.partition(score_QC, -k, axis=1)[:, [-k]])
            q_E, c_E = np.nonzero(score_QC >= least_Q1 - _SLACK)
            score_E = pair_scores(queries, q_E, candidates, c_E, longest)
            insert(index_QK[lists], score_QK[lists], q_E, c_E + c, score_E)
    return index_QK, unscaled(score_QK, query_QD, longest)


def check_sides(query_QD: Vectors, candidate_CD: Vectors, k: int) -> int:
    """The length of the lists. DataError where the sides do not fit, UserError for no whole number of neighbours."""
    query_shape, candidate_shape = tuple(query_QD.shape), tuple(candidate_CD.shape)
    if len(query_shape) != 2 or len(candidate_shape) != 2 or query_shape[1] != candidate_shape[1]:
        raise DataError(f"queries {query_shape} and candidates {candidate_shape} must be [Q, D] and [C, D]")
    if not candidate_shape[0]:
        raise DataError("no candidates to retrieve from")
    if k < 1:
        raise UserError(f"{k} neighbours cannot be looked for; it must be a positive number.")
    return min(k, candidate_shape[0])


def empty_lists(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(index_QK, score_QK) of nothing found yet: scores are -inf."""
    return np.zeros((queries, k), np.int64), np.full((queries, k), -np.inf)


def blocks(vectors_ND: Vectors, rows: int = _BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, vectors) of blocks of `rows` vectors."""
    for start in range(0, len(vectors_ND), rows):
        yield start, np.asarray(vectors_ND[start : start + rows])


def norms(vectors_ND: np.ndarray) -> np.ndarray:
    """Euclidean lengths, float64 [N], each of its vector alone."""
    vectors_ND = np.asarray(vectors_ND, np.float64)
    return np.sqrt((vectors_ND * vectors_ND).sum(axis=1))


def longest_norm(candidate_CD: Vectors) -> float:
    """The greatest Euclidean length; at least a positive number, so that it can be divided by."""
    longest = max(float(_checked(norms(block), "candidate", c).max()) for c, block in blocks(candidate_CD))
    return longest or 1.0


def _checked(norm_N: np.ndarray, side: str, first: int) -> np.ndarray:
    if not np.isfinite(norm_N).all():
        raise DataError(f"{side} {first + int(np.argmin(np.isfinite(norm_N)))}: its vector is not finite")
    return norm_N


def scaled(vectors_ND: np.ndarray, side: str, first: int, longest: float | None = None) -> np.ndarray:
    """Vectors divided by their own lengths, or all by `longest`: float64. DataError names one that is not finite.

    Args:
      side, first: what they are and the number of the first, for the error.
    """
    vectors_ND = np.array(vectors_ND, np.float64)
    norm_N = _checked(norms(vectors_ND), side, first)
    vectors_ND /= np.where(norm_N == 0, 1.0, norm_N)[:, None] if longest is None else longest
    return vectors_ND


def pair_scores(
    query_QD: np.ndarray, q_E: np.ndarray, candidate_CD: np.ndarray, c_E: np.ndarray, longest: float | None = None
) -> np.ndarray:
    """The score of pairs of vectors, float64 [E], rounded: cosine, or with `longest` the dot product over the query's
    norm and `longest`. Each is a function of its two vectors alone: it is summed in the same order in any company."""
    score_E = np.zeros(len(q_E))
    pairs = max(1, _NUMBERS // query_QD.shape[1])
    for start in range(0, len(q_E), pairs):
        part = slice(start, start + pairs)
        query_ED = np.asarray(query_QD[q_E[part]], np.float64)
        candidate_ED = np.asarray(candidate_CD[c_E[part]], np.float64)
        length_E = norms(query_ED) * (norms(candidate_ED) if longest is None else longest)
        dot_E = (query_ED * candidate_ED).sum(axis=1)
        score_E[part] = np.round(dot_E / np.where(length_E == 0, 1.0, length_E), DIGITS)
    return score_E


def insert(
    index_QK: np.ndarray, score_QK: np.ndarray, q_E: np.ndarray, index_E: np.ndarray, score_E: np.ndarray
) -> None:
    """Puts found candidates, pairs that were not put in before, into sorted lists, in place."""
    if not len(q_E):
        return
    k = score_QK.shape[1]
    changed = np.unique(q_E)
    q_E = np.concatenate([np.repeat(changed, k), q_E])
    score_E = np.concatenate([score_QK[changed].ravel(), score_E])
    index_E = np.concatenate([index_QK[changed].ravel(), index_E])
    order_E = np.lexsort((index_E, -score_E, q_E))
    starts = np.searchsorted(q_E[order_E], changed)
    kept = order_E[starts[:, None] + np.arange(k)]
    score_QK[changed], index_QK[changed] = score_E[kept], index_E[kept]


def unscaled(score_QK: np.ndarray, query_QD: Vectors, longest: float | None) -> np.ndarray:
    """Scores of lists as they are returned: dot products with their size."""
    if longest is None:
        return score_QK
    norm_Q = np.concatenate([np.zeros(0), *(norms(block) for _, block in blocks(query_QD))])
    return score_QK * norm_Q[:, None] * longest


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
