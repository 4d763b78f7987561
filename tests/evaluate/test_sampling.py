"""Sampling: the distribution it draws from, its warping, its limits, and what draws depend on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from xtr.errors import UserError
from xtr.evaluate.decoding import Decoding, decode, greedy_decode, sample_decode, warp
from xtr.evaluate.scoring import score_targets

EOS = 1
PROMPTS = np.array([[5, 3, 4, 0], [2, 0, 0, 0], [4, 2, 3, 5]], np.int32)


@functools.cache
def compiled(config, **static):
    return jax.jit(
        lambda table, tokens, key, ids: sample_decode(config.network(table), tokens, key, ids, eos_id=EOS, **static)
    )


def samples_of(model, prompts, row_ids=None, seed=0, **static):
    row_ids = np.arange(len(prompts)) if row_ids is None else np.asarray(row_ids)
    tokens, log_probs = compiled(model.config, **static)(model.table, prompts, jax.random.key(seed), row_ids)
    return np.asarray(tokens), np.asarray(log_probs)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 1.4, "top_k": 4, "top_p": 0.8}],
    ids=lambda s: "-".join(s) or "plain",
)
def test_draws_follow_the_warped_distribution(table_model, settings):
    model, draws = table_model(6, seed=1), 20_000
    tokens, _ = samples_of(model, PROMPTS[:1], max_length=2, samples=draws, **settings)
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings

    def probs(*continuation):
        log_probs = model.log_probs(PROMPTS[0, :3], continuation)
        return np.asarray(jax.nn.softmax(warp(jnp.asarray(log_probs)[None], **full)[0]), np.float64)

    expected, observed = [], []
    for first, second in itertools.product(range(6), repeat=2):
        after = np.eye(6)[0] if first == EOS else probs(first)  # padding follows the EOS
        expected.append(probs()[first] * after[second] * draws)
        observed.append(((tokens[0] == (first, second)).all(axis=1)).sum())
    expected, observed = np.array(expected), np.array(observed)
    assert observed[expected == 0].sum() == 0 and observed.sum() == draws
    # Rare pairs together, as the test wants five of each.
    often = expected >= 5
    counts = [np.append(x[often], x[~often].sum()) for x in (observed, expected)]
    counts = [x if counts[1][-1] >= 5 else x[:-1] for x in counts]
    p_value = stats.chisquare(counts[0], counts[1] * counts[0].sum() / counts[1].sum()).pvalue
    print(f"chi-square test, {len(counts[0])} classes: p = {p_value:.3f}")
    assert p_value > 1e-3


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.5, 0, 0.3), (2.0, 0, 0.9), (1.0, 7, 1.0), (0.5, 7, 0.3), (2.0, 7, 0.9)]
)
def test_warping_is_hugging_face_s(temperature, top_k, top_p):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32) * 2
    theirs = process.TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
    if top_k:
        theirs = process.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = process.TopPLogitsWarper(top_p)(None, theirs)
    ours = warp(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(theirs.numpy()))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_the_token_that_crosses_top_p_is_kept():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    for top_p, kept in ((1e-6, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.999, 4), (1.0, 4)):
        assert np.isfinite(warp(logits, temperature=1.0, top_k=0, top_p=top_p)).sum() == kept, top_p
    # After top-k the rest is renormalised: 0.5 of 0.8 is 0.625.
    for top_p, kept in ((0.62, 1), (0.63, 2)):
        assert np.isfinite(warp(logits, temperature=1.0, top_k=2, top_p=top_p)).sum() == kept, top_p


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
def test_limits_are_greedy(table_model, settings):
    model = table_model(20, seed=4)
    greedy, log_probs = greedy_decode(model, PROMPTS, max_length=9, eos_id=EOS)
    tokens, sample_log_probs = samples_of(model, PROMPTS, max_length=9, **settings)
    np.testing.assert_array_equal(tokens[:, 0], greedy)
    # The model's own log-probabilities, not those of the warped distribution (which would be 0).
    np.testing.assert_allclose(sample_log_probs[:, 0], log_probs, rtol=1e-6)


def test_log_probs_are_the_model_s_and_rise(table_model):
    model = table_model(9, seed=6)
    tokens, log_probs = samples_of(model, PROMPTS, max_length=6, samples=5, temperature=2.0, top_k=6)
    assert (np.diff(log_probs, axis=1) >= 0).all() and len(np.unique(log_probs)) > 10
    teacher = score_targets(model, np.repeat(PROMPTS, 5, axis=0), tokens.reshape(15, 6))
    # Padding is id 0 here, a token that the table emits too: only rows without it can be scored.
    plain = ~((tokens == 0) & (np.cumsum(tokens == EOS, axis=2) == 0)).any(axis=2)
    assert plain.sum() > 3
    np.testing.assert_allclose(log_probs[plain], teacher.reshape(3, 5)[plain], rtol=1e-5)


def test_draws_depend_on_the_key_and_the_row_s_id_alone(table_model):
    model, settings = table_model(20, seed=7), {"max_length": 8, "samples": 2, "temperature": 1.5}
    tokens, log_probs = samples_of(model, PROMPTS, **settings)
    # Other order, more padding, a filler row before, a longer limit: each row keeps its samples.
    wide = np.concatenate([np.zeros((1, 7), np.int32), np.pad(PROMPTS[::-1], ((0, 0), (0, 3)))])
    wide_tokens, wide_log_probs = samples_of(model, wide, [9, 2, 1, 0], **settings)
    np.testing.assert_array_equal(wide_tokens[1:], tokens[::-1])
    np.testing.assert_array_equal(wide_log_probs[1:], log_probs[::-1])
    assert not wide_tokens[0].any() and not wide_log_probs[0].any()
    same_prompt = np.repeat(PROMPTS[:1], 3, axis=0)
    one, again, other = samples_of(model, same_prompt, [4, 4, 5], **settings)[0]
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one[0] != one[1]).any()
    assert (samples_of(model, PROMPTS, seed=1, **settings)[0] != tokens).any()


def test_settings_are_checked():
    for wrong, said in (
        ({"method": "gready"}, "Did you mean greedy"),
        ({"method": "beam", "beams": 0}, "beams must be a whole number of at least 1"),
        ({"method": "beam", "alpha": -0.5}, "alpha must be a number of at least 0"),
        ({"method": "sample", "top_p": 1.5}, r"top_p must lie in \(0, 1\]"),
        ({"method": "sample", "top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"method": "sample", "top_k": True}, "top_k must be a whole number"),
        ({"method": "sample", "temperature": 0}, "decode greedily"),
        ({"method": "sample", "temperature": float("nan")}, "temperature must be a number"),
        ({"temperature": 0.7}, "set DECODE_METHOD to 'sample'"),
        ({"method": "sample", "beams": 8}, "set DECODE_METHOD to 'beam'"),
    ):
        with pytest.raises(UserError, match=said):
            Decoding(**wrong)


def test_decode_goes_by_the_method(table_model):
    model, ids = table_model(11, seed=8), np.arange(3)
    limits = {"max_length": 6, "eos_id": EOS}
    greedy, log_probs = decode(model, PROMPTS, ids, decoding=Decoding(), **limits)
    expected = greedy_decode(model, PROMPTS, **limits)
    np.testing.assert_array_equal(greedy[:, 0], expected[0])
    np.testing.assert_array_equal(log_probs[:, 0], expected[1])
    sampled = decode(model, PROMPTS, ids, decoding=Decoding("sample", top_k=5, samples=3, seed=2), **limits)
    expected = samples_of(model, PROMPTS, seed=2, max_length=6, top_k=5, samples=3)
    np.testing.assert_array_equal(sampled[0], expected[0])
    assert [Decoding(m, **more).continuations for m, more in (("beam", {"beams": 5}), ("sample", {}))] == [5, 1]
