"""Layers: relative positions, norm, dropout's shared masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.models.layers import Context, Dense, LayerNorm, RelativeBias, RMSNorm, relative_buckets, unconstrained

F32 = Context(jnp.dtype("float32"), 0.0, unconstrained)
HALF = Context(jnp.dtype("float32"), 0.5, unconstrained)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_huggingface_s(bidirectional):
    torch = pytest.importorskip("torch")
    attention = pytest.importorskip("transformers.models.mt5.modeling_mt5").MT5Attention
    offsets = np.arange(-1500, 1501)
    theirs = attention._relative_position_bucket(torch.tensor(offsets), bidirectional, 32, 128).numpy()
    ours = relative_buckets(offsets, bidirectional=bidirectional, num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.int32


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 2, 37])
def test_the_unrolled_bias_is_the_table_at_each_pair_s_bucket(bidirectional, length):
    table_HR = jax.random.normal(jax.random.key(0), (4, 32))
    bias = RelativeBias({"rel_embedding": table_HR}, bidirectional=bidirectional, max_distance=128, context=F32)
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
    buckets = relative_buckets(offsets, bidirectional=bidirectional, num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(bias(length), table_HR[:, buckets])


def test_rms_norm_takes_statistics_in_f32_and_scales_in_the_compute_dtype():
    x = 300 * jax.random.normal(jax.random.key(0), (2, 3, 64), jnp.bfloat16)
    scale = jax.random.normal(jax.random.key(1), (64,))
    y = RMSNorm({"scale": scale}, Context(jnp.dtype("bfloat16"), 0.0, unconstrained))(x)
    x32 = np.asarray(x, np.float32)
    normed = jnp.asarray(x32 / np.sqrt(np.mean(x32**2, -1, keepdims=True) + 1e-6), jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(np.float32), (normed * scale.astype(jnp.bfloat16)).astype(np.float32), rtol=2**-7
    )


def test_layer_norm_computes_in_f32_and_returns_the_compute_dtype():
    # A large mean: statistics in bf16, or the variance as a difference of squares in f32, would lose the deviations.
    x = (1000 + jax.random.normal(jax.random.key(0), (2, 3, 64))).astype(jnp.float32)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 64)).astype(jnp.bfloat16).astype(jnp.float32)
    x64 = np.asarray(x, np.float64)
    expected = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-5) * scale + bias
    np.testing.assert_allclose(LayerNorm({"scale": scale, "bias": bias}, F32, 1e-5)(x), expected, rtol=1e-3, atol=1e-3)
    bf16 = Context(jnp.dtype("bfloat16"), 0.0, unconstrained)
    y = LayerNorm({"scale": scale, "bias": bias}, bf16, 1e-5)(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=2**-7, atol=2e-3)


def test_dense_adds_a_bias_where_there_is_one():
    x, kernel, bias = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((2, 3, 8), (8, 5), (5,))))
    plain = Dense({"kernel": kernel}, ("embed", "mlp"), F32)(x)
    np.testing.assert_allclose(plain, x @ kernel, rtol=1e-5, atol=1e-6)
    biased = Dense({"kernel": kernel, "bias": bias}, ("embed", "mlp"), F32)(x)
    np.testing.assert_allclose(biased, x @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_dropout_shares_its_mask_along_one_axis_and_keeps_the_mean():
    x = jnp.ones((8, 16, 256))
    shared_mask, own_mask = HALF.masks(jax.random.key(0), 8, 256, 16 * 256)
    shared = HALF.dropout(x, shared_mask)
    np.testing.assert_array_equal(shared, jnp.broadcast_to(shared[:, :1], x.shape))
    assert set(np.unique(shared)) == {0.0, 2.0}
    assert float(shared.mean()) == pytest.approx(1.0, abs=0.1)
    own = HALF.dropout(x, own_mask)
    assert not np.array_equal(own[:, 0], own[:, 1])
    np.testing.assert_array_equal(HALF.dropout(x, None), x)
    assert HALF.masks(None, 8, 3, 4) == F32.masks(jax.random.key(0), 8, 3, 4) == [None, None]
