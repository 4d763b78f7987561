import dataclasses

import numpy as np
import pandas as pd
import pytest

from xtr.errors import DataError, UserError
from xtr.evaluate.results import ResultRow, ResultStore
from xtr.study import transfer
from xtr.study.panels import Panel
from xtr.study.simulate import Design, simulate
from xtr.study.statistics import crossed_bootstrap, crossed_bootstrap_mean
from xtr.study.transfer import AVERAGE, GAP, NONE, POOLED, WITHOUT_OVERLAPS, WITHOUT_RETRIEVAL, ZERO_SHOT


def matrix(store, intermediate, target, language, metric="accuracy", seeds=(0, 1, 2)):
    runs = [f"mt5-small-{intermediate}-{target}-seed{s}" for s in seeds]
    records = [store.read_predictions(run, target, language, "test") for run in runs]
    return np.array([[r["contributions"][metric] for r in run] for run in records])


@pytest.fixture(scope="module")
def built(make_study, expected, chance):
    store = make_study()
    return store, transfer.build(store.read(), store.contributions, expected, chance)


def test_scores_gains_and_intervals_equal_those_of_the_plain_functions(built):
    store, table = built
    (model,) = table.models
    assert table.intermediates == (NONE, "mnli", "squad_v1") and table.targets == ("xnli", "xquad", "tatoeba")
    assert table.metrics == {"xnli": ("accuracy",), "xquad": ("em", "f1"), "tatoeba": ("accuracy",)}
    assert table.problems == ()
    a = [matrix(store, "mnli", "xnli", language) for language in ("de", "fr", "sw")]
    b = [matrix(store, "none", "xnli", language) for language in ("de", "fr", "sw")]
    cell = table.cell(model, "mnli", "xnli")
    assert cell.score.value == pytest.approx(np.mean(a)) and cell.gain.value == pytest.approx(np.mean(a) - np.mean(b))
    assert (cell.score.seeds, cell.score.examples) == (3, 360)
    # XNLI's ids are the same in every language: examples are resampled jointly.
    plain = crossed_bootstrap_mean(a, b, resamples=2000, seed=1, shared_examples=True)
    assert cell.gain.standard_error == pytest.approx(plain.standard_error, rel=0.12)
    assert (cell.gain.low, cell.gain.high) == pytest.approx((plain.low, plain.high), abs=0.5)
    english = table.cell(model, "mnli", "xnli", "en")
    a_SN = matrix(store, "mnli", "xnli", "en")
    assert english.score.value == pytest.approx(a_SN.mean())
    assert english.score.standard_error == pytest.approx(crossed_bootstrap(a_SN).standard_error, rel=0.12)
    gap = table.cell(model, "mnli", "xnli", GAP)
    assert gap.score.value == pytest.approx(english.score.value - cell.score.value)
    assert table.cell(model, NONE, "xnli").gain is None
    assert table.cell(model, "mnli", "tatoeba", "en") is None and table.cell(model, "mnli", "tatoeba", GAP) is None


def test_question_answering_is_the_mean_of_em_and_f1(built):
    store, table = built
    em, f1 = (matrix(store, "none", "xquad", "de", metric) for metric in ("em", "f1"))
    assert table.cell(table.models[0], NONE, "xquad", "de").score.value == pytest.approx((em.mean() + f1.mean()) / 2)


def test_averages_over_targets(built):
    _, table = built
    (model,) = table.models
    gain = {t: table.cell(model, "mnli", t).gain.value for t in table.targets}
    assert table.averages() == (AVERAGE, WITHOUT_RETRIEVAL, WITHOUT_OVERLAPS)
    assert table.cell(model, "mnli", AVERAGE).gain.value == pytest.approx(np.mean(list(gain.values())))
    mean = (gain["xnli"] + gain["xquad"]) / 2
    assert table.cell(model, "mnli", WITHOUT_RETRIEVAL).gain.value == pytest.approx(mean)
    mean = (gain["xquad"] + gain["tatoeba"]) / 2
    assert table.cell(model, "mnli", WITHOUT_OVERLAPS).gain.value == pytest.approx(mean)
    assert table.cell(model, NONE, WITHOUT_OVERLAPS).score == table.cell(model, NONE, AVERAGE).score
    for average in table.averages():
        each = [table.cell(model, name, average).gain.value for name in ("mnli", "squad_v1")]
        assert table.cell(model, POOLED, average).gain.value == pytest.approx(np.mean(each))
    both = [table.cell(model, name, AVERAGE).gain.value for name in ("mnli", "squad_v1")]
    pooled = table.cell(model, POOLED, AVERAGE)
    assert pooled.gain.value == pytest.approx(np.mean(both)) and pooled.score.examples == 360 + 240 + 360


