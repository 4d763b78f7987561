"""Logical axis names -> mesh axes.

Parameters and activations name their dimensions ('embed', 'mlp', 'batch', ...). Rules, a tuple of (logical name, mesh
axis | tuple of mesh axes | None) in the order of their priority, say where each name is sharded. As in T5X, a name may
have several rules: the first that fits is taken. A rule fits where the mesh axes are not used in the array yet (axes
that are used are left out) and, if the shape is known, divide the dimension; a dimension that no rule fits stays
replicated.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xtr.errors import UserError, did_you_mean

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

BATCH_AXES = ("replica", "fsdp")

DEFAULT_RULES: Rules = (
    ("batch", BATCH_AXES),
    ("replica_batch", "replica"),
    # The output kernel is sharded over the vocabulary alone, and so are the logits: the states of all tokens are far
    # smaller than the kernel. Where the vocabulary cannot be divided so, the kernel is sharded as other weights are.
    ("output_vocab", ("tensor", "fsdp")),
    ("output_vocab", "tensor"),
    ("output_tokens", BATCH_AXES),
    ("joined_kv", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("layers", None),
    ("relpos_buckets", None),
    ("positions", None),
    ("token_types", None),
    ("labels", None),
    ("kv", None),
    ("length", None),
)


def partition_spec(
    axes: tuple[str | None, ...],
    rules: Rules = DEFAULT_RULES,
    *,
    mesh: Mesh | None = None,
    shape: tuple[int, ...] | None = None,
) -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions are named `axes`.

    With `mesh` and `shape`, rules whose mesh axes do not divide the dimension are passed over. UserError for a name
    without a rule.
    """
    names = {name for name, _ in rules}
    if unknown := [name for name in axes if name is not None and name not in names]:
        raise UserError(f"No sharding rule for the logical axis {unknown[0]!r}.{did_you_mean(unknown[0], names)}")
    entries: dict[int, tuple[str, ...]] = {}
    used: set[str] = set()
    for name, target in rules:
        for dimension in [d for d, own in enumerate(axes) if own == name and d not in entries]:
            targets = () if target is None else (target,) if isinstance(target, str) else target
            mesh_axes = tuple(axis for axis in targets if axis not in used)
            sizes = math.prod(mesh.shape[axis] for axis in mesh_axes) if mesh is not None else 1
            if shape is None or shape[dimension] % sizes == 0:
                entries[dimension] = mesh_axes
                used.update(mesh_axes)
    found = (entries.get(dimension, ()) for dimension in range(len(axes)))
    return PartitionSpec(*(None if not own else own[0] if len(own) == 1 else own for own in found))


def named_sharding(
    mesh: Mesh, axes: tuple[str | None, ...], rules: Rules = DEFAULT_RULES, shape: tuple[int, ...] | None = None
) -> NamedSharding:
    """`partition_spec` on a mesh. Give `shape` for the divisibility fall-back."""
    return NamedSharding(mesh, partition_spec(axes, rules, mesh=mesh, shape=shape))


def tree_shardings(specs: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """The sharding of every leaf of a tree of specs (anything with `.shape` and `.axes`)."""
    return jax.tree.map(
        lambda spec: named_sharding(mesh, spec.axes, rules, spec.shape), specs, is_leaf=lambda x: hasattr(x, "axes")
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: the leading dimension over ('replica', 'fsdp')."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are spread; the global batch size must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_rows(rows: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises a UserError where a global batch of so many rows does not divide over the mesh."""
    shards = batch_shards(mesh)
    if rows % (shards * microbatches):
        raise UserError(
            f"A batch of {rows} rows does not divide over {shards} devices (mesh axes replica x fsdp) x {microbatches} "
            f"microbatches. Make BATCH_SIZE a multiple of {shards * microbatches}."
        )


def batch_part(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """(i, n): a process's devices hold the i-th of n equal parts of a batch's rows. Processes between which only
    `tensor` is divided hold the same part.

    Args:
      process: its index; None: this one's.

    Raises:
      UserError: the devices of the processes hold parts that overlap without being the same.
    """
    process = jax.process_index() if process is None else process
    held: dict[int, set[int]] = {}  # process -> the shards of a batch on its devices
    for shard, devices in enumerate(mesh.devices.reshape(batch_shards(mesh), -1)):
        for device in devices:
            held.setdefault(device.process_index, set()).add(shard)
    parts = sorted({tuple(sorted(shards)) for shards in held.values()})
    if len(parts) * len(parts[0]) != batch_shards(mesh) or len({len(part) for part in parts}) > 1:
        raise UserError(
            f"The mesh {dict(mesh.shape)} over {len(held)} processes cuts a batch's rows across them: let `tensor` "
            "divide the devices of a process, or be a multiple of them."
        )
    return parts.index(tuple(sorted(held[process]))), len(parts)


def global_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch, its `batch_part`, on its devices; returns the global arrays [B, ...]."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def spread_batch(arrays: Any, mesh: Mesh) -> Any:
    """Puts a tree of whole arrays, the same in every process, on the mesh's devices, their rows over those of a
    batch."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(arrays, sharding)
    # device_put would first have the processes compare their arrays.
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, sharding, a.__getitem__), arrays)


def for_every_host(arrays: Any, mesh: Mesh) -> Any:
    """A tree of results in a form that every process can read whole, by `jax.device_get`.

    Call it for each result before the next program starts, in the same order in every process.
    """
    if jax.process_count() > 1:
        arrays = _replicate(mesh)(arrays)
    return one_at_a_time(arrays, mesh)


def one_at_a_time(arrays: Any, mesh: Mesh) -> Any:
    """Waits for a program's results where the next program must not start before: on several CPU devices, which share
    few threads, programs that wait for each other's devices can come to a standstill."""
    return jax.block_until_ready(arrays) if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else arrays


@functools.lru_cache(maxsize=64)
def _replicate(mesh: Mesh) -> Callable:
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """The hook `constrain(array, logical axes)` that a model calls on its activations and on a layer's weights.

    The array is pinned to its rules. A model names a weight with None in the place of 'embed', which gathers it over
    'fsdp' where it is used. Writing the gather down matters: left to XLA, a product with an fsdp-sharded weight becomes
    a windowed einsum on a TPU, which costs far more matmul time. On a mesh of one device the hook does nothing.
    """

    mesh: Mesh
    rules: Rules = DEFAULT_RULES

    def __call__(self, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        if self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, named_sharding(self.mesh, tuple(axes), self.rules, x.shape))
