"""Scores of given targets: against T5X's numbers, and the same for every batch, padding and number of choices."""

import json

import jax
import numpy as np
import pytest

from xtr.checkpoints.load import load_params
from xtr.evaluate.scoring import rank_scores, score_targets, shift_right
from xtr.models import spec as spec_lib
from xtr.models.bloom import BloomConfig
from xtr.models.mt5 import MT5, MT5Config, param_specs

CONFIG = MT5Config(96, 32, 2, 16, 64, 2, 2, dtype="float32")
RNG = np.random.default_rng(0)
INPUTS = [RNG.integers(2, 96, n).tolist() + [1] for n in (3, 11, 7)]
CHOICES = [[RNG.integers(2, 96, n).tolist() + [1] for n in row] for row in ((1, 4, 2), (2, 2, 5), (3, 1, 1))]


@pytest.fixture(scope="module")
def model():
    return MT5(CONFIG, jax.jit(lambda key: spec_lib.init_params(param_specs(CONFIG), key))(jax.random.key(0)))


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


@pytest.fixture(scope="module")
def alone(model):
    """Score of each choice by itself, without padding."""
    score = jax.jit(lambda x, y: score_targets(model, x, y))
    return np.array(
        [[score(np.array([x]), np.array([c]))[0] for c in row] for x, row in zip(INPUTS, CHOICES, strict=True)]
    )


def test_shift_right():
    np.testing.assert_array_equal(shift_right(np.array([[5, 6, 1, 0]])), [[0, 5, 6, 1]])


def test_scores_do_not_depend_on_batch_or_padding(model, alone):
    targets = padded([c for row in CHOICES for c in row], 9)
    inputs = padded([x for x in INPUTS for _ in range(3)], 20)
    scores = jax.jit(lambda x, y: score_targets(model, x, y))(inputs, targets)
    np.testing.assert_allclose(scores.reshape(3, 3), alone, rtol=1e-6)


@pytest.mark.parametrize(("input_length", "choice_length"), [(12, 6), (24, 11)])
def test_ranking_gives_each_choice_its_own_score(model, alone, input_length, choice_length):
    choices = np.stack([padded(row, choice_length) for row in CHOICES])
    # One more choice for every row, that no row has.
    choices = np.concatenate([choices, np.zeros_like(choices[:, :1])], axis=1)
    scores = jax.jit(lambda x, c: rank_scores(model, x, c))(padded(INPUTS, input_length), choices)
    np.testing.assert_allclose(scores[:, :3], alone, rtol=1e-6)
    assert np.all(np.isneginf(scores[:, 3]))


@pytest.mark.parametrize("room", [0, 3])
def test_choices_after_a_prompt(table_model, room):
    """Of a decoder-only model: each choice's log-probability is the sum over its tokens, given prompt and choice."""
    pad = 3
    model = table_model(20, seed=2, pad_id=pad)
    prompts = [[5, 0, 4], [7], [9, 8, 7, 6]]
    choices = [[[6, 2], [0, 5, 11, 2]], [[2], [19, 2]], [[4, 4, 2]]]
    tokens = np.full((3, 4 + room), pad, np.int32)
    targets = np.full((3, 2, 4 + room), pad, np.int32)
    expected = np.full((3, 2), -np.inf)
    for row, (prompt, texts) in enumerate(zip(prompts, choices, strict=True)):
        tokens[row, : len(prompt)] = prompt
        for c, text in enumerate(texts):
            targets[row, c, : len(text)] = text
            expected[row, c] = sum(model.log_probs(prompt, text[:i])[token] for i, token in enumerate(text))
    scores = rank_scores(model, tokens, targets)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(score_targets(model, tokens, targets[:, 0]), expected[:, 0], rtol=1e-5)


def test_bloom_s_choices_are_scored_as_in_the_whole_sequence():
    config = BloomConfig(96, 48, 6, 2, dtype="float32")
    model = config.network(jax.jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(0)))
    prompts = [RNG.integers(4, 96, n) for n in (3, 9, 6)]
    choices = [[[*RNG.integers(4, 96, n), config.eos_id] for n in lengths] for lengths in ((1, 4), (3, 2), (5, 1))]
    tokens = np.full((3, 11), config.pad_id)
    targets = np.full((3, 2, 7), config.pad_id)
    whole = np.full((3, 2, 18), config.pad_id)
    for row, (prompt, texts) in enumerate(zip(prompts, choices, strict=True)):
        tokens[row, : len(prompt)] = prompt
        for c, text in enumerate(texts):
            targets[row, c, : len(text)] = text
            whole[row, c, : len(prompt) + len(text)] = [*prompt, *text]
    scores = jax.jit(lambda x, c: rank_scores(model, x, c))(tokens, targets)
    logits = jax.jit(lambda x: model.logits(model.encode(x)))(whole.reshape(6, 18))
    log_probs = np.asarray(jax.nn.log_softmax(logits)).reshape(3, 2, 18, 96)
    for row, (prompt, texts) in enumerate(zip(prompts, choices, strict=True)):
        for c, text in enumerate(texts):
            places = len(prompt) - 1 + np.arange(len(text))
            expected = log_probs[row, c, places, text].sum()
            assert scores[row, c] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", ["t5x_legacy", "t5x_orbax"])
def test_scores_are_t5x_s(oracles, layout):
    folder = oracles / "t5x_mt5_micro"
    config = json.loads((folder / "config.json").read_text())
    config = MT5Config(**{k: v for k, v in config.items() if k in MT5Config.__dataclass_fields__})
    params, _ = load_params(folder / layout / "checkpoint_0", config)
    arrays = np.load(folder / "oracle.npz")
    inputs, targets = arrays["infer/encoder_input_tokens"], arrays["infer/decoder_target_tokens"]
    scores = jax.jit(lambda p: score_targets(MT5(config, p), inputs, targets))(params)
    measured = np.abs(scores / arrays["infer/score"] - 1).max()
    print(f"largest relative deviation of a score, {layout}: {measured:.2e}")
    assert measured < 1e-6
