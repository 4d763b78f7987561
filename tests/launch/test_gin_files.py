"""Configurations on their way: files that include each other, own tasks, and overrides with anything in them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr import config
from xtr.cli import launch
from xtr.cli.main import build_parser, run, split_gin
from xtr.errors import UserError
from xtr.launch import backends
from xtr.launch.actions import Run, Write
from xtr.launch.execute import execute

FILES = ["--gin_file=models/mt5/small.gin", "--gin_file=runs/intermediate.gin", "--gin_file=intermediate/mnli.gin"]
CLOUD = ["--zone=us-west4-a", "--bucket=gs://my-bucket", "--accelerator=v4-8"]
BACKENDS = {
    "local": [],
    "tpu_vm": ["--backend=tpu_vm", "--wheel=xtr-1-py3-none-any.whl", *CLOUD],
    "gke": ["--backend=gke", "--image=example.com/xtr:1", "--bucket=gs://my-bucket", "--accelerator=v4-8"],
}


def spec_of(*words: str, backend: str = "local", files=FILES):
    """The job of a command line."""
    rest, overrides = split_gin(["launch", "train", *files, *BACKENDS[backend], *words])
    arguments = build_parser().parse_args(rest)
    arguments.overrides = [*arguments.gin_bindings, *overrides]
    arguments.search_paths = [path for path in arguments.gin_search_paths.split(",") if path]
    return launch.build_spec(arguments)


def file_texts(plan) -> dict[str, str]:
    """What a plan writes, by the last part of its place."""
    texts = {}
    for action in plan.upload:
        if isinstance(action, Write):
            texts[action.path] = action.body
        elif isinstance(action, Run) and action.stdin:
            texts[action.argv[-1].removeprefix("gs://my-bucket/")] = action.stdin
    return texts


def arrived(spec, folder: Path):
    """The run that the other side builds: its files lie in `folder`, its command line is the job's."""
    for path, text in file_texts(backends.plan(spec)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    before = os.getcwd()
    os.chdir(folder)
    try:
        config.load(spec.gin_files, (), spec.search_paths, entry="train")
        return config.build("train")
    finally:
        os.chdir(before)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=30)
@given(value=st.text(max_size=80), number=st.integers(1, 10**9))
def test_any_string_arrives_on_every_backend(tmp_path_factory, backend, value, number):
    folder = tmp_path_factory.mktemp("there")
    overrides = [f"--gin.INITIAL_CHECKPOINT_PATH={value!r}", f"--gin.TRAIN_STEPS={number}", "--gin.VOCABULARY_PATH=v"]
    spec = spec_of("--gin.MODEL_DIR=runs/a", *overrides, backend=backend)
    built = arrived(spec, folder)
    assert (built.initial_checkpoint_path, built.train_steps) == (value, number)


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_bare_value_means_there_what_it_means_here(tmp_path_factory, value):
    words = ["--gin.MODEL_DIR=runs/a", f"--gin.VOCABULARY_PATH=x{value}"]
    here = [text.removeprefix("--gin.") for text in words]
    try:
        names = [word.removeprefix("--gin_file=") for word in FILES]
        config.load(names, here, entry="train")
        expected = config.build("train")
    except UserError:
        return  # refused here, hence before it is launched
    assert arrived(spec_of(*words), tmp_path_factory.mktemp("there")) == expected


HOSTILE = [
    "it's",
    'say "x"',
    "$(touch pwned)",
    "`touch pwned`",
    "a\nb",
    "EOF\nEOF",
    "\\",
    "é 人",
    " x ",
    "%MODEL",
    "@train",
]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_hostile_values_arrive_through_a_shell_that_runs_the_dry_run(value, cloud):
    spec = spec_of("--gin.MODEL_DIR=runs/a", f"--gin.INITIAL_CHECKPOINT_PATH={value!r}", "--gin.VOCABULARY_PATH=v")
    cloud.xtr("exit 0\n")
    subprocess.run(["bash", "-e", "-c", backends.plan(spec).dry_run()], check=True, capture_output=True)
    config.load(spec.gin_files, (), spec.search_paths, entry="train")
    assert config.build("train").initial_checkpoint_path == value
    assert not Path("pwned").exists()


def test_own_files_find_each_other_as_they_do_here(tmp_path, monkeypatch):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    (tmp_path / "shared" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    Path("mine.gin").write_text("include 'sub/steps.gin'\ninclude 'common.gin'\ninclude 'models/mt5/small.gin'\n")
    Path("sub/steps.gin").write_text("include '../rate.gin'\nTRAIN_STEPS = 7\n")
    Path("rate.gin").write_text("BATCH_SIZE = 24")
    Path("../shared/common.gin").write_text("include 'deep/seed.gin'\n")
    Path("../shared/deep/seed.gin").write_text("RANDOM_SEED = 5\n")
    files = ["--gin_file=runs/finetune.gin", "--gin_file=mine.gin", "--gin_search_paths=../shared"]
    words = ["--gin.MODEL_DIR=runs/a", "--gin.VOCABULARY_PATH=v", "--gin.MIXTURE_OR_TASK_NAME=mnli"]
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}"
    spec = spec_of(*words, lengths, files=files, backend="tpu_vm")
    assert spec.gin_files[0] == "runs/finetune.gin" and spec.gin_files[1].startswith("jobs/train-a/gin/")
    built = arrived(spec, tmp_path / "there")
    assert (built.train_steps, built.batch_size, built.random_seed) == (7, 24, 5)