def test_the_averages_of_a_whole_benchmark():
    targets = {
        "xnli": ("en", "de", "sw"),
        "tydiqa": ("en", "fi", "te"),
        "tatoeba": ("de", "sw"),
        "mewslix": ("de", "ta"),
    }
    design = Design(sizes=(("bloom-7b1", 7_069_016_064),), family="bloom", targets=targets, seeds=3, examples=40)
    study = simulate(design, (2.0,), seed=0)
    table = transfer.build(study.rows, study.load, study.languages, resamples=100)
    (model,) = table.models
    assert table.averages() == transfer.AVERAGES
    for name in ("mnli", POOLED):
        gain = {t: table.cell(model, name, t).gain.value for t in targets}
        mean = {average: table.cell(model, name, average).gain.value for average in transfer.AVERAGES}
        assert mean[AVERAGE] == pytest.approx(np.mean(list(gain.values())))
        assert mean[WITHOUT_RETRIEVAL] == pytest.approx((gain["xnli"] + gain["tydiqa"]) / 2)
        assert mean[transfer.WITHOUT_RETRIEVAL_TYDIQA] == pytest.approx(gain["xnli"])
        assert mean[transfer.RETRIEVAL_ALONE] == pytest.approx((gain["tatoeba"] + gain["mewslix"]) / 2)
    # BLOOM's corpus lacks German and Finnish.
    known = {"xnli": "sw", "tydiqa": "te", "tatoeba": "sw", "mewslix": "ta"}
    covered = np.mean([table.cell(model, "mnli", t, language).gain.value for t, language in known.items()])
    assert table.cell(model, "mnli", transfer.COVERED).gain.value == pytest.approx(covered)
    for target in targets:
        each = [table.cell(model, name, target).gain.value for name in ("mnli", "squad_v1")]
        pooled = table.cell(model, POOLED, target)
        assert pooled.gain.value == pytest.approx(np.mean(each)) and pooled.p_adjusted is None
        assert table.cell(model, POOLED, target, "de") is None


def test_only_gains_of_zero_shot_means_keep_their_resamples(built):
    _, table = built
    for cell in table.cells:
        assert cell.score.sample is None
        assert cell.gain is None or (cell.gain.sample is not None) == (cell.view == ZERO_SHOT)


def test_significance_overlap_and_chance(make_study, recipe, expected, chance):
    store = make_study(recipe(seeds=range(8)))
    table = transfer.build(store.read(), store.contributions, expected, chance)
    (model,) = table.models
    assert table.cell(model, "mnli", "xnli").significant and table.cell(model, "mnli", "xnli").overlap
    assert table.cell(model, "squad_v1", "xquad").overlap and not table.cell(model, "squad_v1", "xnli").overlap
    assert not table.cell(model, "mnli", "xquad").significant
    adjusted = [c.p_adjusted for c in table.cells if c.p_adjusted is not None]
    assert len(adjusted) == 6  # 2 intermediates x 3 targets
    cell = table.cell(model, NONE, "xnli")
    assert cell.chance == pytest.approx(100 / 3) and cell.against_chance == "above"
    assert table.cell(model, NONE, "tatoeba").chance == pytest.approx(4 / 3)
    assert table.cell(model, NONE, "xquad").chance is None and table.cell(model, NONE, "xquad").against_chance is None
    near = dataclasses.replace(cell, chance=cell.score.value)
    assert near.against_chance == "not distinguishable"
    assert dataclasses.replace(cell, chance=99.0).against_chance == "below"


