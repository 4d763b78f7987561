import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from xtr.study import scaling as scaling_module
from xtr.study import transfer
from xtr.study.mixed_model import fit
from xtr.study.scaling import (
    ABSENT,
    GROWS,
    PERSISTS,
    SHRINKS,
    UNDERPOWERED,
    VANISHES,
    VERDICTS,
    SizeGain,
    bent,
    detectable_effect,
    headline,
    line_coefficients,
    scaling,
    scalings,
    verdict_of,
)
from xtr.study.simulate import MT5_SIZES, Design, simulate
from xtr.study.statistics import Estimate, crossed_bootstrap
from xtr.study.transfer import AVERAGE, POOLED, Model


def number(value, half=0.5, seeds=5):
    """An estimate known to within `half`."""
    return Estimate(value, value - half, value + half, 0.95, half / 1.96, seeds, 1000)


def sized(values, noise=1.0, seeds=5, seed=0, sizes=MT5_SIZES):
    """Gains with samples whose means are exactly `values`."""
    rng = np.random.default_rng(seed)
    found = []
    for (name, parameters), value in zip(sizes, values, strict=True):
        d_SN = rng.normal(0, noise, (seeds, 1)) + rng.normal(0, 5, (seeds, 400))
        found.append(SizeGain(Model("mt5", name, parameters), crossed_bootstrap(d_SN - d_SN.mean() + value)))
    return found


@pytest.mark.parametrize(
    ("values", "slope", "verdict"),
    [
        ((3, 3, 3), number(0), PERSISTS),
        ((1, 2, 3), number(1), GROWS),
        ((5, 4, 3), number(-1), SHRINKS),
        ((3, 1, 0.2), number(-1), VANISHES),
        ((3, 1, -2), number(-3), VANISHES),
        ((0, 0.1, -0.1), number(0), ABSENT),
        ((-1, -2, -3), number(-1), ABSENT),
        ((0, 3, 0), number(0), VANISHES),
        ((0, 0, 3), number(1), GROWS),
        ((3, 0, 3), number(0), PERSISTS),
    ],
)
def test_the_rule_says_what_its_table_says(values, slope, verdict):
    assert verdict_of([number(value) for value in values], slope, adequate=True) == verdict
    seen = verdict in (GROWS, SHRINKS) or values == (3, 1, -2)  # nothing rests on what is not seen
    blunt = verdict if seen else UNDERPOWERED
    assert verdict_of([number(value) for value in values], slope, adequate=False) == blunt
    assert verdict_of([number(value, seeds=1) for value in values], slope, adequate=True) == UNDERPOWERED
    assert verdict_of([number(value) for value in values], None, adequate=True) == UNDERPOWERED


def test_a_wide_interval_at_the_largest_size_is_not_taken_for_no_gain():
    gains = [number(3), number(3), number(0.5, half=2.1)]
    assert verdict_of(gains, number(-0.5), adequate=True) == UNDERPOWERED
    assert verdict_of(gains, number(-0.5), adequate=True, width=1.1) == VANISHES


def test_one_lucky_smaller_size_is_no_gain():
    just = number(0.7)  # p = 0.006: below 0.01, but not among four
    assert verdict_of([just, number(0), number(0), number(0), number(0)], number(0), adequate=True) == ABSENT
    assert verdict_of([just, number(0)], number(0), adequate=True) == VANISHES


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(0.01, 5)), min_size=1, max_size=5),
    st.floats(-9, 9),
    st.floats(0.01, 5),
    st.booleans(),
)
def test_the_rule_is_complete_and_is_mirrored_by_no_gain(values, slope, half, adequate):
    gains = [number(value, half) for value, half in values]
    verdict = verdict_of(gains, number(slope, half), adequate)
    assert verdict in VERDICTS
    largest = gains[-1]
    assert (verdict in (PERSISTS, GROWS, SHRINKS)) <= (largest.low > 0)
    assert (verdict in (VANISHES, ABSENT)) <= (largest.low <= 0)


