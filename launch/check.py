"""Whether a job can work, and what it takes, before anything is created."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from typing import Any

import xtr
from xtr.doctor import OK, WARN, WRONG, Finding, check_bucket
from xtr.errors import UserError
from xtr.launch import backends, machines, supervise
from xtr.launch.actions import Run
from xtr.launch.execute import Result, execute
from xtr.launch.spec import RunSpec

_PROGRAMS = {"local": ("bash", "setsid", "xtr"), "tpu_vm": ("gcloud",), "gke": ("gcloud", "kubectl")}


def names(spec: RunSpec) -> list[Finding]:
    """Programs, sizes, the bucket and what the cloud offers; nothing is compiled."""
    missing = [program for program in _PROGRAMS[spec.backend] if not shutil.which(program)]
    if missing:
        return [Finding(WRONG, f"not on PATH: {', '.join(missing)}", "install it; `xtr doctor` looks for all")]
    found = [Finding(OK, _size(spec))]
    if spec.backend == "local":
        return found
    if spec.wheel and f"xtr-{xtr.__version__}-" not in spec.wheel:
        what = f"{spec.wheel} is not xtr {xtr.__version__}, by which the configuration was checked"
        found.append(Finding(WARN, what, "`python -m build --wheel` writes that"))
    found += check_bucket(spec.bucket) + _region(spec)
    return found + (_tpu_vm(spec) if spec.backend == "tpu_vm" else _gke(spec))


def taken(spec: RunSpec) -> list[Finding]:
    """Whether the job's name is another job's."""
    try:
        supervise.check_name(backends.plan(spec), spec)
    except UserError as error:
        return [Finding(WRONG, str(error))]
    return []


def _size(spec: RunSpec) -> str:
    if spec.topology is None:
        return f"{spec.processes} processes on this machine"
    return (
        f"{spec.topology}: {spec.topology.chips} chips on {spec.processes} machines of "
        f"{machines.chips_per_host(spec.topology)}, {spec.topology.num_devices} JAX devices"
    )


def _ask(*argv: str) -> Result:
    return execute(Run(argv), 120.0)


def _mark(told: Result) -> str:
    """How bad it is that a question was not answered: who may not ask may still launch."""
    hidden = any(word in told.err.lower() for word in ("forbidden", "permission"))
    return WARN if hidden else WRONG


def _region(spec: RunSpec) -> list[Finding]:
    """Whether bucket and machines lie in one region: else every byte crosses regions, which costs time and money."""
    told = _ask("gcloud", "storage", "buckets", "describe", f"gs://{spec.bucket_name}", "--format=json")
    try:
        location = json.loads(told.out)["location"].lower()
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    region = spec.zone.rpartition("-")[0]
    if not region or location in (region, region.partition("-")[0]):
        return []
    return [
        Finding(WARN, f"gs://{spec.bucket_name} lies in {location}, the machines in {region}", "use one in that region")
    ]


def _tpu_vm(spec: RunSpec) -> list[Finding]:
    where = [f"--zone={spec.zone}", *([f"--project={spec.project}"] if spec.project else [])]
    kind = spec.topology.gcloud
    told = _ask("gcloud", "compute", "tpus", "accelerator-types", "describe", kind, *where, "--format=json")
    if told.code != 0:
        fix = "see `gcloud compute tpus accelerator-types list`"
        return [Finding(_mark(told), f"{spec.zone} shows no {kind}: {told.why}", fix)]
    return [Finding(OK, f"{spec.zone} has {kind}, software {machines.of(spec.topology, 'tpu_vm').runtime}")]


def _gke(spec: RunSpec) -> list[Finding]:
    kubectl = ("kubectl", *([f"--context={spec.context}"] if spec.context else ()))
    found = []
    told = _ask(*kubectl, "get", "crd", "jobsets.jobset.x-k8s.io", "--output=json")
    if told.code != 0:
        fix = "install JobSet 0.10 or later (docs/cloud.md)"
        found.append(Finding(_mark(told), f"the cluster shows no JobSets: {told.why}", fix))
    if spec.queue:
        told = _ask(*kubectl, "get", "localqueue", spec.queue, "--output=json")
        if told.code != 0:
            fix = "`kubectl get localqueues` lists those that there are"
            found.append(Finding(_mark(told), f"no Kueue queue {spec.queue} is seen: {told.why}", fix))
    machine, shape = machines.of(spec.topology, "gke"), machines.shape(spec.topology)
    label = f"cloud.google.com/gke-tpu-accelerator={machine.label},cloud.google.com/gke-tpu-topology={shape}"
    told = _ask(*kubectl, "get", "nodes", f"--selector={label}", "--output=json")
    try:
        nodes = len(json.loads(told.out)["items"])
    except (ValueError, KeyError, TypeError):
        what = f"the cluster does not say which nodes it has: {told.why}"
        return [*found, Finding(_mark(told), what, "`kubectl config get-contexts`")]
    kind = machine.machine.format(machines.chips_per_host(spec.topology))
    if nodes < spec.processes:
        found.append(
            Finding(
                WARN,
                f"{nodes} nodes of {machine.label} {shape} are up, the job needs {spec.processes}",
                f"well if the pool grows by itself; else make a pool of {kind} with --tpu-topology={shape}",
            )
        )
    else:
        found.append(Finding(OK, f"{nodes} nodes of {machine.label} {shape} are up"))
    return found


def fit(spec: RunSpec, load: Callable[[], Any], price_per_chip_hour: float | None) -> list[Finding]:
    """Whether the training fits the slices, by the compiler itself, and what it takes at least.

    Args:
      load: the run's plan, as `xtr plan` makes it.
      price_per_chip_hour: in any currency; None: chip-hours alone.
    """
    if spec.topology is None:
        return [Finding(OK, "nothing to compile for: the devices are this machine's")]
    if spec.command != "train":
        return [Finding(WARN, f"whether `xtr {spec.command}` fits was not tried: only training is compiled")]
    from xtr.plan.compile import programs_of
    from xtr.plan.estimate import analysis_of, cost, estimate
    from xtr.plan.store import Store

    try:
        run = load()
        compiled = Store(None).compiled(run, spec.topology, programs_of(("train",), run)[0])
    except UserError as error:
        return [Finding(WRONG, f"the training step cannot be compiled for {spec.topology}: {error}")]
    found = estimate(run, spec.topology, compiled, analysis_of(compiled, spec.topology) if compiled.memory else None)
    if not found.fits:
        gib = found.missing / 2**30
        fix = "more chips, a smaller BATCH_SIZE, more NUM_MICROBATCHES, or `xtr plan --search` for settings that fit"
        return [Finding(WRONG, f"the training step lacks {gib:.2f} GiB of a device's memory on {spec.topology}", fix)]
    gib, usable = found.memory.peak / 2**30, found.memory.usable / 2**30
    findings = [Finding(OK, f"the training step takes {gib:.1f} of {usable:.1f} GiB of a device")]
    takes = cost(dataclasses.replace(run, price_per_chip_hour=price_per_chip_hour), spec.topology, [found])
    if takes:
        money = "" if takes.money is None else f": {takes.money:,.2f} at {price_per_chip_hour:g} a chip-hour"
        what = (
            f"{run.train.train_steps:,} steps take at least {takes.hours:.2f} hours, {takes.chip_hours:,.1f} chip-hours"
        )
        findings.append(Finding(OK, what + money))
        if spec.max_hours and takes.hours > spec.max_hours:
            findings.append(
                Finding(WRONG, f"--max_hours={spec.max_hours:g} ends before that", "give it more, or fewer steps")
            )
    return findings
