"""The measure of retrieval: vectors that do not depend on how they are asked for, and figures that add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.bench.retrieval import made_vectors, measure
from xtr.evaluate import search


@given(st.integers(0, 3000), st.integers(1, 2000))
def test_made_vectors_are_those_of_their_rows(start, count):
    whole = made_vectors(range(5000), 3, seed=1)
    np.testing.assert_array_equal(made_vectors(range(start, start + count), 3, seed=1), whole[start : start + count])


def test_made_vectors_have_a_common_mean():
    unit = made_vectors(range(2000), 256, seed=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert (unit[:1000] @ unit[1000:].T).mean() == pytest.approx(0.2, abs=0.03)  # m^2 / (1 + m^2), m = 1/2


def test_a_measure_holds_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "_SMALL", 0)
    found = measure(40, 3000, 32, k=5, block_bytes=2**22, directory=tmp_path)
    assert (found.queries, found.candidates, found.dim, found.k, found.uncertain) == (40, 3000, 32, 5, 0)
    assert found.gflops == pytest.approx(2 * 40 * 3000 * 32 / found.screen_seconds / 1e9)
    assert found.peak_rss_bytes >= found.base_rss_bytes > 0 and found.matmul_gflops > 0 and found.cpu_share > 0
    assert (tmp_path / "3000x32-0" / "manifest.json").exists()
