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

from xtr.errors import UserError, did_you_mean
from xtr.parallel.sharding import DEFAULT_RULES, Rules

AXES = ("replica", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes, and what lies along them.

    Attributes:
      replica: None: one a slice (1 where there are no slices).
      fsdp, tensor: at most one of the three may be -1, which takes the devices that are left.
      logical_axis_rules: (logical name, mesh axis | mesh axes | None), in the place of the default rules of those names
        (`xtr.parallel.sharding.DEFAULT_RULES`) and before all others.
    """

    replica: int | None = None
    fsdp: int = -1
    tensor: int = 1
    logical_axis_rules: Rules = ()

    def __post_init__(self):
        sizes = {name: getattr(self, name) for name in AXES}
        given = [size for size in sizes.values() if size is not None]
        whole = all(isinstance(size, int) and (size > 0 or size == -1) for size in given)
        if not whole or given.count(-1) > 1 or None in (self.fsdp, self.tensor):
            raise UserError(f"Mesh sizes must be positive, with at most one -1, but are {sizes}.")
        object.__setattr__(self, "logical_axis_rules", _checked(self.logical_axis_rules))

    @property
    def rules(self) -> Rules:
        """All sharding rules, those given first."""
        given = {name for name, _ in self.logical_axis_rules}
        return self.logical_axis_rules + tuple(rule for rule in DEFAULT_RULES if rule[0] not in given)

    def sizes(self, num_devices: int, num_slices: int = 1) -> tuple[int, int, int]:
        """(replica, fsdp, tensor) for `num_devices` devices. UserError if they cannot be laid out so."""
        sizes = (num_slices if self.replica is None else self.replica, self.fsdp, self.tensor)
        known = math.prod(size for size in sizes if size != -1)
        resolved = tuple(num_devices // known if size == -1 else size for size in sizes)
        if math.prod(resolved) != num_devices:
            asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
            raise UserError(f"A mesh of {asked} does not cover {num_devices} devices exactly. Set one axis to -1.")
        if resolved[0] % num_slices:
            raise UserError(
                f"The devices lie in {num_slices} slices: set the mesh's replica axis (now {resolved[0]}) to a "
                "multiple of it."
            )
        return resolved


def _checked(rules: Rules) -> Rules:
    """Rules as gin gives them, as tuples. UserError for an unknown logical name or mesh axis."""
    names, checked = {name for name, _ in DEFAULT_RULES}, []
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2:
            raise UserError(f"MeshConfig.logical_axis_rules holds {rule!r}; a rule is like ('mlp', 'tensor').")
        name, target = rule
        if name not in names:
            raise UserError(f"MeshConfig.logical_axis_rules: no axis is called {name!r}.{did_you_mean(name, names)}")
        axes = () if target is None else (target,) if isinstance(target, str) else tuple(target)
        if unknown := [axis for axis in axes if axis not in AXES]:
            raise UserError(
                f"MeshConfig.logical_axis_rules: {name!r} goes along {unknown[0]!r}, but the mesh's axes are "
                f"{', '.join(AXES)}."
            )
        checked.append((name, axes or None))
    return tuple(checked)


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[jax.Device] | None = None) -> Mesh:  # noqa: B008
    """A `Mesh` of axes ('replica', 'fsdp', 'tensor') over `devices` (default: all), with Auto axis types.

    Devices of several TPU slices are laid out so that only `replica` crosses the network between slices; `replica` must
    then be a multiple of the number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    axis_types = (AxisType.Auto,) * len(AXES)
    on_tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if on_tpu else 1
    shape = config.sizes(len(devices), slices)
    if slices > 1:
        inside = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            inside, (slices, 1, 1), devices=devices, allow_split_physical_axes=True
        )
    else:
        # A mesh axis may be a part of a physical one: 'tensor' 2 on a torus of 4 x 4 chips.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(np.asarray(grid), AXES, axis_types=axis_types)
