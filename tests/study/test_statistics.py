import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.study.statistics import Estimate, crossed_bootstrap, crossed_bootstrap_mean, holm


def simulate(rng, seeds, examples, seed_sd, gain, pair_sd=30.0):
    """Two systems: seed effects of their own, one difficulty an example, and noise of each seed on each example."""
    difficulty_N = rng.normal(0, 25, examples)
    gain_N = gain + rng.normal(0, 20, examples)

    def side(shift_N):
        noise_SN = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, pair_sd, (seeds, examples))
        return 60 + difficulty_N + shift_N + noise_SN

    return side(gain_N), side(np.zeros(examples))


def test_one_seed_agrees_with_scipy():
    rng = np.random.default_rng(1)
    a_N, b_N = rng.integers(0, 2, 400) * 100.0, rng.integers(0, 2, 400) * 100.0
    ours = crossed_bootstrap(a_N[None], b_N[None], resamples=20_000, seed=3)
    theirs = scipy.stats.bootstrap((a_N - b_N,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert ours.value == pytest.approx((a_N - b_N).mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.35)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.35)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.03)
    assert ours.seeds == 1 and ours.over == "examples only, 1 seed"


def test_seeds_alone_agree_with_scipy():
    a_S1 = np.random.default_rng(2).normal(70, 3, (40, 1))
    ours = crossed_bootstrap(a_S1, resamples=20_000)
    rng = np.random.default_rng(0)
    theirs = scipy.stats.bootstrap((a_S1[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.06)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.06)
    assert ours.seeds == 40 and ours.over == "40 seeds and examples"


def test_variance_is_that_of_the_crossed_design():
    a_SN, _ = simulate(np.random.default_rng(5), 6, 300, 4.0, 0.0)
    both = crossed_bootstrap(a_SN, resamples=8000).standard_error ** 2
    # Owen 2007: row part + column part + interaction part, each of the resampled mean (exact for the balanced case).
    row = a_SN.mean(1).var() / len(a_SN)
    column = a_SN.mean(0).var() / a_SN.shape[1]
    rest = (a_SN - a_SN.mean(1, keepdims=True) - a_SN.mean(0) + a_SN.mean()).var() / a_SN.size
    assert both == pytest.approx(row + column + rest, rel=0.06)


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    trials = 300
    hits = examples_only = 0
    for trial in range(trials):
        a_SN, b_SN = simulate(rng, 5, 200, 2.0, 3.0)
        hits += not crossed_bootstrap(a_SN, b_SN, resamples=400, seed=trial).excludes(3.0)
        pooled = crossed_bootstrap(a_SN.mean(0)[None], b_SN.mean(0)[None], resamples=400, seed=trial)
        examples_only += not pooled.excludes(3.0)
    assert 0.91 <= hits / trials <= 0.985
    assert examples_only < hits  # leaving the seeds out is overconfident


def test_same_seed_same_interval_and_pairing_narrows_it():
    a_SN, b_SN = simulate(np.random.default_rng(0), 4, 500, 1.0, 2.0, pair_sd=5.0)
    assert crossed_bootstrap(a_SN, b_SN) == crossed_bootstrap(a_SN, b_SN)
    assert crossed_bootstrap(a_SN, b_SN) != crossed_bootstrap(a_SN, b_SN, seed=1)
    paired, single = crossed_bootstrap(a_SN, b_SN), crossed_bootstrap(a_SN)
    assert paired.standard_error < single.standard_error
    wide = crossed_bootstrap(a_SN, b_SN, confidence=0.99)
    assert wide.low < paired.low < paired.value < paired.high < wide.high


def test_mean_over_languages():
    rng = np.random.default_rng(7)
    shared_SN = rng.integers(0, 2, (3, 200)) * 100.0
    languages = [shared_SN] * 4
    separate = crossed_bootstrap_mean(languages)
    joint = crossed_bootstrap_mean(languages, shared_examples=True)
    assert separate.value == joint.value == pytest.approx(shared_SN.mean())
    assert joint.standard_error > separate.standard_error  # four copies carry no more than one
    assert joint.standard_error == pytest.approx(crossed_bootstrap(shared_SN).standard_error, rel=1e-9)
    unequal = crossed_bootstrap_mean([np.full((2, 10), 40.0), np.full((2, 1000), 60.0)])
    assert unequal.value == 50 and unequal.examples == 1010
    assert (unequal.low, unequal.high, unequal.p_value) == (50, 50, 0)


def test_wrong_input_is_refused():
    good = np.zeros((2, 3))
    for bad in (np.zeros(3), np.zeros((2, 0)), np.full((2, 3), np.nan)):
        with pytest.raises(DataError):
            crossed_bootstrap(bad)
    with pytest.raises(DataError, match="not paired"):
        crossed_bootstrap(good, np.zeros((2, 4)))
    with pytest.raises(DataError, match="with 2 seeds"):
        crossed_bootstrap_mean([good, np.zeros((3, 3))])
    with pytest.raises(DataError, match="same number of examples"):
        crossed_bootstrap_mean([good, np.zeros((2, 4))], shared_examples=True)
    with pytest.raises(DataError, match="no language"):
        crossed_bootstrap_mean([])


def test_fast_enough_for_a_whole_study():
    a_SN, b_SN = simulate(np.random.default_rng(0), 5, 5010, 1.0, 1.0)
    crossed_bootstrap(a_SN, b_SN, resamples=10)
    start = time.process_time()
    crossed_bootstrap(a_SN, b_SN, resamples=2000)
    assert time.process_time() - start < 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values):
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (adjusted <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-12).all()


def test_text():
    e = Estimate(1.25, -0.5, 3.0, 0.95, 0.9, 3, 100)
    assert e.text() == "1.2 [-0.5, 3.0]" and e.text(signed=True, digits=2) == "+1.25 [-0.50, +3.00]"
    assert not e.excludes(0) and e.excludes(3.1)
    assert e.p_value == pytest.approx(2 * scipy.stats.norm.sf(1.25 / 0.9))
    assert Estimate(0, 0, 0, 0.95, 0, 1, 5).p_value == 1