def test_what_is_missing_is_said(make_study, recipe, expected):
    store = make_study(recipe(skip=[("mnli", "xnli", "sw"), ("squad_v1", "tatoeba", None)]))
    table = transfer.build(store.read(), store.contributions, {**expected, "mlqa": ("en", "de")})
    (model,) = table.models
    cell = table.cell(model, "mnli", "xnli")
    assert cell.missing == ("sw",)
    # A gain over fewer languages is compared with the baseline over the same ones.
    b = np.mean([matrix(store, "none", "xnli", language).mean() for language in ("de", "fr")])
    assert cell.gain.value == pytest.approx(cell.score.value - b)
    assert table.cell(model, "squad_v1", "tatoeba") is None
    lacking = table.cell(model, "squad_v1", AVERAGE)
    assert (lacking.missing, lacking.expected) == (("tatoeba", "mlqa"), 4)  # MLQA is expected, though nobody has it
    pooled = table.cell(model, POOLED, AVERAGE)
    assert (pooled.missing, pooled.partly, pooled.absent) == (("mlqa",), ("tatoeba after squad_v1",), ())
    assert pooled.pooled == ("mnli", "squad_v1")
    tatoeba = table.cell(model, POOLED, "tatoeba")
    assert (tatoeba.pooled, tatoeba.absent, tatoeba.missing) == (("mnli",), ("squad_v1",), ())
    assert set(table.problems) == {
        "mlqa: no results at all",
        "mt5-small, mnli -> xnli: no results in sw",
        "mt5-small, squad_v1 -> tatoeba: no results",
    }


def test_gains_use_the_seeds_that_both_sides_have(make_study, expected):
    store = make_study()
    rows = store.read()
    rows = rows[~((rows["intermediate"] == "none") & (rows["target"] == "xnli") & (rows["seed"] == 1))]
    table = transfer.build(rows, store.contributions, expected)
    cell = table.cell(table.models[0], "mnli", "xnli")
    assert (cell.score.seeds, cell.gain.seeds) == (3, 2)
    expected_gain = np.mean([matrix(store, "mnli", "xnli", x, seeds=(0, 2)).mean() for x in ("de", "fr", "sw")])
    expected_gain -= np.mean([matrix(store, "none", "xnli", x, seeds=(0, 2)).mean() for x in ("de", "fr", "sw")])
    assert cell.gain.value == pytest.approx(expected_gain)
    assert any("2 of 3 seeds, those that the baseline has" in problem for problem in table.problems)
    assert any(problem.endswith("none -> xnli: 2 of 3 seeds") for problem in table.problems)


def test_a_run_that_stands_for_every_seed_counts_once(make_study, expected):
    store = make_study()
    rows = store.read()
    untrained = (rows["intermediate"] == "none") & (rows["target"] == "tatoeba")
    rows.loc[untrained, "run_id"] = "mt5-small-none-tatoeba-seed0"
    rows.loc[untrained, "value"] = np.tile(rows.loc[untrained & (rows["seed"] == 0), "value"], 3)
    table = transfer.build(rows, store.contributions, expected)
    (model,) = table.models
    assert table.cell(model, NONE, "tatoeba").score.seeds == 1
    assert table.cell(model, "mnli", "tatoeba").gain.seeds == 3
    assert table.cell(model, NONE, AVERAGE).score.seeds == 3


def test_no_baseline(make_study, expected):
    store = make_study()
    rows = store.read()
    table = transfer.build(rows[rows["intermediate"] != "none"], store.contributions, expected)
    assert all(cell.gain is None for cell in table.cells)
    assert any("gains cannot be computed" in problem for problem in table.problems)


def test_rows_that_do_not_fit_are_refused(make_study, expected):
    store = make_study()
    rows = store.read()
    with pytest.raises(UserError, match="no results for mlqa"):
        transfer.build(rows, store.contributions, {"mlqa": ("en",)})
    other = rows.copy()
    other.loc[other.index[0], "value"] += 1
    with pytest.raises(DataError, match="come from different evaluations"):
        transfer.build(other, store.contributions, expected)
    twice = rows[rows["target"] == "xnli"]
    twice = twice.assign(run_id=twice["run_id"].where(twice["seed"] != 1, "another"), seed=twice["seed"] % 1)
    with pytest.raises(DataError, match="two runs"):
        transfer.build(twice, store.contributions, expected)
    with pytest.raises(UserError, match="cannot tell its score"):
        transfer.build(rows.assign(metric=rows["metric"] + "?"), store.contributions, expected)

    def fewer(key):
        values = store.contributions(key)
        return dict(list(values.items())[:50]) if "mnli" in key.run_id else values

    with pytest.raises(DataError, match="other examples"):
        transfer.build(rows, fewer, expected)


