"""BLOOM against itself: packing, padding, remat, dropout, the cache, sharding, compute dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.evaluate.decoding import beam_decode, greedy_decode
from xtr.models import spec as spec_lib
from xtr.models.bloom import BloomConfig, alibi_slopes
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import OnMesh, tree_shardings

CONFIG = BloomConfig(96, 48, 6, 3, dtype="float32", remat="none")
RNG = np.random.default_rng(0)
# Weights larger than at the start of training, so that what a token sees shows in its state.
PARAMS = spec_lib.map_specs(
    lambda spec, x: np.asarray(x) + (0.2 * RNG.standard_normal(x.shape, np.float32)),
    CONFIG.param_specs(),
    jax.jit(lambda key: spec_lib.init_params(CONFIG.param_specs(), key))(jax.random.key(0)),
)
MODEL = CONFIG.network(PARAMS)
TEXTS = [RNG.integers(4, 96, n) for n in (5, 9, 1)]
PAD = CONFIG.pad_id


def padded(texts, length: int) -> np.ndarray:
    """Rows padded on the right."""
    return np.stack([np.pad(text, (0, length - len(text)), constant_values=PAD) for text in texts]).astype(np.int32)


@jax.jit
def states(tokens: jax.Array) -> jax.Array:
    return MODEL.encode(tokens)


@jax.jit
def step(tokens, index, cache):
    return MODEL.decode_step(tokens, index, cache)


def alone(texts) -> list[np.ndarray]:
    """The states of each text in a row of its own."""
    rows = np.asarray(states(padded([*texts, *[[]] * (6 - len(texts))], 20)))
    return [row[: len(text)] for text, row in zip(texts, rows, strict=False)]


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_packed(config: BloomConfig, params, dropout_key=None, constrain=None) -> jax.Array:
    """Logits of all texts in one row, then two of padding."""
    tokens = padded([np.concatenate(TEXTS)], 17)
    ids = np.pad(np.repeat([1, 2, 3], [len(text) for text in TEXTS]), (0, 2))[None]
    model = config.network(params, constrain)
    return model.logits(model.encode(tokens, segment_ids_BS=ids, dropout_key=dropout_key))


def close(ours, expected, tolerance=2e-5):
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_packed_examples_do_not_see_each_other():
    packed, start = run_packed(CONFIG, PARAMS)[0], 0
    assert np.all(np.isfinite(packed))
    for text, expected in zip(TEXTS, alone(TEXTS), strict=True):
        close(packed[start : start + len(text)], MODEL.logits(expected))
        start += len(text)


def test_a_row_depends_neither_on_padding_nor_on_other_rows():
    for text, row in zip(TEXTS[:2], alone(TEXTS), strict=False):
        close(row, states(text[None])[0])
    assert np.all(np.isfinite(states(np.full((6, 20), PAD))))


def test_a_token_sees_none_after_it_and_nearer_ones_more():
    text = RNG.integers(4, 96, 20)
    changed = np.concatenate([text[:12], RNG.integers(4, 96, 8)])
    whole, other = alone([text, changed])
    close(other[:12], whole[:12])
    assert np.abs(other[12:] - whole[12:]).max() > 0.1
    slopes = alibi_slopes(6)
    np.testing.assert_allclose(slopes, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


def test_all_layers_start_at_the_normed_embeddings_and_end_after_the_final_norm():
    tokens = padded([*TEXTS, *TEXTS], 20)
    layers = jax.jit(lambda t: MODEL.encode(t, all_layers=True))(tokens)
    assert layers.shape == (4, 6, 20, 48)
    close(layers[0], MODEL.embedding_norm(PARAMS["token_embedder"]["embedding"][tokens]))
    close(layers[-1], states(tokens))
    # The first layer of a network is the whole of a network of one layer, its norm aside.
    first = {**PARAMS, "layers": jax.tree.map(lambda a: a[:1], PARAMS["layers"])}
    one = dataclasses.replace(CONFIG, num_layers=1).network(first)
    close(MODEL.final_norm(layers[1]), jax.jit(one.encode)(tokens))
    means = jax.jit(lambda t: MODEL.encode(t, all_layers=True, readout=lambda x_BSD: x_BSD.mean(axis=1)))(tokens)
    close(means, layers.mean(axis=2))


def test_remat_changes_no_gradient():
    key = jax.random.key(1, impl="unsafe_rbg")  # compiles faster

    def gradient(remat):
        config = dataclasses.replace(CONFIG, dropout_rate=0.1, remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.square(run_packed(config, p, key)).mean()))(PARAMS)

    none = gradient("none")
    for remat in ("full", "minimal"):
        jax.tree.map(lambda a, b: close(b, a, 1e-4), none, gradient(remat))


def test_dropout_needs_a_key_and_follows_it():
    config = dataclasses.replace(CONFIG, dropout_rate=0.1)
    np.testing.assert_array_equal(run_packed(config, PARAMS), run_packed(CONFIG, PARAMS))
    one, again, other = (run_packed(config, PARAMS, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, run_packed(CONFIG, PARAMS))


def test_steps_with_a_cache_equal_the_whole_sequence():
    """Prompts of 5, 9, 1 and 0 tokens; what each row writes follows its own prompt."""
    written = RNG.integers(4, 96, (4, 6))
    cache, first = MODEL.start(padded([*TEXTS, []], 9), 8)
    np.testing.assert_array_equal(first, [*(text[-1] for text in TEXTS), PAD])
    inputs = np.concatenate([np.asarray(first)[:, None], written], axis=1)
    steps = []
    for index in range(inputs.shape[1]):
        y_BD, cache = step(inputs[:, index], index, cache)
        steps.append(y_BD)
    steps = np.stack(steps, axis=1)
    expected = alone([np.concatenate([text, more]) for text, more in zip(TEXTS, written, strict=False)])
    for text, whole, mine in zip(TEXTS, expected, steps, strict=False):
        close(mine, whole[len(text) - 1 :])
    assert np.all(np.isfinite(steps[3]))


def test_repeat_and_reorder_move_whole_histories():
    """Two inputs of three continuations each, which change places half way."""
    cache, first = MODEL.start(padded(TEXTS[:2], 9), 6)
    prompt_bytes = cache.inputs[0][0].nbytes
    cache = cache.repeat(3)
    assert cache.inputs[0][0].nbytes == prompt_bytes  # held once an input
    inputs = np.concatenate([np.repeat(first, 3)[:, None], RNG.integers(4, 96, (6, 4))], axis=1)
    for index in range(3):
        _, cache = step(inputs[:, index], index, cache)
    source = np.array([[2, 0, 0], [1, 1, 2]])
    cache = cache.reorder(source)
    rows = (np.array([[0], [3]]) + source).reshape(-1)
    histories = np.concatenate([inputs[rows, :3], inputs[:, 3:]], axis=1)
    for index in range(3, 5):
        y_ND, cache = step(inputs[:, index], index, cache)
        expected = alone([np.concatenate([TEXTS[n // 3][:-1], histories[n, : index + 1]]) for n in range(6)])
        for row, whole in zip(y_ND, expected, strict=True):
            close(row, whole[-1])


def test_generation_depends_neither_on_padding_nor_on_other_rows():
    decode = jax.jit(lambda t: greedy_decode(MODEL, t, max_length=10, eos_id=CONFIG.eos_id))
    tokens, log_probs = decode(padded([*TEXTS, []], 16))
    text_alone, its_log_prob = decode(TEXTS[0][None].astype(np.int32))
    np.testing.assert_array_equal(tokens[0], text_alone[0])
    close(log_probs[0], its_log_prob[0])
    assert np.all(tokens[3] == PAD) and log_probs[3] == 0
    best, scores = jax.jit(lambda t: beam_decode(MODEL, t, max_length=10, beams=3, alpha=0.0))(padded(TEXTS, 16))
    assert best.shape == (3, 3, 10) and np.all(scores[:, -1] >= log_probs[:3] - 1e-4)


@pytest.mark.parametrize(
    "sizes", [{"replica": 2, "fsdp": 2, "tensor": 2}, pytest.param({"fsdp": 8}, marks=pytest.mark.slow)]
)
def test_eight_devices_equal_one(sizes):
    mesh, specs = make_mesh(MeshConfig(**sizes)), CONFIG.param_specs()
    shardings = tree_shardings(specs, mesh)
    tokens = padded([RNG.integers(4, 96, n) for n in (5, 9, 1, 7, 3, 8, 2, 9)], 9)

    def run(params, constrain=None):
        model = CONFIG.network(params, constrain)

        def loss_of(params):
            model = CONFIG.network(params, constrain)
            return jnp.square(model.logits(model.encode(tokens))).mean()

        written, _ = greedy_decode(model, tokens, max_length=5, eos_id=CONFIG.eos_id)
        return jax.value_and_grad(loss_of)(params), written

    (loss, gradient), written = jax.jit(run)(PARAMS)
    spread = jax.device_put(PARAMS, shardings)
    shares = spread["layers"]["attention"]["query_key_value"]["kernel"].addressable_shards
    assert shares[0].data.shape == (3, 48 // sizes["fsdp"], 144 // sizes.get("tensor", 1))
    (their_loss, their_gradient), their_written = jax.jit(lambda p: run(p, OnMesh(mesh)))(spread)
    close(their_loss, loss)
    jax.tree.map(lambda a, b: close(b, a, 1e-4), gradient, their_gradient)
    np.testing.assert_array_equal(their_written, written)


def test_constrain_sees_every_weight_gathered_and_in_the_compute_dtype():
    seen: list[tuple[tuple[int, ...], str, tuple]] = []

    def constrain(array, axes):
        assert array.ndim == len(axes)
        seen.append((array.shape, str(array.dtype), axes))
        return array

    run_packed(dataclasses.replace(CONFIG, dtype="bfloat16"), PARAMS, constrain=constrain)
    assert ((48, 144), "bfloat16", (None, "joined_kv")) in seen
    assert ((144,), "bfloat16", ("joined_kv",)) in seen
    assert ((48, 48), "bfloat16", ("joined_kv", None)) in seen
    assert ((48, 192), "bfloat16", (None, "mlp")) in seen
    assert ((192, 48), "bfloat16", ("mlp", None)) in seen
    assert ((48,), "bfloat16", (None,)) in seen
    assert ((48, 96), "float32", (None, "output_vocab")) in seen
    assert ((1, 17, 6, 3, 8), "bfloat16", ("batch", "length", "heads", None, "kv")) in seen


def test_bfloat16_stays_near_float32_with_f32_logits():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    f32, bf16 = run_packed(CONFIG, PARAMS)[:, :-2], run_packed(config, PARAMS)[:, :-2]
    assert bf16.dtype == jnp.float32
    assert np.abs(f32 - bf16).max() < 0.05 * np.abs(f32).max()
    model = config.network(PARAMS)
    cache, first = jax.eval_shape(lambda t: model.start(t, 4), padded(TEXTS, 9))
    y_BD, cache = jax.eval_shape(lambda t, c: model.decode_step(t, 0, c), first, cache)
    assert {y_BD.dtype, cache.own[0][0].dtype, cache.inputs[0][0].dtype} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 3}, "vocab_size must be a whole number of at least 4, not 3"),
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1"),
        ({"num_heads": True}, "num_heads must be a whole number"),
        ({"num_heads": 5}, "emb_dim must be a multiple of num_heads, not 48 with 5 heads"),
        ({"dropout_rate": 1.0}, r"dropout_rate must lie in \[0, 1\)"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"remat": "ful"}, "Did you mean full"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)
