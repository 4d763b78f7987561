"""Safetensors files, read by slices from a local disk or gs://, and written array by array.

A file is the length of its header (8 bytes, little-endian), the header (JSON: {name: {dtype, shape, data_offsets}}) and
the arrays' bytes (little-endian, row by row), whose offsets count from the end of the header.
Source: https://huggingface.co/docs/safetensors, section "Format".
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from xtr import storage
from xtr.checkpoints import source
from xtr.checkpoints.source import Index, StoredArray

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit
# A slice of columns is a run of bytes in every row. Runs this long are read one by one, shorter ones together with what
# lies between them, which is cheaper: a request to a bucket costs about as much as a megabyte.
_LONG_RUN, _LONG_RUN_REMOTE = 1024, 1 << 20
_ROWS_AT_ONCE = 8 << 20  # bytes of whole rows held at a time then


def open_file(path: str) -> dict[str, StoredArray]:
    """Opens a file; none of its data is read but the last byte, so that a truncated file is found now.

    Raises:
      OSError, ValueError: there is no such file, or it is not a safetensors file.
    """
    length = int.from_bytes(storage.read_range(path, 0, 8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError("it is not a safetensors file")
    try:
        header = json.loads(storage.read_range(path, 8, length))
        entries = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is not a safetensors file: its header cannot be read ({error!r})") from error
    data = 8 + length
    ends = sorted({end for *_, end in entries.values()} | {0})
    missing_from = _first_missing(path, data, ends)
    return {
        name: _stored(path, dtype, shape, data + start, end - start, cut=end > missing_from)
        for name, (dtype, shape, start, end) in entries.items()
    }


def _first_missing(path: str, data: int, ends: list[int]) -> int:
    """The greatest of the arrays' ends that the file still reaches; by bisection, if not the last."""

    def reaches(end: int) -> bool:
        try:
            storage.read_range(path, data + end - 1, 1)
            return True
        except OSError as error:
            storage.raise_if_passing(error)
            return False

    if reaches(ends[-1]):
        return ends[-1]
    low, high = 0, len(ends) - 1  # ends[low] is reached, ends[high] is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(ends[middle]) else (low, middle)
    return ends[low]


def _stored(path: str, dtype_name: str, shape: tuple[int, ...], start: int, length: int, *, cut: bool) -> StoredArray:
    if dtype_name not in DTYPES:
        return source.broken(shape, f"it is stored as {dtype_name}; known are {', '.join(DTYPES)}")
    dtype = DTYPES[dtype_name]
    if length != math.prod(shape) * dtype.itemsize:
        return source.broken(shape, f"its header gives it {length} bytes, not {math.prod(shape) * dtype.itemsize}")
    if cut:
        return source.broken(shape, f"the file {path} ends before its last byte")
    return StoredArray(shape, dtype, lambda index: _read(path, start, shape, dtype, index))


def _read(path: str, start: int, shape: tuple[int, ...], dtype: np.dtype, index: Index) -> np.ndarray:
    """A slice of the array of `shape` whose bytes begin at byte `start` of a file."""
    out = np.empty([s.stop - s.start for s in index], dtype)
    # Axes after `split` are read whole, so what is needed of axis `split` is one run for each place on the axes before.
    split = len(shape) - 1
    while split > 0 and index[split] == slice(0, shape[split]):
        split -= 1
    if split <= 0:
        inner = math.prod(shape[1:]) * dtype.itemsize
        first = index[0].start if index else 0
        _read_into(path, start + first * inner, out)
        return out
    row = math.prod(shape[1:]) * dtype.itemsize  # bytes of one place on the first axis
    run = math.prod(out.shape[split:]) * dtype.itemsize
    if run >= (_LONG_RUN_REMOTE if storage.is_remote(path) else _LONG_RUN):
        places = np.array([start])
        for axis in range(split + 1):
            steps = np.arange(index[axis].start, index[axis].stop if axis < split else index[axis].start + 1)
            places = np.add.outer(places, steps * math.prod(shape[axis + 1 :]) * dtype.itemsize).reshape(-1)
        _read_runs(path, places.tolist(), out)
        return out
    step = max(1, _ROWS_AT_ONCE // row)
    for at in range(0, len(out), step):
        rows = np.empty((min(step, len(out) - at), *shape[1:]), dtype)
        _read_into(path, start + (index[0].start + at) * row, rows)
        out[at : at + step] = rows[:, *index[1:]]
    return out


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _read_into(path: str, start: int, out: np.ndarray) -> None:
    _read_runs(path, [start], out)


def _read_runs(path: str, places: list[int], out: np.ndarray) -> None:
    """Fills `out`, cut into len(places) equal runs, with the bytes from those places of a file on."""
    if not out.size:
        return
    buffer, length = _bytes_of(out), out.nbytes // len(places)
    if storage.is_remote(path):
        for i, place in enumerate(places):
            buffer[i * length : (i + 1) * length] = storage.read_range(path, place, length)
        return
    with open(path, "rb", buffering=0) as file:
        for i, place in enumerate(places):
            done = 0
            while done < length:  # the kernel gives at most 2 GiB at a time
                got = os.preadv(file.fileno(), [buffer[i * length + done : (i + 1) * length]], place + done)
                if not got:
                    raise OSError(f"{path} ends before byte {place + length}")
                done += got


def size(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> int:
    """Bytes of data of a file that holds arrays of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize


def write_file(path: str, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype, arrays: Iterable[np.ndarray]) -> None:
    """Writes a file of arrays of one dtype; `arrays` gives them in the order of `shapes`, and one is held at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape, array in zip(shapes.values(), arrays, strict=True):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"an array of {array.shape}, {array.dtype}, not {shape}, {dtype}")
            file.write(_bytes_of(np.ascontiguousarray(array)))
        file.flush()
        os.fsync(file.fileno())
