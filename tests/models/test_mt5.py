"""mT5 against itself: packing, remat, dropout, the cache, the sharding hook, compute dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5, MT5Config, param_specs

CONFIG = MT5Config(96, 32, 2, 16, 64, 2, 3, dtype="float32", remat="none")
PARAMS = jax.jit(lambda key: spec_lib.init_params(param_specs(CONFIG), key))(jax.random.key(0))
RNG = np.random.default_rng(0)
ENCODER = [RNG.integers(2, 96, n) for n in (5, 9)]
DECODER = [RNG.integers(2, 96, n) for n in (4, 6)]


def packed_batch() -> dict[str, np.ndarray]:
    """Both examples in one row, then two of padding."""

    def row(parts, values):
        return np.concatenate([np.concatenate([v for v, _ in zip(values, parts, strict=True)]), [0, 0]])[None]

    return {
        "encoder": row(ENCODER, ENCODER),
        "encoder_ids": row(ENCODER, [np.full(len(e), i + 1) for i, e in enumerate(ENCODER)]),
        "decoder": row(DECODER, [np.concatenate([[0], d[:-1]]) for d in DECODER]),
        "decoder_ids": row(DECODER, [np.full(len(d), i + 1) for i, d in enumerate(DECODER)]),
    }


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_packed(config: MT5Config, params, dropout_key=None, constrain=None) -> jax.Array:
    batch, model = packed_batch(), MT5(config, params, constrain)
    encoded = model.encode(batch["encoder"], segment_ids_BS=batch["encoder_ids"], dropout_key=dropout_key)
    y = model.decode(
        batch["decoder"],
        encoded,
        encoder_mask_BS=batch["encoder"] != 0,
        encoder_segment_ids_BS=batch["encoder_ids"],
        segment_ids_BT=batch["decoder_ids"],
        dropout_key=dropout_key,
    )
    return model.logits(y)


def test_packed_examples_do_not_see_each_other():
    packed = run_packed(CONFIG, PARAMS)[0]
    model, start = MT5(CONFIG, PARAMS), 0
    for encoder, decoder in zip(ENCODER, DECODER, strict=True):
        encoded = model.encode(encoder[None])
        inputs = np.concatenate([[0], decoder[:-1]])[None]
        alone = model.logits(model.decode(inputs, encoded, encoder_mask_BS=encoder[None] != 0))[0]
        np.testing.assert_allclose(packed[start : start + len(decoder)], alone, rtol=1e-5, atol=1e-5)
        start += len(decoder)


def test_target_mask_changes_padding_alone():
    encoder = ENCODER[0][None]
    inputs = np.array([[0, *DECODER[0][:-1], 0, 0]])
    model = MT5(CONFIG, PARAMS)
    encoded = model.encode(encoder)
    free = model.decode(inputs, encoded, encoder_mask_BS=encoder != 0)
    real = (np.arange(inputs.shape[1]) < len(DECODER[0]))[None]
    masked = model.decode(inputs, encoded, encoder_mask_BS=encoder != 0, target_mask_BT=real)
    np.testing.assert_allclose(free[real], masked[real], rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(masked))


def test_remat_changes_no_gradient():
    def gradient(remat):
        config = dataclasses.replace(CONFIG, dropout_rate=0.1, remat=remat)
        loss = jax.jit(jax.grad(lambda params: jnp.square(run_packed(config, params, jax.random.key(1))).mean()))
        return loss(PARAMS)

    none = gradient("none")
    for remat in ("full", "minimal"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), none, gradient(remat))


def test_dropout_needs_a_key_and_follows_it():
    config = dataclasses.replace(CONFIG, dropout_rate=0.1)
    np.testing.assert_array_equal(run_packed(config, PARAMS), run_packed(CONFIG, PARAMS))
    one, again, other = (run_packed(config, PARAMS, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, run_packed(CONFIG, PARAMS))


def test_all_layers_start_at_the_embeddings_and_end_after_the_final_norm():
    tokens = np.pad(ENCODER[0], (0, 3))[None]
    model = MT5(CONFIG, PARAMS)
    layers = model.encode(tokens, all_layers=True)
    assert layers.shape == (3, 1, 8, 32)
    np.testing.assert_array_equal(layers[0], PARAMS["token_embedder"]["embedding"][tokens])
    np.testing.assert_array_equal(layers[-1], model.encode(tokens))
    # The first layer of a network is the whole of a network of one layer, its norm aside.
    one = MT5(
        dataclasses.replace(CONFIG, num_encoder_layers=1),
        {
            **PARAMS,
            "encoder": {**PARAMS["encoder"], "layers": jax.tree.map(lambda a: a[:1], PARAMS["encoder"]["layers"])},
        },
    )
    np.testing.assert_allclose(model.encoder_norm(layers[1]), one.encode(tokens), rtol=1e-5, atol=1e-6)


def test_steps_with_a_cache_equal_the_whole_sequence():
    model, encoder = MT5(CONFIG, PARAMS), np.pad(ENCODER[0], (0, 2))[None]
    inputs = np.array([[0, *RNG.integers(2, 96, 9)]])
    encoded = model.encode(encoder)
    whole = model.decode(inputs, encoded, encoder_mask_BS=encoder != 0)
    cache = model.init_cache(encoded, encoder != 0, 12)
    step = jax.jit(lambda tokens, index, cache: model.decode_step(tokens, index, cache))
    for i in range(inputs.shape[1]):
        y, cache = step(inputs[:, i], i, cache)
        np.testing.assert_allclose(y, whole[:, i], rtol=2e-5, atol=2e-5)


def test_continuations_of_an_input_are_repeated_and_reordered():
    """Rows of a repeated and reordered cache go on as those of a cache that was fed their tokens from the start."""
    model = MT5(CONFIG, PARAMS)
    encoder = np.stack([np.pad(tokens, (0, 10 - len(tokens))) for tokens in ENCODER])
    tokens = RNG.integers(2, 96, (6, 4))  # three continuations of each of two inputs
    tokens[:, 0] = 0
    source = np.array([[2, 2, 0], [1, 0, 1]])
    step = jax.jit(lambda tokens, index, cache: model.decode_step(tokens, index, cache))

    def run(cache, tokens, first, last):
        for i in range(first, last):
            y, cache = step(tokens[:, i], i, cache)
        return y, cache

    _, cache = run(model.start(encoder, 4)[0].repeat(3), tokens, 0, 3)
    y, _ = run(cache.reorder(source), tokens, 3, 4)
    history = tokens.reshape(2, 3, 4)[np.arange(2)[:, None], source].reshape(6, 4)
    history[:, 3] = tokens[:, 3]
    for row in range(6):
        alone, _ = run(model.start(encoder[row // 3][None], 4)[0], history[row][None], 0, 4)
        np.testing.assert_allclose(y[row], alone[0], rtol=2e-5, atol=2e-5)


def test_constrain_sees_every_weight_gathered_and_in_the_compute_dtype():
    seen: list[tuple[tuple[int, ...], str, tuple]] = []

    def constrain(array, axes):
        assert array.ndim == len(axes)
        seen.append((array.shape, str(array.dtype), axes))
        return array

    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    run_packed(config, PARAMS, constrain=constrain)
    assert ((32, 64), "bfloat16", (None, "mlp")) in seen
    assert ((64, 32), "bfloat16", ("mlp", None)) in seen
    assert ((32, 32), "bfloat16", (None, "joined_kv")) in seen
    assert ((32,), "bfloat16", (None,)) in seen
    assert ((32, 96), "float32", (None, "output_vocab")) in seen
    assert ((1, 16, 32), "bfloat16", ("batch", "length", "embed")) in seen


def test_bfloat16_stays_near_float32_with_f32_logits():
    f32 = run_packed(CONFIG, PARAMS)
    bf16 = run_packed(dataclasses.replace(CONFIG, dtype="bfloat16"), PARAMS)
    assert bf16.dtype == jnp.float32
    real = packed_batch()["decoder_ids"] != 0
    assert np.abs(f32 - bf16)[real].max() < 0.05 * np.abs(f32).max()
