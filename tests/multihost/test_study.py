"""A study that two processes run together."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "failing_study.py"


@pytest.mark.slow
def test_a_stage_that_fails_in_both_says_why_and_the_rest_goes_on_at_the_next_start(run_program, tmp_path):
    found = run_program(PROGRAM, 2, [tmp_path])
    assert [end.code for end in found] == [1, 1], found
    assert all("StageFailed: intermediate.m.nli.seed0: ValueError: these numbers cannot be" in end.err for end in found)
    (failed,) = tmp_path.glob("stages/*/FAILED")
    assert failed.parent.name.startswith("intermediate")
    assert "cannot be" in json.loads(failed.read_text())["error"]
    found = run_program(PROGRAM, 2, [tmp_path])
    assert [end.code for end in found] == [1, 1], found
    (done,) = tmp_path.glob("stages/*/DONE")
    assert done.parent.name.startswith("evaluate") and "StageFailed" not in found[0].err
