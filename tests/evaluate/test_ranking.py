"""Rank classification: rows of a bounded number of shapes, and scores that are read from records alone."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError, UserError
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.ranking import Ranking, choice_rows, ranked
from xtr.models.bloom import BloomConfig
from xtr.models.mt5 import MT5Config
from xtr.models.spec import init_params
from xtr.parallel.mesh import MeshConfig, make_mesh

BUCKETS = (8, 16, 32)
CHOICES = st.lists(st.lists(st.integers(4, 9), max_size=40).map(tuple), max_size=9)
EXAMPLES = st.lists(st.tuples(st.integers(0, 40), CHOICES), min_size=1, max_size=12)


def rows_of(examples, causal=False, tokens_per_batch=128):
    inputs = [np.zeros(length, np.int32) for length, _ in examples]
    how = dict(buckets=BUCKETS, tokens_per_batch=tokens_per_batch, pad_id=0, causal=causal)
    return choice_rows(inputs, [choices for _, choices in examples], **how)


@given(EXAMPLES, st.booleans())
def test_every_choice_stands_in_one_row_of_its_own_input(examples, causal):
    found = {}
    for group in rows_of(examples, causal):
        assert len(group.examples) == len(group.choices) == len(group.tokens_NCT)
        for example, row, tokens_CT in zip(group.examples, group.choices, group.tokens_NCT, strict=True):
            assert [tuple(tokens[tokens != 0]) for tokens in tokens_CT[: len(row)]] == row
            assert not tokens_CT[len(row) :].any()
            for choice in row:
                assert (example, choice) not in found
                found[example, choice] = True
    assert set(found) == {(n, choice) for n, (_, own) in enumerate(examples) for choice in own if choice}


@given(EXAMPLES, st.booleans())
def test_batches_are_bounded(examples, causal):
    """A batch has no more choice tokens than `tokens_per_batch`, unless it has one row of one choice; and the shapes
    are powers of two or three quarters of them."""
    for group in rows_of(examples, causal, tokens_per_batch=64):
        rows, number, length = group.tokens_NCT.shape
        assert length & (length - 1) == 0 and (number & (number - 1) == 0 or number % 3 == 0)
        shortest = min(min(b for b in (*BUCKETS, 99) if examples[n][0] <= b or b == 32) for n in group.examples)
        rows = 64 // group.continuations // shortest
        assert rows * number * length <= 64
        assert not causal or rows * number <= 64 // shortest


@given(EXAMPLES, st.randoms())
def test_rows_do_not_depend_on_the_order_of_choices(examples, random):
    moved = [(length, random.sample(own, len(own))) for length, own in examples]
    for group, again in zip(rows_of(examples), rows_of(moved), strict=True):
        assert (group.examples, group.choices, group.continuations) == tuple(again[:2]) + (again.continuations,)
        np.testing.assert_array_equal(group.tokens_NCT, again.tokens_NCT)


def test_few_long_choices_do_not_make_the_others_long():
    examples = [(30, [(5,) * 2, (6,) * 2, (7,) * 2])] * 100 + [(30, [(5,) * 30, (6,)])]
    groups = rows_of(examples)
    assert [group.tokens_NCT.shape for group in groups] == [(1, 2, 32), (100, 3, 2)]
    # Rows too few for a batch go with longer ones, which saves a shape.
    examples = [(30, [(5,) * 2, (6,) * 2])] + [(30, [(5,) * 30, (6,)])] * 2
    assert [group.tokens_NCT.shape for group in rows_of(examples)] == [(3, 2, 32)]


def test_choices_too_many_for_a_row_are_divided():
    choices = [(4,) * 100 + (n,) for n in range(5, 35)] + [(n,) for n in range(5, 35)]
    long, short = rows_of([(30, choices)])
    assert long.examples == [0, 0, 0] and long.tokens_NCT.shape == (3, 12, 128)
    assert short.examples == [0] and short.tokens_NCT.shape == (1, 32, 1)
    (whole,) = rows_of([(3, [(5,) * 512, (6,) * 512])])
    assert whole.tokens_NCT.shape == (1, 2, 512) and whole.continuations == 128


RECORD = {
    "id": "7",
    "choices": ["ab", "né", "สวัสดี"],
    "scores": [-4.0, -5.0, -9.0],
    "tokens": [2, 5, 9],
    "priors": {"N/A": [-1.0, -4.0, -8.5], "": [-4.0, -5.0, -9.0]},
}


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        (Ranking(), [-4.0, -5.0, -9.0]),
        (Ranking("tokens"), [-2.0, -1.0, -1.0]),
        (Ranking("characters"), [-2.0, -2.5, -1.5]),
        (Ranking("bytes"), [-2.0, -5 / 3, -0.5]),
        (Ranking(calibrate="N/A"), [-3.0, -1.0, -0.5]),
        (Ranking(calibrate=""), [0.0, 0.0, 0.0]),
        (Ranking("tokens", "N/A"), [-1.5, -0.2, -0.5 / 9]),
    ],
)
def test_scores_of_a_record(ranking, expected):
    np.testing.assert_allclose(ranked(RECORD, ranking), expected, rtol=1e-15)
    head = {name: RECORD[name] for name in ("id", "choices", "scores")}
    np.testing.assert_array_equal(ranked(head, ranking), RECORD["scores"])


def test_lm_evaluation_harness_agrees():
    """Its formulas: argmax of the sums, of the sums over len(choice), over the bytes, and of the differences."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        texts = ["".join(rng.choice(list("abñ字🙂 "), rng.integers(1, 9))) for _ in range(rng.integers(1, 6))]
        sums, prior = -rng.gamma(2.0, 5.0, (2, len(texts)))
        record = {"id": "1", "choices": texts, "scores": sums, "tokens": [1] * len(texts), "priors": {"": prior}}
        harness = SimpleNamespace(
            acc=np.argmax(sums),
            acc_norm=np.argmax(sums / np.array([float(len(text)) for text in texts])),
            acc_bytes=np.argmax(sums / np.array([float(len(text.encode("utf-8"))) for text in texts])),
            acc_mutual_info=np.argmax([a - b for a, b in zip(sums, prior, strict=True)]),
        )
        assert ranked(record, Ranking()).argmax() == harness.acc
        assert ranked(record, Ranking("characters")).argmax() == harness.acc_norm
        assert ranked(record, Ranking("bytes")).argmax() == harness.acc_bytes
        assert ranked(record, Ranking(calibrate="")).argmax() == harness.acc_mutual_info


