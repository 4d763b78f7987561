"""Kubernetes Engine: one JobSet, a Job a slice, a pod a machine. The cluster restarts it; Kueue may hold it in a queue.

Sources: kubernetes-sigs/jobset (API v1alpha2, the part that releases 0.10 to 0.12 share), Google Cloud's pages "TPUs in
GKE" (node labels, google.com/tpu) and "Cloud Storage FUSE CSI driver" (the bucket as a volume). The manifest is JSON,
which kubectl takes and in which no value can mean something else than its text.
"""

import json
from typing import Any

from xtr.launch import machines
from xtr.launch.actions import Run
from xtr.launch.backends import bucket
from xtr.launch.plan import Observation, Plan, Seen
from xtr.launch.script import VOLUME
from xtr.launch.spec import RunSpec

PREEMPTED = 42
_GRACE_SECONDS = 300  # to save in; a spot machine leaves a pod about 15 of them
# Why a JobSet failed: by its one rule that fails it at once, that of the deadline, or by a deadline of its own.
_EXPIRED = ("FailJobSetFailurePolicyAction", "DeadlineExceeded")
_SELECT = "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"


def _pod(spec: RunSpec) -> dict[str, Any]:
    topology, machine = spec.topology, machines.of(spec.topology, "gke")
    chips = {"google.com/tpu": str(machines.chips_per_host(topology))}
    selector = {
        "cloud.google.com/gke-tpu-accelerator": machine.label,
        "cloud.google.com/gke-tpu-topology": machines.shape(topology),
    }
    tolerations = [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}]
    if spec.provisioning == "spot":
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append(
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    if spec.reservation:
        selector["cloud.google.com/reservation-name"] = spec.reservation
    script = "/".join(part for part in (VOLUME, spec.bucket_folder, spec.job_dir, "start.sh") if part)
    attempt = "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"
    container = {
        "name": "xtr",
        "image": spec.image,
        "command": ["bash", script, "run", "$(XTR_ATTEMPT)"],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "XTR_ATTEMPT", "valueFrom": {"fieldRef": {"fieldPath": attempt}}},
        ],
        "ports": [{"containerPort": port} for port in (8471, 8080)],  # of libtpu: machines of a slice, and slices
        "resources": {"requests": dict(chips), "limits": dict(chips)},
        "volumeMounts": [{"name": "bucket", "mountPath": VOLUME}],
    }
    attributes = {"bucketName": spec.bucket_name, "mountOptions": "implicit-dirs,metadata-cache:ttl-secs:0"}
    volume = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "nodeSelector": selector,
        "tolerations": tolerations,
        "containers": [container],
        "volumes": [{"name": "bucket", "csi": volume}],
    }
    return pod | ({"serviceAccountName": spec.service_account} if spec.service_account else {})


def manifest(spec: RunSpec) -> dict[str, Any]:
    """The JobSet. What its controller would fill in (names of rules, states of conditions) is written out.

    A pod that its cluster takes away, or that ends with 42, fails its Job by the pod failure policy, and the JobSet
    starts again without counting it; any other failure counts up to `retries`. The deadline is a backstop for a
    launcher that is gone: a Job's clock also runs while its pods wait for nodes, and begins anew with each start.
    """
    hosts = machines.hosts_per_slice(spec.topology)
    free = [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "xtr", "operator": "In", "values": [PREEMPTED]},
        },
    ]
    job = {
        "backoffLimit": 0,
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "podFailurePolicy": {"rules": free},
        "template": {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": _pod(spec)},
    }
    if spec.max_hours:
        job["activeDeadlineSeconds"] = round((spec.max_hours + spec.wait_hours) * 3600) + _GRACE_SECONDS
    rules = [
        {
            "name": "deadline",
            "action": "FailJobSet",
            "onJobFailureReasons": ["DeadlineExceeded"],
        },
        {
            "name": "preempted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
        },
        {"name": "crashed", "action": "RestartJobSet", "onJobFailureReasons": ["BackoffLimitExceeded"]},
    ]
    metadata: dict[str, Any] = {
        "name": spec.name,
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
    }
    if spec.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": spec.queue}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": spec.retries, "rules": rules},
            "replicatedJobs": [{"name": "slice", "replicas": spec.topology.slices, "template": {"spec": job}}],
        },
    }


def observe(code: int, out: str, err: str) -> Observation:
    """What `kubectl get jobset -o json` says."""
    if code != 0:
        if "NotFound" in err:
            return Observation(Seen.ABSENT)
        return Observation(Seen.WAITING, f"kubectl: {(err.strip().splitlines() or ['no message'])[-1]}")
    try:
        found = json.loads(out)
        status = found.get("status") or {}
        slices = found["spec"]["replicatedJobs"][0]["replicas"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return Observation(Seen.WAITING, f"kubectl's answer is no JobSet ({type(error).__name__})")
    true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    restarts = status.get("restarts", 0)
    again = f", started again {restarts} times" if restarts else ""
    if "Completed" in true:
        return Observation(Seen.DONE, f"completed{again}")
    if "Failed" in true:
        if true["Failed"].get("reason") in _EXPIRED:
            return Observation(Seen.EXPIRED, f"the cluster's own limit is reached{again}")
        return Observation(Seen.FAILED, f"{true['Failed'].get('message', 'failed')}{again}")
    if "Suspended" in true:
        return Observation(Seen.WAITING, f"in Kueue's queue{again}")
    ready = sum(job.get("ready", 0) for job in status.get("replicatedJobsStatus") or ())
    if ready >= slices:
        return Observation(Seen.READY, f"running{again}", restarts + 1)
    return Observation(Seen.WAITING, f"{ready} of {slices} slices are ready{again}")


def plan(spec: RunSpec) -> Plan:
    """The life of a job on Kubernetes Engine."""
    kubectl = ("kubectl", *([f"--context={spec.context}"] if spec.context else ()))
    follow = (*kubectl, "logs", "--follow", f"--selector={_SELECT.format(spec.name)}", "--container=xtr")
    # In the foreground: the JobSet is there until its last pod has saved and ended; only then is the directory free.
    wait = ("--ignore-not-found", "--cascade=foreground", "--wait=true", f"--timeout={_GRACE_SECONDS + 60}s")
    delete = (*kubectl, "delete", "jobset", spec.name, *wait)
    return Plan(
        lock=bucket.lock(spec),
        read_lock=bucket.read_lock(spec),
        unlock=bucket.unlock(spec),
        upload=bucket.upload(spec),
        create=(Run((*kubectl, "create", "-f", "-"), json.dumps(manifest(spec), indent=2) + "\n"),),
        describe=Run((*kubectl, "get", "jobset", spec.name, "--output=json")),
        observe=observe,
        attach=lambda attempt, seen: (Run((*follow, "--tail=-1")),),
        stop=lambda seconds: (),
        delete=(Run(delete),),
        logs=lambda attempt: bucket.logs(spec, attempt),
        restarts=True,
    )
