import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.study import transfer
from xtr.study.best_of import WHOLE, development_scores, rank_weights
from xtr.study.simulate import Design, simulate
from xtr.study.words import selection

DESIGN = Design(
    sizes=(("mt5-small", 300_000_000),),
    intermediates=("mnli", "qqp", "squad_v1"),
    targets={"xnli": ("en", "de", "sw"), "xcopa": ("et", "sw"), "tatoeba": ("de", "sw")},
    seeds=6,
    examples=100,
    noise_sd=5,
    run_sd=1.5,
)


def build(study, **changes):
    arguments = {"resamples": 300, "development": study.development, "overlaps": {}} | changes
    return transfer.build(study.rows, study.load, study.languages, **arguments)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=7, unique=True), st.data())
def test_weights_are_the_chances_of_being_the_best_of_a_random_choice(scores, data):
    size = data.draw(st.integers(1, len(scores)))
    weights = rank_weights(np.array(scores), size)
    assert weights.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = [max(rng.permutation(len(scores))[:size], key=lambda i: scores[i]) for _ in range(500)]
    assert weights == pytest.approx(np.bincount(drawn, minlength=len(scores)) / 500, abs=0.12)
    assert rank_weights(np.array(scores), 1) == pytest.approx(1 / len(scores))


def test_the_best_of_two_is_the_mean_over_all_choices_of_two():
    study = simulate(DESIGN, (2.0,), seed=1)
    table = build(study)
    best = {one.target: one for one in table.best_of}
    assert set(best) == {"xnli", "xcopa", WHOLE}  # Tatoeba is not trained on: nothing to choose by
    rows = study.rows[(study.rows["target"] == "xcopa")]
    test = rows.groupby(["intermediate", "seed"])["value"].mean()
    dev = study.development[study.development["target"] == "xcopa"].set_index(["intermediate", "seed"])["value"]
    assert best["xcopa"].candidates == 3
    by_hand = np.mean([test[max(DESIGN.intermediates, key=lambda i: dev[i, s]), s] for s in range(6)])
    naive = by_hand - test["none"].mean()
    # The estimate takes the jackknife's bias away; it stays near what one would compute.
    assert best["xcopa"].gain.value == pytest.approx(naive, abs=0.8)
    assert best["xcopa"].difference.value == pytest.approx(best["xcopa"].gain.value - best["xcopa"].control.value)
    mean = np.mean([best[target].difference.value for target in ("xnli", "xcopa")])
    assert best[WHOLE].difference.value == pytest.approx(mean)
    assert sum(best[WHOLE].chosen.values()) == pytest.approx(1)
    assert best["xnli"].difference.seeds == 6


def test_only_english_development_data_choose():
    study = simulate(DESIGN, (2.0,), seed=1)
    foreign = study.development.assign(language="de", value=np.arange(len(study.development)) * 1.0)
    both = study.__class__(study.rows, pd.concat([foreign, study.development]), study.contributions, study.languages)
    assert build(both).best_of == build(study).best_of
    assert build(study, development=None).best_of == ()
    assert build(study, development=foreign).best_of == ()


def test_development_scores_know_steps_metrics_and_directions():
    row = {"run_id": "r", "target": "squad_v1", "language": "en", "step": 10, "higher_is_better": True}
    lines = [
        row | {"metric": "em", "value": 40.0},
        row | {"metric": "f1", "value": 60.0},
        row | {"metric": "f1", "value": 10.0, "step": 5},
        row
        | {"run_id": "s", "target": "checklist", "metric": "failure_rate", "value": 30.0, "higher_is_better": False},
    ]
    assert development_scores(pd.DataFrame(lines)) == {"r": 50.0, "s": 70.0}


def test_few_seeds_or_a_missing_run_make_no_comparison():
    study = simulate(DESIGN, (2.0,), seed=1)
    few = study.__class__(study.rows[study.rows["seed"] < 3], study.development, study.contributions, study.languages)
    assert build(few).best_of == ()
    assert build(few).no_best_of == {"mt5-small": "it needs 4 seeds; there are 3"}
    assert "no results on English development data" in build(study, development=None).no_best_of["mt5-small"]
    lost = study.development[study.development["run_id"] != "mt5-small.mnli.xnli.seed2"]
    assert {one.target for one in build(study, development=lost).best_of} == {"xcopa"}
    assert build(study, development=lost).no_best_of == {}
    one = study.development[study.development["intermediate"].isin(["none", "mnli"])]
    assert "it needs 2 intermediate tasks" in build(study, development=one).no_best_of["mt5-small"]
    lost = study.development[study.development["seed"] + study.development["intermediate"].eq("qqp") != 1]
    assert "every intermediate task and seed" in build(study, development=lost).no_best_of["mt5-small"]


def test_a_real_gain_is_more_than_selection_and_no_gain_is_not():
    helped = build(simulate(DESIGN, (6.0,), seed=2))
    idle = build(simulate(DESIGN, (0.0,), seed=2))
    (good,) = (one for one in helped.best_of if one.target == WHOLE)
    (none,) = (one for one in idle.best_of if one.target == WHOLE)
    assert good.difference.low > 0 and not none.difference.excludes(0)
    assert none.gain.value > 0 and none.control.value > 0  # both are maxima
    sentence = selection(helped)[-1]
    assert "is more than" in sentence and "is not distinguishable from" in selection(idle)[-1]
