"""Jobs on a fake cloud, from asking for machines to taking them down, with everything that can go wrong between."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from xtr.errors import UserError
from xtr.launch import execute, record, supervise

LONG = 'trap "exit 42" TERM\nfor _ in $(seq 300); do sleep 0.1; done\n'
SAVING = 'trap "touch saved; exit 42" TERM\ntouch up\nfor _ in $(seq 300); do echo step; sleep 0.1; done\n'


def once_then(first: str, then: str = "exit 0") -> str:
    """The body of an xtr that does one thing in its first start on a machine's bucket, and another thing later."""
    return f'if mkdir "$FAKE_CLOUD/started-$FAKE_MACHINE" 2>/dev/null; then\n{first}\nelse\n{then}\nfi\n'


def begin(first: str = "", **how) -> subprocess.Popen:
    """A launcher of a small job in a process of its own; `first`: what that process does before."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from conftest import *\n{first}\n"
    return subprocess.Popen([sys.executable, "-c", f"{code}sys.exit(run_job(make_job())[0])"], **how)


def interrupt_when(there, times: int = 1, number: int = signal.SIGINT) -> None:
    """Interrupts this process, once `there()` is true; again after a second each."""

    def interrupt():
        while not there():
            time.sleep(0.05)
        for _ in range(times):
            time.sleep(1.0)
            os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()


def lock_of(cloud) -> Path:
    return cloud.bucket / "f" / "runs" / "a" / "JOB"


def left_nothing(cloud) -> bool:
    """Whether neither machines, nor a lock, nor a process are left."""
    kept = set(cloud.state()) - {"created", "used"}
    return not kept and not lock_of(cloud).exists()


def test_a_job_on_tpu_vms_is_created_run_and_deleted(cloud, capsys, job, start):
    cloud.cue(machines=2, capacity_after=[2])
    cloud.xtr('echo "from $XTR_EXPECT_PROCESSES in $PWD: $*"; echo done > "made-$FAKE_MACHINE"\n')
    code, found = start(job())
    assert code == 0 and found.state.outcome == "done" and found.state.attempt == 1
    shown = capsys.readouterr().out
    line = "train --gin_file=models/mt5/small.gin --gin_file=jobs/job/overrides.gin"
    assert shown.count("from 2 in ") == 1 and line in shown  # process 0's log alone
    assert (cloud.bucket / "f" / "made-0").exists() and (cloud.bucket / "f" / "made-1").exists()
    assert line in (cloud.bucket / "f" / "jobs" / "job" / "log" / "attempt-1.txt").read_text()
    assert len(cloud.calls("create")) == len(cloud.calls("delete")) == 1
    assert left_nothing(cloud)


@pytest.mark.parametrize("grace", [0, 20], ids=["without notice", "with time to save"])
def test_a_preempted_job_gets_new_machines_and_goes_on(cloud, grace, job, start):
    cloud.cue(machines=2, preempt={"1": {"when": "buckets/my-bucket/f/all", "grace": grace}})
    cloud.xtr(once_then(f'touch "up-$FAKE_MACHINE"; [ -e up-0 ] && [ -e up-1 ] && touch all; {LONG}'))
    code, found = start(job(retries=0))
    assert code == 0
    assert found.state.crashes == 0 and found.state.preemptions >= 1 and cloud.state()["created"] == 2
    assert left_nothing(cloud)


def test_machines_that_vanish_without_ending_the_connection_are_missed(cloud, monkeypatch, job, start):
    monkeypatch.setattr(supervise, "GLANCE", 0.2)
    cloud.cue(machines=1, hang=True, preempt={"1": {"when": "buckets/my-bucket/f/up"}})
    cloud.xtr(once_then(f"touch up; {LONG}"))
    code, found = start(job(retries=0))
    assert code == 0 and found.state.preemptions == 1 and cloud.state()["created"] == 2 and left_nothing(cloud)


def test_a_crash_is_started_again_on_the_same_machines(cloud, job, start):
    cloud.cue(machines=2)
    cloud.xtr(once_then("exit 1"))
    code, found = start(job(retries=1))
    assert code == 0 and found.state.crashes == 1 and cloud.state()["created"] == 1 and left_nothing(cloud)


def test_crashes_beyond_the_retries_end_the_job_and_its_machines(cloud, capsys, job, start):
    cloud.cue(machines=2)
    cloud.xtr('echo "it broke on $FAKE_MACHINE"; exit 1\n')
    code, found = start(job(retries=2))
    assert code == 1 and found.state.outcome == "crashed" and found.state.crashes == 3 and left_nothing(cloud)
    assert "[process 1] it broke on 1" in capsys.readouterr().out


def test_a_users_mistake_is_never_tried_again(cloud, job, start):
    cloud.xtr("echo 'xtr: no such thing' >&2; exit 2\n")
    code, found = start(job(retries=5))
    assert code == 2 and found.state.attempt == 1 and len(cloud.calls("create")) == 1 and left_nothing(cloud)


def test_a_broken_connection_is_taken_up_again_without_a_second_start(cloud, job, start, capsys):
    cloud.cue(machines=2, ssh_errors=["255", "255", "1"])
    cloud.xtr('echo x >> "starts-$FAKE_MACHINE"\nfor i in 1 2 3 4 5; do echo "step $i of $FAKE_MACHINE"; done\n')
    code, found = start(job(retries=0))
    assert code == 0 and found.state.crashes == 0 and found.state.attempt == 1
    assert (cloud.bucket / "f" / "starts-0").read_text() == "x\n"
    # What the connection said was shown, too, and was not taken for lines of the log.
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("step")] == [f"step {i} of 0" for i in range(1, 6)]
    assert "ssh: connect to host 10.0.0.1 port 22: Connection timed out" in shown
    assert not any("ended" in line for line in shown)


def test_capacity_that_never_comes_ends_the_job(cloud, job, start):
    cloud.cue(capacity_after=["never"])
    code, found = start(job(wait_hours=0.5 / 3600))
    assert code == 1 and found.state.outcome == "no capacity" and found.state.attempt == 0 and left_nothing(cloud)


def test_a_day_of_waiting_is_a_day_of_the_clock(cloud, job):
    """And not one of the test's: the clock is the job's own."""
    clock = supervise.Clock(now=lambda: clock.time)
    clock.time, pauses = 0.0, []

    def sleep(seconds, interrupted):
        pauses.append(seconds)
        clock.time += seconds

    clock.sleep = sleep
    cloud.cue(capacity_after=["never"])
    assert supervise.launch(record.Record(job(wait_hours=24), os.getcwd(), 1800.0), clock) == 1
    found = record.load("job").state
    assert found.outcome == "no capacity" and 24 * 3600 < clock.time < 27 * 3600
    assert pauses[0] == 1800.0 and max(pauses) == 7200.0 and left_nothing(cloud)


def test_a_request_that_failed_for_want_of_capacity_is_made_anew(cloud, job, start):
    cloud.cue(capacity_after=["fail", "fail", 0])
    code, found = start(job())
    assert code == 0 and cloud.state()["created"] == 3 and len(cloud.calls("delete")) == 3 and left_nothing(cloud)


def test_a_request_that_will_never_be_met_ends_the_job(cloud, job, start):
    cloud.cue(capacity_after=["fail"], why_failed="Quota limit 'TPUV4PodPerProject' has been exceeded")
    code, found = start(job())
    assert code == 2 and "Quota" in found.state.reason and left_nothing(cloud)


def test_creating_that_fails_for_a_while_is_tried_again(cloud, job, start):
    cloud.cue(create_errors=["UNAVAILABLE: try again", "INTERNAL: oops"], describe_errors=["", "INTERNAL: oops"])
    code, found = start(job())
    assert code == 0 and cloud.state()["created"] == 1 and left_nothing(cloud)


def test_a_request_that_is_not_allowed_is_not_repeated(cloud, job, start):
    cloud.cue(create_errors=["PERMISSION_DENIED: you may not"])
    code, found = start(job())
    assert code == 2 and len(cloud.calls("create")) == 1 and left_nothing(cloud)


def test_deleting_is_tried_until_it_succeeds(cloud, job, start):
    cloud.cue(delete_errors=["INTERNAL: oops", "UNAVAILABLE: try again"])
    code, _ = start(job())
    assert code == 0 and len(cloud.calls("delete")) == 3 and left_nothing(cloud)


def test_machines_that_cannot_be_deleted_are_named_with_the_command_that_does(cloud, capsys, job, start):
    cloud.cue(delete_errors=["INTERNAL: oops"] * 100)
    code, found = start(job())
    said = capsys.readouterr().err
    assert code == 1 and not found.state.deleted and found.is_open
    assert "MAY STILL BE THERE" in said and "gcloud compute tpus queued-resources delete job --force" in said
    assert lock_of(cloud).exists()  # something may still write there
    cloud.cue(delete_errors=[])
    assert supervise.stop(record.load("job")) == 0 and left_nothing(cloud)


def test_machines_are_kept_where_the_user_says_so(cloud, capsys, job, start):
    code, _ = start(job(keep=True))
    assert code == 0 and not cloud.calls("delete") and "job" in cloud.state()
    assert "gcloud compute tpus queued-resources delete job" in capsys.readouterr().err
    code, found = start(job())  # on the machines that are there
    assert code == 0 and found.state.attempt == 2 and cloud.state()["created"] == 1 and left_nothing(cloud)


def test_a_job_that_takes_too_long_saves_and_ends(cloud, monkeypatch, job, start):
    """Its ten minutes are over when it has begun."""
    cloud.xtr('trap "touch saved; exit 42" TERM\ntouch up\nfor _ in $(seq 300); do sleep 0.1; done\n')
    up = cloud.bucket / "f" / "up"
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + (1000 if up.exists() else 0))
    monkeypatch.setattr(execute, "time", clock)
    code, found = start(job(max_hours=600 / 3600))
    assert code == 42 and found.state.outcome == "out of time" and left_nothing(cloud)
    assert (cloud.bucket / "f" / "saved").exists()


@pytest.mark.parametrize("moment", ["waiting", "running"])
def test_an_interrupted_launcher_leaves_nothing_behind(cloud, moment, job, start):
    cloud.cue(capacity_after=["never" if moment == "waiting" else 0])
    cloud.xtr(SAVING)
    interrupt_when((cloud.bucket / "f" / "up").exists if moment == "running" else lambda: "job" in cloud.state())
    code, found = start(job())
    assert code == 42 and found.state.outcome == "stopped" and left_nothing(cloud)
    assert (cloud.bucket / "f" / "saved").exists() == (moment == "running")


def test_two_jobs_never_have_one_run_directory(cloud, job, start):
    cloud.cue(capacity_after=["never"])
    start(job(name="first", wait_hours=0.2 / 3600, keep=True))
    lock_of(cloud).write_text('{"job": "first"}\n')
    before = len(cloud.calls("create"))
    with pytest.raises(UserError, match="belongs to another job.*first.*gcloud storage rm"):
        start(job(name="second"))
    assert len(cloud.calls("create")) == before and lock_of(cloud).read_text() == '{"job": "first"}\n'
    found = record.load("second")
    assert found.state.outcome == "refused" and not found.is_open


def test_files_that_cannot_be_uploaded_stop_a_job_before_anything_is_created(cloud, job, start):
    Path("xtr-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match="cannot be brought to gs://my-bucket/f/jobs/job"):
        start(job())
    assert not cloud.calls("create") and left_nothing(cloud)


def test_a_bucket_without_rights_is_named(cloud, job, start):
    cloud.cue(forbidden_buckets=["my-bucket"])
    with pytest.raises(UserError, match="gs://my-bucket/f/runs/a cannot be written: .*403"):
        start(job())
    assert not cloud.calls("create")


def test_a_job_whose_launcher_was_killed_is_watched_on(cloud):
    """The run goes on meanwhile, and is not started a second time."""
    cloud.xtr("echo x >> starts; echo one; while [ ! -e go ]; do sleep 0.1; done; echo two\n")
    launcher = begin(stdout=subprocess.PIPE, text=True)
    assert launcher.stdout.readline() == "one\n"
    launcher.kill()
    launcher.wait()
    found = record.load("job")
    assert found.is_open and not record.watched(found)
    (cloud.bucket / "f" / "go").touch()
    assert supervise.resume(found) == 0
    assert (cloud.bucket / "f" / "starts").read_text() == "x\n"
    assert cloud.state()["created"] == 1 and left_nothing(cloud)


def test_an_open_job_is_not_launched_twice(cloud, job, start):
    record.Record(job(), os.getcwd(), 1.0).save()
    with pytest.raises(UserError, match="has not ended: `xtr launch resume job`"):
        start(job())


def test_a_stopped_job_is_resumed(cloud, job, start):
    cloud.cue(machines=1)
    cloud.xtr(once_then("exit 1"))
    code, found = start(job(retries=0))
    assert code == 1
    assert supervise.resume(found) == 0
    again = record.load("job")
    assert again.state.outcome == "done" and again.state.attempt == 2 and left_nothing(cloud)
    assert supervise.resume(again) == 0 and len(cloud.calls("create")) == 2  # nothing is left to do


def test_missing_gcloud_is_a_users_mistake(cloud, monkeypatch, job, start):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="gcloud is not on PATH"):
        start(job())


def test_an_image_runs_in_the_place_of_a_wheel(cloud, capsys, job, start):
    cloud.xtr('echo "in the image: $*"; touch made\n')
    image = f"example.com/xtr@sha256:{'0' * 64}"
    code, _ = start(job(wheel="", image=image))
    assert code == 0 and (cloud.bucket / "f" / "made").exists()
    assert "in the image: train --gin_file=models/mt5/small.gin" in capsys.readouterr().out
    called = (cloud.root / "docker.txt").read_text()
    assert f"{image} xtr train" in called and "--privileged --network=host" in called
    assert not (cloud.root / "uv.txt").exists()


def test_machines_of_several_slices_are_numbered_through(cloud, job, start):
    """By what their metadata server says of each: the slice, and the machine in it."""
    cloud.cue(machines=4, slices=2)
    code, _ = start(job(slices=2, keep=True))
    assert code == 0
    folders = cloud.root.glob("vm/1/*/xtr-launch/jobs/job/process-*")
    assert sorted((path.parts[-5], path.name) for path in folders) == [(str(k), f"process-{k}") for k in range(4)]


def test_a_second_interrupt_does_not_wait_for_a_run_that_does_not_stop(cloud, job, start):
    cloud.xtr('trap "" TERM\ntouch up\nfor _ in $(seq 600); do sleep 0.1; done\n')
    interrupt_when((cloud.bucket / "f" / "up").exists, times=2)
    code, found = start(job())
    assert code == 42 and found.state.outcome == "stopped" and left_nothing(cloud)


def test_a_closed_terminal_is_one_request(monkeypatch):
    """Its shell says so by a signal, the system by another, the login by a third; each else counts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupts = supervise.Interrupts()
    with interrupts.installed():
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        assert interrupts() and not interrupts.take().forced
        monkeypatch.setattr(supervise, "TOGETHER", 0.0)
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.take().forced
    twice = supervise.Interrupts()
    monkeypatch.setattr(supervise, "TOGETHER", 600.0)
    with twice.installed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert twice.take().forced
    signal.signal(signal.SIGHUP, before)


