"""The numbers that every form shows, against sums done another way."""

import dataclasses
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.coverage import XTREME, XTREME_R
from xtr.evaluate.metrics.benchmark import SCORES
from xtr.evaluate.results import is_mean
from xtr.export import source, summary


def frame(row, *changes) -> pd.DataFrame:
    rows = pd.DataFrame([dataclasses.asdict(dataclasses.replace(row, **change)) for change in changes])
    return summary.with_systems(rows.assign(directory=0))


def test_benchmarks_of_a_complete_store(complete):
    rows = source.read([complete]).rows
    found = summary.benchmarks(summary.scores(summary.final(summary.with_systems(rows))))
    found = {(line.benchmark, line.name): line.value for line in found.itertuples()}
    values = {(r.target, r.language, r.metric): r.value for r in rows.itertuples()}
    for name, tasks in (("xtreme", XTREME), ("xtreme_r", XTREME_R)):
        scores = {
            task: statistics.fmean(
                statistics.fmean(values[task, language, metric] for metric in SCORES[task])
                for language in codes.split()
            )
            for task, codes in tasks.items()
        }
        assert {task: found[name, task] for task in tasks} == pytest.approx(scores, rel=1e-12)
        assert found[name, "overall"] == pytest.approx(statistics.fmean(scores.values()), rel=1e-12)
        rest = [scores[task] for task in tasks if task not in ("tatoeba", "bucc2018", "mewslix", "lareqa")]
        assert found[name, "overall without retrieval"] == pytest.approx(statistics.fmean(rest), rel=1e-12)


def test_a_task_that_lacks_a_language_is_in_no_average(complete):
    rows = summary.with_systems(source.read([complete]).rows)
    rows = rows[(rows["target"] != "xquad") | (rows["language"] != "ro")]
    found = summary.benchmarks(summary.scores(summary.final(rows)))
    names = {benchmark: set(own["name"]) for benchmark, own in found.groupby("benchmark")}
    assert "xquad" in names["xtreme"] and "overall" in names["xtreme"]  # XTREME has no xquad.ro
    assert not {"xquad", "qa", "overall"} & names["xtreme_r"] and "tagging" in names["xtreme_r"]


def test_the_score_of_a_failure_rate_is_what_passes(row):
    rates = [{"metric": name, "value": 30.0, "higher_is_better": False} for name in ("failure_rate", "failure_rate/A")]
    found = summary.scores(summary.final(frame(dataclasses.replace(row, target="multichecklist"), *rates)))
    assert found["value"].tolist() == [70.0]


@given(st.dictionaries(st.sampled_from(["en", "de", "fr", "sw"]), st.floats(0, 100), min_size=1))
def test_means_and_the_gap(values):
    table = pd.DataFrame([("t", language, value) for language, value in values.items()], columns=["target", "language", "value"])  # fmt: skip  # noqa: E501
    found = {line.kind: line.value for line in summary.means(table, ["target"]).itertuples()}
    others = [value for language, value in values.items() if language != "en"]
    expected = {}
    if len(values) > 1:
        expected = {"mean": statistics.fmean(values.values()), "zero-shot": statistics.fmean(others)}
        if "en" in values:
            expected["gap_to_en"] = values["en"] - expected["zero-shot"]
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_means_are_those_of_the_evaluation(complete):
    rows = summary.with_systems(source.read([complete]).rows)
    own = rows[~rows["language"].map(is_mean)]
    found = summary.means(own, ["target", "metric"])
    found = {(m.target, m.metric): m.value for m in found[found["kind"] == summary.MEAN].itertuples()}
    written = {(r.target, r.metric): r.value for r in rows[rows["language"].map(is_mean)].itertuples()}
    assert found == pytest.approx(written, rel=1e-12) and len(found) > 12


def test_the_last_step_of_the_test_split_counts(row):
    rows = frame(
        row,
        dict(step=10, value=1.0), dict(step=20, value=2.0), dict(step=20, split="validation", value=3.0),
        dict(step=20, language="mean 1/2"), dict(target="tatoeba", split="queries", value=4.0),
        dict(target="tatoeba", split="queries", metric="accuracy/layer_1"), dict(target="squad", split="validation"),
    )  # fmt: skip
    final = summary.final(rows)
    assert list(final[final["target"] == "xnli"]["value"]) == [2.0]
    assert list(final[final["target"] == "tatoeba"]["value"]) == [4.0]
    assert len(final[final["target"] == "squad"]) == 1
    assert summary.expected(rows) == {"xnli": 2, "tatoeba": 1, "squad": 1}


def test_systems_are_told_apart_by_no_more_than_is_needed(row):
    seeds = frame(row, dict(run_id="a", seed=0), dict(run_id="b", seed=1), dict(stage="pretrain", target="tatoeba"))
    assert [system.variant for system in seeds["system"].unique()] == [""]
    stages = frame(row, dict(stage="pretrain"), dict(stage="target"))
    assert {system.variant for system in stages["system"]} == {"pretrain", "target"}
    runs = frame(row, dict(run_id="a"), dict(run_id="b"), dict(run_id="c", intermediate="mnli"))
    assert [system.names[1:] for system in runs["system"]] == [("none", "target a"), ("none", "target b"), ("mnli",)]
    order = frame(row, dict(intermediate="a"), dict(intermediate="none"), dict(model="tiny", parameters=1))
    assert [str(system) for system in order["system"]] == ["tiny · none", "mt5-small · none", "mt5-small · a"]


@pytest.mark.parametrize(
    ("target", "found", "metrics"),
    [
        ("xquad", ["f1", "em", "illegal_form"], ("em", "f1")),
        ("udpos", ["token_accuracy", "span_f1"], ("span_f1",)),
        ("mine", ["f1", "em"], ("em", "f1")),
        ("mine", ["rouge", "wrong_language"], ("rouge",)),
        ("mine", ["rouge", "bleu"], ()),
        ("tatoeba", ["accuracy/layer_0"], ()),
    ],
)
def test_score_metrics(target, found, metrics):
    assert summary.score_metrics(target, found) == metrics


def test_gains_are_paired_by_seed_and_languages(row):
    def scores(*changes):
        return summary.scores(frame(row, *changes))

    de, fr = dict(language="de"), dict(language="fr")
    pairs = scores(
        {**de, "value": 10.0}, {**fr, "value": 20.0}, dict(language="en", value=90.0),
        {**de, "value": 13.0, "intermediate": "mnli"}, {**fr, "value": 21.0, "intermediate": "mnli"},
        {**de, "value": 1.0, "intermediate": "qqp"},  # without fr
        {**de, "value": 1.0, "intermediate": "mnli", "seed": 1},  # a seed that `none` lacks
    )  # fmt: skip
    (line,) = summary.gains(pairs).itertuples()
    assert (line.system.intermediate, line.seed, line.value) == ("mnli", 0, 2.0)
