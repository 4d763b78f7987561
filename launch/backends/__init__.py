"""One module a backend: what it makes of a job. Nothing here runs anything."""

from xtr.launch.backends import gke, local, tpu_vm
from xtr.launch.plan import Plan
from xtr.launch.spec import RunSpec

_PLANS = {"local": local.plan, "tpu_vm": tpu_vm.plan, "gke": gke.plan}


def plan(spec: RunSpec) -> Plan:
    """The life of a job on its backend."""
    return _PLANS[spec.backend](spec)
