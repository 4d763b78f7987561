"""How fast and in how much memory candidates are found, on vectors made for it."""

import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xtr.evaluate import index, search
from xtr.evaluate.metrics import retrieval


@dataclass(frozen=True)
class Measured:
    """What one search took.

    Attributes:
      queries, candidates, dim, k, block_bytes, devices: what was measured.
      build_seconds, open_seconds: to write the index, and to open it (its checksums are compared).
      screen_seconds: to find who may be near on the devices, and to score these on the host.
      decide_seconds: to search the uncertain queries in float64.
      uncertain: how many these were.
      gflops: 2 * queries * candidates * dim / screen_seconds / 1e9.
      matmul_gflops: the same of a plain float32 product of one block of vectors on the same devices.
      cpu_share: the processor seconds that the screen's products would take at the plain product's rate, over those
        that the screen took; other work on the machine changes it little. Says nothing of accelerators.
      peak_rss_bytes: the most memory that the process has had so far, in all; base_rss_bytes: before the search.
    """

    queries: int
    candidates: int
    dim: int
    k: int
    block_bytes: int
    devices: int
    build_seconds: float
    open_seconds: float
    screen_seconds: float
    decide_seconds: float
    uncertain: int
    gflops: float
    matmul_gflops: float
    cpu_share: float
    base_rss_bytes: int
    peak_rss_bytes: int


def made_vectors(rows: range, dim: int, seed: int, mean_length: float = 0.5) -> np.ndarray:
    """Vectors that share a mean, as those of an encoder do: float32 [rows, dim], each row the same whatever the range.

    Args:
      mean_length: of the mean, relative to what is a vector's own; the mean cosine is m^2 / (1 + m^2).
    """
    mean_D = np.random.default_rng([seed, 0]).standard_normal(dim, np.float32) * mean_length
    block = 1024
    parts = []
    for number in range(rows.start // block, -(-rows.stop // block)):
        own = np.random.default_rng([seed, 1, number]).standard_normal((block, dim), np.float32)
        parts.append(own[max(0, rows.start - number * block) : rows.stop - number * block])
    return np.concatenate(parts) + mean_D


def measure(
    queries: int,
    candidates: int,
    dim: int,
    *,
    k: int = 20,
    block_bytes: int = search.BLOCK_BYTES,
    mesh: Mesh | None = None,
    directory: str | os.PathLike | None = None,
    seed: int = 0,
) -> Measured:
    """Builds an index of made candidates and searches it for made queries, each near to one candidate.

    Args:
      directory: where the index goes, `candidates * dim * 4` bytes, and is left; default a folder that is deleted.
      k, block_bytes, mesh: as in `search.top_k`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(directory or temporary) / f"{candidates}x{dim}-{seed}"
        start = time.perf_counter()
        facts = {"made": seed, "dim": dim}
        index.open_or_build(directory, facts, candidates, lambda rows: made_vectors(rows, dim, seed))
        build_seconds = time.perf_counter() - start
        start = time.perf_counter()
        found = index.open_index(directory, facts)
        open_seconds = time.perf_counter() - start
        right_Q = np.random.default_rng([seed, 2]).integers(candidates, size=queries)
        query_QD = made_vectors(range(queries), dim, seed + 1, mean_length=0.0) + 0.5 * found[right_Q]
        return _measure(found, query_QD, k, block_bytes, mesh or search.make_mesh(), build_seconds, open_seconds)


def _measure(found, query_QD, k, block_bytes, mesh, build_seconds, open_seconds) -> Measured:
    (queries, dim), candidates = query_QD.shape, len(found)
    matmul_gflops, matmul_cpu = _matmul_gflops(query_QD, candidates, k, block_bytes, mesh)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start, cpu = time.perf_counter(), time.process_time()
    *_, certain_Q = search.screened_top_k(query_QD, found, k, mesh=mesh, block_bytes=block_bytes)
    screen_seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    gflop = 2 * queries * candidates * dim / 1e9
    start = time.perf_counter()
    if not certain_Q.all():
        retrieval.top_k(query_QD[~certain_Q], found, k)
    decide_seconds = time.perf_counter() - start
    return Measured(
        queries=queries,
        candidates=candidates,
        dim=dim,
        k=k,
        block_bytes=block_bytes,
        devices=mesh.size,
        build_seconds=build_seconds,
        open_seconds=open_seconds,
        screen_seconds=screen_seconds,
        decide_seconds=decide_seconds,
        uncertain=int((~certain_Q).sum()),
        gflops=gflop / screen_seconds,
        matmul_gflops=matmul_gflops,
        cpu_share=gflop / matmul_cpu / cpu,
        base_rss_bytes=base,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _matmul_gflops(query_QD: np.ndarray, candidates: int, k: int, block_bytes: int, mesh: Mesh) -> tuple[float, float]:
    """10^9 operations a second, and a processor second, of one block of the search's own size on one device, times the
    devices; the best of three."""
    queries, dim = query_QD.shape
    rows = search.block_rows(block_bytes, queries, candidates, dim, max(2 * k, k + 16), mesh.size)
    a, b = (jnp.ones((n, dim), jnp.float32) for n in (rows[0], rows[1] // mesh.size))
    product = jax.jit(lambda a, b: jnp.einsum("qd,cd->qc", a, b, precision=jax.lax.Precision.HIGHEST))
    product(a, b).block_until_ready()
    seconds = []
    for _ in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        product(a, b).block_until_ready()
        seconds.append((time.perf_counter() - start, time.process_time() - cpu))
    gflop = 2 * len(a) * len(b) * dim / 1e9
    wall, cpu = (min(column) for column in zip(*seconds, strict=True))
    return mesh.size * gflop / wall, gflop / cpu
