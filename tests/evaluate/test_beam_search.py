"""Beam search: against T5X's recorded beams, a beam search in plain Python, and exhaustive search."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.evaluate.decoding import Decoding, beam_decode, decode, greedy_decode
from xtr.evaluate.scoring import score_targets
from xtr.models.mt5 import MT5

PROMPTS = np.array([[5, 3, 4, 0], [2, 0, 0, 0], [4, 2, 3, 5]], np.int32)
EOS = 1


@functools.cache
def compiled(config, **static):
    return jax.jit(lambda table, tokens: beam_decode(config.network(table), tokens, eos_id=EOS, **static))


def beams_of(model, prompts, **static):
    tokens, scores = compiled(model.config, **static)(model.table, prompts)
    return np.asarray(tokens), np.asarray(scores)


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def plain_beam_search(log_probs, beams, alpha, max_length):
    """(tokens, score) of the finished pool, the best last; of the live sequences where nothing finished. And steps."""
    live, pool, steps = [((), 0.0)], [], 0
    for length in range(1, max_length + 1):
        if len(pool) == beams and pool[-1][1] > live[0][1] / penalty(max_length + 1, alpha):
            break
        extended = [((*seq, v), total + lp) for seq, total in live for v, lp in enumerate(log_probs(seq))]
        best = sorted(extended, key=lambda pair: -pair[1])[: 2 * beams]
        steps = length
        live = [(seq, total) for seq, total in best if seq[-1] != EOS][:beams]
        pool += [(seq, total / penalty(length, alpha)) for seq, total in best if seq[-1] == EOS]
        pool = sorted(pool, key=lambda pair: -pair[1])[:beams]
    return (pool or live)[::-1], steps


def assert_same(tokens_CT, scores_C, expected):
    """The last places hold what is expected; those before are empty."""
    count, room = len(expected), tokens_CT.shape[1]
    empty = len(scores_C) - count
    assert np.isneginf(scores_C[:empty]).all() and not tokens_CT[:empty].any()
    np.testing.assert_array_equal(tokens_CT[empty:], [[*seq, *[0] * (room - len(seq))] for seq, _ in expected])
    # Near 0 a log-probability is the difference of two numbers of the logits' size, rounded as f32.
    np.testing.assert_allclose(scores_C[empty:], [score for _, score in expected], rtol=1e-5, atol=1e-6)


def test_beams_are_t5x_s(t5x_trained):
    arrays, config, params = t5x_trained
    expected, scores = arrays["infer/beam4_tokens"], arrays["infer/beam4_scores"]
    inputs, length = arrays["infer/encoder_input_tokens"], expected.shape[2]
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda p: beam_decode(MT5(config, p), inputs, max_length=length, beams=4, alpha=0.6))(params)
    np.testing.assert_array_equal(found[0], expected)
    measured = np.abs(found[1] / scores - 1).max()
    print(f"largest relative deviation of a beam's score: {measured:.2e}")
    assert measured < 1e-6


@settings(max_examples=25)
@given(seed=st.integers(0, 2**20), alpha=st.floats(0, 2), scale=st.floats(0.2, 3))
def test_beams_are_those_of_plain_python(table_model, seed, alpha, scale):
    # A fixed alpha a compilation; hypothesis chooses among few, and of many tables.
    alpha = round(alpha * 2) / 2
    model = table_model(11, seed, scale)
    tokens, scores = beams_of(model, PROMPTS, max_length=7, beams=3, alpha=alpha)
    for row, prompt in enumerate(PROMPTS):
        log_probs = functools.partial(model.log_probs, prompt[prompt != 0])
        assert_same(tokens[row], scores[row], plain_beam_search(log_probs, 3, alpha, 7)[0])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_wide_beams_find_everything(table_model, alpha):
    """With more beams than sequences, the pool is every sequence that ends, in the order of its score."""
    model, longest = table_model(3, seed=2), 3
    tokens, scores = beams_of(model, PROMPTS, max_length=longest, beams=16, alpha=alpha)
    for row, prompt in enumerate(PROMPTS):
        everything = []
        for length in range(1, longest + 1):
            for start in itertools.product((0, 2), repeat=length - 1):
                seq = (*start, EOS)
                total = sum(model.log_probs(prompt[prompt != 0], seq[:i])[seq[i]] for i in range(length))
                everything.append((seq, total / penalty(length, alpha)))
        assert_same(tokens[row], scores[row], sorted(everything, key=lambda pair: pair[1]))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20))
def test_a_greater_alpha_never_prefers_a_shorter_output(table_model, seed):
    model = table_model(4, seed)
    lengths = []
    for alpha in (0.0, 0.6, 1.5, 4.0):
        tokens, _ = beams_of(model, PROMPTS, max_length=3, beams=40, alpha=alpha)
        lengths.append(np.argmax(tokens[:, -1] == EOS, axis=1) + 1)
    assert (np.diff(lengths, axis=0) >= 0).all()


def test_live_sequences_where_nothing_ends(table_model):
    model = table_model(12, seed=3)
    model.table = model.table.at[:, EOS].set(-50.0)
    tokens, scores = beams_of(model, PROMPTS, max_length=5, beams=2, alpha=0.6)
    assert not (tokens == EOS).any()
    for row, prompt in enumerate(PROMPTS):
        log_probs = functools.partial(model.log_probs, prompt[prompt != 0])
        expected, _ = plain_beam_search(log_probs, 2, 0.6, 5)
        assert_same(tokens[row], scores[row], expected)
        # Without a penalty: scores are log-probabilities.
        total = sum(model.log_probs(prompt[prompt != 0], tokens[row, -1, :i])[tokens[row, -1, i]] for i in range(5))
        assert scores[row, -1] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("eos_logit", [0.0, 2.0, 6.0])
def test_the_search_ends_when_no_live_sequence_can_win(table_model, eos_logit):
    model, steps = table_model(5, seed=0), []
    model.table = model.table.at[:, EOS].set(eos_logit)

    class Counted(type(model)):
        def decode_step(self, tokens_N, index, cache, positions_N=None):
            jax.debug.callback(lambda i: steps.append(int(i)), index)
            return super().decode_step(tokens_N, index, cache)

    counted = Counted(model.config, model.table)
    tokens, scores = beam_decode(counted, PROMPTS[2:], max_length=30, beams=2, eos_id=EOS)
    jax.effects_barrier()
    expected, needed = plain_beam_search(functools.partial(model.log_probs, PROMPTS[2]), 2, 0.6, 30)
    assert len(steps) == needed < 30
    assert_same(np.asarray(tokens)[0], np.asarray(scores)[0], expected)


def test_beams_do_not_depend_on_batch_padding_or_room(table_model):
    model = table_model(11, seed=5)
    tokens, scores = beams_of(model, PROMPTS, max_length=7, beams=3, alpha=0.6)
    wide = np.concatenate([np.zeros((2, 9), np.int32), np.pad(PROMPTS[::-1], ((0, 0), (0, 5)))])
    wide_tokens, wide_scores = beams_of(model, wide, max_length=7, beams=3, alpha=0.6)
    np.testing.assert_array_equal(wide_tokens[2:], tokens[::-1])
    np.testing.assert_allclose(wide_scores[2:], scores[::-1], rtol=1e-6)
    assert not wide_tokens[:2].any()
    np.testing.assert_array_equal(wide_scores[:2], [[-np.inf, -np.inf, 0.0]] * 2)


def test_beams_of_a_network(t5x_trained):
    """On mT5, whose cache is reordered: scores are those of teacher forcing, and it beats greedy search."""
    arrays, config, params = t5x_trained
    model, inputs, length = MT5(config, params), arrays["infer/encoder_input_tokens"], 8
    # An id that T5X's micro model seldom emits ends the outputs: they are long.
    eos = 250
    how = Decoding("beam", beams=3, alpha=1.0)
    tokens, log_probs = jax.jit(
        lambda x: decode(model, x, np.arange(len(x)), decoding=how, max_length=length, eos_id=eos)
    )(inputs)
    _, greedy_log_prob = jax.jit(lambda x: greedy_decode(model, x, max_length=length, eos_id=eos))(inputs)
    flat = np.asarray(tokens).reshape(-1, length)
    teacher = jax.jit(lambda x, y: score_targets(model, x, y))(np.repeat(inputs, 3, axis=0), flat)
    found = np.asarray(log_probs).reshape(-1)
    measured = np.abs(teacher / found - 1)[np.isfinite(found)].max()
    print(f"beams against teacher forcing: {measured:.2e}")
    assert measured < 1e-5
    assert len({tuple(row) for row in flat}) > 4
    assert (log_probs[:, -1] > greedy_log_prob + 0.1).any()
