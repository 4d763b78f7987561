"""Exact nearest neighbours at scale: float32 on the devices finds who may be near, float64 on the host says who is.

The devices score blocks of queries against blocks of candidates, whose rows are spread over all axes of the mesh, and
keep a list a query that is longer than what is asked for. No candidate outside the list has a float32 score above its
last one's, and float32 errs by a known bound: where the k-th exact score of the list exceeds the last float32 score by
more than that, the answer is certain. The other queries (many candidates within 1e-4 of each other) are searched in
float64. So the answer is `metrics.retrieval.top_k`'s, bit for bit, whatever the blocks and the devices.

The vectors of an encoder have much in common (cosines of 0.9 and more between any two), which takes away from
float32's digits without telling candidates apart. So the devices get the candidates without their mean: a query's
scores all fall by the same number, and the error by as much as the vectors become shorter.

Axes: Q queries, C candidates, D dimension, K neighbours, G groups of candidates.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xtr.errors import Preempted, UserError
from xtr.evaluate.metrics import retrieval
from xtr.evaluate.metrics.retrieval import Similarity, Vectors
from xtr.parallel import watchdog
from xtr.parallel.mesh import make_mesh

BLOCK_BYTES = 2**30
_SMALL = 2**31  # multiplications that take NumPy less time than a compilation takes
_GROUP = 32  # candidates, of which the best is looked at first
_ALIGNED = 128


def top_k(
    query_QD: Vectors,
    candidate_CD: Vectors,
    k: int,
    *,
    mesh: Mesh | None = None,
    block_bytes: int = BLOCK_BYTES,
    similarity: Similarity = "cosine",
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What `metrics.retrieval.top_k` returns, bit for bit: the best first, the lowest row among equals.

    Args:
      query_QD, candidate_CD: [Q, D] and [C, D], arrays of any float type, mapped into memory, or an `index.Index`; of
        candidates a block is read at a time.
      k: how many; all candidates where there are fewer.
      mesh: the devices (default: all). Every process of a run calls this with the same vectors.
      block_bytes: of memory that the search takes, of the host and of all devices together, besides the answer.
      similarity: 'cosine' or 'dot'.
      advance: told how many candidates were read.

    Returns:
      (index_QK int64, score_QK float64).

    Raises:
      DataError: shapes that do not fit, no candidates, or a vector that is not finite.
      UserError: `block_bytes` does not hold one vector a device.
    """
    if len(query_QD) * len(candidate_CD) * query_QD.shape[1] <= _SMALL:
        answer = retrieval.top_k(query_QD, candidate_CD, k, similarity)
        advance(len(candidate_CD))
        return answer
    index_QK, score_QK, certain_Q = screened_top_k(
        query_QD, candidate_CD, k, mesh=mesh, block_bytes=block_bytes, similarity=similarity, advance=advance
    )
    doubtful = np.flatnonzero(~certain_Q)
    rows = max(1, block_bytes // (4 * 8 * query_QD.shape[1]))
    for start in range(0, len(doubtful), rows):
        some = doubtful[start : start + rows]
        index_QK[some], score_QK[some] = retrieval.top_k(query_QD[some], candidate_CD, k, similarity)
    return index_QK, score_QK


def screened_top_k(
    query_QD: Vectors,
    candidate_CD: Vectors,
    k: int,
    *,
    mesh: Mesh | None = None,
    block_bytes: int = BLOCK_BYTES,
    similarity: Similarity = "cosine",
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lists of `top_k` and, for each query, whether its list is certain: (index_QK, score_QK, bool [Q])."""
    k = retrieval.check_sides(query_QD, candidate_CD, k)
    queries, count, dim = len(query_QD), *candidate_CD.shape
    mesh = mesh or make_mesh()
    longest = retrieval.longest_norm(candidate_CD) if similarity == "dot" else None
    kept = max(2 * k, k + 16)
    query_rows, candidate_rows = block_rows(block_bytes, queries, count, dim, kept, mesh.size)
    step = _step(mesh, kept)
    mean_D, longest_rest = _mean(candidate_CD, longest), 0.0

    def put(array: np.ndarray, spec: P) -> jax.Array:
        return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), lambda part: array[part])

    def query_block(first: int) -> jax.Array:
        unit_QD = retrieval.scaled(np.asarray(query_QD[first : first + query_rows]), "query", first)
        return put(_padded(unit_QD, query_rows), P())

    if 4 * queries * dim <= block_bytes // 4:  # They stay on the devices.
        query_block = functools.cache(query_block)
    shape, spread = (mesh.size, query_rows, kept), P(mesh.axis_names)
    lists = {
        first: (put(np.full(shape, -np.inf, np.float32), spread), put(np.zeros(shape, np.int32), spread))
        for first in range(0, queries, query_rows)
    }
    for first in range(0, count, candidate_rows):
        if watchdog.stop_here():
            raise Preempted("the search under way was abandoned; it starts again with the next run")
        block = np.asarray(candidate_CD[first : first + candidate_rows])
        rest_CD, longest_in_block = _without_mean(block, first, longest, mean_D)
        rest_CD = _padded(rest_CD, candidate_rows)
        longest_rest = max(longest_rest, longest_in_block)
        jax.block_until_ready(lists)  # One block is prepared while the devices work on the one before it.
        rest_CD = put(rest_CD, spread)
        for start in lists:
            lists[start] = step(query_block(start), rest_CD, *lists[start], np.int32(first), np.int32(count))
        advance(len(block))
    index_QK, score_QK = retrieval.empty_lists(queries, k)
    certain_Q = np.zeros(queries, bool)
    margin = float32_error(dim) * longest_rest + 10.0**-retrieval.DIGITS
    jax.block_until_ready(lists)  # Merging, devices wait for each other, which nothing else may keep busy.
    for start in list(lists):
        screen = tuple(np.asarray(array) for array in _merge(mesh, kept)(*lists.pop(start)))
        some = slice(start, min(start + query_rows, queries))
        some_QD = np.asarray(query_QD[some])
        index_QK[some], score_QK[some], last_Q = _decide(some_QD, candidate_CD, screen, k, longest, block_bytes)
        common_Q = retrieval.scaled(some_QD, "query", start) @ mean_D
        certain_Q[some] = score_QK[some, -1] > common_Q + last_Q + margin
    return index_QK, retrieval.unscaled(score_QK, query_QD, longest), certain_Q


def block_rows(block_bytes: int, queries: int, candidates: int, dim: int, kept: int, devices: int) -> tuple[int, int]:
    """(rows of a block of queries, rows of a block of candidates) for a bound on memory.

    A quarter is for candidates (float32: what the devices hold, what waits for them, and the file's own), a half for
    scores (twice: as computed, and without the padding), lists and queries. What is left holds all queries, where it
    can.

    Raises:
      UserError: not even one query and one candidate a device fit.
    """
    lists_bytes = 4 * (2 * dim + devices * 2 * kept * (_GROUP + 2))  # of a query
    most = min(
        block_bytes // 4 // (4 * dim * 3),
        max(0, block_bytes // 2 - lists_bytes) // (4 * 2),  # beside one query
        4 * math.isqrt(block_bytes // 16),  # beside a fair number of queries
    )
    candidate_rows = _even(candidates, most, devices, _GROUP)
    query_rows = _even(queries, block_bytes // 2 // (4 * 2 * candidate_rows + lists_bytes), 1, _ALIGNED)
    if candidate_rows < devices or query_rows < 1:
        raise UserError(
            f"{block_bytes:,} bytes do not hold a block of vectors of dimension {dim} on {devices} devices; the block "
            f"must have {_least_bytes(dim, kept, devices):,} or more."
        )
    return query_rows, candidate_rows


def _even(count: int, most: int, devices: int, aligned: int) -> int:
    """Rows of the fewest blocks of one size, no more than `most`: a multiple of `devices`, and of `aligned` on each
    where they are many. 0 where not one a device fits."""
    step = devices * aligned if most >= devices * aligned and count > devices * aligned else devices
    most -= most % step
    if not most:
        return 0
    rows = -(-count // -(-count // most))
    return -(-rows // step) * step


def _least_bytes(dim: int, kept: int, devices: int) -> int:
    row_bytes = 4 * (2 * devices + 2 * dim + devices * 2 * kept * (_GROUP + 2))
    return max(4 * 4 * dim * 3 * devices, 2 * row_bytes, 16 * devices**2)


def _padded(unit_ND: np.ndarray, rows: int) -> np.ndarray:
    """Rounded to float32, with rows of zeros behind."""
    unit_ND = unit_ND.astype(np.float32, copy=False)
    return np.concatenate([unit_ND, np.zeros((rows - len(unit_ND), unit_ND.shape[1]), np.float32)])


def _mean(candidate_CD: Vectors, longest: float | None) -> np.ndarray:
    """About the mean of the scaled candidates, float64 [D]; what it is exactly changes no answer."""
    count = len(candidate_CD)
    sample_ND = np.asarray(candidate_CD[np.unique(np.linspace(0, count - 1, 1024).astype(np.int64))])
    sample_ND = sample_ND[np.isfinite(retrieval.norms(sample_ND))]
    if not len(sample_ND):
        return np.zeros(candidate_CD.shape[1])
    return retrieval.scaled(sample_ND, "candidate", 0, longest).mean(axis=0)


def _without_mean(
    block_CD: np.ndarray, first: int, longest: float | None, mean_D: np.ndarray
) -> tuple[np.ndarray, float]:
    """(scaled candidates less the mean, rounded to float32; the greatest norm of one)."""
    rest_CD, longest_rest = np.empty(block_CD.shape, np.float32), 0.0
    # A megabyte at a time stays in a processor's own cache.
    for c, part in retrieval.blocks(block_CD, max(1, 2**17 // block_CD.shape[1])):
        rest = retrieval.scaled(part, "candidate", first + c, longest)
        rest -= mean_D
        longest_rest = max(longest_rest, float(retrieval.norms(rest).max()))
        rest_CD[c : c + len(part)] = rest
    return rest_CD, longest_rest


@functools.lru_cache(maxsize=16)
def _step(mesh: Mesh, kept: int) -> Callable:
    """Jitted: puts a block of candidates into the lists of a block of queries, [devices, Q, kept].

    Each device has lists of its own rows alone, so that no device waits for another until the end (`_merge`).
    """
    axes = mesh.axis_names

    def local(query_QD, candidate_CD, score_1QK, row_1QK, first, count):
        rows = candidate_CD.shape[0]
        here = first + jax.lax.axis_index(axes) * rows
        score_QC = jnp.einsum("qd,cd->qc", query_QD, candidate_CD, precision=jax.lax.Precision.HIGHEST)
        score_QC = jnp.where(here + jnp.arange(rows) < count, score_QC, -jnp.inf)
        best_QK, place_QK = _best(score_QC, min(kept, rows))
        found = _first(
            jnp.concatenate([score_1QK[0], best_QK], axis=1),
            jnp.concatenate([row_1QK[0], here + place_QK], axis=1),
            kept,
        )
        return tuple(array[None] for array in found)

    lists = (P(axes), P(axes))
    blocks = (P(), P(axes), *lists, P(), P())
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=blocks, out_specs=lists, check_vma=False), donate_argnums=(2, 3)
    )


@functools.lru_cache(maxsize=16)
def _merge(mesh: Mesh, kept: int) -> Callable:
    """Jitted: the lists [Q, kept] of all devices' lists [devices, Q, kept]."""

    whole = NamedSharding(mesh, P())

    def merge(*lists: jax.Array) -> tuple[jax.Array, jax.Array]:
        gathered = [jax.lax.with_sharding_constraint(array_NQK, whole) for array_NQK in lists]
        return _first(*(jnp.concatenate(list(array_NQK), axis=1) for array_NQK in gathered), kept)

    return jax.jit(merge, out_shardings=(whole, whole))


def _first(score_QK: jax.Array, row_QK: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k greatest scores and their rows."""
    score_QK, place_QK = jax.lax.top_k(score_QK, k)
    return score_QK, jnp.take_along_axis(row_QK, place_QK, axis=1)


def _best(score_QC: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """(the k greatest scores, their places). They lie in the k groups with the greatest maxima, so that the many others
    need not be sorted."""
    queries, rows = score_QC.shape
    groups = rows // _GROUP
    if rows % _GROUP or groups < 2 * k:
        return jax.lax.top_k(score_QC, k)
    score_QGN = score_QC.reshape(queries, groups, _GROUP)
    _, group_QK = jax.lax.top_k(score_QGN.max(axis=-1), k)
    score_QKN = jnp.take_along_axis(score_QGN, group_QK[:, :, None], axis=1)
    score_QK, place_QK = jax.lax.top_k(score_QKN.reshape(queries, k * _GROUP), k)
    return score_QK, jnp.take_along_axis(group_QK, place_QK // _GROUP, axis=1) * _GROUP + place_QK % _GROUP


def float32_error(dim: int) -> float:
    """How far the float32 product of two vectors can be from the exact one, as a multiple of their norms.

    dim rounded products, summed in any order, with or without fused multiply-add (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1: dim * u / (1 - dim * u), u = 2^-24), and the rounding of the vectors themselves. A TPU's
    product in six bfloat16 passes leaves out less than another 4 u a term.
    """
    unit = 2.0**-24
    return (dim + 16) * unit / (1 - (dim + 16) * unit)


def _decide(
    query_QD: np.ndarray,
    candidate_CD: Vectors,
    screen: tuple[np.ndarray, np.ndarray],
    k: int,
    longest: float | None,
    block_bytes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The exact lists of what a screen found, and the float32 score that nothing outside the screen exceeds."""
    index_QK, score_QK = retrieval.empty_lists(len(query_QD), k)
    kept = screen[0].shape[1]
    for q, queries in retrieval.blocks(query_QD, max(1, block_bytes // 2 // (4 * kept * query_QD.shape[1]))):
        rows = slice(q, q + len(queries))
        screened_QK, row_QK = (array[rows] for array in screen)
        q_E, at_E = np.nonzero(screened_QK > -np.inf)
        c_E = row_QK[q_E, at_E].astype(np.int64)
        # Each candidate is read once, in the order of the file.
        read, place_E = np.unique(c_E, return_inverse=True)
        score_E = retrieval.pair_scores(queries, q_E, np.asarray(candidate_CD[read]), place_E, longest)
        retrieval.insert(index_QK[rows], score_QK[rows], q_E, c_E, score_E)
    return index_QK, score_QK, screen[0][: len(query_QD), -1].astype(np.float64)
