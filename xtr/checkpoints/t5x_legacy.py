"""Reads T5X's legacy checkpoints (version 3; all released mT5 ones) without T5X or TensorFlow.

A checkpoint is a folder with a file `checkpoint` (Flax msgpack) whose leaves are either arrays or the specification of
a zarr folder beside it. It holds 'target' (parameters) and 'state' (step, and Adafactor's slots m, v, v_row, v_col;
those not in use are zeros of shape [1]).
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import tensorstore as ts
from etils import epath

from xtr.errors import UserError

FILE = "checkpoint"


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """One array of a checkpoint, not read yet: its name and shape, and either the array or its zarr folder."""

    name: str
    shape: tuple[int, ...]
    source: np.ndarray | str


@dataclasses.dataclass(frozen=True)
class T5XCheckpoint:
    """A T5X checkpoint's contents by T5X's names ('encoder.layers_0.attention.query.kernel').

    Attributes:
      path: its folder.
      step: optimizer steps it has behind it.
      target: the parameters.
      slots: for each parameter its second moments: {'v'} or {'v_row', 'v_col'}.
    """

    path: str
    step: int
    target: dict[str, StoredArray]
    slots: dict[str, dict[str, StoredArray]]


def is_t5x(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder with a T5X legacy checkpoint."""
    return (epath.Path(path) / FILE).is_file()


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and "driver" not in value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _stored(path: str, name: str, leaf: Any) -> StoredArray:
    if not isinstance(leaf, Mapping):
        array = np.asarray(leaf)
        return StoredArray(name, array.shape, array)
    if leaf["driver"] != "zarr":
        raise UserError(f"{path}: the array {name} is stored with the driver {leaf['driver']!r}; only zarr is known.")
    # Older files keep the folder at the top level. Buckets and drivers in the file are those of the writer's machine.
    folder = leaf.get("path") or leaf["kvstore"]["path"]
    return StoredArray(name, tuple(leaf["metadata"]["shape"]), folder.rstrip("/").rsplit("/", 1)[-1])


def open_checkpoint(path: str | os.PathLike) -> T5XCheckpoint:
    """Reads what a checkpoint holds, but none of the large arrays.

    Raises:
      UserError: the file is not a T5X checkpoint of version 3.
    """
    path = os.fspath(path)
    file = epath.Path(path) / FILE
    try:
        contents = flax.serialization.msgpack_restore(file.read_bytes())
        version, optimizer = contents["version"], contents["optimizer"]
        step, target, states = optimizer["state"]["step"], optimizer["target"], optimizer["state"]["param_states"]
    except Exception as error:  # msgpack raises many kinds for bytes that are not its own
        raise UserError(f"{file} is not a T5X checkpoint (a Flax msgpack file): {error!r}.") from error
    if version != 3:
        raise UserError(
            f"{file} is a T5X checkpoint of version {version}; only version 3 is known. Save it anew with T5X."
        )
    parameters = {name: _stored(path, name, leaf) for name, leaf in _leaves(target)}
    slots: dict[str, dict[str, StoredArray]] = {name: {} for name in parameters}
    for name, leaf in _leaves(states):
        parameter, slot = name.rsplit(".", 1)
        stored = _stored(path, name, leaf)
        in_use = stored.shape != (1,) or parameters.get(parameter, stored).shape == (1,)
        if slot in ("v", "v_row", "v_col") and parameter in slots and in_use:
            slots[parameter][slot] = stored
    return T5XCheckpoint(path=path, step=int(step), target=parameters, slots=slots)


def _kvstore(path: str, folder: str) -> dict[str, str]:
    if path.startswith("gs://"):
        bucket, _, prefix = path.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{prefix.rstrip('/')}/{folder}/"}
    return {"driver": "file", "path": f"{os.path.abspath(path)}/{folder}/"}


def read(path: str | os.PathLike, arrays: Iterable[StoredArray]) -> list[np.ndarray]:
    """Reads arrays of the checkpoint at `path`, several at a time; bfloat16 is widened to f32.

    Raises:
      UserError: naming the array that is absent, incomplete or of another shape than the checkpoint says.
    """
    path = os.fspath(path)
    arrays = list(arrays)
    opened = {
        i: ts.open(
            # A chunk that is not there is an error, not zeros.
            {"driver": "zarr", "kvstore": _kvstore(path, array.source), "fill_missing_data_reads": False},
            open=True,
            read=True,
        )
        for i, array in enumerate(arrays)
        if isinstance(array.source, str)
    }
    pending: dict[int, Any] = {}
    out: list[np.ndarray] = []
    try:
        for i, handle in opened.items():
            pending[i] = handle.result().read()
        for i, array in enumerate(arrays):
            value = np.asarray(pending.pop(i).result() if i in pending else array.source)
            if value.shape != array.shape:
                raise ValueError(f"its shape is {value.shape}, not {array.shape}")
            if value.dtype == np.uint16:
                raise ValueError("it is stored as uint16, which early versions of T5X used for bfloat16")
            out.append(value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value)
    except ValueError as error:
        array = arrays[i]
        raise UserError(f"The T5X checkpoint {path} cannot be read at the array {array.name}: {error}") from error
    return out
