"""mT0 and BLOOMZ are refused as a study's start, with the reason, unless the study says so."""

import json

import pytest

from xtr.errors import UserError
from xtr.study.contamination import contaminated, refuse_contaminated


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("gs://bucket/models/mt0-xxl", "mT0"),
        ("/weights/bigscience_mT0_small/checkpoint_1000", "mT0"),
        ("/weights/bloomz-7b1", "BLOOMZ"),
        ("/weights/BLOOMZ", "BLOOMZ"),
        ("/weights/mt5-small", None),
        ("/weights/bloom-7b1", None),
        ("/weights/amt0", None),
        (None, None),
    ],
)
def test_found_by_path(path, kind, monkeypatch):
    monkeypatch.setattr("xtr.storage.read_bytes", lambda path: b"")
    assert contaminated(path) == kind


def test_found_by_the_name_inside_a_renamed_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mt5", "_name_or_path": "bigscience/mt0-base"}))
    assert contaminated(tmp_path) == "mT0"


def test_found_through_the_run_that_started_from_one(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, start in ((first, "/weights/bloomz-560m"), (second, f"{first}/checkpoints/100")):
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"initial_checkpoint_path": start}))
    assert contaminated(second / "checkpoints" / "5") == "BLOOMZ"
    (first / "run.json").write_text(json.dumps({"initial_checkpoint_path": str(second)}))  # a circle ends
    assert contaminated(second) is None


def test_refusal_says_which_model_why_and_what_to_do():
    starts = {"big": "/w/mt0-xxl", "small": "/w/mt5-small"}
    with pytest.raises(UserError) as caught:
        refuse_contaminated(starts, allowed=False)
    for part in ("big starts from /w/mt0-xxl", "mT0", "XQuAD, MLQA, TyDiQA and Tatoeba", "study.allow_contaminated"):
        assert part in str(caught.value)
    assert "small" not in str(caught.value)
    (line,) = refuse_contaminated(starts, allowed=True)
    assert line.startswith("CONTAMINATED: big is mT0")
