"""The device mesh: three axes, the same names on every kind of device.

`replica` copies the parameters (pure data parallelism, meant for the slow network between slices), `fsdp` shards
parameters and batch, `tensor` shards heads, MLP and vocabulary inside a layer.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from xtr.errors import UserError

AXES = ("replica", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; at most one may be -1, which takes the devices that are left."""

    replica: int = 1
    fsdp: int = -1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise UserError(
                f"Mesh sizes must be positive, with at most one -1, but are {dict(zip(AXES, sizes, strict=True))}."
            )

    def sizes(self, num_devices: int) -> tuple[int, int, int]:
        """(replica, fsdp, tensor) for `num_devices` devices. UserError if they cannot be laid out so."""
        sizes = dataclasses.astuple(self)
        known = math.prod(size for size in sizes if size != -1)
        resolved = tuple(num_devices // known if size == -1 else size for size in sizes)
        if math.prod(resolved) != num_devices:
            asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
            raise UserError(f"A mesh of {asked} does not cover {num_devices} devices exactly. Set one axis to -1.")
        return resolved


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[jax.Device] | None = None) -> Mesh:  # noqa: B008
    """A `Mesh` of axes ('replica', 'fsdp', 'tensor') over `devices` (default: all), with Auto axis types.

    Devices of several TPU slices are laid out so that only `replica` crosses the network between slices; `replica` must
    then be a multiple of the number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = config.sizes(len(devices))
    axis_types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and devices[0].platform == "tpu":
        if shape[0] % slices:
            raise UserError(
                f"The devices lie in {slices} slices: set the mesh's replica axis (now {shape[0]}) to a multiple of it."
            )
        inside = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            inside, (slices, 1, 1), devices=devices, allow_split_physical_axes=True
        )
    else:
        # A mesh axis may be a part of a physical one: 'tensor' 2 on a torus of 4 x 4 chips.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(np.asarray(grid), AXES, axis_types=axis_types)
