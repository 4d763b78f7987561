"""xtr's own checkpoints, on Orbax.

A checkpoint directory holds one folder a step:

    <step>/state/         every array, in Orbax's format (OCDBT), whatever the mesh that wrote it
    <step>/index/         shapes, dtypes and digests of the arrays, and what the caller put beside them (`index`)
    <step>/commit_success.txt

A save writes to a temporary folder and renames it when complete, so a process killed at any moment leaves whole
checkpoints only.
"""

import os
import threading
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from xtr import rundir, storage
from xtr.checkpoints import index as indices
from xtr.checkpoints import source
from xtr.checkpoints.index import ADVICE, INDEX, DamagedCheckpoint, read_index
from xtr.errors import UserError
from xtr.models.spec import unflatten
from xtr.parallel import distributed

STATE = "state"
CHUNK = 64 << 20
_COMMITTED = "commit_success.txt"
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not finished


def named_leaves(tree: Any) -> dict[str, Any]:
    """{'params/encoder/...': leaf} of any pytree of dicts and dataclasses."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _save_args(array: Any) -> ocp.SaveArgs:
    """Chunks of at most CHUNK bytes, of one layer in large stacked arrays: a slice's reader decodes little more."""
    stacked = array.ndim > 2 and array.nbytes > CHUNK
    return ocp.SaveArgs(chunk_byte_size=CHUNK, shard_axes=(0,) if stacked else ())


def is_step_directory(path: str | os.PathLike) -> bool:
    """Whether `path` is one committed checkpoint of xtr."""
    path = storage.absolute(path)
    if _UNFINISHED in path.rpartition("/")[2] or not storage.is_file(storage.join(path, INDEX, indices.ARRAYS)):
        return False
    # A folder on a disk gets its name when it is complete; in a bucket, where nothing can be renamed, a file says so.
    return not storage.is_remote(path) or storage.is_file(storage.join(path, _COMMITTED))


def steps_found(directory: str | os.PathLike) -> list[int]:
    """The steps that a checkpoint directory has folders of, whole or not, ascending."""
    return sorted(int(name) for name in storage.list_directory(directory) if name.isdecimal())


def committed_steps(directory: str | os.PathLike) -> list[int]:
    """The steps of a checkpoint directory that are complete, ascending; [] where there is no such directory."""
    return [step for step in steps_found(directory) if is_step_directory(storage.join(directory, str(step)))]


def open_source(step_directory: str) -> source.Source:
    """A checkpoint as the loader of every kind takes it: parameters as 'params/...', and the optimizer's slots."""
    index, _ = read_index(step_directory)
    store = {"driver": "ocdbt", "base": storage.kvstore(storage.join(step_directory, STATE))}
    try:
        counts = source.list_keys(store)
    except OSError as error:
        storage.raise_if_passing(error)
        raise DamagedCheckpoint(
            f"The checkpoint {step_directory} is damaged and cannot be read. {ADVICE}\n{error}"
        ) from error

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
    """Reads the named arrays of a checkpoint to the shardings (and dtypes) of `abstract`, and verifies each. Every
    process must call it.

    Raises:
      UserError: an array is missing or has another shape.
      DamagedCheckpoint: one is not there, or is not what was written; in every process.
      Exception: whatever else ends a reading: a disk that does not answer, a lack of memory.
    """
    index, _ = indices.read_alike(lambda: read_index(step_directory))
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

    def read() -> dict[str, jax.Array]:
        try:
            # The handler alone: Orbax's readers around it wait for the other processes, one of which may have failed.
            nested = ocp.PyTreeCheckpointHandler().restore(
                epath.Path(step_directory) / STATE,
                args=ocp.args.PyTreeRestore(
                    item=unflatten(abstract), restore_args=unflatten(restore_args), partial_restore=True
                ),
            )
        except Exception as error:  # for data that is not what its format says the storage layers raise many kinds
            if storage.blame(error) != storage.STORED:
                raise
            raise DamagedCheckpoint(
                f"The checkpoint {step_directory} is damaged and cannot be read. {ADVICE}\n{error}"
            ) from error
        arrays = named_leaves(nested)
        lost = [name for name in abstract if getattr(arrays.get(name), "shape", None) != stored[name]]
        lost += [name for name, array in arrays.items() if not isinstance(array, jax.Array)]
        if lost:
            lacks = ", ".join(sorted(set(lost)))
            raise DamagedCheckpoint(f"The checkpoint {step_directory} is damaged: it lacks {lacks}.")
        return arrays

    arrays = indices.read_alike(read)
    indices.verify(step_directory, index, arrays)
    return {
        name: arrays[name] if arrays[name].dtype == x.dtype else arrays[name].astype(x.dtype)
        for name, x in abstract.items()
    }


