"""TPU VMs by queued resources, Google Cloud's own way to ask for slices that may have to be waited for.

Sources: cloud.google.com/tpu/docs/queued-resources (states), gcloud's reference of `compute tpus queued-resources` and
`compute tpus tpu-vm ssh`. gcloud runs a command again whose connection broke, and gives back the first exit code that
is not 0; so what it runs must be the same however often it comes: `start.sh attach`.
"""

import json

from xtr.launch import machines
from xtr.launch.actions import Run
from xtr.launch.backends import bucket
from xtr.launch.plan import Observation, Plan, Seen
from xtr.launch.spec import RunSpec

# A machine that is gone does not say so: without these a connection to it may last for hours.
_ALIVE = tuple(f"--ssh-flag=-o{o}" for o in ("ServerAliveInterval=30", "ServerAliveCountMax=4", "ConnectTimeout=30"))
_STATES = {
    "CREATING": Seen.WAITING,
    "ACCEPTED": Seen.WAITING,
    "WAITING_FOR_RESOURCES": Seen.WAITING,
    "PROVISIONING": Seen.WAITING,
    "ACTIVE": Seen.READY,
    "FAILED": Seen.GONE,
    "SUSPENDING": Seen.GONE,
    "SUSPENDED": Seen.GONE,
    "DELETING": Seen.GONE,
}


def observe(code: int, out: str, err: str) -> Observation:
    """What `queued-resources describe --format=json` says. A failure that is no absence teaches nothing: WAITING."""
    if code != 0:
        if "NOT_FOUND" in err or "not found" in err.lower():
            return Observation(Seen.ABSENT)
        return Observation(Seen.WAITING, f"gcloud: {_last_line(err)}")
    try:
        state = json.loads(out)["state"]
        name = state["state"]
    except (ValueError, KeyError, TypeError) as error:
        return Observation(Seen.WAITING, f"gcloud's answer has no state ({type(error).__name__})")
    details = state.get(f"{name.lower()}Data") or {}
    why = (details.get("error") or {}).get("message", "") or state.get("stateInitiator", "")
    seen = _STATES.get(name, Seen.WAITING)
    if name == "FAILED" and any(word in why.lower() for word in ("quota", "permission", "invalid", "not found")):
        seen = Seen.REFUSED
    return Observation(seen, f"{name}{f': {why}' if why else ''}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def plan(spec: RunSpec) -> Plan:
    """The life of a job on TPU VMs."""
    topology, machine = spec.topology, machines.of(spec.topology, "tpu_vm")
    where = (f"--zone={spec.zone}", *([f"--project={spec.project}"] if spec.project else ()))

    def tpus(*words: str, alpha: bool = False) -> tuple[str, ...]:
        return ("gcloud", *(("alpha",) if alpha else ()), "compute", "tpus", *words)

    # The general release knows neither shapes of the newer kinds nor one certain reservation.
    usual = machines.is_usual(topology)
    kind = (
        (f"--accelerator-type={topology.gcloud}",)
        if usual
        else (f"--type={topology.accelerator.gcloud}", f"--topology={machines.shape(topology)}")
    )
    nodes = (
        (f"--node-id={spec.name}",)
        if topology.slices == 1
        else (f"--node-prefix={spec.name}", f"--node-count={topology.slices}")
    )
    how = {"on-demand": (), "spot": ("--spot",), "reserved": ("--reserved",)}[spec.provisioning]
    more = [f"--reservation={spec.reservation}"] if spec.reservation else []
    more += [f"--service-account={spec.service_account}"] if spec.service_account else []
    more += [f"--network={spec.network}"] if spec.network else []
    more += [f"--subnetwork={spec.subnetwork}"] if spec.subnetwork else []
    more += ["--internal-ips"] if spec.internal_ips else []
    create = Run(
        tpus(
            *("queued-resources", "create", spec.name, *nodes, *kind, f"--runtime-version={machine.runtime}"),
            *(*how, *more, f"--valid-until-duration={round(spec.wait_hours * 3600)}s", *where, "--quiet"),
            alpha=bool(spec.reservation) or not usual,
        )
    )

    def ssh(command: str) -> Run:
        """On every machine. `command` is read by a shell there: names are of letters that mean nothing to one."""
        through = (*_ALIVE, *(("--tunnel-through-iap",) if spec.internal_ips else ()))
        if topology.slices == 1:
            return Run(
                tpus(
                    *("tpu-vm", "ssh", spec.name, "--worker=all", f"--command={command}", *through, *where, "--quiet"),
                    alpha=spec.internal_ips,
                )
            )
        every = ("--node=all", "--worker=all", f"--batch-size={spec.processes}")
        return Run(
            tpus("queued-resources", "ssh", spec.name, *every, f"--command={command}", *through, *where, "--quiet")
        )

    script, source = f"xtr-launch/{spec.name}.sh", spec.place(f"{spec.job_dir}/start.sh")
    fetch = f"mkdir -p xtr-launch && gcloud storage cat {source} > {script}.new && mv {script}.new {script}"
    return Plan(
        lock=bucket.lock(spec),
        read_lock=bucket.read_lock(spec),
        unlock=bucket.unlock(spec),
        upload=bucket.upload(spec),
        create=(create,),
        describe=Run(tpus("queued-resources", "describe", spec.name, *where, "--format=json")),
        observe=observe,
        attach=lambda attempt, seen: (ssh(f"{fetch} && bash {script} attach {attempt} {seen}"),),
        stop=lambda seconds: (ssh(f"bash {script} stop {seconds}"),),
        delete=(Run(tpus("queued-resources", "delete", spec.name, "--force", *where, "--quiet")),),
        logs=lambda attempt: bucket.logs(spec, attempt),
    )
