"""Candidates found over the mesh are those of NumPy, bit for bit, whatever the blocks, devices, types and orders."""

import functools
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.errors import DataError, UserError
from xtr.evaluate import search
from xtr.evaluate.metrics import retrieval
from xtr.evaluate.metrics.retrieval import pair_scores
from xtr.parallel.mesh import MeshConfig, make_mesh

RNG = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.fixture(autouse=True)
def on_devices(monkeypatch):
    """Small sides are searched on the devices too."""
    monkeypatch.setattr(search, "_SMALL", 0)


def brute_force(query_QD, candidate_CD, k, similarity="cosine"):
    """A sort of all scores in plain float64."""
    query_QD, candidate_CD = (np.asarray(side, np.float64) for side in (query_QD, candidate_CD))
    longest = np.linalg.norm(candidate_CD, axis=1).max() or 1.0
    length_Q, length_C = (np.linalg.norm(side, axis=1) for side in (query_QD, candidate_CD))
    by_C = np.where(length_C == 0, 1, length_C) if similarity == "cosine" else longest
    score_QC = (query_QD / np.where(length_Q == 0, 1, length_Q)[:, None]) @ (candidate_CD.T / by_C)
    score_QC = np.round(score_QC, 10)
    index_QK = np.argsort(-score_QC, axis=1, kind="stable")[:, :k]
    score_QK = np.take_along_axis(score_QC, index_QK, axis=1)
    return index_QK, score_QK if similarity == "cosine" else score_QK * length_Q[:, None] * longest