def test_the_last_step_and_the_test_split_count(make_study, expected):
    store = make_study()
    rows = store.read()
    early = rows.assign(step=10, value=0.0)
    dev = rows.assign(split="validation", value=1.0)
    both = transfer.build(pd.concat([early, dev, rows]), store.contributions, expected)
    alone = transfer.build(rows, store.contributions, expected)
    assert both.cells == alone.cells
    with pytest.raises(UserError, match="one split"):
        mixed = pd.concat([dev, rows.assign(split="dev")])
        transfer.build(mixed, store.contributions, expected)


def test_models_are_kept_apart_and_ordered_by_size(make_study, recipe, expected):
    store = make_study(recipe(models=(("mt5-xl", 3_700_000_000), ("mt5-small", 300_176_768)), seeds=(0,), examples=30))
    table = transfer.build(store.read(), store.contributions, expected, resamples=200)
    assert [model.name for model in table.models] == ["mt5-small", "mt5-xl"]
    small, xl = (table.cell(model, "mnli", "xnli") for model in table.models)
    assert small.score.value != xl.score.value and small.gain.seeds == 1
    frame = table.to_frame()
    assert len(frame) == len(table.cells) and set(frame["model"]) == {"mt5-small", "mt5-xl"}
    line = frame[(frame["model"] == "mt5-xl") & (frame["intermediate"] == "mnli") & (frame["target"] == "xnli")]
    line = line[line["view"] == ZERO_SHOT].iloc[0]
    assert (line["gain"], line["gain_low"], line["score_seeds"]) == (xl.gain.value, xl.gain.low, 1)


def test_the_mean_of_intermediates_leaves_out_those_with_nothing_to_average(built, expected):
    store, _ = built
    overlaps = {"mnli": tuple(expected)}
    table = transfer.build(store.read(), store.contributions, expected, overlaps=overlaps, resamples=100)
    (model,) = table.models
    assert table.cell(model, "mnli", WITHOUT_OVERLAPS) is None
    pooled, single = (table.cell(model, name, WITHOUT_OVERLAPS) for name in (POOLED, "squad_v1"))
    assert pooled.score.value == single.score.value == table.cell(model, "squad_v1", AVERAGE).score.value


def test_a_metric_of_counts_is_resampled_as_its_value():
    """With as many tokens in every sentence, (right, wrong, wrong) has accuracy as its micro F1, in every resample."""
    right_KN = np.random.default_rng(0).integers(0, 11, (2, 50))
    counts = np.stack([right_KN, 10 - right_KN, 10 - right_KN], axis=-1).astype(float)
    panels = [Panel("udpos", {"de": tuple(map(str, range(50)))}, {"de": v}, {}) for v in (right_KN * 10.0, counts)]
    for panel in panels:
        panel.resample(20, seed=3)
    np.testing.assert_allclose(panels[0].scores("de"), panels[1].scores("de"))
    np.testing.assert_allclose(panels[0].draws["de"], panels[1].draws["de"])


def test_tags_are_scored_by_their_counts(tmp_path):
    store = ResultStore(tmp_path)
    rows, counts = [], {"none": {"en": (8, 2, 2), "de": (5, 5, 5)}, "mnli": {"en": (8, 2, 2), "de": (6, 4, 4)}}
    for intermediate, of_language in counts.items():
        for language, (tp, fp, fn) in of_language.items():
            run = f"run-{intermediate}"
            records = [
                {"id": "0", "prediction": [], "gold": [], "contributions": {"span_f1": [tp, fp, fn]}},
                {"id": "1", "prediction": [], "gold": [], "contributions": {"span_f1": [tp, fp, fn]}},
            ]
            store.write_predictions(run, "panx", language, "test", records)
            rows.append(
                ResultRow(
                    run_id=run, family="mt5", model="m", parameters=1, stage="target", intermediate=intermediate,
                    target="panx", language=language, split="test", seed=0, step=1, metric="span_f1",
                    value=100.0 * 2 * tp / (2 * tp + fp + fn), n=2,
                )
            )  # fmt: skip
    store.append(rows)
    table = transfer.build(store.read(), store.contributions, {"panx": ["de", "en"]}, resamples=50)
    cell = table.cell(table.models[0], "mnli", "panx", transfer.ZERO_SHOT)
    assert table.metrics["panx"] == ("span_f1",)
    assert (cell.score.value, cell.gain.value) == pytest.approx((60.0, 10.0))


