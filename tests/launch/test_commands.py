"""`xtr launch` from its command line: check, status, logs, stop, resume; by processes of their own where it matters."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtr.cli.main import run
from xtr.errors import UserError
from xtr.launch import check, record
from xtr.launch.execute import Result
from xtr.launch.watch import Outcome, State

JOB = [
    *("launch", "train", "--gin_file=models/mt5/small.gin", "--gin_file=runs/intermediate.gin"),
    *("--gin_file=intermediate/mnli.gin", "--gin.VOCABULARY_PATH=vocabulary", "--gin.MODEL_DIR=runs/a", "--name=job"),
]
TPU = ["--backend=tpu_vm", "--zone=us-west4-a", "--bucket=gs://my-bucket", "--wheel=xtr-1.0-py3-none-any.whl"]
GKE = ["--backend=gke", "--bucket=gs://my-bucket", "--image=example.com/xtr:1", "--queue=tpu"]
QUICK = ["--poll_seconds=0.05"]


def test_status_and_logs_tell_of_a_job(cloud, capsys):
    cloud.xtr("echo 'step 1'\n")
    assert run([*JOB, *TPU, *QUICK, "--accelerator=v4-8", "--gin.TRAIN_STEPS=3"]) == 0
    assert "step 1" in capsys.readouterr().out
    run(["launch", "logs", "job"])
    assert "step 1\n" in capsys.readouterr().out
    run(["launch", "status", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["job"], row["state"], row["attempt"], row["watched"]) == ("job", "done", 1, "no")
    run(["launch", "status", "job"])
    told = capsys.readouterr().out
    assert "gs://my-bucket/runs/a" in told and "attempt 1" in told and "launched" in told
    with pytest.raises(UserError, match="no log of attempt 7 of job yet"):
        run(["launch", "logs", "job", "--attempt=7"])
    with pytest.raises(UserError, match="no job 'jib' was launched from here.*Did you mean job?"):
        run(["launch", "status", "jib"])


def test_there_may_be_no_jobs(cloud, capsys):
    assert run(["launch", "status"]) == 0
    assert "no jobs were launched from here" in capsys.readouterr().out


def begun(path, process) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.05)


def test_stop_from_another_terminal_saves_and_deletes(cloud, capfd):
    cloud.xtr('trap "touch saved; exit 42" TERM\ntouch up\nfor _ in $(seq 300); do sleep 0.1; done\n')
    words = [*JOB, *TPU, *QUICK, "--accelerator=v4-8"]
    launcher = subprocess.Popen([sys.executable, "-m", "xtr.cli.main", *words], stderr=subprocess.PIPE, text=True)
    begun(cloud.bucket / "up", launcher)
    assert record.watched(record.load("job"))
    with pytest.raises(UserError, match="is being watched by another"):
        run(["launch", "resume", "job"])
    assert run(["launch", "stop", "job"]) == 0
    assert launcher.wait(timeout=60) == 42, launcher.stderr.read()
    assert (cloud.bucket / "saved").exists() and "job" not in cloud.state()
    assert "asked the launcher of job" in capfd.readouterr().err
    cloud.xtr("exit 0\n")
    assert run(["launch", "resume", "job"]) == 0 and record.load("job").state.outcome == "done"


def test_stop_deletes_what_a_dead_launcher_left(cloud):
    cloud.xtr('trap "touch saved; exit 42" TERM\ntouch up\nfor _ in $(seq 300); do sleep 0.1; done\n')
    launcher = subprocess.Popen([sys.executable, "-m", "xtr.cli.main", *JOB, *TPU, *QUICK, "--accelerator=v4-8"])
    begun(cloud.bucket / "up", launcher)
    launcher.kill()
    launcher.wait()
    assert "job" in cloud.state()
    assert run(["launch", "stop", "job"]) == 0
    assert (cloud.bucket / "saved").exists() and "job" not in cloud.state()
    assert not (cloud.bucket / "runs" / "a" / "JOB").exists()


@pytest.fixture
def stranger():
    """A process that is no launcher."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_stop_reaches_a_launcher_that_still_brings_its_files(cloud, tmp_path, monkeypatch, stranger, job):
    """It, and not the process that has the number of the last one."""
    (tmp_path / "slow").mkdir()
    slow = tmp_path / "slow" / "gcloud"
    slow.write_text(
        '#!/usr/bin/env bash\ncase "$*" in *overrides.gin*) touch "$FAKE_CLOUD/uploading"; sleep 600 ;; esac\n'
        f'exec "{Path(__file__).parent / "fakes" / "gcloud"}" "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    ended = State(attempt=1, outcome=Outcome.DONE)
    record.Record(job(), os.getcwd(), 1.0, state=ended, pid=stranger.pid, host=socket.gethostname()).save()
    words = [*JOB, *TPU, *QUICK, "--accelerator=v4-8"]
    launcher = subprocess.Popen([sys.executable, "-m", "xtr.cli.main", *words], stderr=subprocess.PIPE, text=True)
    begun(cloud.root / "uploading", launcher)
    assert run(["launch", "stop", "job"]) == 0
    assert launcher.wait(timeout=60) == 42, launcher.stderr.read()
    assert stranger.poll() is None
    assert not cloud.calls("create") and not (cloud.bucket / "runs" / "a" / "JOB").exists()
    assert record.load("job").state.outcome == "stopped"


def test_stop_signals_no_process_of_another_machine(cloud, stranger, job):
    found = record.Record(job(), os.getcwd(), 1.0)
    with record.held(found):
        assert record.load("job").pid == os.getpid()  # at once
        found.pid, found.host = stranger.pid, "elsewhere"
        found.save()
        with pytest.raises(UserError, match=f"process {stranger.pid} of elsewhere: give `xtr launch stop job` there"):
            run(["launch", "stop", "job"])
    assert stranger.poll() is None


def test_stop_deletes_what_a_launcher_was_to_keep(cloud):
    cloud.xtr('trap "touch saved; exit 42" TERM\ntouch up\nfor _ in $(seq 300); do sleep 0.1; done\n')
    words = [*JOB, *TPU, *QUICK, "--accelerator=v4-8", "--keep"]
    launcher = subprocess.Popen([sys.executable, "-m", "xtr.cli.main", *words], stderr=subprocess.PIPE, text=True)
    begun(cloud.bucket / "up", launcher)
    assert run(["launch", "stop", "job"]) == 0
    assert launcher.wait(timeout=60) == 42
    assert (cloud.bucket / "saved").exists() and "job" not in cloud.state()


def test_who_reads_a_jobs_log_may_go_away(cloud):
    """The job goes on, and its exit code is its own."""
    cloud.xtr("echo one\nwhile [ ! -e go ]; do sleep 0.1; done\nseq 1000\nsleep 1\ntouch finished\nexit 3\n")
    words = [*JOB, *TPU, *QUICK, "--accelerator=v4-8", "--retries=0"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "xtr.cli.main", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert launcher.stdout.readline() == "one\n"
    launcher.stdout.close()
    (cloud.bucket / "go").touch()
    said = launcher.stderr.read()
    assert launcher.wait(timeout=60) == 1 and "process 0 ended with 3" in said and "Traceback" not in said
    assert (cloud.bucket / "finished").exists() and "job" not in cloud.state()


def test_a_check_that_nobody_reads_has_not_passed(cloud):
    reader, writer = os.pipe()
    os.close(reader)
    words = [*JOB, *TPU, "--accelerator=v4-8", "--check=names"]
    done = subprocess.run([sys.executable, "-m", "xtr.cli.main", *words], stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 1


def test_exit_codes_reach_the_shell(cloud):
    cloud.xtr("exit 2\n")
    words = [*JOB, *TPU, *QUICK, "--accelerator=v4-8"]
    done = subprocess.run([sys.executable, "-m", "xtr.cli.main", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "refused" in done.stderr and "Traceback" not in done.stderr


# --------------------------------------------------------------------------------------------------------------- check


def checked(capsys, *words: str) -> tuple[bool, str]:
    """Whether a check passes, and what it says."""
    try:
        run([*JOB, *words])
        good = True
    except UserError as error:
        assert "checks failed" in str(error)
        good = False
    return good, capsys.readouterr().out


def test_a_check_of_names_passes_where_all_is_there(cloud, capsys):
    good, said = checked(capsys, *TPU, "--accelerator=v5litepod-256", "--check=names")
    assert good
    assert "256 chips on 64 machines of 4, 256 JAX devices" in said and "gs://my-bucket can hold runs" in said
    assert "us-west4-a has v5litepod-256, software v2-alpha-tpuv5-lite" in said
    assert not cloud.calls("create") and not list(cloud.bucket.iterdir())


@pytest.mark.parametrize(
    "cues, more, said",
    [
        ({"flat_buckets": True}, [], "no hierarchical namespace"),
        ({"forbidden_buckets": ["my-bucket"]}, [], "gs://my-bucket cannot be written: .*403"),
        ({"unknown_types": ["v5litepod-256"]}, [], "us-west4-a shows no v5litepod-256"),
        ({}, ["--bucket=gs://not-there"], "gs://not-there cannot be written: .*404"),
    ],
)
@pytest.mark.parametrize("alone", [True, False], ids=["a check", "a launch"])
def test_a_check_names_what_would_fail(alone, cues, more, said, cloud, capsys):
    """And so does a job that is launched without one."""
    import re

    cloud.cue(**cues)
    words = [*TPU, "--accelerator=v5litepod-256", *more, *(["--check=names"] if alone else [])]
    with pytest.raises(UserError, match="checks failed"):
        run([*JOB, *words])
    told = capsys.readouterr()
    text = told.out if alone else told.err
    assert re.search(said, text), text
    assert not cloud.calls("create") and not list(cloud.bucket.iterdir()) and "job" not in record.names()


def test_a_bucket_elsewhere_is_a_warning(cloud, capsys):
    cloud.cue(bucket_location="EUROPE-WEST4")
    good, said = checked(capsys, *TPU, "--accelerator=v5litepod-256", "--check=names")
    assert good and "lies in europe-west4, the machines in us-west4" in said


def test_a_name_that_is_taken_is_found(cloud, capsys):
    state = {"created": 1, "used": {}, "job": {"state": "ACTIVE", "number": 1, "flags": {}, "polls": 0}}
    (cloud.root / "state.json").write_text(json.dumps(state))
    good, said = checked(capsys, *TPU, "--accelerator=v5litepod-256", "--check=names")
    assert not good and "there are machines called job already (ACTIVE)" in said


@pytest.mark.parametrize(
    "cues, good, said",
    [
        ({}, True, "64 nodes of tpu-v6e-slice 8x8 are up"),
        ({"nodes": 3}, True, "3 nodes of tpu-v6e-slice 8x8 are up, the job needs 16"),
        ({"missing": ["crd jobsets.jobset.x-k8s.io"]}, False, "the cluster shows no JobSets"),
        ({"missing": ["localqueue tpu"]}, False, "no Kueue queue tpu"),
    ],
)
def test_a_check_of_a_cluster(cues, good, said, cloud, capsys):
    cloud.cue(**cues)
    passed, text = checked(capsys, *GKE, "--accelerator=v6e:8x8", "--check=names")
    assert passed == good and said in text, text


def test_who_may_not_look_at_a_cluster_may_launch(monkeypatch, job):
    told = Result(1, "", 'Error from server (Forbidden): nodes is forbidden: User "me" cannot list resource "nodes"')
    monkeypatch.setattr(check, "_ask", lambda *argv: told)
    found = check._gke(job("gke", queue="tpu")) + check._tpu_vm(job())
    assert len(found) == 4 and {finding.mark for finding in found} == {check.WARN}


def test_a_check_without_gcloud_says_so(cloud, capsys, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    good, said = checked(capsys, *TPU, "--accelerator=v4-8", "--check=names")
    assert not good and "not on PATH: gcloud" in said


@pytest.fixture
def small_model(cloud):
    """A gin file of a model that compiles in seconds."""
    Path("tiny.gin").write_text(
        "include 'models/mt5/micro.gin'\nmt5.MT5Config.emb_dim = 128\nmt5.MT5Config.num_heads = 4\n"
        "mt5.MT5Config.head_dim = 32\nmt5.MT5Config.mlp_dim = 256\nVOCAB_SIZE = 512\n"
    )
    return [
        *("launch", "train", "--gin_file=tiny.gin", "--gin_file=runs/finetune.gin", "--gin_file=intermediate/mnli.gin"),
        *("--gin.VOCABULARY_PATH=vocabulary", "--gin.MODEL_DIR=runs/a", "--name=job", "--gin.TRAIN_STEPS=1000"),
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 32}",
    ]


@pytest.mark.slow
def test_a_check_asks_the_compiler_what_a_job_takes(small_model, cloud, capsys, monkeypatch, tmp_path):
    from xtr.parallel.topology import has_compiler

    if not has_compiler():
        pytest.skip("libtpu, the TPU's compiler, is not installed")
    monkeypatch.setenv("XTR_CACHE_DIR", str(tmp_path / "cache"))
    words = [*small_model, *TPU, "--accelerator=v5litepod-16", "--gin.BATCH_SIZE=16", "--check"]
    assert run([*words, "--price_per_chip_hour=2"]) == 0
    said = capsys.readouterr().out
    assert "GiB of a device" in said and "1,000 steps take at least" in said and "at 2 a chip-hour" in said
    with pytest.raises(UserError, match="checks failed"):
        run([*words, "--max_hours=0.000001"])
    assert "ends before that" in capsys.readouterr().out
    with pytest.raises(UserError, match="checks failed"):
        run([*small_model, *TPU, "--accelerator=v5litepod-16", "--gin.BATCH_SIZE=1048576", "--check"])
    assert "lacks" in capsys.readouterr().out
