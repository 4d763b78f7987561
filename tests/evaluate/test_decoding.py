"""Greedy decoding: against T5X's tokens, a decoder without cache, and itself in other batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.evaluate.decoding import greedy_decode, most_probable
from xtr.evaluate.scoring import score_targets, shift_right
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5, MT5Config, param_specs

CONFIG = MT5Config(96, 32, 2, 16, 64, 2, 2, dtype="float32")
RNG = np.random.default_rng(0)
INPUTS = np.array([[*RNG.integers(2, 96, n), 1, *[0] * (12 - n)] for n in (3, 11, 7, 5)], np.int32)
MAX_LENGTH = 10


@pytest.fixture(scope="module")
def model():
    params = jax.jit(lambda key: spec_lib.init_params(param_specs(CONFIG), key))(jax.random.key(0))
    return MT5(CONFIG, params)


@pytest.fixture(scope="module")
def reference(model):
    """Tokens of a decoder that runs the whole sequence again at each step and never ends."""

    @jax.jit
    def logits(targets):
        y = model.decode(shift_right(targets), model.encode(INPUTS), encoder_mask_BS=INPUTS != 0)
        return model.logits(y)

    tokens = np.zeros((len(INPUTS), MAX_LENGTH), np.int32)
    for i in range(MAX_LENGTH):
        tokens[:, i] = np.argmax(logits(tokens)[:, i], axis=-1)
    return tokens


@pytest.fixture(scope="module")
def decode(model):
    return jax.jit(
        lambda inputs, max_length, eos_id: greedy_decode(model, inputs, max_length=max_length, eos_id=eos_id),
        static_argnums=(1, 2),
    )


def test_tokens_are_the_argmax_at_each_step_and_log_probs_theirs(model, reference, decode):
    # An id that occurs nowhere, so that no row ends, then one in the middle of the first row.
    never = next(i for i in range(2, 96) if i not in reference)
    tokens, log_probs = decode(INPUTS, MAX_LENGTH, never)
    np.testing.assert_array_equal(tokens, reference)
    assert tokens.dtype == np.int32
    np.testing.assert_allclose(log_probs, score_targets(model, INPUTS, reference), rtol=1e-5)

    eos = int(reference[0, 4])
    tokens, log_probs = decode(INPUTS, MAX_LENGTH, eos)
    expected = reference.copy()
    for row in expected:
        (ends,) = np.nonzero(row == eos)
        if len(ends):
            row[ends[0] + 1 :] = 0
    assert not expected[0, 5:].any()
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(log_probs, score_targets(model, INPUTS, expected), rtol=1e-5)


def test_results_do_not_depend_on_batch_padding_or_room(reference, decode):
    eos = int(reference[0, 4])
    tokens, log_probs = decode(INPUTS, MAX_LENGTH, eos)
    filler = np.zeros((2, 19), np.int32)
    wide = np.concatenate([filler, np.pad(INPUTS, ((0, 0), (0, 6)))])
    wide_tokens, wide_log_probs = decode(wide, MAX_LENGTH, eos)
    np.testing.assert_array_equal(wide_tokens, np.pad(tokens, ((2, 0), (0, 0))))
    np.testing.assert_allclose(wide_log_probs, np.pad(log_probs, (2, 0)), rtol=1e-6)
    alone_tokens, alone_log_probs = decode(INPUTS[:1], MAX_LENGTH + 7, eos)
    np.testing.assert_array_equal(alone_tokens, np.pad(tokens[:1], ((0, 0), (0, 7))))
    np.testing.assert_allclose(alone_log_probs, log_probs[:1], rtol=1e-6)


def test_decoding_stops_when_all_rows_have_ended(model, reference):
    steps = []

    class Counted(MT5):
        def decode_step(self, tokens_B, index, cache, positions_N=None):
            jax.debug.callback(lambda i: steps.append(int(i)), index)
            return super().decode_step(tokens_B, index, cache)

    counted = Counted(CONFIG, spec_lib.init_params(param_specs(CONFIG), jax.random.key(0)))
    eos = int(reference[0, 0])
    jax.block_until_ready(greedy_decode(counted, INPUTS[:1], max_length=MAX_LENGTH, eos_id=eos))
    jax.effects_barrier()
    assert steps == [0]


def test_greedy_tokens_are_t5x_s(t5x_trained):
    arrays, config, params = t5x_trained
    expected = arrays["infer/greedy_tokens"][:, 0]
    inputs = arrays["infer/encoder_input_tokens"]
    tokens, log_probs = jax.jit(lambda p: greedy_decode(MT5(config, p), inputs, max_length=expected.shape[1]))(params)
    np.testing.assert_array_equal(tokens, expected)
    # T5X's scores are of the distribution at temperature 0, which gives the chosen token all probability; ours are the
    # model's own.
    assert not arrays["infer/greedy_scores"].any()
    np.testing.assert_allclose(log_probs, score_targets(MT5(config, params), inputs, expected), rtol=1e-5)


def test_a_decoder_only_generator_is_extended_after_its_prompt(table_model):
    """Padding is the config's own id, in prompts and after the EOS; and a prompt of padding alone has ended."""
    model, pad, eos = table_model(20, seed=1, pad_id=3), 3, 2
    prompts = np.array([[5, 0, 4, 3], [7, 3, 3, 3], [3, 3, 3, 3], [9, 8, 7, 6]], np.int32)
    tokens, log_probs = greedy_decode(model, prompts, max_length=12, eos_id=eos)
    for prompt, row, log_prob in zip(prompts, tokens, log_probs, strict=True):
        expected, total = [], 0.0
        while len(expected) < 12 and eos not in expected and (prompt != pad).any():
            next_log_probs = model.log_probs(prompt[prompt != pad], expected)
            expected.append(int(next_log_probs.argmax()))
            total += next_log_probs.max()
        np.testing.assert_array_equal(row, expected + [pad] * (12 - len(expected)))
        assert log_prob == pytest.approx(total, rel=1e-5)


def test_the_most_probable_token_along_either_axis():
    """The first of equal ones, and its log-probability."""
    logits_NV = np.random.default_rng(0).normal(size=(5, 37)).astype(np.float32)
    logits_NV[2, [7, 20]] = 9.0
    tokens, log_probs = most_probable(jnp.asarray(logits_NV))
    np.testing.assert_array_equal(tokens, logits_NV.argmax(axis=1))
    np.testing.assert_allclose(log_probs, jax.nn.log_softmax(logits_NV).max(axis=1), rtol=1e-5)
    for found, expected in zip(most_probable(jnp.asarray(logits_NV.T), axis=0), (tokens, log_probs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