def sides(rng, queries, candidates, dim=24, mean=1.0):
    """Vectors with a common mean, as an encoder's; some candidates are equal, a multiple of another, or zero."""
    query_QD = (rng.normal(size=(queries, dim)) + mean).astype(np.float32)
    candidate_CD = (rng.normal(size=(candidates, dim)) + mean).astype(np.float32)
    copies = rng.integers(candidates, size=(2, candidates // 8))
    candidate_CD[copies[0]] = candidate_CD[copies[1]]
    candidate_CD[rng.integers(candidates, size=candidates // 8)] *= 4
    candidate_CD[rng.integers(candidates)] = 0
    return query_QD, candidate_CD


def mesh_of(devices):
    shapes = {1: MeshConfig(), 2: MeshConfig(replica=2, fsdp=1), 8: MeshConfig(replica=2, fsdp=2, tensor=2)}
    return make_mesh(shapes[devices], jax.devices()[:devices])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize(
    ("devices", "block_bytes"), [(1, 2**30), (1, 300_000), (2, 2**30), (2, 300_000), (8, 2**30), (8, 500_000)]
)
def test_the_answer_is_numpys_for_all_blocks_and_devices(devices, block_bytes, similarity):
    query_QD, candidate_CD = sides(np.random.default_rng(0), 70, 2_003)
    find = functools.partial(search.top_k, k=20, mesh=mesh_of(devices), block_bytes=block_bytes, similarity=similarity)
    index_QK, score_QK = find(query_QD, candidate_CD)
    wanted = retrieval.top_k(query_QD, candidate_CD, 20, similarity)
    np.testing.assert_array_equal(index_QK, wanted[0])
    np.testing.assert_array_equal(score_QK, wanted[1])
    brute = brute_force(query_QD, candidate_CD, 20, similarity)
    np.testing.assert_array_equal(index_QK, brute[0])
    np.testing.assert_allclose(score_QK, brute[1], rtol=1e-9)
    order = np.random.default_rng(1).permutation(len(query_QD))
    shuffled = find(query_QD[order], candidate_CD)
    np.testing.assert_array_equal(shuffled[0], index_QK[order])
    np.testing.assert_array_equal(shuffled[1], score_QK[order])


@settings(max_examples=15)
@given(rng=RNG, k=st.integers(1, 30), kind=st.sampled_from(["float16", "float32", "float64"]), close=st.booleans())
def test_ties_and_near_ties_go_to_the_lowest_row(rng, k, kind, close):
    # Few distinct vectors, or many within float32's error of each other.
    if close:
        query_QD = rng.normal(size=(5, 8))
        candidate_CD = rng.normal(size=8) + 10.0 ** rng.integers(-9, -2) * rng.normal(size=(600, 8))
    else:
        query_QD, candidate_CD = rng.integers(-1, 2, (5, 3)), rng.integers(-1, 2, (600, 3))
    query_QD, candidate_CD = (side.astype(kind) for side in (query_QD, candidate_CD))
    index_QK, score_QK = search.top_k(query_QD, candidate_CD, k, mesh=mesh_of(2), block_bytes=2**18)
    wanted = retrieval.top_k(query_QD, candidate_CD, k)
    np.testing.assert_array_equal(index_QK, wanted[0])
    np.testing.assert_array_equal(score_QK, wanted[1])
    assert (np.diff(score_QK, axis=1) <= 0).all()
    tied = np.diff(score_QK, axis=1) == 0
    assert (np.diff(index_QK, axis=1)[tied] > 0).all()
    if not close:
        np.testing.assert_array_equal(index_QK, brute_force(query_QD, candidate_CD, k)[0])


def test_no_device_waits_for_another_while_blocks_are_in_flight():
    # Programs that wait for each other's devices, several in flight, come to a standstill on busy processors.
    mesh = mesh_of(8)
    whole, spread = (jax.NamedSharding(mesh, spec) for spec in (jax.P(), jax.P(mesh.axis_names)))
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for shape, dtype, sharding in (
            ((4, 3), np.float32, whole), ((64, 3), np.float32, spread), ((8, 4, 20), np.float32, spread),
            ((8, 4, 20), np.int32, spread), ((), np.int32, whole), ((), np.int32, whole),
        )
    ]  # fmt: skip
    program = search._step(mesh, 20).lower(*arguments).compile().as_text()
    assert "parameter(" in program and "all-" not in program and "collective-" not in program


@given(rng=RNG, dim=st.integers(1, 300))
def test_a_score_depends_on_its_two_vectors_alone(rng, dim):
    query_QD, candidate_CD = rng.normal(size=(3, dim)).astype(np.float32), rng.normal(size=(7, dim)).astype(np.float32)
    q_E, c_E = (rows.ravel() for rows in np.indices((3, 7)))
    together = pair_scores(query_QD, q_E, candidate_CD, c_E)
    alone = [pair_scores(query_QD[[q]], [0], candidate_CD[[c]], [0])[0] for q, c in zip(q_E, c_E, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_a_query_is_certain_only_where_float32_can_tell():
    rng = np.random.default_rng(0)
    candidate_CD = rng.normal(size=(3_000, 64)).astype(np.float32)
    query_QD = rng.normal(size=(2, 64)).astype(np.float32)
    # The second query's best are a hundred that differ by less than float32's error.
    candidate_CD[500:600] = query_QD[1] + 1e-6 * rng.normal(size=(100, 64))
    *_, certain_Q = search.screened_top_k(query_QD, candidate_CD, 20)
    assert certain_Q.tolist() == [True, False]
    np.testing.assert_array_equal(
        search.top_k(query_QD, candidate_CD, 20)[0], retrieval.top_k(query_QD, candidate_CD, 20)[0]
    )


def test_what_all_candidates_share_costs_no_certainty():
    # Any two have a cosine of 0.9999: neighbouring scores of a list differ by less than float32's error on them.
    rng = np.random.default_rng(0)
    mean_D = 100 * rng.normal(size=64)
    query_QD, candidate_CD = ((mean_D + rng.normal(size=(n, 64))).astype(np.float32) for n in (50, 20_000))
    index_QK, score_QK, certain_Q = search.screened_top_k(query_QD, candidate_CD, 20)
    wanted = retrieval.top_k(query_QD, candidate_CD, 20)
    assert np.median(wanted[1][:, 0] - wanted[1][:, -1]) < 20 * search.float32_error(64)
    assert certain_Q.mean() > 0.9
    np.testing.assert_array_equal(index_QK[certain_Q], wanted[0][certain_Q])
    np.testing.assert_array_equal(score_QK[certain_Q], wanted[1][certain_Q])


@pytest.mark.parametrize("dim", [3, 64, 1024, 5000])
def test_float32_products_err_by_no_more_than_they_may(dim):
    rng = np.random.default_rng(dim)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in rng.normal(size=(2, 200, dim)) + 3]
    product = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=jax.lax.Precision.HIGHEST))
    found = product(*(side.astype(np.float32) for side in (unit[0], unit[1].T)))
    assert np.abs(np.asarray(found, np.float64) - unit[0] @ unit[1].T).max() < search.float32_error(dim)


@given(
    bound=st.integers(20, 34).map(lambda power: 2**power), queries=st.integers(1, 20_000),
    candidates=st.integers(1, 2_000_000), dim=st.integers(1, 4096), devices=st.sampled_from([1, 2, 8, 64]),
)  # fmt: skip
def test_blocks_stay_below_the_bound(bound, queries, candidates, dim, devices):
    try:
        query_rows, candidate_rows = search.block_rows(bound, queries, candidates, dim, 40, devices)
    except UserError as error:
        least = int(str(error).split("must have ")[1].split(" or")[0].replace(",", ""))
        assert bound < least
        search.block_rows(least, queries, candidates, dim, 40, devices)
        return
    assert query_rows >= 1 and candidate_rows >= devices and candidate_rows % devices == 0
    assert 3 * 4 * candidate_rows * dim <= bound / 4
    assert 2 * 4 * query_rows * (candidate_rows + dim) <= bound / 2


def test_what_cannot_be_searched_is_named():
    vectors = np.ones((5, 4), np.float32)
    for wrong in (np.ones((5, 3)), np.ones((0, 4)), np.ones(4)):
        with pytest.raises(DataError):
            search.top_k(vectors, wrong, 2)
    broken = vectors.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="candidate 3"):
        search.top_k(vectors, broken, 2)
    with pytest.raises(DataError, match="query 3"):
        search.top_k(broken, vectors, 2)
    with pytest.raises(UserError, match="bytes do not hold"):
        search.top_k(vectors, vectors, 2, block_bytes=64)
    assert search.top_k(vectors, vectors, 9)[0].tolist() == [[0, 1, 2, 3, 4]] * 5


MINING = """
import resource, sys
import numpy as np
from xtr.evaluate import search
from xtr.evaluate.metrics import mining
rng = np.random.default_rng(0)
source_SD = rng.standard_normal((20_000, 32), np.float32)
order = rng.permutation(20_000)
target_TD = source_SD[order] + 0.5 * rng.standard_normal((20_000, 32), np.float32)
find = lambda q, c, k: search.top_k(q, c, k, block_bytes=2**26)
find(source_SD[:9_000], target_TD[:9_000], 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sources, targets, scores = mining.mine(source_SD, target_TD, search=find)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, np.mean(order[targets] == sources), len(sources))
"""


@pytest.mark.slow
def test_mining_twenty_thousand_against_as_many_needs_no_matrix():
    # The matrix would take 1.6 GB in float32; the search is told to take 64 MiB, and the lists are 2.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    output = subprocess.run(
        [sys.executable, "-c", MINING], capture_output=True, text=True, env=environment, check=True
    ).stdout
    more, right, pairs = (float(number) for number in output.split())
    assert more < 2**27
    assert right > 0.9 and pairs > 15_000


PROCESSES = """
import sys
import jax, numpy as np
from xtr.parallel.distributed import initialize
initialize()
from xtr.evaluate import index, search
from xtr.evaluate.metrics import retrieval
search._SMALL = 0
rng = np.random.default_rng(0)
query_QD, candidate_CD = (rng.normal(size=(n, 16)).astype(np.float32) for n in (30, 700))
embed = lambda rows: candidate_CD[rows.start : rows.stop]
found = index.open_or_build(sys.argv[1], {"a": 1}, 700, embed, shard_rows=99)
answers = search.top_k(query_QD, found, 5, block_bytes=200_000), retrieval.top_k(query_QD, candidate_CD, 5)
print("same", jax.process_count(), all((a == b).all() for a, b in zip(*answers)))
"""


def test_two_processes_build_one_index_and_find_the_same(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    topology = {"XTR_COORDINATOR": f"127.0.0.1:{port}", "XTR_NUM_PROCESSES": "2"}
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "index")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env=os.environ | topology | flags | {"XTR_PROCESS_ID": str(number)}, **pipes)
        for number in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert [line for line in out.split("\n") if line.startswith("same")] == ["same 2 True"]
