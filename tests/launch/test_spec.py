"""What is refused before anything is created, and what the user reads then."""

import re
from pathlib import Path

import pytest

from xtr.cli.main import run
from xtr.errors import UserError

TRAIN = [
    *("launch", "train", "--gin_file=models/mt5/small.gin", "--gin_file=runs/intermediate.gin"),
    *("--gin_file=intermediate/mnli.gin", "--gin.VOCABULARY_PATH=vocabulary"),
]


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        run([*TRAIN, *words])
    assert "\n" not in str(error.value)
    return str(error.value)


CLOUD = ("--backend=tpu_vm", "--zone=us-west4-a", "--bucket=gs://my-bucket", "--wheel=a/xtr-1-py3-none-any.whl")
HERE = ("--gin.MODEL_DIR=runs/a", "--dry_run")


@pytest.mark.parametrize(
    "words, said",
    [
        (("--backend=tpu-vm",), "--backend is 'tpu-vm'; it must be local, tpu_vm, gke. Did you mean tpu_vm?"),
        (("--backend=tpu_vm",), "needs --accelerator, like v5litepod-256"),
        ((*CLOUD, "--accelerator=v5litepod-257"), "there is no v5litepod-257: 257 chips are no slice of a v5e"),
        ((*CLOUD, "--accelerator=v5e:16x17"), "the largest slice of v5e is 16x16"),
        ((*CLOUD, "--accelerator=h100-8"), "names no TPU that is known"),
        ((*CLOUD, "--accelerator=tpu7x-128"), "the Cloud TPU API does not offer tpu7x: use --backend=gke"),
        (("--backend=gke", "--accelerator=v3-32", "--image=a:1"), "Kubernetes Engine does not offer v3"),
        ((*CLOUD, "--accelerator=v5litepod-8", "--slices=2"), "several slices can be joined from v4 on"),
        ((*CLOUD, "--accelerator=v5litepod-16", "--slices=0"), "--slices is 0; it must be at least 1"),
        (("--slices=2",), "--slices goes with --accelerator"),
        ((*CLOUD[:1], *CLOUD[2:], "--accelerator=v4-8"), "needs --zone, like us-west4-a"),
        ((*CLOUD[:3], "--accelerator=v4-8"), "needs xtr itself, in one way: --wheel"),
        ((*CLOUD, "--image=a:1", "--accelerator=v4-8"), "needs xtr itself, in one way: --wheel"),
        ((*CLOUD, "--accelerator=v4-8", "--wheel=xtr.zip"), "--wheel is 'xtr.zip'; it must be a .whl file"),
        ((*CLOUD, "--accelerator=v4-8", "--bucket=my-bucket"), "--bucket is 'my-bucket'; it must be gs://BUCKET"),
        (
            (*CLOUD, "--accelerator=v4-8", "--bucket=gs://my-bucket/$(x)"),
            "it must be gs://BUCKET or gs://BUCKET/FOLDER",
        ),
        ((*CLOUD, "--accelerator=v4-8", "--queue=tpu"), "--context and --queue are of Kubernetes"),
        ((*CLOUD, "--accelerator=v4-8", "--project=a;b"), "--project is 'a;b'; it must have letters, digits"),
        (
            (*CLOUD, "--accelerator=v4-8", "--spot", "--reservation=r"),
            "--reservation goes with reserved capacity: leave out --spot.",
        ),
        ((*CLOUD, "--accelerator=v4-8", "--max_hours=0"), "--max_hours is 0; it must be more than 0"),
        ((*CLOUD, "--accelerator=v4-8", "--retries=-1"), "--retries is -1; it must not be negative"),
        (
            (*CLOUD, "--accelerator=v4-8", "--name=Big_Job"),
            "--name is 'Big_Job'; it must have at most 40 small letters",
        ),
        ((*CLOUD, "--accelerator=v4-8", "--poll_seconds=0"), "--poll_seconds is 0; it must be more than 0"),
        (("--backend=gke", "--accelerator=v4-8", "--bucket=gs://b-b"), "--backend=gke needs --image"),
        (("--backend=gke", "--accelerator=v4-8", "--bucket=gs://b-b", "--image=a/b"), "Name a digest"),
        (("--backend=gke", "--accelerator=v4-8", "--bucket=gs://b-b", "--image=a/b:latest"), "Name a digest"),
        (
            ("--backend=gke", "--accelerator=v4-8", "--bucket=gs://b-b", "--image=a:1", "--internal_ips"),
            "by the cluster",
        ),
        (("--accelerator=v4-8",), "--backend=local runs on this machine with this xtr: leave out --accelerator"),
        (("--processes=0",), "--processes is 0; it must be at least 1"),
        (("--bucket=gs://my-bucket",), "--backend=local writes to a folder of this machine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_that_cannot_be_is_refused_in_one_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(*HERE, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "directory, said",
    [
        ("/home/me/runs/a", "relative to --bucket"),
        ("gs://my-bucket/runs/a", "say it relative to --bucket, where the job runs: runs/a."),
        ("gs://other/runs/a", "relative to --bucket"),
        ("../runs/a", "relative to --bucket"),
        ("runs/a b", "relative to --bucket"),
        ("jobs/a", "lies in jobs/"),
    ],
)
def test_run_directories_lie_in_the_bucket(directory, said):
    assert said in refused(*CLOUD, "--accelerator=v4-8", f"--gin.MODEL_DIR={directory}", "--dry_run")


def test_a_mistake_in_the_configuration_is_found_here(capsys):
    assert "Did you mean TRAIN_STEPS," in refused(*HERE, *CLOUD, "--accelerator=v4-8", "--gin.TRIAN_STEPS=10")
    assert "required and not set: MODEL_DIR" in refused(*CLOUD, "--accelerator=v4-8", "--dry_run")
    assert "gin file 'models/mt5/xxxl.gin' not found" in refused(*HERE, *CLOUD, "--gin_file=models/mt5/xxxl.gin")
    assert capsys.readouterr().out == ""


def test_a_wheel_that_is_not_there_is_refused_before_anything_runs(cloud):
    said = refused("--gin.MODEL_DIR=runs/a", *CLOUD, "--accelerator=v4-8")
    assert "--wheel is a/xtr-1-py3-none-any.whl, but there is no such file" in said
    assert not cloud.calls()


def test_jobs_are_named_after_their_directories(capsys):
    run([*TRAIN, *CLOUD, "--accelerator=v4-8", "--gin.MODEL_DIR=runs/My_XXL.v2", "--dry_run"])
    assert "queued-resources create train-my-xxl-v2 " in capsys.readouterr().out


@pytest.mark.parametrize(
    "action, files, directory, command",
    [
        ("eval", ["runs/eval.gin", "targets/xnli.gin"], "EVAL_OUTPUT_DIR=evals/a", "xtr eval "),
        ("infer", ["runs/infer.gin"], "infer.output_file='out/a.jsonl'", "xtr infer "),
        ("study", ["studies/demo.gin"], "STUDY_DIR=studies/a", "xtr study run "),
    ],
)
def test_every_command_can_be_launched(action, files, directory, command, capsys):
    more = {
        "eval": ["--gin.CHECKPOINT_PATH=runs/a", "--gin.VOCABULARY_PATH=v"],
        "infer": ["--gin.CHECKPOINT_PATH=runs/a", "--gin.VOCABULARY_PATH=v", "--gin.infer.input_file=in.txt"],
        "study": ["--gin.VOCABULARY_PATH=v", "--gin.VOCAB_SIZE=512", "--gin.DATA_DIR=data", "--gin.CACHE_DIR=cache"],
    }[action]
    models = [] if action == "study" else ["--gin_file=models/mt5/small.gin"]
    words = ["launch", action, *models, *(f"--gin_file={name}" for name in files), f"--gin.{directory}", *more]
    assert run([*words, *CLOUD, "--accelerator=v4-8", "--name=a", "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert f"COMMAND=({command}" in text and "--gin_file=jobs/a/overrides.gin)" in text
    lock = {"eval": "evals/a", "infer": "out", "study": "studies/a"}[action]
    assert f"gs://my-bucket/{lock}/JOB" in text


def test_a_dry_run_creates_nothing(cloud, capsys):
    run([*TRAIN, *HERE, *CLOUD, "--accelerator=v4-8"])
    assert not cloud.calls() and re.findall("^gcloud ", capsys.readouterr().out, re.M)
    assert [path.name for path in Path(".").iterdir()] == ["xtr-1.0-py3-none-any.whl"]