def test_below_nohup_a_closed_terminal_is_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with supervise.Interrupts().installed():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    signal.signal(signal.SIGHUP, before)


def test_a_job_whose_terminal_is_closed_saves_and_leaves_nothing(cloud):
    """Though nothing can be said any more."""
    cloud.xtr(SAVING)
    ours, theirs = pty.openpty()
    own_terminal = (
        "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    )
    launcher = begin(own_terminal, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    while not (cloud.bucket / "f" / "up").exists():
        assert launcher.poll() is None, os.read(ours, 10_000)
        time.sleep(0.05)
    os.close(ours)
    time.sleep(0.3)
    launcher.send_signal(signal.SIGHUP)  # the shell's own
    assert launcher.wait(timeout=100) == 42
    assert (cloud.bucket / "f" / "saved").exists() and left_nothing(cloud)
    assert record.load("job").state.outcome == "stopped"


def test_a_line_that_the_terminal_cannot_show_is_shown_by_its_codes(cloud, monkeypatch, job, start):
    with open("shown", "w", encoding="ascii") as shown:
        monkeypatch.setattr(sys, "stdout", shown)
        cloud.xtr("echo '\u4eba here'\n")
        code, _ = start(job())
    assert code == 0 and "\\u4eba here\n" in Path("shown").read_text()


def test_a_defect_of_the_launcher_leaves_nothing_behind(cloud, monkeypatch, job, start):
    """Not even where it cannot write down what happened."""

    def full(self, text):
        raise OSError(28, "No space left on device")

    def follow(*arguments):
        monkeypatch.setattr(record.Record, "note", full)
        raise RuntimeError("a defect")

    monkeypatch.setattr(supervise, "follow", follow)
    with pytest.raises(RuntimeError, match="a defect"):
        start(job())
    assert len(cloud.calls("create")) == len(cloud.calls("delete")) == 1 and left_nothing(cloud)


# --------------------------------------------------------------------------------------------- what is another job's


def make_others(cloud, backend: str) -> Path:
    """Machines of somebody else under the name of the small job; the file that holds them."""
    if backend == "tpu_vm":
        path, facts = cloud.root / "state.json", {"created": 1, "used": {}}
        facts["job"] = {"state": "ACTIVE", "number": 1, "flags": {}, "polls": 0}
    else:
        path = cloud.root / "jobsets" / "job" / "jobset.json"
        path.parent.mkdir(parents=True)
        facts = {"spec": {"replicatedJobs": [{"replicas": 1}]}, "status": {"replicatedJobsStatus": [{"ready": 1}]}}
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("backend", ["tpu_vm", "gke"])
def test_machines_of_another_job_are_neither_taken_nor_deleted(cloud, backend, job, start):
    theirs = make_others(cloud, backend)
    with pytest.raises(UserError, match="machines called job already.*choose another --name.* delete "):
        start(job(backend))
    assert not list(cloud.bucket.iterdir()) and "job" not in record.names()
    assert not cloud.calls("create") and not cloud.calls("delete")
    assert theirs.exists() and (backend == "gke" or "job" in cloud.state())


def test_a_job_does_not_begin_where_it_cannot_be_seen_whether_its_name_is_free(cloud, job, start):
    cloud.cue(describe_errors=["UNAVAILABLE: try again"])
    with pytest.raises(UserError, match="cannot be seen: .*UNAVAILABLE"):
        start(job())
    assert not cloud.calls("create") and not list(cloud.bucket.iterdir())


def test_an_ended_job_leaves_alone_what_has_its_name_now(cloud, job, start, capsys):
    cloud.xtr("exit 1\n")
    _, found = start(job(retries=0))
    deleted = len(cloud.calls("delete"))
    make_others(cloud, "tpu_vm")
    lock_of(cloud).write_text('{"job": "other"}\n')
    with pytest.raises(UserError, match="machines called job already"):
        supervise.resume(found)
    assert supervise.stop(record.load("job")) == 0
    assert "job has ended (crashed), and nothing of it is left" in capsys.readouterr().err
    assert "job" in cloud.state() and len(cloud.calls("delete")) == deleted and lock_of(cloud).exists()


def test_kept_machines_are_taken_by_a_job_that_asks_for_such_alone(cloud, job, start):
    start(job(keep=True))
    with pytest.raises(UserError, match="kept its machines, and this one asks for others: `xtr launch stop job`"):
        start(job(zone="us-east5-b"))
    assert supervise.stop(record.load("job")) == 0 and left_nothing(cloud)
    assert start(job(zone="us-east5-b"))[0] == 0


def test_a_launcher_that_was_killed_while_it_deleted_has_left_its_job_open(cloud, job, start):
    _, found = start(job(keep=True))
    found.spec = job()  # as if it had been about to delete them
    found.save()
    found = record.load("job")
    assert found.is_open and supervise.resume(found) == 0
    assert record.load("job").state.attempt == 1 and left_nothing(cloud)


@pytest.mark.parametrize("moment", ["while it runs", "before it is stopped"])
def test_a_run_directory_that_another_job_has_taken_is_left_to_it(cloud, moment, job, start):
    other = '{"job": "other"}\n'
    if moment == "while it runs":
        cloud.xtr(f"echo '{other.strip()}' > runs/a/JOB\n")
        assert start(job())[0] == 0
    else:
        cloud.cue(delete_errors=["INTERNAL: oops"] * 100)
        _, found = start(job())
        lock_of(cloud).write_text(other)
        cloud.cue(delete_errors=[])
        assert supervise.stop(found) == 0
    assert "job" not in cloud.state() and lock_of(cloud).read_text() == other


def test_a_run_that_stopped_on_kept_machines_gives_its_directory_back(cloud, job, start):
    cloud.xtr(SAVING)
    interrupt_when((cloud.bucket / "f" / "up").exists)
    code, found = start(job(keep=True))
    assert code == 42 and (cloud.bucket / "f" / "saved").exists()
    assert "job" in cloud.state() and not lock_of(cloud).exists() and not found.is_open


def test_a_run_that_may_go_on_upon_kept_machines_keeps_its_directory(cloud, capsys, job, start):
    cloud.xtr('trap "" TERM\ntouch up\nwhile [ ! -e end ]; do sleep 0.1; done\n')
    interrupt_when((cloud.bucket / "f" / "up").exists, times=2)
    code, found = start(job(keep=True))
    assert code == 42 and lock_of(cloud).exists() and found.is_open
    assert "its run may go on there: `xtr launch stop job` ends it" in capsys.readouterr().err
    with pytest.raises(UserError, match="has not ended"):
        start(job())
    (cloud.bucket / "f" / "end").touch()
    assert supervise.stop(found) == 0 and left_nothing(cloud)


def test_a_jobset_that_is_kept_goes_on_and_keeps_its_directory(cloud, job, start):
    cloud.xtr(SAVING)
    interrupt_when((cloud.bucket / "f" / "up").exists)
    code, found = start(job("gke", keep=True))
    assert code == 42 and lock_of(cloud).exists() and found.is_open
    assert (cloud.root / "jobsets" / "job" / "jobset.json").exists()
    assert supervise.stop(found) == 0 and left_nothing(cloud)
    assert not (cloud.root / "jobsets" / "job" / "jobset.json").exists()


# ------------------------------------------------------------------------------------------------------------- others


def test_a_job_here_goes_the_same_way(cloud, capsys, job, start):
    cloud.xtr(
        'echo "$XTR_PROCESS_ID of $XTR_NUM_PROCESSES at $XTR_COORDINATOR"; [ -e again ] || { touch again; exit 1; }\n'
    )
    code, found = start(job("local", retries=2))
    assert code == 0 and found.state.outcome == "done" and 1 <= found.state.crashes <= 2
    assert "0 of 2 at 127.0.0.1:" in capsys.readouterr().out
    assert not Path("runs/a/JOB").exists() and Path("jobs/job/log/attempt-1.txt").exists()


def test_a_job_here_that_is_interrupted_saves(cloud, job, start):
    cloud.xtr(
        'trap "touch saved-$XTR_PROCESS_ID; exit 42" TERM\n'
        'touch "up-$XTR_PROCESS_ID"\nfor _ in $(seq 300); do sleep 0.1; done\n'
    )
    interrupt_when(lambda: Path("up-0").exists() and Path("up-1").exists(), number=signal.SIGTERM)
    code, found = start(job("local"))
    assert code == 42 and found.state.outcome == "stopped"
    assert Path("saved-0").exists() and Path("saved-1").exists()


def test_a_jobset_is_created_followed_and_deleted(cloud, capsys, job, start):
    cloud.cue(queue_seconds=0.3)
    # It ends once its log is asked for.
    cloud.xtr(
        'echo "$XTR_EXPECT_PROCESSES $TPU_WORKER_ID"; touch "made-$MEGASCALE_SLICE_ID-$TPU_WORKER_ID"\n'
        'for _ in $(seq 600); do grep -q \'"logs"\' "$FAKE_CLOUD/calls.jsonl" && break; sleep 0.1; done\n'
    )
    code, found = start(job("gke", slices=2, queue="tpu"))
    assert code == 0 and found.state.outcome == "done"
    assert "4 0\n" in capsys.readouterr().out
    made = sorted(path.name for path in (cloud.bucket / "f").glob("made-*"))
    assert made == ["made-0-0", "made-0-1", "made-1-0", "made-1-1"]
    assert not (cloud.root / "jobsets" / "job" / "jobset.json").exists() and left_nothing(cloud)


def test_a_jobset_starts_again_after_a_preemption_and_after_a_crash_and_counts_the_crash_alone(cloud, job, start):
    """By the policies of the manifest, as its controller reads them."""
    cloud.cue(preempt={"0": {"when": "buckets/my-bucket/f/up-*"}})
    cloud.xtr(
        'case $(ls "$FAKE_CLOUD/jobsets/job" | grep -c "pod-.*-0-0") in\n'
        f'1) touch "up-$TPU_WORKER_ID"\n{LONG};;\n2) exit 42;;\n3) exit 1;;\nesac\n'
    )
    code, found = start(job("gke", retries=1))
    assert code == 0 and "started again 3 times" in found.state.reason and left_nothing(cloud)


def test_a_jobset_that_crashes_too_often_fails(cloud, job, start):
    cloud.xtr("exit 1\n")
    code, found = start(job("gke", retries=1))
    assert code == 1 and "BackoffLimitExceeded" in found.state.reason and left_nothing(cloud)


def test_a_users_mistake_ends_a_jobset_at_once(cloud, job, start):
    cloud.xtr("sleep 0.5; exit 2\n")
    code, found = start(job("gke", retries=50))
    assert code == 2 and left_nothing(cloud)
    assert not (cloud.root / "jobsets" / "job" / "jobset.json").exists()
