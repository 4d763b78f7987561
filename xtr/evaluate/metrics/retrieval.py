"""Sentence retrieval: exact nearest neighbours by cosine, to be scored with `accuracy`.

Tatoeba's direction (google-research/xtreme `third_party/utils_retrieve.py`, `similarity_search`): the queries are the
English sentences, the candidates the foreign ones, and accuracy is over the English queries. The other direction gives
clearly different numbers.
"""

import numpy as np

from xtr.errors import DataError

_BLOCK = 1024


def nearest(query_QD: np.ndarray, candidate_CD: np.ndarray) -> np.ndarray:
    """Row of the candidate with the greatest cosine similarity, for each query; the lowest row among equals.

    Computed in float64 over blocks of fixed size, so that the answer depends on the vectors alone. A zero vector has
    similarity 0 with everything.

    Args:
      query_QD: [Q, D] sentence vectors, any norm.
      candidate_CD: [C, D].

    Returns:
      index_Q int64.

    Raises:
      DataError: shapes that do not fit, no candidates, or a vector that is not finite.
    """
    if query_QD.ndim != 2 or candidate_CD.ndim != 2 or query_QD.shape[1] != candidate_CD.shape[1]:
        raise DataError(f"queries {query_QD.shape} and candidates {candidate_CD.shape} must be [Q, D] and [C, D]")
    if not len(candidate_CD):
        raise DataError("no candidates to retrieve from")
    query_QD, candidate_CD = _unit(query_QD, "query"), _unit(candidate_CD, "candidate")
    best_Q, index_Q = np.full(len(query_QD), -np.inf), np.zeros(len(query_QD), np.int64)
    for q in range(0, len(query_QD), _BLOCK):
        rows = slice(q, q + _BLOCK)
        for c in range(0, len(candidate_CD), _BLOCK):
            # Rounding makes equal vectors tie exactly, whatever order the sums were taken in.
            score_QC = np.round(query_QD[rows] @ candidate_CD[c : c + _BLOCK].T, 10)
            local_Q = score_QC.argmax(axis=1)
            score_Q = score_QC[np.arange(len(local_Q)), local_Q]
            better_Q = score_Q > best_Q[rows]
            best_Q[rows] = np.where(better_Q, score_Q, best_Q[rows])
            index_Q[rows] = np.where(better_Q, local_Q + c, index_Q[rows])
    return index_Q


def _unit(vectors_ND: np.ndarray, side: str) -> np.ndarray:
    vectors_ND = np.asarray(vectors_ND, np.float64)
    if not np.isfinite(vectors_ND).all():
        row = int(np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))[0])
        raise DataError(f"{side} {row}: its vector is not finite")
    norm_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(norm_N1 == 0, 1.0, norm_N1)