def test_an_include_that_no_other_machine_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gin").write_text(f"include '{tmp_path}/b.gin'\n")
    (tmp_path / "b.gin").write_text("TRAIN_STEPS = 3\n")
    with pytest.raises(UserError, match="a.gin includes .*b.gin, which no other machine has"):
        spec_of("--gin.MODEL_DIR=runs/a", "--gin.VOCABULARY_PATH=v", files=[*FILES, "--gin_file=a.gin"])


def test_a_file_whose_name_would_need_quoting_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.gin").write_text("TRAIN_STEPS = 3\n")
    with pytest.raises(UserError, match="a b.gin: on its way to other machines"):
        spec_of("--gin.MODEL_DIR=runs/a", "--gin.VOCABULARY_PATH=v", files=[*FILES, "--gin_file=a b.gin"])


def test_own_task_modules_come_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("TASK = 1")
    modules = "--gin.TASK_MODULES=('mine.py', 'installed.module')"
    spec = spec_of("--gin.MODEL_DIR=runs/a", "--gin.VOCABULARY_PATH=v", modules)
    assert file_texts(backends.plan(spec))["jobs/train-a/modules/mine.py"] == "TASK = 1\n"
    assert arrived(spec, tmp_path / "there").task_modules == ("jobs/train-a/modules/mine.py", "installed.module")
    with pytest.raises(UserError, match="TASK_MODULES names other.py, but there is no such file"):
        spec_of("--gin.MODEL_DIR=runs/a", "--gin.VOCABULARY_PATH=v", "--gin.TASK_MODULES=('other.py',)")


def test_files_of_a_studys_stages_come_along(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gin").write_text("include 'models/mt5/micro.gin'\n")
    study = "include 'studies/demo.gin'\nstudy.models = {'tiny': '%s'}\n"
    words = [
        "--gin.STUDY_DIR=s",
        "--gin.DATA_DIR=d",
        "--gin.CACHE_DIR=c",
        "--gin.VOCABULARY_PATH=v",
        "--gin.VOCAB_SIZE=512",
    ]
    (tmp_path / "study.gin").write_text(study % "tiny.gin")
    assert run(["launch", "study", "--gin_file=study.gin", *words, *BACKENDS["tpu_vm"], "--dry_run"]) == 0
    assert "gs://my-bucket/jobs/study-s/gin/tiny.gin" in capsys.readouterr().out
    (tmp_path / "study.gin").write_text(study % (tmp_path / "tiny.gin"))
    with pytest.raises(UserError, match="the study names .*tiny.gin, which no other machine has"):
        run(["launch", "study", "--gin_file=study.gin", *words, *BACKENDS["tpu_vm"], "--dry_run"])


def test_a_run_of_another_number_of_processes_is_refused(monkeypatch):
    from xtr.parallel import distributed

    monkeypatch.setenv("XTR_EXPECT_PROCESSES", "1")
    assert distributed.initialize() == (0, 1)
    monkeypatch.setenv("XTR_EXPECT_PROCESSES", "64")
    with pytest.raises(UserError, match="The run has 1 processes, but was launched for 64"):
        distributed.initialize()


def test_a_record_gives_the_job_back(tmp_path, monkeypatch):
    from xtr.launch.record import Record, load

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XTR_STATE_DIR", str(tmp_path / "state"))
    for backend in BACKENDS:
        spec = spec_of("--gin.MODEL_DIR=runs/a", "--gin.VOCABULARY_PATH=it's", f"--name={backend[0]}", backend=backend)
        Record(spec, str(tmp_path), 3.0).save()
        found = load(spec.name)
        assert found.spec == spec and found.poll == 3.0 and backends.plan(found.spec).dry_run()
    (tmp_path / "state" / "jobs" / "t.json").write_text(json.dumps({"spec": {}}))
    with pytest.raises(UserError, match="not the record of a job"):
        load("t")
    with pytest.raises(UserError, match="no job 'x' was launched from here"):
        run(["launch", "logs", "x"])


def test_a_file_is_written_whole(tmp_path):
    assert execute(Write(str(tmp_path / "a" / "b"), "text\n")).code == 0
    assert execute(Write(str(tmp_path / "a" / "b"), "other\n", exclusive=True)).code == 1
    assert (tmp_path / "a" / "b").read_text() == "text\n"
