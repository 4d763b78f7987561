import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.study.statistics import (
    Estimate,
    combine,
    crossed_bootstrap,
    crossed_bootstrap_mean,
    example_draws,
    holm,
    p_value_of,
    quantile,
    sample,
)


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


def test_variance_is_the_unbiased_one_of_the_crossed_design():
    a_SN, _ = simulate(np.random.default_rng(5), 6, 300, 4.0, 0.0)
    seeds, examples = a_SN.shape
    # Analysis of variance: the mean squares of seeds, of examples and of what is left, of which one counts too much.
    of_seeds = examples * a_SN.mean(1).var(ddof=1)
    of_examples = seeds * a_SN.mean(0).var(ddof=1)
    rest = ((a_SN - a_SN.mean(1, keepdims=True) - a_SN.mean(0) + a_SN.mean()) ** 2).sum() / (seeds - 1) / (examples - 1)
    found = crossed_bootstrap(a_SN, resamples=8000)
    assert found.standard_error**2 == pytest.approx((of_seeds + of_examples - rest) / a_SN.size, rel=0.04)
    assert found.seed_share == pytest.approx(of_seeds / (of_seeds + of_examples - rest), abs=0.03)
    assert found.degrees == pytest.approx(5)


def test_the_closed_form_is_what_resampling_both_comes_to():
    """Seeds and examples drawn with replacement: Owen's variance, which is (S - 1) / S short and counts twice."""
    a_SN, _ = simulate(np.random.default_rng(8), 4, 120, 5.0, 0.0)
    rng = np.random.default_rng(0)
    drawn = [
        a_SN[rng.integers(0, 4, 4)][:, rng.integers(0, 120, 120)].mean() for _ in range(20_000)
    ]  # the plain crossed bootstrap
    ours = sample(a_SN.mean(1), example_draws(a_SN, 20_000, rng), 120)
    of_seeds = a_SN.mean(1).var() / 4
    doubly = (1 - 1 / 4) * ours.interaction  # what the seeds' resampling adds of the interaction
    assert np.var(drawn) == pytest.approx(of_seeds + ours.draws_R.var() + doubly, rel=0.05)


def test_seeds_alone_give_the_t_interval():
    a_S = np.random.default_rng(3).normal(70, 3, 4)
    found = crossed_bootstrap(a_S[:, None])
    low, high = scipy.stats.t.interval(0.95, 3, a_S.mean(), scipy.stats.sem(a_S))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-4)
    p = scipy.stats.ttest_1samp(a_S, 69).pvalue
    assert crossed_bootstrap(a_S[:, None] - 69).p_value == pytest.approx(p, rel=1e-4)


def test_the_bca_interval_of_scipy_agrees_where_there_is_one_seed():
    rng = np.random.default_rng(11)
    a_N, b_N = rng.integers(0, 2, 500) * 100.0, rng.uniform(0, 100, 500)
    ours = crossed_bootstrap(a_N[None], b_N[None], resamples=10_000)
    theirs = scipy.stats.bootstrap(
        (a_N, b_N), lambda a, b, axis: (a - b).mean(axis), paired=True, n_resamples=10_000, method="BCa", rng=rng
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.35)


@pytest.mark.parametrize(("share", "degrees"), [(0.3, 2.0), (0.7, 2.0), (0.5, 4.0), (0.9, 9.0)])
def test_far_out_the_p_value_is_that_of_a_normal_plus_a_t_variable(share, degrees):
    rng = np.random.default_rng(1)
    drawn = np.sqrt(1 - share) * rng.normal(size=1_000_000) + np.sqrt(share) * rng.standard_t(degrees, 1_000_000)
    ratio = np.quantile(np.abs(drawn), 0.999)
    assert p_value_of(ratio, share, degrees) == pytest.approx(0.001, rel=0.1)
    # Never more than Fisher's, never less than Welch's.
    welch = 2 * scipy.stats.t.sf(2.5, degrees / share**2)
    assert welch < p_value_of(2.5, share, degrees) < (np.abs(drawn) > 2.5).mean() + 0.001


@given(st.floats(0.01, 1), st.floats(1, 30) | st.integers(1, 30), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_and_p_value_agree(share, degrees, confidence):
    ratio = quantile(confidence, share, degrees)
    assert p_value_of(ratio, share, degrees) == pytest.approx(1 - confidence, rel=1e-3)
    assert ratio >= 0.999 * scipy.stats.norm.ppf((1 + confidence) / 2)
    assert ratio <= 1.001 * scipy.stats.t.ppf((1 + confidence) / 2, degrees)


def test_examples_that_models_share_are_not_independent_and_seeds_are():
    rng = np.random.default_rng(4)
    same_N = rng.normal(0, 30, 200)
    a_SN, b_SN = (same_N + rng.normal(0, 2, (5, 1)) + rng.normal(0, 1, (5, 200)) for _ in range(2))
    samples = [crossed_bootstrap(x, seed=3).sample for x in (a_SN, b_SN)]
    difference = combine(samples, [1, -1])
    expected = sum(x.mean(1).var(ddof=1) / 5 for x in (a_SN, b_SN))  # the examples cancel
    assert difference.standard_error**2 == pytest.approx(expected, rel=0.05)
    assert difference.value == pytest.approx(a_SN.mean() - b_SN.mean())
    assert 4 <= difference.degrees <= 8 and difference.seeds == 5
    lone = crossed_bootstrap(a_SN[:1], seed=3).sample
    assert combine([lone, samples[1]], [1, -1]).over == "examples only, 1 seed"


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


def test_what_floating_point_leaves_of_no_gain_is_no_gain():
    a_SN = np.random.default_rng(0).uniform(0, 100, (3, 40))
    same = crossed_bootstrap(a_SN, (a_SN / 3) * 3 + 1e-13)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


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
