"""Reads T5X's checkpoints without T5X or TensorFlow: the legacy format (version 3; all released mT5 ones) and Orbax's.

A legacy checkpoint is a folder with a file `checkpoint` (Flax msgpack) whose leaves are either arrays or the
specification of a zarr folder beside it. It holds 'target' (parameters) and 'state' (step, and Adafactor's slots m, v,
v_row, v_col; those not in use are zeros of shape [1]).

T5X's newer checkpoints hold the same below `state/`, written by Orbax: all arrays in one OCDBT database or, before the
middle of 2024, each in a zarr folder, with small ones perhaps in a msgpack file `state/checkpoint`.

Either may come from T5X's scanned network (umT5): one array then holds all layers of a stack, on its second axis.
"""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import flax.serialization
import numpy as np

from xtr import storage
from xtr.checkpoints import source
from xtr.checkpoints.source import StoredArray
from xtr.errors import UserError

FILE = "checkpoint"
STATE, METADATA = "state", "_METADATA"
TARGET, PARAM_STATES = "target.", "state.param_states."
SLOTS = ("v", "v_row", "v_col")
SCANNED = ("encoder.encoder.", "decoder.decoder.")


def is_legacy(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder with a T5X legacy checkpoint."""
    return storage.is_file(storage.join(path, FILE))


def is_orbax(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder with a T5X checkpoint that Orbax wrote."""
    return any(storage.is_file(storage.join(path, STATE, name)) for name in (METADATA, FILE))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and "driver" not in value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _source(path: str, step: int, arrays: Mapping[str, StoredArray], open_slots) -> source.Source:
    refused = "it is stored as uint16, which early versions of T5X used for bfloat16"
    target = {
        name.removeprefix(TARGET): source.broken(a.shape, refused) if a.dtype == np.uint16 else a
        for name, a in arrays.items()
        if name.startswith(TARGET)
    }

    def slots() -> dict[str, dict[str, StoredArray]]:
        found: dict[str, dict[str, StoredArray]] = {}
        for name, array in open_slots().items():
            parameter, _, slot = name.removeprefix(PARAM_STATES).rpartition(".")
            in_use = array.shape != (1,) or (parameter in target and target[parameter].shape == (1,))
            if slot in SLOTS and in_use:
                found.setdefault(parameter, {})[slot] = array
        return found

    return source.Source(
        kind=source.T5X,
        path=path,
        what=f"The T5X checkpoint {path}",
        step=step,
        arrays=target,
        open_slots=slots,
        scanned=any(name.startswith(SCANNED) for name in target),
    )


# ---------------------------------------------------------------------------------------------------- legacy


def open_legacy(path: str) -> source.Source:
    """Opens a legacy checkpoint.

    Raises:
      UserError: the file is not a T5X checkpoint of version 3.
    """
    file = storage.join(path, FILE)
    try:
        contents = flax.serialization.msgpack_restore(storage.read_bytes(file))
        version, optimizer = contents["version"], contents["optimizer"]
        step, target, states = optimizer["state"]["step"], optimizer["target"], optimizer["state"]["param_states"]
    except Exception as error:  # msgpack raises many kinds for bytes that are not its own
        storage.raise_if_passing(error)
        raise UserError(f"{file} is not a T5X checkpoint (a Flax msgpack file): {error!r}.") from error
    if version != 3:
        raise UserError(
            f"{file} is a T5X checkpoint of version {version}; only version 3 is known. Save it anew with T5X."
        )
    counts = source.list_keys(storage.kvstore(path))
    arrays = _open_leaves(path, {TARGET + name: leaf for name, leaf in _leaves(target)}, counts)
    slots = {PARAM_STATES + name: leaf for name, leaf in _leaves(states)}
    return _source(path, int(step), arrays, lambda: _open_leaves(path, slots, counts))


def _open_leaves(path: str, leaves: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, StoredArray]:
    """Opens the leaves of the msgpack file: arrays as they are, specifications as the zarr folders that they name."""
    arrays, folders, shapes = {}, {}, {}
    for name, leaf in leaves.items():
        if not isinstance(leaf, Mapping):
            arrays[name] = source.in_memory(np.asarray(leaf))
            continue
        shapes[name] = tuple(int(size) for size in leaf["metadata"]["shape"])
        if leaf["driver"] == "zarr":
            # Older files keep the folder at the top level. Buckets and drivers are those of the writer's machine.
            folder = leaf.get("path") or leaf["kvstore"]["path"]
            folders[name] = folder.rstrip("/").rsplit("/", 1)[-1]
        else:
            fault = f"it is stored with the driver {leaf['driver']!r}; only zarr is known"
            arrays[name] = source.broken(shapes[name], fault)
    for name, array in source.open_zarr(storage.kvstore(path), folders, counts=counts).items():
        fault = array.fault
        if not fault and array.shape != shapes[name]:
            fault = f"its shape is {array.shape}, not {shapes[name]} as the checkpoint says"
        arrays[name] = source.broken(shapes[name], fault) if fault else array
    return arrays


# ---------------------------------------------------------------------------------------------------- Orbax


def open_orbax(path: str) -> source.Source:
    """Opens a checkpoint that Orbax wrote.

    Raises:
      UserError: its step or its list of arrays cannot be read.
    """
    state = storage.join(path, STATE)
    try:
        metadata = {}
        if storage.is_file(storage.join(state, METADATA)):
            metadata = json.loads(storage.read_bytes(storage.join(state, METADATA)))
        store: dict[str, Any] = dict(storage.kvstore(state))
        if storage.is_file(storage.join(state, "manifest.ocdbt")):
            store = {"driver": "ocdbt", "base": store}
        counts = source.list_keys(store)
        inline = _inline(state)
    except source.UNREADABLE as error:
        storage.raise_if_passing(error)
        what = f"The T5X checkpoint {path} is damaged"
        raise UserError(f"{what}: its list of arrays cannot be read ({error}).") from error
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    names = [name for name in counts if name.startswith((TARGET, PARAM_STATES)) and name not in inline]

    def open_those(prefix: str, strict: bool) -> dict[str, StoredArray]:
        folders = {name: name for name in names if name.startswith(prefix)}
        arrays = source.open_zarr(store, folders, driver=driver, counts=counts if strict else None)
        return arrays | {name: source.in_memory(a) for name, a in inline.items() if name.startswith(prefix)}

    # Earlier versions of Orbax leave out chunks of zeros, which second moments may have and parameters do not.
    strict_slots = bool(metadata.get("store_array_data_equal_to_fill_value"))
    steps = {"state.step": "state.step"} if "state.step" in counts else {}
    try:
        step = inline.get("state.step")
        if step is None:
            step = source.open_zarr(store, steps, driver=driver)["state.step"].read(())
    except (KeyError, *source.UNREADABLE) as error:
        storage.raise_if_passing(error)
        raise UserError(f"The T5X checkpoint {path} is damaged: its step cannot be read ({error!r}).") from error
    return _source(path, int(step), open_those(TARGET, True), lambda: open_those(PARAM_STATES, strict_slots))


def _inline(state: str) -> dict[str, np.ndarray]:
    """The arrays that are in the msgpack file of older checkpoints themselves, not in folders."""
    file = storage.join(state, FILE)
    if not storage.is_file(file):
        return {}
    try:
        leaves = dict(_leaves(flax.serialization.msgpack_restore(storage.read_bytes(file))))
    except Exception as error:  # msgpack raises many kinds for bytes that are not its own
        storage.raise_if_passing(error)
        raise ValueError(f"{file} is not a Flax msgpack file: {error!r}") from error
    return {name: np.asarray(leaf) for name, leaf in leaves.items() if not isinstance(leaf, str) and leaf is not None}