def test_mistakes_say_what_to_do():
    with pytest.raises(UserError, match=r"RANK_NORMALISE.* not 'token'. Did you mean tokens\?"):
        Ranking("token")
    with pytest.raises(UserError, match="RANK_CALIBRATE.* not False"):
        Ranking(calibrate=False)
    with pytest.raises(UserError, match=r"after 'none' \(they hold: 'N/A', ''\): evaluate again"):
        ranked(RECORD, Ranking(calibrate="none"))
    with pytest.raises(DataError, match="example 7: choice 1 has no characters"):
        ranked(RECORD | {"choices": ["a", "", "b"]}, Ranking("characters"))


@pytest.mark.parametrize(
    "config", [MT5Config(40, 16, 2, 8, 32, 1, 1, dtype="float32"), BloomConfig(40, 16, 2, 1, dtype="float32")]
)
def test_scores_of_models_depend_on_nothing_but_input_and_choice(config):
    """To the bit where choices are given in another order; else up to rounding: of each choice by itself, of inputs in
    another order and other batches."""
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    params = jax.jit(lambda key: init_params(config.param_specs(), key))(jax.random.key(0))
    letters = SimpleNamespace(encode=lambda text: [ord(c) - 87 for c in text], eos_id=1, bos_id=None)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(4, 40, n).astype(np.int32) for n in (3, 9, 1, 14, 6)]
    choices = [["a", "bcd", "a", "zz"], ["efg", "h"], ["ijklmnopqrs", "t"], ["uvw", "xy", "z"], ["b" * 20, "c"]]

    def scores(order, buckets=(16,), tokens_per_batch=512, places=None):
        made = Predictor(config, params, letters, mesh, buckets, tokens_per_batch)
        texts = [choices[n] if places is None else [choices[n][c] for c in places[n]] for n in order]
        return made.rank([inputs[n] for n in order], texts, lambda done: None)

    whole = scores(range(5))
    places = [rng.permutation(len(own)) for own in choices]
    for own, moved, place in zip(whole, scores(range(5), places=places), places, strict=True):
        assert own[place].tobytes() == moved.tobytes()
    order = [4, 2, 0, 3, 1]
    for n, other in zip(order, scores(order), strict=True):
        np.testing.assert_allclose(other, whole[n], rtol=2e-6)
    for own, other in zip(whole, scores(range(5), (8, 16), 16), strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-6)
    (alone,) = scores([2], places={2: [0]})
    np.testing.assert_allclose(alone, whole[2][:1], rtol=2e-6)