def test_slope_contrast_and_band_are_those_of_least_squares():
    gains = sized((6.0, 4.0, 4.5, 2.0, 1.0))
    found = scaling("mt5", POOLED, AVERAGE, gains)
    x = np.log10([parameters for _, parameters in MT5_SIZES])
    line = scipy.stats.linregress(x, [6.0, 4.0, 4.5, 2.0, 1.0])
    assert found.slope.value == pytest.approx(line.slope)
    assert found.contrast.value == pytest.approx(-5.0)
    assert (found.band[0].parameters, found.band[-1].parameters) == pytest.approx((MT5_SIZES[0][1], MT5_SIZES[-1][1]))
    for point in found.band:
        assert point.middle == pytest.approx(line.intercept + line.slope * math.log10(point.parameters))
        assert point.low < point.middle < point.high
    # Models trained apart on one test set whose examples cancel: the seeds' variances add up.
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    seeds = sum(w**2 * g.gain.sample.value_S.var(ddof=1) / 5 for w, g in zip(weights, gains, strict=True))
    assert found.slope.standard_error**2 >= seeds
    assert 4 < found.slope.degrees < 20
    assert found.verdict == SHRINKS and "shrinks with scale: +1.0 [" in found.sentence
    assert f"{found.slope.text(signed=True)} per tenfold parameters (5 sizes)" in found.sentence
    assert np.allclose(sum(line_coefficients(x, place) for place in x) @ np.ones(5), 5)


def test_sizes_off_the_line_are_named():
    assert bent(sized((3.0, 3.0, 3.0, 3.0, 3.0), noise=0.2)) == ()
    crooked = sized((1.0, 1.0, 6.0, 1.0, 1.0), noise=0.2)
    assert "mt5-large" in bent(crooked)
    assert "the line does not fit" in scaling("mt5", "mnli", "xnli", crooked).sentence
    assert bent(crooked[:2]) == ()


def test_one_size_and_one_seed_cannot_tell():
    one = scaling("mt5", POOLED, AVERAGE, sized((3.0,), sizes=MT5_SIZES[:1]))
    assert (one.slope, one.contrast, one.band, one.verdict) == (None, None, (), UNDERPOWERED)
    assert "one size cannot tell" in one.sentence and not one.power.adequate
    lone = scaling("mt5", POOLED, AVERAGE, sized((3.0,) * 5, seeds=1))
    assert lone.verdict == UNDERPOWERED and "some sizes have one seed" in lone.sentence
    assert "has 1 seed" in lone.power.sentence


def test_models_that_all_give_the_same_answers_measure_nothing():
    nothing = [SizeGain(one.model, crossed_bootstrap(np.full((3, 40), 0.0))) for one in sized([0, 0, 0, 0, 0])]
    one = scaling("mt5", "mnli", "udpos", nothing)
    assert one.verdict == UNDERPOWERED and "since no run differs from another" in one.sentence
    assert one.power.sentence == "No run differs from another: nothing is measured."


def test_the_detectable_effect_is_found_in_95_of_100_studies():
    rng = np.random.default_rng(0)
    d_SN = rng.normal(0, 2, (4, 1)) + np.zeros((4, 50))
    gain = crossed_bootstrap(d_SN)
    truth = detectable_effect(gain)
    sd = d_SN[:, 0].std(ddof=1)
    tried = rng.normal(truth, sd, (20_000, 4))
    ratio = tried.mean(1) / (tried.std(1, ddof=1) / 2)
    assert (ratio > scipy.stats.t.ppf(0.975, 3)).mean() == pytest.approx(0.95, abs=0.01)
    known = dataclasses.replace(number(0, half=1.96), seed_share=0.0)
    assert detectable_effect(known) == pytest.approx(1.96 + 1.645, abs=0.01)


@pytest.fixture(scope="module")
def table():
    design = Design(seeds=4, examples=120, noise_sd=6, gain_sd=3)
    study = simulate(design, (6, 5, 4, 3, 2), seed=5)
    return transfer.build(study.rows, study.load, study.languages, resamples=300)


