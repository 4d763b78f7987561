"""xtr's own checkpoints, on Orbax.

A checkpoint directory holds one folder a step:

    <step>/state/         every array, in Orbax's format (OCDBT), whatever the mesh that wrote it
    <step>/index/         arrays.json: {name: {shape, dtype, crc32}}; extras.json: what the caller put beside the state;
                          parts.<process>.json: {name: [[start, stop] a dimension, crc32] a part} of the arrays that no
                          process held whole
    <step>/commit_success.txt

A save writes to a temporary folder and renames it when complete, so a process killed at any moment leaves whole
checkpoints only. Orbax restores flipped bits without a word, therefore each array's CRC is written with it and compared
when it is read.
"""

import dataclasses
import json
import os
import threading
import types
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers, future

from xtr import storage
from xtr.checkpoints import source
from xtr.errors import UserError
from xtr.models.spec import unflatten
from xtr.parallel import distributed

STATE, INDEX = "state", "index"
CHUNK = 64 << 20
_COMMITTED = "commit_success.txt"
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not finished
_ADVICE = "Use another checkpoint, or copy this one anew from its source."


def named_leaves(tree: Any) -> dict[str, Any]:
    """{'params/encoder/...': leaf} of any pytree of dicts and dataclasses."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _save_args(array: Any) -> ocp.SaveArgs:
    """Chunks of at most CHUNK bytes, of one layer in large stacked arrays: a slice's reader decodes little more."""
    stacked = array.ndim > 2 and array.nbytes > CHUNK
    return ocp.SaveArgs(chunk_byte_size=CHUNK, shard_axes=(0,) if stacked else ())


def _held_whole(array: Any) -> bool:
    """Whether this process can see all of an array's values."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated


Place = tuple[tuple[int, int], ...]  # (start, stop) a dimension


def _place(index: tuple[slice, ...], shape: tuple[int, ...]) -> Place:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _own_parts(array: Any) -> list[tuple[Place, np.ndarray]]:
    """Copies of this process's parts of an array that no process holds whole, each of the mesh's parts once."""
    if _held_whole(array):
        return []
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return [(_place(shard.index, array.shape), np.array(shard.data, copy=True)) for shard in shards]


class _IndexHandler(ocp.AsyncCheckpointHandler):
    """Writes arrays.json and extras.json; the CRCs are computed in the background, before the commit."""

    def save(self, directory, args):
        parts = {name: [[place, _crc32(part)] for place, part in own] for name, own in args.parts.items() if own}
        if parts:
            (directory / f"parts.{jax.process_index()}.json").write_text(json.dumps(parts))
        if jax.process_index() != 0:
            return
        arrays = {
            name: {"shape": list(shape), "dtype": dtype, "crc32": None if host is None else _crc32(host)}
            for name, (shape, dtype, host) in args.arrays.items()
        }
        (directory / "arrays.json").write_text(json.dumps(arrays))
        (directory / "extras.json").write_text(args.extras)

    async def async_save(self, directory, args):
        async def write():
            self.save(directory, args)

        return [future.CommitFutureAwaitingContractedSignals(write(), name="xtr_index_save")]

    def restore(self, directory, args=None):
        return [json.loads((directory / file).read_text()) for file in ("arrays.json", "extras.json")]


@ocp.args.register_with_handler(_IndexHandler, for_save=True)
@dataclasses.dataclass
class _IndexSave(ocp.args.CheckpointArgs):
    arrays: dict[str, tuple[tuple[int, ...], str, np.ndarray | None]]
    parts: dict[str, list[tuple[Place, np.ndarray]]]
    extras: str


@ocp.args.register_with_handler(_IndexHandler, for_restore=True)
@dataclasses.dataclass
class _IndexRestore(ocp.args.CheckpointArgs):
    """Orbax wants a pair; it has no settings."""


def is_step_directory(path: str | os.PathLike) -> bool:
    """Whether `path` is one committed checkpoint of xtr."""
    path = storage.absolute(path)
    if _UNFINISHED in path.rpartition("/")[2] or not storage.is_file(storage.join(path, INDEX, "arrays.json")):
        return False
    # A folder on a disk gets its name when it is complete; in a bucket, where nothing can be renamed, a file says so.
    return not storage.is_remote(path) or storage.is_file(storage.join(path, _COMMITTED))


def committed_steps(directory: str | os.PathLike) -> list[int]:
    """The steps of a checkpoint directory that are complete, ascending; [] where there is no such directory."""
    names = [name for name in storage.list_directory(directory) if name.isdecimal()]
    return sorted(int(name) for name in names if is_step_directory(storage.join(directory, name)))


def read_index(step_directory: str | os.PathLike) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """({array name: {shape, dtype, crc32}}, extras) of a checkpoint. UserError where they cannot be read."""
    files = (storage.join(step_directory, INDEX, name) for name in ("arrays.json", "extras.json"))
    try:
        arrays, extras = (json.loads(storage.read_bytes(file)) for file in files)
        return arrays, extras
    except (OSError, ValueError) as error:
        raise UserError(f"The checkpoint {step_directory} is damaged: its index cannot be read ({error}).") from error


def open_source(step_directory: str) -> source.Source:
    """A checkpoint as the loader of every kind takes it: parameters as 'params/...', and the optimizer's slots."""
    index, _ = read_index(step_directory)
    store = {"driver": "ocdbt", "base": storage.kvstore(storage.join(step_directory, STATE))}
    try:
        counts = source.list_keys(store)
    except OSError as error:
        raise UserError(f"The checkpoint {step_directory} is damaged and cannot be read. {_ADVICE}\n{error}") from error

    def open_those(prefix: str) -> dict[str, source.StoredArray]:
        folders = {name: name.replace("/", ".") for name in index if name.startswith(prefix)}
        return source.open_zarr(store, folders, counts=counts)

    def open_slots() -> dict[str, dict[str, source.StoredArray]]:
        slots: dict[str, dict[str, source.StoredArray]] = {}
        for name, array in open_those("opt_state/").items():
            path, _, slot = name.removeprefix("opt_state/").rpartition("/")
            slots.setdefault(path, {})[slot] = array
        return slots

    return source.Source(
        kind=source.XTR,
        path=step_directory,
        what=f"The checkpoint {step_directory}",
        step=int(step_directory.rpartition("/")[2]),
        arrays=open_those("params/"),
        open_slots=open_slots,
    )


