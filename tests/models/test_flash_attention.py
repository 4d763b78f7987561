"""Flash attention, run by Pallas' interpreter, against plain attention: outputs and all gradients.

Axes: B batch, H heads, Q query length, M key length, K head size, W offsets of the bias.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xtr.models import flash_attention as flash_attention_module
from xtr.models import flash_blocks
from xtr.models.flash_attention import flash_attention, is_for, sharded
from xtr.models.layers import Context, RelativeBias, attend, same_segment, unconstrained
from xtr.models.mt5 import MT5Config
from xtr.models.spec import flatten, init_params
from xtr.train import objectives

F32 = Context(jnp.dtype("float32"), 0.0, unconstrained)
INTERPRETED = functools.partial(flash_attention, interpret=True)


def plain(query_BHQK, memory, *, query_ids_BQ, key_ids_BM, bias_HW=None, causal=False, context=F32, keep=None):
    """What flash attention must equal, with its arguments."""
    offsets = np.arange(memory[0].shape[2])[None, :] - np.arange(query_BHQK.shape[2])[:, None]
    mask = same_segment(query_ids_BQ, key_ids_BM)
    if causal:
        mask = mask & (offsets <= 0)
    bias_HQM = None if bias_HW is None else bias_HW[:, offsets + query_BHQK.shape[2] - 1]
    return attend(context, query_BHQK, memory, mask=mask, bias=bias_HQM, keep=keep)


def packed_ids(rng, batch, length):
    """Runs of ids 1, 2, ... and padding, as packing makes them; some rows are padding alone."""
    lengths = rng.integers(0, length + 1, (batch, 3))
    ids = np.zeros((batch, length), np.int32)
    for row, ends in enumerate(np.cumsum(lengths, axis=1)):
        for segment, (start, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True), start=1):
            ids[row, start:end] = segment
    return jnp.asarray(ids)


def inputs_of(rng, batch, heads, queries, keys, head_dim, *, biased, dtype=jnp.float32):
    query, key, value, out = (
        jnp.asarray(rng.normal(size=shape), dtype)
        for shape in (
            (batch, heads, queries, head_dim),
            (batch, heads, keys, head_dim),
            (batch, heads, keys, head_dim),
            (batch, queries, heads * head_dim),
        )
    )
    bias = jnp.asarray(rng.normal(size=(heads, queries + keys - 1)), jnp.float32) if biased else None
    ids = {"query_ids_BQ": packed_ids(rng, batch, queries), "key_ids_BM": packed_ids(rng, batch, keys)}
    return (query, key, value, bias), out, ids


def with_gradients(attention, arrays, cotangent, **kwargs):
    """The output and the gradients of queries, keys, values and bias."""

    def run(query, key, value, bias):
        return attention(query, (key, value), bias_HW=bias, **kwargs)

    def both(*arrays):
        out, pullback = jax.vjp(run, *arrays)
        return out, *pullback(cotangent)

    with jax.default_matmul_precision("highest"):
        return [x for x in jax.jit(both)(*arrays) if x is not None]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-6 * scale)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(flash_blocks, "MAX_BLOCK", 128)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("heads", "queries", "keys", "head_dim", "causal", "biased"),
    [
        pytest.param(2, 256, 256, 64, False, True, id="encoder"),
        pytest.param(2, 200, 200, 64, True, True, id="decoder-no-multiple-of-the-block"),
        pytest.param(2, 100, 300, 64, False, False, id="cross"),
        pytest.param(3, 40, 40, 64, False, True, id="heads-that-fill-no-block"),
        pytest.param(2, 130, 70, 128, False, True, id="one-head-a-block-keys-shorter"),
    ],
)
def test_outputs_and_gradients_are_plain_attention_s(heads, queries, keys, head_dim, causal, biased):
    rng = np.random.default_rng(queries + keys)
    arrays, cotangent, ids = inputs_of(rng, 2, heads, queries, keys, head_dim, biased=biased)
    ours = with_gradients(INTERPRETED, arrays, cotangent, causal=causal, **ids)
    assert_same(ours, with_gradients(plain, arrays, cotangent, causal=causal, **ids))


@pytest.mark.slow
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    heads=st.integers(1, 5),
    head_dim=st.sampled_from([16, 32, 64, 128, 256]),
    queries=st.integers(1, 300),
    keys=st.integers(1, 300),
    causal=st.booleans(),
    biased=st.booleans(),
    max_block=st.sampled_from([128, 256, 512]),
)
def test_any_shape_equals_plain_attention(seed, batch, heads, head_dim, queries, keys, causal, biased, max_block):
    rng = np.random.default_rng(seed)
    arrays, cotangent, ids = inputs_of(rng, batch, heads, queries, keys, head_dim, biased=biased)
    arrays = (arrays[0] / np.sqrt(head_dim), *arrays[1:])  # scores of one size, so that one tolerance fits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash_blocks, "MAX_BLOCK", max_block)
        ours = with_gradients(INTERPRETED, arrays, cotangent, causal=causal, **ids)
    assert_same(ours, with_gradients(plain, arrays, cotangent, causal=causal, **ids))


def test_a_query_that_sees_nothing_takes_the_mean_and_moves_nothing():
    rng = np.random.default_rng(0)
    arrays, cotangent, _ = inputs_of(rng, 1, 2, 140, 150, 64, biased=True)
    query_ids = jnp.zeros((1, 140), jnp.int32).at[0, 0].set(1)
    ids = {"query_ids_BQ": query_ids, "key_ids_BM": jnp.ones((1, 150), jnp.int32)}
    out, dquery, dkey, _, dbias = with_gradients(INTERPRETED, arrays, cotangent.at[:, 0].set(0), **ids)
    mean = np.asarray(arrays[2]).mean(axis=2).reshape(-1)
    np.testing.assert_allclose(out[0, 1:], np.broadcast_to(mean, out[0, 1:].shape), atol=1e-6)
    for gradient in (dquery, dkey, dbias):
        np.testing.assert_array_equal(gradient, 0)


def test_the_table_s_gradient_is_that_of_the_unrolled_bias():
    length, rng = 150, np.random.default_rng(1)
    (query, key, value, _), cotangent, _ = inputs_of(rng, 2, 2, length, length, 64, biased=False)
    ids = packed_ids(rng, 2, length)

    def table_of(table_HR):
        return RelativeBias({"rel_embedding": table_HR}, bidirectional=True, max_distance=128, context=F32)

    def ours(table_HR):
        bias_HW = table_of(table_HR).of_offsets(np.arange(-length + 1, length))
        return INTERPRETED(query, (key, value), query_ids_BQ=ids, key_ids_BM=ids, bias_HW=bias_HW)

    def theirs(table_HR):
        return attend(F32, query, (key, value), mask=same_segment(ids, ids), bias=table_of(table_HR)(length))

    table_HR = jnp.asarray(rng.normal(size=(2, 32)), jnp.float32)
    results = []
    for attention in (ours, theirs):
        out, pullback = jax.vjp(jax.jit(attention), table_HR)
        results.append((out, *pullback(cotangent)))
    assert_same(*results)


def test_dropout_that_queries_share_is_a_factor_of_the_values():
    rng = np.random.default_rng(2)
    (query, key, value, bias), _, ids = inputs_of(rng, 2, 2, 64, 96, 64, biased=True)
    context = Context(jnp.dtype("float32"), 0.1, unconstrained)
    keep = jax.random.bernoulli(jax.random.key(0), 0.9, (2, 2 * 96))
    dropped = jnp.where(keep.reshape(2, 2, 96, 1), value / 0.9, 0)
    ours = INTERPRETED(query, (key, dropped), bias_HW=bias, **ids)
    theirs = plain(query, (key, value), bias_HW=bias, context=context, keep=keep, **ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_in_bf16_it_errs_by_bf16_s_rounding():
    rng = np.random.default_rng(3)
    arrays, cotangent, ids = inputs_of(rng, 2, 2, 200, 200, 64, biased=True, dtype=jnp.bfloat16)
    arrays = (arrays[0] / 8, *arrays[1:])
    in_bf16 = functools.partial(plain, context=Context(jnp.dtype("bfloat16"), 0.0, unconstrained))
    exact = with_gradients(plain, [x.astype(jnp.float32) for x in arrays], cotangent.astype(jnp.float32), **ids)
    ours, theirs = (with_gradients(attention, arrays, cotangent, **ids) for attention in (INTERPRETED, in_bf16))
    assert [x.dtype for x in ours] == [x.dtype for x in theirs]

    def rms(x):
        return float(jnp.sqrt(jnp.mean(x.astype(jnp.float32) ** 2)))

    for a, b, c in zip(ours, theirs, exact, strict=True):
        # A CPU's plain attention rounds its results alone; a matrix unit, like the kernel, its inputs too.
        assert rms(a - c) < max(2 * rms(b - c), 2**-8 * rms(c))


@pytest.mark.parametrize(
    ("shape", "heads"),
    [((2, 2, 2), 4), ((1, 4, 1), 2), ((1, 2, 2), 3)],
    ids=["all-axes", "fsdp", "heads-not-divided"],
)
def test_a_mesh_changes_nothing(shape, heads):
    devices = np.asarray(jax.devices()[: np.prod(shape)]).reshape(shape)
    mesh = Mesh(devices, ("replica", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    arrays, cotangent, ids = inputs_of(np.random.default_rng(4), 4, heads, 64, 80, 64, biased=True)
    alone = with_gradients(plain, arrays, cotangent, **ids)
    spread = NamedSharding(mesh, PartitionSpec(("replica", "fsdp")))
    arrays = (*jax.device_put(arrays[:3], spread), arrays[3])
    assert_same(with_gradients(sharded(mesh, interpret=True), arrays, cotangent, **ids), alone)


def test_it_is_not_for_cpus():
    assert not is_for(Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1), ("replica", "fsdp", "tensor")), 64)


def _loss_and_gradient(config, params, batch, key):
    def loss(params):
        network = config.network(params)
        return objectives.seq2seq(network, batch, dropout_key=key, z_loss=0.0, label_smoothing=0.0)[0]

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    "per_layer, packed, remat",
    [(False, True, "minimal"), pytest.param(True, False, "full", marks=pytest.mark.slow)],
)
def test_a_network_trains_with_it_as_without(monkeypatch, per_layer, packed, remat):
    settings = dict(relpos_per_layer=per_layer, remat=remat, dropout_rate=0.1, dtype="float32")
    config = MT5Config(96, 32, 2, 16, 32, 1, 1, **settings)
    params = init_params(config.param_specs(), jax.random.key(0))
    rng = np.random.default_rng(1)
    ids = {
        "encoder": np.array([[1] * 10 + [2] * 9 + [0] * 5, [1] * 24]),
        "decoder": np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12]),
    }
    features = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    real = {name: ids[name.partition("_")[0]] > 0 for name in features}
    batch = {name: rng.integers(3, 96, own.shape) * own for name, own in real.items()}
    if packed:
        batch |= {f"{side}_segment_ids": own for side, own in ids.items()}
    batch = {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}
    key = jax.random.key(3)
    plain = _loss_and_gradient(config, params, batch, key)
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1), ("replica", "fsdp", "tensor"))
    used = []

    def kernel_for(constrain, head_dim):
        used.append(head_dim)
        return sharded(mesh, interpret=True)

    monkeypatch.setattr(flash_attention_module, "kernel_for", kernel_for)
    loss, gradient = _loss_and_gradient(config, params, batch, key)
    assert used
    np.testing.assert_allclose(loss, plain[0], rtol=2e-6)
    for name, own in flatten(gradient).items():
        other = flatten(plain[1])[name]
        np.testing.assert_allclose(own, other, atol=2e-5 * float(jnp.abs(other).max()), err_msg=name)
