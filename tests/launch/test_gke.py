"""Kubernetes Engine: limits of time, and the end of a JobSet."""

import json
import os
import signal
import threading
import time

import pytest

from xtr.launch import backends
from xtr.launch.backends import gke
from xtr.launch.plan import Seen


def seconds(manifest: dict) -> int | None:
    (slices,) = manifest["spec"]["replicatedJobs"]
    return slices["template"]["spec"].get("activeDeadlineSeconds")


def test_the_clusters_limit_is_never_reached_before_the_launchers(job):
    """A Job's clock runs while its pods wait for nodes, and while they save at the end."""
    assert seconds(gke.manifest(job("gke", max_hours=2.0, wait_hours=3.0))) == 5 * 3600 + 300
    assert seconds(gke.manifest(job("gke"))) is None


def test_only_the_limit_fails_a_jobset_at_once(job):
    """So that the reason of its failure, which does not name the rule, tells."""
    rules = gke.manifest(job("gke", max_hours=2.0))["spec"]["failurePolicy"]["rules"]
    assert [rule["name"] for rule in rules if rule["action"] == "FailJobSet"] == ["deadline"]


@pytest.mark.parametrize(
    "reason, seen",
    [
        ("FailJobSetFailurePolicyAction", Seen.EXPIRED), ("DeadlineExceeded", Seen.EXPIRED),
        ("ReachedMaxRestarts", Seen.FAILED), ("FailedJobs", Seen.FAILED), ("", Seen.FAILED),
    ],
)  # fmt: skip
def test_why_a_jobset_failed(reason, seen, job):
    failed = {"type": "Failed", "status": "True", "reason": reason, "message": "m"}
    found = gke.manifest(job("gke")) | {"status": {"conditions": [failed], "restarts": 2}}
    told = gke.observe(0, json.dumps(found), "")
    assert told.seen is seen and "started again 2 times" in told.detail


def test_a_jobset_out_of_the_clusters_time_is_out_of_time(cloud, job, start):
    cloud.cue(deadline={"0": {"when": "buckets/my-bucket/f/up-*"}})
    cloud.xtr(
        'trap "touch saved-$TPU_WORKER_ID; exit 42" TERM\ntouch up-$TPU_WORKER_ID\n'
        "for _ in $(seq 300); do sleep 0.1; done\n"
    )
    code, found = start(job("gke", max_hours=1.0))
    assert code == 42 and found.state.outcome == "out of time" and found.state.crashes == 0
    assert list((cloud.bucket / "f").glob("saved-*"))


def test_a_jobset_is_deleted_with_its_pods(job):
    (delete,) = backends.plan(job("gke")).delete
    assert {"--cascade=foreground", "--wait=true", "--timeout=360s"} <= set(delete.argv)


def test_the_run_directory_is_given_back_only_when_the_pods_have_saved(cloud, job, start):
    lock = cloud.bucket / "f" / "runs" / "a" / "JOB"
    cloud.xtr(
        f'trap "sleep 2; [ -e {lock} ] && touch saved-$TPU_WORKER_ID; exit 42" TERM\ntouch up-$TPU_WORKER_ID\n'
        "for _ in $(seq 300); do sleep 0.1; done\n"
    )

    def interrupt():
        while len(list((cloud.bucket / "f").glob("up-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    code, found = start(job("gke"))
    assert code == 42 and found.state.outcome == "stopped" and not lock.exists()
    assert {path.name for path in (cloud.bucket / "f").glob("saved-*")} == {"saved-0", "saved-1"}