def test_fewer_failures_are_a_gain(tmp_path):
    store, rows = ResultStore(tmp_path), []
    for intermediate, failed in (("none", 80.0), ("squad_v1", 50.0)):
        for language in ("en", "de"):
            shared = {"prediction": "", "gold": [], "contributions": {"failure_rate": failed}}
            records = [{"id": str(n), **shared} for n in range(3)]
            store.write_predictions(intermediate, "multichecklist", language, "test", records)
            rows.append(
                ResultRow(
                    run_id=intermediate, family="mt5", model="m", parameters=1, stage="target",
                    intermediate=intermediate, target="multichecklist", language=language, split="test", seed=0, step=1,
                    metric="failure_rate", value=failed, n=3, higher_is_better=False,
                )
            )  # fmt: skip
    store.append(rows)
    table = transfer.build(store.read(), store.contributions, {"multichecklist": ["de", "en"]}, resamples=50)
    cell = table.cell(table.models[0], "squad_v1", "multichecklist", transfer.ZERO_SHOT)
    assert (cell.score.value, cell.gain.value) == pytest.approx((50.0, 30.0))


def test_what_the_plan_gives_a_model_is_expected_of_it(make_study, recipe, expected):
    store = make_study(recipe(skip=[("squad_v1", None, None)], seeds=(0, 1), examples=40))
    targets = {**expected, "tydiqa": ()}  # no stage of it is finished: its languages are not known
    pairs = {(name, target) for name in ("none", "mnli", "squad_v1") for target in targets}
    planned = {"mt5-small": pairs - {("mnli", "xquad")}, "mt5-xl": pairs}
    table = transfer.build(store.read(), store.contributions, targets, planned=planned, resamples=100)
    (model,) = table.models
    assert {
        "tydiqa: no results at all",
        "mt5-small: no results for the intermediate squad_v1",
        "mt5-xl: no results at all",
    } <= set(table.problems)
    # The rows have what the plan has not: it counts as planned.
    average = table.cell(model, "mnli", AVERAGE)
    assert (average.expected, average.missing) == (4, ("tydiqa",))
    assert table.cell(model, NONE, AVERAGE).missing == ("tydiqa",)
    assert "tydiqa" in table.to_frame().query("target == 'average'")["missing"].iloc[0]


def test_a_pair_that_a_model_goes_without_is_not_missing(make_study, recipe, expected):
    store = make_study(recipe(skip=[("mnli", "xquad", None)], seeds=(0, 1), examples=40))
    pairs = {(name, target) for name in ("none", "mnli", "squad_v1") for target in expected} - {("mnli", "xquad")}
    table = transfer.build(
        store.read(), store.contributions, expected, planned={"mt5-small": pairs}, resamples=100, overlaps={}
    )
    (model,) = table.models
    assert table.problems == () and not any(cell.lacks for cell in table.cells)
    assert table.cell(model, "mnli", AVERAGE).expected == 2


def test_the_mean_of_intermediates_names_those_that_have_no_result(make_study, recipe, expected):
    gains = {name: dict.fromkeys(expected, 2.0) for name in ("mnli", "qqp", "squad_v1")}
    store = make_study(recipe(intermediates=gains, skip=[("qqp", "xnli", None)], seeds=(0, 1), examples=40))
    pairs = {(name, target) for name in ("none", *gains, "ccg") for target in expected}
    table = transfer.build(
        store.read(), store.contributions, expected, planned={"mt5-small": pairs}, resamples=100, overlaps={}
    )
    (model,) = table.models
    pooled = table.cell(model, POOLED, AVERAGE)
    assert (pooled.pooled, pooled.absent) == (("mnli", "qqp", "squad_v1"), ("ccg",))
    assert (pooled.missing, pooled.partly) == ((), ("xnli after qqp",))
    xnli = table.cell(model, POOLED, "xnli")
    assert (xnli.pooled, xnli.absent) == (("mnli", "squad_v1"), ("qqp", "ccg"))