def compare(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    what: str,
    damaged: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Compares {name: shape} of what is wanted with what is there, and {name: why it cannot be read}. One UserError
    names every difference."""
    faults = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    faults += [f"not expected: {name} {shape}" for name, shape in found.items() if name not in expected]
    faults += [
        f"shape of {name}: {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape and name not in damaged
    ]
    faults += [
        f"cannot be read at the array {name} {expected[name]}: {why}"
        for name, why in damaged.items()
        if name in expected
    ]
    if faults:
        raise UserError(f"{what} does not fit the model:\n  " + "\n  ".join(faults))


def read_arrays(
    step_directory: str | os.PathLike, abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Reads the named arrays of a checkpoint to the shardings (and dtypes) of `abstract`, and verifies each.

    Raises:
      UserError: an array is missing, has another shape, cannot be read, or is not what was written.
    """
    index, _ = read_index(step_directory)
    stored = {name: tuple(entry["shape"]) for name, entry in index.items()}
    compare(
        {name: tuple(x.shape) for name, x in abstract.items()},
        {name: shape for name, shape in stored.items() if name in abstract},
        f"The checkpoint {step_directory}",
    )
    restore_args = {
        name: ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=stored[name], dtype=np.dtype(index[name]["dtype"]))
        for name, x in abstract.items()
    }
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            nested = reader.restore(
                epath.Path(step_directory) / STATE,
                args=ocp.args.PyTreeRestore(
                    item=unflatten(abstract), restore_args=unflatten(restore_args), partial_restore=True
                ),
            )
    except Exception as error:  # whatever the storage layers raise, the reader's reason is one: unreadable data
        raise UserError(f"The checkpoint {step_directory} is damaged and cannot be read. {_ADVICE}\n{error}") from error
    arrays = named_leaves(nested)
    verify(step_directory, arrays)
    return {
        name: arrays[name] if arrays[name].dtype == x.dtype else arrays[name].astype(x.dtype)
        for name, x in abstract.items()
    }


def _read_parts(step_directory: str | os.PathLike) -> dict[str, list[tuple[Place, int]]]:
    """{array name: [(place, crc32)]} of the arrays that no process held whole, from all that wrote."""
    folder, parts = storage.join(step_directory, INDEX), {}
    for file in storage.list_directory(folder):
        if file.startswith("parts."):
            for name, own in json.loads(storage.read_bytes(storage.join(folder, file))).items():
                parts.setdefault(name, []).extend((tuple(map(tuple, place)), crc32) for place, crc32 in own)
    return parts


def _cut(array: Any, place: Place) -> np.ndarray | None:
    """What lies at a place of an array; None where this process does not hold all of it in one piece."""
    if _held_whole(array):
        return np.asarray(array)[tuple(slice(*ends) for ends in place)]
    for shard in array.addressable_shards:
        own = _place(shard.index, array.shape)
        if all(a <= start and stop <= b for (start, stop), (a, b) in zip(place, own, strict=True)):
            cut = (slice(start - a, stop - a) for (start, stop), (a, _) in zip(place, own, strict=True))
            return np.asarray(shard.data)[tuple(cut)]
    return None


