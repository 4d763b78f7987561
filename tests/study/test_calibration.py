import json

import numpy as np
import pytest
import scipy.stats

from xtr.cli import main
from xtr.errors import UserError
from xtr.study import transfer
from xtr.study.calibration import Coverage, Familywise, SlopeCoverage, Verdicts, settings
from xtr.study.simulate import Design, simulate


def within(share, truth, trials, chance=1e-4):
    """Whether a share in percent of `trials` is what `truth` (percent) may give."""
    low, high = scipy.stats.binom.interval(1 - chance, trials, truth / 100)
    return low <= round(share * trials / 100) <= high


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize(("metric", "sd"), [("accuracy", 0.5), ("graded", 2.0), ("span F1", 0.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(metric, sd, seeds):
    line = Coverage(metric, sd, languages=2, seeds=seeds, examples=150).measure(200, seed=1)
    assert within(line["coverage"], 95, 200) and line["mean half-width"] > 0


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_slope_holds_the_truth_as_often_as_it_says(seeds):
    assert within(SlopeCoverage(0.5, seeds).measure(150, seed=1)["coverage"], 95, 150)


@pytest.mark.slow
@pytest.mark.parametrize("setting", settings("coverage", (3,)), ids=str)
def test_coverage_lies_between_93_and_97(setting):
    assert 93 <= setting.measure(2000, seed=0)["coverage"] <= 97


def test_a_study_of_nothing_seldom_claims_anything():
    line = Familywise(1.0, unstable=False, seeds=3, intermediates=4, targets=4).measure(40, seed=2)
    assert line["false claims"] <= 100 * scipy.stats.binom.ppf(0.9999, 40, 0.05) / 40
    assert 1 < line["single p < 0.05"] < 10


@pytest.mark.slow
@pytest.mark.parametrize("setting", settings("familywise", (3,)), ids=str)
def test_family_wise_error_is_at_most_5_percent(setting):
    line = setting.measure(1000, seed=0)
    assert line["false claims"] <= 100 * scipy.stats.binom.ppf(0.99, 1000, 0.05) / 1000


def test_a_clear_truth_gets_its_verdict():
    line = Verdicts("shrinks", seeds=5).measure(2, seed=3)
    assert line["shrinks"] == 2 and line["wrong"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("setting", settings("verdicts", (5,)), ids=str)
def test_verdicts_of_adequate_studies_are_right(setting):
    line = setting.measure(200, seed=0)
    assert line["adequate"] > 100 and line["right"] >= 95


def test_the_simulated_truth_is_what_the_table_estimates():
    design = Design(sizes=(("m", 10**9),), intermediates=("mnli",), seeds=30, examples=2000, gain_sd=1, noise_sd=1)
    study = simulate(design, (4.0,), seed=0)
    table = transfer.build(study.rows, study.load, study.languages, resamples=100)
    gain = table.cell(table.models[0], "mnli", transfer.AVERAGE).gain
    assert gain.value == pytest.approx(4.0, abs=0.4) and not gain.excludes(4.0)
    score = table.cell(table.models[0], "none", transfer.AVERAGE).score
    assert score.value == pytest.approx(60, abs=1.5)
    again = simulate(design, (4.0,), seed=0)
    assert again.rows.equals(study.rows) and not simulate(design, (4.0,), seed=1).rows.equals(study.rows)
    assert np.all(study.rows["value"].notna()) and set(study.development["language"]) == {"en"}


def test_the_command_prints_a_table_or_json(capsys):
    arguments = ["study", "simulate", "--table", "coverage", "--studies", "2", "--seeds", "3"]
    assert main.run([*arguments, "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert main.run([*arguments, "--json", "--workers", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == lines
    assert len(lines) == 21
    assert {line["metric"] for line in lines} == {"accuracy", "graded", "span F1", "slope over 5 sizes"}
    assert main.run(arguments) == 0
    assert "mean half-width" in capsys.readouterr().out


def test_wrong_numbers_are_refused():
    for wrong in (["--studies", "0"], ["--workers", "0"], ["--seeds", "1"]):
        with pytest.raises(UserError):
            main.run(["study", "simulate", "--table", "verdicts", *wrong])
