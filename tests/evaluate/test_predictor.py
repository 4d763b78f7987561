"""The predictor: the same texts and scores for every batch size and bucket, for a decoder-only model too."""

import jax
import numpy as np
import pytest

from xtr.evaluate.decoding import Decoding
from xtr.evaluate.predictor import Predictor
from xtr.parallel.mesh import MeshConfig, make_mesh

PAD, EOS = 3, 2
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(4, 30, n).astype(np.int32) for n in (3, 17, 9, 1, 12, 6, 8, 20, 5)]


class Letters:
    """A vocabulary of one id a letter, from 4."""

    eos_id, bos_id = EOS, None

    def encode(self, text):
        return [ord(letter) - ord("a") + 4 for letter in text]

    def decode(self, ids):
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        return "".join(chr(i - 4 + ord("a")) for i in ids if i > PAD)


@pytest.fixture(scope="module")
def predictors(table_model):
    """One that sees all prompts in one batch, and one of many small batches."""
    model, mesh = table_model(30, seed=3, pad_id=PAD), make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])

    def make(buckets, tokens_per_batch):
        return Predictor(model.config, model.table, Letters(), mesh, buckets, tokens_per_batch)

    return make((32,), 4096), make((8, 24), 48)


def no_progress(done):
    assert done > 0


@pytest.mark.parametrize(
    "how",
    [Decoding(), Decoding("beam", beams=3), Decoding("sample", temperature=1.3, top_k=9, samples=2)],
    ids=lambda how: how.method,
)
def test_texts_do_not_depend_on_the_batching(predictors, how):
    one, many = (predictor.generate(PROMPTS, 6, how, no_progress) for predictor in predictors)
    assert [[text for text, _ in found] for found in one] == [[text for text, _ in found] for found in many]
    for found, again in zip(one, many, strict=True):
        np.testing.assert_allclose([p for _, p in found], [p for _, p in again], rtol=1e-6)
    assert len({found[0][0] for found in one}) > 5
    for found in one:
        assert 1 <= len(found) <= how.continuations
        if how.method == "sample":
            assert found[0][1] >= found[-1][1]


def test_alternatives_that_do_not_exist_are_left_out(predictors):
    """Outputs of one token are the EOS alone: a beam finds that one, whatever its width."""
    found = predictors[0].generate(PROMPTS[:2], 1, Decoding("beam", beams=14), no_progress)
    assert [[text for text, _ in texts] for texts in found] == [[""], [""]]


def expected_scores(table_model, prompt, texts):
    model = table_model(30, seed=3, pad_id=PAD)
    all_tokens = [[*Letters().encode(text), EOS] for text in texts]
    return [sum(model.log_probs(prompt, tokens[:i])[t] for i, t in enumerate(tokens)) for tokens in all_tokens]


def test_ranking_of_choices(predictors, table_model):
    """Any number of choices of any length, repeated ones too: each has the score that it has by itself."""
    choices = [["a", "bc"], ["def", "g", "h"], [], ["lmnopq" * 9, "l"]] * 2 + [["xyz", "", "xyz", *"abcdefghijklmn"]]
    one, many = (predictor.rank(PROMPTS, choices, no_progress) for predictor in predictors)
    for scores, others, prompt, texts in zip(one, many, PROMPTS, choices, strict=True):
        np.testing.assert_allclose(scores, expected_scores(table_model, prompt, texts), rtol=1e-5)
        np.testing.assert_allclose(scores, others, rtol=1e-6)
    assert one[-1][0] == one[-1][2]
    assert predictors[0].choice_lengths(choices[-2:]) == [[55, 2], [4, 1, 4] + [2] * 14]


def test_scores_do_not_depend_on_the_order_of_choices_to_the_bit(predictors):
    choices = [["a", "bc", "a"], ["def", "g", "h", "ij"], ["k" * 30, "l"]] * 3
    order = [np.random.default_rng(n).permutation(len(texts)) for n, texts in enumerate(choices)]
    moved = [[texts[i] for i in own] for texts, own in zip(choices, order, strict=True)]
    for predictor in predictors:
        found, again = (predictor.rank(PROMPTS, texts, no_progress) for texts in (choices, moved))
        priors, again_priors = (predictor.priors(texts, "no") for texts in (choices, moved))
        for a, b in (found, again), (priors, again_priors):
            assert all(x[own].tobytes() == y.tobytes() for x, y, own in zip(a, b, order, strict=True))


@pytest.mark.parametrize(("text", "prompt"), [("no", [17, 18]), ("", [EOS])])
def test_priors_are_the_scores_after_one_input(predictors, table_model, text, prompt):
    choices = [["a", "bc"], ["bc", "def", "g"], ["a"]]
    for found, texts in zip(predictors[1].priors(choices, text), choices, strict=True):
        np.testing.assert_allclose(found, expected_scores(table_model, prompt, texts), rtol=1e-5)


def test_scores_of_targets(predictors, table_model):
    targets = [np.array([*RNG.integers(4, 30, n), EOS], np.int32) for n in (1, 2, 3, 40, 0, 5, 6, 7, 8)]
    targets[4] = targets[4][:0]
    for predictor in predictors:
        found = predictor.score(PROMPTS, targets, no_progress)
        assert found.dtype == np.float32 and found[4] == 0
        model = table_model(30, seed=3, pad_id=PAD)
        for prompt, tokens, score in zip(PROMPTS, targets, found, strict=True):
            expected = sum(model.log_probs(prompt, tokens[:i])[t] for i, t in enumerate(tokens))
            assert score == pytest.approx(expected, rel=1e-5)


def test_a_prompt_too_long_keeps_its_end(predictors):
    np.testing.assert_array_equal(predictors[0].cut([4, 5, 6, 7], 3), [5, 6, 7])
    np.testing.assert_array_equal(predictors[0].cut([4, 5], 3), [4, 5])
