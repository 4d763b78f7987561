"""Names of TPU slices in the two APIs of Google Cloud that hand them out: the Cloud TPU API and Kubernetes Engine.

Sizes and shapes are those of `xtr.parallel.topology`; here is only what a launcher needs beside them. Sources: Google
Cloud's pages cloud.google.com/tpu/docs/runtimes (software versions) and kubernetes-engine/docs/concepts/tpus (node
labels and machine types).
"""

import dataclasses

from xtr.errors import UserError
from xtr.parallel.topology import Topology, parse


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the APIs call one kind of TPU.

    Attributes:
      runtime: the software version of a TPU VM; '' where the Cloud TPU API does not offer this kind.
      label: the value of the node label cloud.google.com/gke-tpu-accelerator; '' where Kubernetes Engine lacks it.
      machine: the machine type, with the chips of one in the place of {}.
    """

    runtime: str = ""
    label: str = ""
    machine: str = ""


MACHINES = {
    "v2": Machine(runtime="tpu-ubuntu2204-base"),
    "v3": Machine(runtime="tpu-ubuntu2204-base"),
    "v4": Machine(runtime="tpu-ubuntu2204-base", label="tpu-v4-podslice", machine="ct4p-hightpu-{}t"),
    "v5e": Machine(runtime="v2-alpha-tpuv5-lite", label="tpu-v5-lite-podslice", machine="ct5lp-hightpu-{}t"),
    "v5p": Machine(runtime="v2-alpha-tpuv5", label="tpu-v5p-slice", machine="ct5p-hightpu-{}t"),
    "v6e": Machine(runtime="v2-alpha-tpuv6e", label="tpu-v6e-slice", machine="ct6e-standard-{}t"),
    "tpu7x": Machine(label="tpu7x", machine="tpu7x-standard-{}t"),
}


def hosts_per_slice(topology: Topology) -> int:
    """Virtual machines of one slice."""
    return topology.hosts // topology.slices


def chips_per_host(topology: Topology) -> int:
    """Chips of one virtual machine."""
    return topology.chips // topology.hosts


def shape(topology: Topology) -> str:
    """'16x16'."""
    return "x".join(map(str, topology.shape))


def is_usual(topology: Topology) -> bool:
    """Whether the accelerator type alone ('v5p-64') means this shape."""
    try:
        return parse(topology.gcloud).shape == topology.shape
    except UserError:
        return False


def of(topology: Topology, backend: str) -> Machine:
    """The names of a slice for a backend ('tpu_vm' or 'gke'). UserError where it cannot be had there."""
    machine = MACHINES[topology.accelerator.name]
    if backend == "tpu_vm" and not machine.runtime:
        raise UserError(f"{topology}: the Cloud TPU API does not offer {topology.accelerator.name}: use --backend=gke.")
    if backend == "gke" and not machine.label:
        raise UserError(
            f"{topology}: Kubernetes Engine does not offer {topology.accelerator.name} to JobSets: use "
            "--backend=tpu_vm."
        )
    if topology.slices > 1 and (hosts_per_slice(topology) < 2 or topology.accelerator.name in ("v2", "v3")):
        raise UserError(
            f"{topology}: several slices can be joined from v4 on, and where a slice has more than one machine; take "
            "one larger slice."
        )
    return machine
