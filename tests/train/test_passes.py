"""Sums in blocks are the plain sums, whatever the shape; other platforms get the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.train import passes
from xtr.train.cross_entropy import cross_entropy

SHAPES = [(24, 50), (50, 24), (7, 1000), (1000, 7)]


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(passes, "LARGE", 1)
    monkeypatch.setattr(passes, "BLOCK", 100)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10**6))
def test_blocks_are_equal_and_as_few_as_fit(rows, columns, elements):
    count = passes.row_blocks(rows, columns, elements)
    assert rows % count == 0
    assert rows // count * columns <= elements or count == rows
    assert not any(rows % n == 0 and rows // n * columns <= elements for n in range(1, count))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)], ids=str)
def test_mean_squares(small_blocks, shape, axes):
    x = draw(shape)
    found = jax.jit(lambda x: passes.mean_squares(x, axes))(x)
    for axis, mean in zip(axes, found, strict=True):
        np.testing.assert_allclose(mean, np.mean(np.square(x, dtype=np.float64), axis=axis), rtol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_square_of_product(small_blocks, shape):
    rows, columns = shape
    x, factors = draw(shape), (draw((rows, 1), 1), draw((1, columns), 2), draw(shape, 3))
    found = jax.jit(lambda x, *f: passes.mean_square_of_product(x, f, (0, 1)))(x, *factors)
    expected = np.mean(
        np.square(np.prod([np.broadcast_to(a, shape).astype(np.float64) for a in (x, *factors)], axis=0))
    )
    assert found.shape == (1, 1)
    np.testing.assert_allclose(found[0, 0], expected, rtol=2e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_in_blocks(monkeypatch, label_smoothing):
    y, head, targets = draw((3, 8, 16)), draw((16, 70), 1), np.random.default_rng(2).integers(0, 70, (3, 8))
    weights = draw((3, 8), 3)

    def losses(y, head):
        sums = cross_entropy(y, head, targets, weights, z_loss=1e-2, label_smoothing=label_smoothing)
        return sums[0], sums

    def run():
        return jax.jit(jax.grad(losses, argnums=(0, 1), has_aux=True))(y, head)

    expected = run()
    monkeypatch.setattr(passes, "LARGE", 1)
    monkeypatch.setattr(passes, "BLOCK", 10)
    assert jax.jit(losses).lower(y, head).as_text().count("stablehlo.while") == 1
    jax.clear_caches()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), run(), expected)


def test_of_equal_logits_the_first_is_the_prediction(small_blocks):
    logits = jnp.zeros((4, 60)).at[1, 5].set(1.0)
    *_, correct, total = jax.jit(lambda x, t: passes.softmax_statistics(x, t, with_sum=True))(
        logits, jnp.array([0, 5, 1, 0])
    )
    np.testing.assert_array_equal(correct, [True, True, False, True])
    np.testing.assert_allclose(total, [0, -59, 0, 0])


@pytest.mark.parametrize("platform, loops", [("cpu", True), ("tpu", False), ("cuda", False)])
def test_only_a_cpu_reads_in_blocks(small_blocks, platform, loops):
    x = jax.ShapeDtypeStruct((24, 50), jnp.float32)

    def sums(x):
        return passes.mean_squares(x, (0, 1)), passes.mean_square_of_product(x, (x,), (0, 1))

    text = jax.jit(sums).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) == loops


def test_small_and_stacked_arrays_are_summed_plainly():
    stacked = jax.ShapeDtypeStruct((2, 4096, 4096), jnp.float32)
    text = jax.jit(lambda x: passes.mean_squares(x, (1, 2))).lower(stacked).as_text()
    assert "stablehlo.while" not in text


def test_arrays_of_more_numbers_than_an_int32_counts():
    """An embedding of BLOOM-176B."""
    x = jax.ShapeDtypeStruct((250_880, 14_336), jnp.float32)
    factors = jax.ShapeDtypeStruct((250_880, 1), jnp.float32), jax.ShapeDtypeStruct((1, 14_336), jnp.float32)
    mean = jax.eval_shape(lambda x, *f: passes.mean_square_of_product(x, f, (0, 1)), x, *factors)
    assert mean.shape == (1, 1)
    assert {m.shape for m in jax.eval_shape(lambda x: passes.mean_squares(x, (0, 1)), x)} == {(14_336,), (250_880,)}
