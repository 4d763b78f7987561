"""TPU slices that are not here: their names, their sizes, and devices that programs can be compiled for.

libtpu compiles for any slice without one. A topology is written 'v5e:16x16' (chips in each dimension), or as Google
Cloud's accelerator type: 'v5litepod-256' and 'v6e-64' count chips, 'v4-64', 'v5p-64' and 'tpu7x-64' cores.
"""

import dataclasses
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from xtr.errors import UserError, did_you_mean
from xtr.parallel.accelerators import TPUS, Accelerator

# Read when libtpu is loaded. It must not look for a TPU, nor for the machines of one, nor refuse a second process.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

_HOST_3D = (2, 2, 1)
_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16),
         512: (16, 32), 1024: (32, 32)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several equal slices of a TPU.

    Attributes:
      accelerator: the kind of chip.
      shape: chips of a slice in each dimension, two or three of them.
      slices: slices, joined by the data centre's network.
    """

    accelerator: Accelerator
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        name = f"{self.accelerator.name}:{'x'.join(map(str, self.shape))}"
        return name if self.slices == 1 else f"{self.slices} x {name}"

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """JAX devices of all slices."""
        return self.chips * self.accelerator.devices_per_chip

    @property
    def gcloud(self) -> str:
        """Google Cloud's accelerator type of one slice, 'v5litepod-256'."""
        chip = self.accelerator.cores_per_chip if self.accelerator.counts_cores else 1
        return f"{self.accelerator.gcloud}-{math.prod(self.shape) * chip}"

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """Chips of one host in each of three dimensions."""
        if math.prod(self.shape) == 1:
            return (1, 1, 1)
        return (2, 4, 1) if self.shape == (2, 4) else _HOST_3D  # eight chips on one host, where they are the slice

    @property
    def hosts(self) -> int:
        """Hosts of all slices."""
        return max(1, self.chips // math.prod(self.host_bounds))

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Which dimensions close to a ring: all of whole cubes of 4 x 4 x 4; else those of a pod's full length.

        Source: jax-ml/scaling-book, tpus.md, "TPU networking".
        """
        if len(self.shape) == 3:
            return (all(size % 4 == 0 for size in self.shape),) * 3
        longest = max(self.accelerator.pod_shape)
        return (self.shape[0] == longest, self.shape[1] == longest, False)


def parse(text: str, slices: int = 1) -> Topology:
    """The topology of a name, see the module's first lines. UserError for one that there is not."""
    if slices < 1:
        raise UserError(f"--slices is {slices}; it must be at least 1.")
    name, colon, layout = text.strip().lower().partition(":")
    if colon:
        accelerator = _named(text, name, {a.name: a for a in TPUS} | {"v5": _by_name("v5p"), "v7x": _by_name("tpu7x")})
        if not re.fullmatch(r"\d+(x\d+){1,2}", layout):
            raise UserError(
                f"{text!r} is no topology: after the colon come the chips in each dimension, {_examples()}."
            )
        shape = tuple(map(int, layout.split("x")))
        return _checked(text, Topology(accelerator, shape, slices))
    name, hyphen, number = name.rpartition("-")
    if not hyphen or not number.isdecimal():
        raise UserError(f"{text!r} is no topology: write it like {_examples()}.{did_you_mean(text, _all_names())}")
    accelerator = _named(text, name, {a.gcloud: a for a in TPUS} | {a.name: a for a in TPUS})
    count = int(number)
    chips, rest = divmod(count, accelerator.cores_per_chip if accelerator.counts_cores else 1)
    unit = "cores" if accelerator.counts_cores else "chips"
    shape = None if rest else _usual_shape(accelerator, chips)
    if shape is None:
        raise UserError(
            f"there is no {text}: {count} {unit} are no slice of a {accelerator.name}. "
            f"Name the shape, like {accelerator.name}:{'x'.join(map(str, _usual_shape(accelerator, 4)))}."
        )
    return _checked(text, Topology(accelerator, shape, slices))


def _by_name(name: str) -> Accelerator:
    return next(a for a in TPUS if a.name == name)


def _named(text: str, name: str, table: dict[str, Accelerator]) -> Accelerator:
    if name not in table:
        raise UserError(
            f"{text!r} names no TPU that is known: {', '.join(a.name for a in TPUS)}.{did_you_mean(name, table)}"
        )
    return table[name]


def _examples() -> str:
    return "v5e:16x16, v5p:2x2x1 or v5litepod-256"


def _all_names() -> set[str]:
    return {f"{a.gcloud}-{number}" for a in TPUS for number in (8, 16, 32, 64, 128, 256)}


def _usual_shape(accelerator: Accelerator, chips: int) -> tuple[int, ...] | None:
    """The shape that Google Cloud gives a number of chips where none is asked for; None for no slice's number."""
    if accelerator.ici_dimensions == 2:
        return _FLAT.get(chips)
    if chips in (1, 4, 8, 16, 32):
        return {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4)}[chips]
    cubes, rest = divmod(chips, 64)
    if rest or not cubes:
        return None
    factors = [
        (a, b, cubes // a // b)
        for a in range(1, cubes + 1)
        if cubes % a == 0
        for b in range(a, cubes + 1)
        if cubes // a % b == 0 and cubes // a // b >= b
    ]
    return tuple(4 * size for size in min(factors, key=sum))


def _checked(text: str, topology: Topology) -> Topology:
    accelerator, shape = topology.accelerator, topology.shape
    if len(shape) != accelerator.ici_dimensions:
        example = "x".join(map(str, _usual_shape(accelerator, 16)))
        raise UserError(
            f"{text!r}: a slice of {accelerator.name} has {accelerator.ici_dimensions} dimensions, like "
            f"{accelerator.name}:{example}."
        )
    # Sizes are compared in order of length: a slice may lie in any direction of its pod.
    pod = sorted(accelerator.pod_shape)
    if any(size < 1 for size in shape) or any(size > most for size, most in zip(sorted(shape), pod, strict=True)):
        raise UserError(
            f"{text!r}: the largest slice of {accelerator.name} is {'x'.join(map(str, accelerator.pod_shape))}; "
            "--slices=N joins several."
        )
    if any(size % most for size, most in zip(shape, topology.host_bounds, strict=False)):
        raise UserError(
            f"{text!r}: a host holds {'x'.join(map(str, topology.host_bounds[: len(shape)]))} chips, which must divide "
            f"the slice. Write it like {_examples()}."
        )
    return topology


def has_compiler() -> bool:
    """Whether libtpu, the compiler, is installed."""
    return bool(os.environ.get("TPU_LIBRARY_PATH")) or importlib.util.find_spec("libtpu") is not None


def compile_only_devices(topology: Topology) -> list[jax.Device]:
    """Devices of a topology that programs can be compiled for, but not run on; those of several slices carry
    `slice_index`.

    It sets the variables of `ENVIRONMENT` that are not set, which libtpu reads when it is first loaded.

    Raises:
      UserError: libtpu is not installed, or knows no such topology.
    """
    if not has_compiler():
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed: pip install 'xtr[tpu]' (or pip install libtpu). "
            "No TPU is needed."
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    shape = "x".join(map(str, topology.shape))
    settings = {"chips_per_host_bounds": topology.host_bounds, "wrap": topology.wrap}
    if topology.accelerator.cores_per_chip > topology.accelerator.devices_per_chip:
        settings["chip_config_name"] = "megacore"  # else JAX would see two devices in a chip
    if topology.slices > 1:
        settings["num_slices"] = topology.slices
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{topology.accelerator.libtpu}:{shape}", **settings
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"libtpu cannot compile for {topology}: {str(error).splitlines()[0]}") from None
    return list(found.devices)
