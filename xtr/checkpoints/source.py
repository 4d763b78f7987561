"""What every kind of checkpoint is to the loader: a table of named arrays of which slices can be read."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from xtr import storage

XTR, T5X, HUGGING_FACE = "xtr", "t5x", "hf"
Index = tuple[slice, ...]  # one slice an axis, with start and stop
UNREADABLE = (OSError, ValueError)  # what storage and TensorStore raise for data that is not there or not whole


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """One array of a checkpoint, not read yet.

    Attributes:
      shape, dtype: as it is stored.
      read: (index) -> that slice. Raises one of UNREADABLE; `storage.blame` says what it tells of the array.
      grain: a slice is read at no more cost when its bounds are multiples of these (the chunks of zarr).
      fault: why it cannot be read, where that is known already.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]
    grain: tuple[int, ...] | None = None
    fault: str = ""

    def touched(self, index: Index) -> int:
        """Bytes that reading a slice decodes."""
        grain = self.grain or (1,) * len(self.shape)
        sizes = (-(-s.stop // g) * g - s.start // g * g for s, g in zip(index, grain, strict=True))
        return math.prod(sizes) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint, opened.

    Attributes:
      kind: XTR, T5X or HUGGING_FACE.
      path: its folder.
      what: how messages name it.
      step: optimizer steps it has behind it.
      arrays: the parameters.
      open_slots: () -> {parameter's name: {'v'} or {'v_row', 'v_col'}: the arrays}, without those that are not in use.
      scanned: T5X's layout with all layers of a stack in one array.
      aside: {reason: names} of arrays that were left aside.
    """

    kind: str
    path: str
    what: str
    step: int
    arrays: Mapping[str, StoredArray]
    open_slots: Callable[[], dict[str, dict[str, StoredArray]]] = dict
    scanned: bool = False
    aside: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def slots(self) -> dict[str, dict[str, StoredArray]]:
        """The optimizer's second moments; opened on first use."""
        return self.open_slots()


def whole(shape: tuple[int, ...]) -> Index:
    """The index of all of an array."""
    return tuple(slice(0, size) for size in shape)


def in_memory(array: np.ndarray) -> StoredArray:
    """An array that came with the checkpoint's description."""
    return StoredArray(array.shape, array.dtype, lambda index: array[index])


def broken(shape: tuple[int, ...], fault: str) -> StoredArray:
    """An array that is known not to be readable."""
    return StoredArray(shape, np.dtype(np.float32), lambda index: np.zeros(()), fault=fault)


def list_keys(store: Mapping[str, Any]) -> dict[str, int]:
    """{folder: number of files in it} of a key-value store, from one listing; metadata files do not count.

    Raises:
      OSError: it cannot be listed.
    """
    counts: dict[str, int] = {}
    try:
        keys = ts.KvStore.open(dict(store), context=storage.context()).result().list().result()
    except ValueError as error:  # TensorStore has one kind of error for everything
        raise OSError(f"it cannot be listed: {error}") from error
    for key in keys:
        folder, _, file = key.decode().partition("/")
        counts[folder] = counts.get(folder, 0) + (file.rpartition("/")[2] not in (".zarray", ".zattrs", "zarr.json"))
    return counts


def open_zarr(
    store: Mapping[str, Any],
    folders: Mapping[str, str],
    *,
    driver: str = "zarr",
    counts: Mapping[str, int] | None = None,
) -> dict[str, StoredArray]:
    """Opens zarr arrays, all at a time; none of their data is read.

    Args:
      store: the key-value store that holds them.
      folders: {name of an array: its folder in the store}.
      driver: 'zarr' or 'zarr3'.
      counts: from `list_keys`; with it an array that lacks chunks has a fault. None: chunks that are not there are
        zeros.
    """
    opening = {
        name: ts.open(
            {
                "driver": driver,
                "kvstore": {**store, "path": f"{store.get('path', '')}{folder}/"},
                "fill_missing_data_reads": counts is None,
            },
            open=True,
            read=True,
            context=storage.context(),
        )
        for name, folder in folders.items()
    }
    arrays = {}
    for name, future in opening.items():
        try:
            opened = future.result()
        except ValueError as error:
            storage.raise_if_passing(error)
            gone = counts is not None and folders[name] not in counts
            arrays[name] = broken((), "its folder is not there" if gone else str(error))
            continue
        shape, grain = tuple(opened.shape), tuple(opened.chunk_layout.read_chunk.shape or opened.shape)
        chunks = math.prod(-(-size // step) for size, step in zip(shape, grain, strict=True))
        found = chunks if counts is None else counts.get(folders[name], 0)
        fault = "" if found >= chunks else f"{chunks - found} of its {chunks} chunks are not there"
        # A chunk that vanishes after the listing is an error all the same.
        arrays[name] = StoredArray(
            shape, opened.dtype.numpy_dtype, lambda index, a=opened: a[index].read().result(), grain, fault
        )
    return arrays
