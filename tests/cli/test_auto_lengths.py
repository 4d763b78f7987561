"""TASK_FEATURE_LENGTHS = 'auto' in the commands."""

import json

import pytest

from xtr.cli.main import run
from xtr.errors import DataError, UserError
from xtr.train import lengths as train_lengths


@pytest.fixture(scope="module")
def common(world, cache_dir, study_arguments):
    model = next(a for a in study_arguments("x") if a.startswith("--gin_file=")).replace("study.gin", "tiny.gin")
    places = [f"--gin.VOCABULARY_PATH={world.vocabulary_path}"]
    places += [f"--gin.VOCAB_SIZE={-(-world.vocabulary_size // 128) * 128}"]
    return model, [*places, f"--gin.DATA_DIR={world.directory}", f"--gin.CACHE_DIR={cache_dir}"]


@pytest.fixture(scope="module")
def arguments(common):
    model, places = common
    steps = ("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8", "--gin.lengths.AutoLengths.multiples=(16, 8)")
    files = ("--gin_file=runs/finetune.gin", "--gin_file=targets/xnli.gin")
    return ["train", model, *files, *places, *steps, "--gin.TASK_FEATURE_LENGTHS=auto"]


def test_a_run_chooses_says_and_keeps_its_lengths(arguments, tmp_path, capsys, monkeypatch):
    directory = tmp_path / "run"
    arguments = [*arguments, f"--gin.MODEL_DIR={directory}"]
    assert run(arguments) == 0
    kept = json.loads((directory / "lengths.json").read_text())
    lengths = kept["lengths"]
    assert lengths["inputs"] % 16 == lengths["targets"] % 8 == 0 and kept["rule"]["kept"] == 0.99
    assert f"TASK_FEATURE_LENGTHS = 'auto' is {lengths}" in capsys.readouterr().out
    assert f"TASK_FEATURE_LENGTHS = {lengths!r}" in (directory / "operative_config.gin").read_text()
    assert "TASK_FEATURE_LENGTHS = 'auto'" in (directory / "config.gin").read_text()

    def never(*_):
        raise AssertionError("chosen again")

    monkeypatch.setattr(train_lengths, "choose", never)
    (directory / "DONE").unlink()
    assert run(arguments) == 0
    assert f"was {lengths} when the run began" in capsys.readouterr().out
    (directory / "DONE").unlink()
    (directory / "lengths.json").write_text("{}")
    with pytest.raises(DataError, match="not the lengths of a run"):
        run(arguments)


def test_text_alone_is_refused_and_leaves_nothing(common, tmp_path):
    model, places = common
    given = ["train", model, "--gin_file=runs/pretrain.gin", *places, f"--gin.MODEL_DIR={tmp_path / 'text'}"]
    given += ["--gin.MIXTURE_OR_TASK_NAME=text.corpus", "--gin.TRAIN_STEPS=1", "--gin.TASK_FEATURE_LENGTHS=auto"]
    with pytest.raises(UserError, match="is plain text"):
        run(given)
    assert not (tmp_path / "text").exists()


def test_another_word_is_refused(arguments, tmp_path):
    with pytest.raises(UserError, match="'atuo'; it must be like .* Did you mean auto"):
        run([*arguments, f"--gin.MODEL_DIR={tmp_path}", "--gin.TASK_FEATURE_LENGTHS=atuo"])


def test_a_plan_has_no_data_to_choose_by():
    given = ["plan", "--gin_file=models/mt5/micro.gin", "--topology=v5e:2x2", "--gin.TASK_FEATURE_LENGTHS=auto"]
    with pytest.raises(UserError, match="no data to choose lengths by: `xtr data stats"):
        run(given)


def test_stats_show_what_auto_saves(common, world, cache_dir, capsys):
    model, _ = common
    places = [f"--vocabulary_path={world.vocabulary_path}", f"--data_dir={world.directory}", f"--cache_dir={cache_dir}"]
    given = ["data", "stats", "nli_qa", *places, "--auto", "mt5/small", model.removeprefix("--gin_file=")]
    assert run([*given, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [fact["task"] for fact in facts] == ["mnli", "squad_v1", "nli_qa (mixed)"] * 2
    for fact in facts:
        assert fact["saved"] == pytest.approx(1 - fact["auto"]["flops"] / fact["baseline"]["flops"])
        assert fact["baseline"]["lengths"] == {"inputs": 512, "targets": 114} and fact["saved"] > 0
    assert run([*given, "--lengths=inputs=128,targets=16"]) == 0
    assert "at 128 / 16" in capsys.readouterr().out
    with pytest.raises(UserError, match="a bert is trained|packing chooses no lengths"):
        run([*given[:-2], "xlmr/base"])


@pytest.mark.slow
def test_each_stage_of_a_study_chooses_for_itself(study_arguments, tmp_path):
    given = study_arguments(tmp_path / "study")
    stage = {
        "TRAIN_STEPS": 2,
        "BATCH_SIZE": 8,
        "TASK_FEATURE_LENGTHS": "auto",
        "lengths.AutoLengths.multiples": (16, 8),
    }
    overrides = {
        "pretrain": {"MIXTURE_OR_TASK_NAME": "text.corpus", "TRAIN_STEPS": 2, "BATCH_SIZE": 8},
        "intermediate": stage,
        "target": stage,
        "evaluate": {"LENGTH_BUCKETS": (64,), "TASK_FEATURE_LENGTHS": "auto", "evaluate.max_decode_length": 4},
    }
    given += [f"--gin.study.stage_overrides={overrides!r}", "--gin.study.seeds=(0,)"]
    assert run(given) == 0
    chosen = {
        path.parent.name.split("-")[0]: json.loads(path.read_text())["lengths"]
        for path in tmp_path.rglob("lengths.json")
    }
    assert any(name.startswith("intermediate") for name in chosen) and not any("pretrain" in name for name in chosen)
    assert {"target.tiny.none.xnli.seed0", "target.tiny.nli.xnli.seed0"} <= set(chosen)
    given[1] = "report"
    assert run(given) == 0
    report = next(tmp_path.rglob("report.md"), None) or next(tmp_path.rglob("report.html"))
    lengths = "/".join(map(str, chosen["target.tiny.none.xnli.seed0"].values()))
    assert f"packed rows of {lengths} tokens" in report.read_text()