def verify(step_directory: str | os.PathLike, arrays: Mapping[str, jax.Array]) -> None:
    """Compares CRCs with those written beside the arrays: of each array that this process can see whole, and of the
    parts of an array that no process held whole, as far as this one holds them in one piece (all of them where the mesh
    is the same, or has fewer parts).

    Raises:
      UserError: naming every array that is not what was written.
    """
    index, _ = read_index(step_directory)
    parts = _read_parts(step_directory)

    def differs(name: str, array: jax.Array) -> bool:
        entry = index[name]
        if np.dtype(entry["dtype"]) != array.dtype:
            return False
        if entry["crc32"] is not None:
            return _held_whole(array) and _crc32(np.asarray(array)) != entry["crc32"]
        cuts = ((_cut(array, place), crc32) for place, crc32 in parts.get(name, ()))
        return any(cut is not None and _crc32(cut) != crc32 for cut, crc32 in cuts)

    if damaged := [name for name, array in arrays.items() if differs(name, array)]:
        raise UserError(
            f"The checkpoint {step_directory} is damaged: what was read differs from what was written in\n  "
            + "\n  ".join(damaged)
            + f"\n{_ADVICE}"
        )


# Orbax numbers the saves of a process with one counter and signals by those numbers, so that two managers (two stages
# of a study in two threads) may not save at once: a save first waits for the one before it.
_saving = threading.Lock()
_unsettled: list[ocp.CheckpointManager] = []


def _settle_saves() -> None:
    while _unsettled:
        _unsettled.pop().wait_until_finished()


class CheckpointManager:
    """The checkpoints of one run.

    Args:
      directory: holds one folder a step; created where missing. Leavings of a killed save are removed.
      keep: how many of the newest checkpoints stay; None keeps all.
    """

    def __init__(self, directory: str | os.PathLike, keep: int | None = None):
        self._directory = epath.Path(os.path.abspath(directory) if "://" not in str(directory) else directory)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )

    def save(self, step: int, state: Any, extras: Mapping[str, Any]) -> bool:
        """Starts to save; returns when `state` may be donated or changed, while the writing goes on in the background.

        Args:
          step: names the checkpoint. A step that is saved already stays as it is, and False is returned.
          state: a pytree (dicts, dataclasses) of arrays.
          extras: anything JSON can hold, such as the state of the data iterator.

        Raises:
          An error of the previous save, if it failed.
        """
        self.wait()
        if distributed.from_first(lambda: step in committed_steps(self._directory)):
            return False
        with _saving:
            _settle_saves()
            started = self._start_save(step, state, extras)
            _unsettled.append(self._manager)
        return started

    def _start_save(self, step: int, state: Any, extras: Mapping[str, Any]) -> bool:
        arrays = {name: x if isinstance(x, jax.Array) else np.asarray(x) for name, x in named_leaves(state).items()}
        first = distributed.is_first()
        for array in arrays.values():
            if isinstance(array, jax.Array) and (_held_whole(array) and first or not _held_whole(array)):
                array.copy_to_host_async()
        # A copy, because the device buffer behind a view is given away with the next step.
        index = {
            name: (x.shape, str(x.dtype), np.array(x, copy=True) if first and _held_whole(x) else None)
            for name, x in arrays.items()
        }
        parts = {name: _own_parts(x) for name, x in arrays.items()}
        chunks = {name: _save_args(x) for name, x in arrays.items()}
        args = ocp.args.Composite(
            **{
                STATE: ocp.args.PyTreeSave(unflatten(arrays), save_args=unflatten(chunks)),
                INDEX: _IndexSave(index, parts, json.dumps(dict(extras))),
            }
        )
        return self._manager.save(step, args=args, force=True)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        steps = committed_steps(self._directory)
        return steps[-1] if steps else None

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """(state, extras) of a step, with the structure, dtypes and shardings of `abstract_state` (ShapeDtypeStructs).

        The mesh may differ from the one that saved.

        Raises:
          UserError: no such step; arrays that are missing, not expected, misshapen (all are named) or damaged.
        """
        self.wait()
        path = self._directory / str(step)
        if not is_step_directory(path):
            steps = committed_steps(self._directory)
            raise UserError(f"No complete checkpoint of step {step} in {self._directory}; it has steps {steps}.")
        abstract = named_leaves(abstract_state)
        index, extras = read_index(path)
        compare(
            {name: tuple(x.shape) for name, x in abstract.items()},
            {name: tuple(entry["shape"]) for name, entry in index.items()},
            f"The checkpoint {path}",
        )
        arrays = read_arrays(path, abstract)
        return jax.tree.unflatten(jax.tree.structure(abstract_state), list(arrays.values())), extras

    def wait(self) -> None:
        """Waits until the save in progress is complete; raises its error if it failed."""
        with _saving:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees threads."""
        with _saving:
            _unsettled[:] = [manager for manager in _unsettled if manager is not self._manager]
            self._manager.close()