def test_every_family_intermediate_and_target_has_its_answer(table):
    found = scalings(table, mixed=False)
    places = {(one.family, one.intermediate, one.target) for one in found}
    targets = (*table.targets, *table.averages())
    assert places == set(itertools.product(["mt5"], ["mnli", "squad_v1", POOLED], targets))
    (opening,) = headline(found)
    assert (opening.intermediate, opening.target, opening.verdict) == (POOLED, AVERAGE, SHRINKS)
    assert [one.model.name for one in opening.gains] == [name for name, _ in MT5_SIZES]
    assert opening.gains[-1].gain == table.cell(table.models[-1], POOLED, AVERAGE).gain
    each = [one.slope.value for one in found if one.target == AVERAGE and one.intermediate != POOLED]
    assert opening.slope.value == pytest.approx(np.mean(each))


def test_the_opening_answer_has_a_mixed_model_beside_it(table):
    opening, *others = sorted(scalings(table), key=lambda one: one.mixed is None)
    assert (opening.intermediate, opening.target) == (POOLED, AVERAGE)
    assert all(one.mixed is None for one in others)
    assert opening.mixed.low < opening.mixed.slope < opening.mixed.high < 0
    assert "degrees of freedom about the line: 3" in opening.mixed.note
    assert opening.mixed.slope == pytest.approx(opening.slope.value, abs=0.5)


def test_the_mixed_model_finds_a_known_slope_or_says_why_not():
    rng = np.random.default_rng(0)
    lines = [
        (size, target, f"{target}{n}", 2 - 3 * size + level + own + rng.normal(0, 0.1))
        for target, level in (("a", 1.0), ("b", -1.0), ("c", 0.3), ("d", 0.0))
        for n, own in enumerate((0.5, -0.5, 0.2))
        for size in (8.5, 9.0, 9.5, 10.0)
    ]
    found = fit(lines)
    assert found.slope == pytest.approx(-3, abs=0.15) and found.low < -3 < found.high
    alone = fit([line for line in lines if line[1] == "a"])
    assert math.isnan(alone.slope) and alone.note.startswith("not fitted")


def test_without_gains_there_is_nothing_to_answer(table):
    bare = dataclasses.replace(table, cells=tuple(c for c in table.cells if c.intermediate == transfer.NONE))
    assert scalings(bare) == () and headline(()) == ()


def test_the_rule_in_the_documentation_names_every_verdict():
    for verdict in VERDICTS:
        assert verdict in scaling_module.__doc__


# Sizes that do not have the same results.

PAIRS = {(name, target) for name in ("none", "mnli", "squad_v1") for target in ("xnli", "tydiqa", "tatoeba")}


@pytest.fixture(scope="module")
def whole():
    return simulate(Design(sizes=MT5_SIZES[:3], seeds=3, examples=60), (6, 5, 4), seed=3)


def table_without(study, *places):
    """The table of a study without the rows of (model, intermediate, target, language), None for any."""
    rows = study.rows
    for place in places:
        match = np.ones(len(rows), bool)
        for column, wanted in zip(("model", "intermediate", "target", "language"), place, strict=True):
            match &= True if wanted is None else (rows[column] == wanted).to_numpy()
        rows = rows[~match]
    planned = {name: PAIRS for name, _ in MT5_SIZES[:3]}
    return transfer.build(rows, study.load, study.languages, resamples=100, planned=planned)


def gains_of(table, name, target):
    (one,) = (x for x in scalings(table, mixed=False) if (x.intermediate, x.target) == (name, target))
    return {size.model.name: size.gain.value for size in one.gains}, one.sentence