def read_state(directory: str | os.PathLike, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """(state, extras) of a step, with the structure, dtypes and shardings of `abstract_state` (ShapeDtypeStructs).

    The mesh may differ from the one that saved. Every process must call it.

    Raises:
      UserError: no such step; arrays that are missing, not expected or misshapen (all are named).
      DamagedCheckpoint: what is there is not what was written.
    """
    path = storage.join(directory, str(step))
    if not distributed.from_first(lambda: is_step_directory(path)):
        steps = committed_steps(directory)
        raise UserError(f"No complete checkpoint of step {step} in {directory}; it has steps {steps}.")
    abstract = named_leaves(abstract_state)
    index, extras = indices.read_alike(lambda: read_index(path))
    compare(
        {name: tuple(x.shape) for name, x in abstract.items()},
        {name: tuple(entry["shape"]) for name, entry in index.items()},
        f"The checkpoint {path}",
    )
    arrays = read_arrays(path, abstract)
    return jax.tree.unflatten(jax.tree.structure(abstract_state), list(arrays.values())), extras


# Orbax numbers the saves of a process with one counter and signals by those numbers, so that two managers (two stages
# of a study in two threads) may not save at once: a save first waits for the one before it.
_saving = threading.Lock()
_unsettled: list[ocp.CheckpointManager] = []


def _settle_saves() -> None:
    while _unsettled:
        _unsettled.pop().wait_until_finished()


class SaveFailed(RuntimeError):
    """A checkpoint that could not be written: a full disk, a bucket that is gone. Those before it are as they were."""


class CheckpointManager:
    """The checkpoints of one run.

    Args:
      directory: holds one folder a step; created where missing. Leavings of a killed save are removed.
      keep: how many of the newest checkpoints stay; None keeps all.
    """

    def __init__(self, directory: str | os.PathLike, keep: int | None = None):
        self._directory = epath.Path(os.path.abspath(directory) if "://" not in str(directory) else directory)
        self._saved: int | None = None  # the step whose save began last
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
          SaveFailed: the previous save failed.
          Exception: what the guard of the run directory raises (`rundir.guarded`); nothing is saved then.
        """
        self.wait()
        if distributed.from_first(lambda: self._has(step)):
            return False
        with _saving:
            _settle_saves()
            self._saved = step
            started = self._start_save(step, state, extras)
            _unsettled.append(self._manager)
        return started

    def _has(self, step: int) -> bool:
        rundir.ask_guard(self._directory.parent)
        return step in committed_steps(self._directory)

    def _start_save(self, step: int, state: Any, extras: Mapping[str, Any]) -> bool:
        arrays = {name: x if isinstance(x, jax.Array) else np.asarray(x) for name, x in named_leaves(state).items()}
        chunks = {name: _save_args(x) for name, x in arrays.items()}
        args = ocp.args.Composite(
            **{
                STATE: ocp.args.PyTreeSave(unflatten(arrays), save_args=unflatten(chunks)),
                INDEX: indices.of_state(arrays, extras),
            }
        )
        return self._manager.save(step, args=args, force=True)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        steps = committed_steps(self._directory)
        return steps[-1] if steps else None

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """`read_state` of a step."""
        self.wait()
        return read_state(self._directory, step, abstract_state)

    def wait(self) -> None:
        """Waits until the save in progress is complete; raises SaveFailed if it failed."""
        with _saving:
            try:
                self._manager.wait_until_finished()
            except Exception as error:
                steps = committed_steps(self._directory)
                after = f"goes on from step {steps[-1]}" if steps else "begins anew: no checkpoint is complete"
                raise SaveFailed(
                    f"The checkpoint of step {self._saved} could not be written to {self._directory}: {error}\n"
                    f"Make room there, or see why it cannot be written; the same command {after}."
                ) from error

    def close(self) -> None:
        """`wait`, then frees threads."""
        self.wait()
        with _saving:
            _unsettled[:] = [manager for manager in _unsettled if manager is not self._manager]
            self._manager.close()
