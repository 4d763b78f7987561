import numpy as np
import pandas as pd
import pytest

from xtr.evaluate.metrics.benchmark import SCORES
from xtr.export.summary import LANGUAGES
from xtr.study import simulate, transfer
from xtr.study.published import BEST_EACH, PUBLISHED, compared, published_name

TARGETS = {"xnli": ("en", "de", "sw"), "tydiqa": ("en", "fi")}


def study(name, parameters):
    made = simulate.simulate(
        simulate.Design(((name, parameters),), ("qa", "nli"), TARGETS, seeds=2, examples=30), [3.0], 0
    )
    return transfer.build(made.rows, made.load, TARGETS, resamples=100), made.rows


def test_a_published_number_stands_beside_the_mean_over_all_languages():
    table, rows = study("xlm_roberta_large", 559_890_432)
    found = [one for one in compared(table, rows) if one.published.target == "xnli"]
    none = next(one for one in found if one.published.intermediate == "none")
    own = rows[(rows["target"] == "xnli") & (rows["intermediate"] == "none")]
    assert none.own == pytest.approx(np.mean([own[own["language"] == x]["value"].mean() for x in TARGETS["xnli"]]))
    assert (none.published.value, none.published.languages, none.languages) == (79.2, 15, 3)
    best = next(one for one in found if one.published.intermediate == BEST_EACH)
    own = rows[(rows["target"] == "xnli") & (rows["intermediate"] != "none")]
    assert best.own == pytest.approx(own["value"].mean()) and "best" in best.published.differs


def test_a_metric_that_the_rows_lack_is_not_compared():
    table, rows = study("mt5-small", 300_176_768)
    assert {one.published.target for one in compared(table, rows)} == {"xnli"}  # these rows have no F1 of TyDiQA


# An mT5 read by heads counts as its encoder: the published numbers are of the whole model that writes.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mt5-small", 312_320), ("tiny", 300_176_768), ("mt5-micro", 10**6), ("mt5-large", 564_338_688)],
)
def test_a_toy_is_not_taken_for_a_published_model(name, parameters):
    assert published_name(name, parameters) is None
    assert compared(*study(name, parameters)) == []


def test_names_are_known_in_their_usual_spellings():
    assert published_name("MT5_xxl", 12_921_057_280) == "mt5-xxl"
    assert published_name("xlmr-large", 558_840_832) == published_name("xlm-r-large", 559_890_432) == "xlmr-large"


def test_published_numbers_are_of_known_targets_metrics_and_languages():
    assert len({(p.model, p.intermediate, p.target, p.metric, p.source) for p in PUBLISHED}) == len(PUBLISHED)
    for one in PUBLISHED:
        assert one.metric in SCORES[one.target], one
        counts = {len(tasks[one.target].split()) for tasks in LANGUAGES.values() if one.target in tasks}
        assert one.languages in counts and 0 < one.value < 100 and one.source, one


def test_a_frame_without_results_of_the_model_compares_nothing():
    table, rows = study("mt5-small", 300_176_768)
    assert compared(table, pd.DataFrame(rows[rows["model"] == "another"])) == []