def test_sizes_are_compared_over_the_targets_that_all_have(whole):
    full = table_without(whole)
    table = table_without(whole, ("mt5-large", None, "tydiqa", None))
    assert full.compared == () and " of 3 targets" not in gains_of(full, POOLED, AVERAGE)[1]
    found, sentence = gains_of(table, POOLED, AVERAGE)
    for model in full.models:  # as if nobody had TyDiQA
        each = [full.cell(model, POOLED, target).gain.value for target in ("xnli", "tatoeba")]
        assert found[model.name] == pytest.approx(np.mean(each))
    assert ", over the 2 of 3 targets that all sizes have (without tydiqa)" in sentence
    # The table itself shows what each model has, and that the largest model's mean is incomplete.
    cells = [table.cell(model, POOLED, AVERAGE) for model in table.models]
    assert [cell.missing for cell in cells] == [(), (), ("tydiqa",)]
    assert cells[0].gain.value == full.cell(full.models[0], POOLED, AVERAGE).gain.value
    # What concerns TyDiQA alone is compared over the sizes that have it.
    for name in ("mnli", POOLED):
        found, _ = gains_of(table, name, "tydiqa")
        assert found == pytest.approx({m.name: full.cell(m, name, "tydiqa").gain.value for m in full.models[:2]})


def test_sizes_are_compared_over_the_intermediates_that_all_have(whole):
    full = table_without(whole)
    table = table_without(whole, ("mt5-small", "squad_v1", None, None))
    found, sentence = gains_of(table, POOLED, AVERAGE)
    assert found == pytest.approx({m.name: full.cell(m, "mnli", AVERAGE).gain.value for m in full.models})
    assert "over the 1 of 2 intermediate tasks that all sizes have (without squad_v1)" in sentence
    found, sentence = gains_of(table, POOLED, "xnli")
    assert found == pytest.approx({m.name: full.cell(m, "mnli", "xnli").gain.value for m in full.models})
    found, sentence = gains_of(table, "squad_v1", AVERAGE)  # over the sizes that have it, with all its targets
    assert found == pytest.approx({m.name: full.cell(m, "squad_v1", AVERAGE).gain.value for m in full.models[1:]})
    assert " of 3 targets" not in sentence


def test_one_pair_that_one_size_lacks_is_left_out_of_all(whole):
    full = table_without(whole)
    table = table_without(whole, ("mt5-base", "squad_v1", "xnli", None))
    found, sentence = gains_of(table, POOLED, AVERAGE)
    for model in full.models:
        mnli = full.cell(model, "mnli", AVERAGE).gain.value
        squad = np.mean([full.cell(model, "squad_v1", target).gain.value for target in ("tydiqa", "tatoeba")])
        assert found[model.name] == pytest.approx((mnli + squad) / 2)
    assert ", without xnli after squad_v1" in sentence


def test_languages_that_one_size_lacks_are_left_out_of_all(whole):
    full = table_without(whole)
    table = table_without(whole, ("mt5-large", "mnli", "xnli", "sw"))
    found, sentence = gains_of(table, "mnli", "xnli")
    assert found == pytest.approx({m.name: full.cell(m, "mnli", "xnli", "de").gain.value for m in full.models})
    assert "over the 1 of 2 languages that all sizes have (without sw)" in sentence


def test_what_no_size_has_is_said_too(whole):
    table = table_without(whole, (None, None, "tydiqa", None))
    assert table.compared == ()
    assert "over the 2 of 3 targets that all sizes have (without tydiqa)" in gains_of(table, POOLED, AVERAGE)[1]


def test_the_mixed_model_reads_what_all_sizes_have(whole, monkeypatch):
    seen = []
    monkeypatch.setattr(scaling_module, "fit", lambda lines, confidence: seen.extend(lines))
    scalings(table_without(whole, ("mt5-large", "mnli", "tydiqa", None)))
    full = table_without(whole)
    gains = {m: full.cell(m, "squad_v1", "tydiqa", "fi").gain.value for m in full.models}
    assert {round(x, 9) for _, t, language, x in seen if (t, language) == ("tydiqa", "fi")} == {
        round(x, 9) for x in gains.values()
    }
