"""Writes checkpoints in other programs' layouts, one array at a time: Hugging Face's folder, T5X's legacy format."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.serialization
import numpy as np
import tensorstore as ts

from xtr import storage
from xtr.checkpoints import huggingface, layout, safetensors, t5x
from xtr.checkpoints.layout import Part
from xtr.checkpoints.source import HUGGING_FACE, T5X, UNREADABLE, XTR, Source, whole
from xtr.errors import UserError
from xtr.models.interface import ModelConfig
from xtr.models.spec import ParamSpec, flatten, unflatten
from xtr.progress import progress

SHARD_BYTES = 5 * 10**9  # of a file of Hugging Face's, as transformers cuts them
CHUNK_BYTES = 64 << 20  # of a zarr chunk at the most, as T5X cuts them


@contextlib.contextmanager
def _new_folder(output: str) -> Iterator[str]:
    """A folder to write to, which gets the name `output` when all is done; nothing stays where it fails.

    Raises:
      UserError: there is something at `output` already, or it is not a local path.
    """
    if storage.is_remote(output):
        raise UserError(f"{output}: checkpoints are written to a local disk only; copy the folder to the bucket then.")
    output = storage.absolute(output)
    if os.path.exists(output):
        raise UserError(f"There is something at {output} already. Name a folder that does not exist.")
    working = f"{output}.tmp-{os.getpid()}"
    os.makedirs(working)
    try:
        yield working
        os.rename(working, output)
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise


def _layers(checkpoint: Source, spec: ParamSpec, parts: list[Part]) -> Iterator[np.ndarray]:
    """A parameter in pieces: its layers one after the other where it is stacked, else the whole. In the spec's dtype.

    What is stored as one array is read as one, since its chunks may hold a bit of every layer.
    """
    for part in parts:
        array = checkpoint.arrays[part.name]
        try:
            stored = array.read(whole(array.shape))
        except UNREADABLE as error:
            storage.raise_if_passing(error)
            where = f"cannot be read at the array {part.name} {part.shape}"
            raise UserError(f"{checkpoint.what} is damaged: {where}: {error}") from error
        held = layout.arrange(stored, part.held_axes()).astype(np.dtype(spec.dtype), copy=False)
        yield from held if spec.stacked and part.layer is None else [held]


def _convert(
    checkpoint: Source, spec: ParamSpec, parts: list[Part], destination: list[Part]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each stored array of one parameter in the layout of `destination`."""
    pieces = _layers(checkpoint, spec, parts)
    if spec.stacked and destination[0].layer is None:
        pieces = iter([np.stack(list(pieces))])
    for part, piece in zip(destination, pieces, strict=True):
        yield part.name, layout.disarrange(piece, part.held_axes(), part.shape)


# ---------------------------------------------------------------------------------------------------- Hugging Face


def write_huggingface(
    checkpoint: Source,
    places: Mapping[str, list[Part]],
    model: ModelConfig,
    output: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a Hugging Face folder: config.json and float32 safetensors, in files of at most `shard_bytes` of data.

    Copies of tied arrays are not written; Hugging Face makes them.

    Args:
      checkpoint, places: what to write; see `load.plan`.

    Raises:
      UserError: `output` is not free, or an array of the source cannot be read.
    """
    hf = model.huggingface()
    specs = flatten(model.param_specs())
    destination = layout.parts(Source(HUGGING_FACE, output, output, 0, {}), model.param_specs())
    dtype = np.dtype(np.float32)
    files: list[dict[str, tuple[int, ...]]] = [{}]
    for path in specs:
        for part in destination[path]:
            if files[-1] and safetensors.size({**files[-1], part.name: part.shape}, dtype) > shard_bytes:
                files.append({})
            files[-1][part.name] = part.shape
    stem, end = huggingface.SAFETENSORS.split(".")
    many = [f"{stem}-{i + 1:05}-of-{len(files):05}.{end}" for i in range(len(files))]
    names = many if len(files) > 1 else [huggingface.SAFETENSORS]
    with _new_folder(output) as folder, progress("write Hugging Face folder", len(specs)) as bar:

        def arrays() -> Iterator[np.ndarray]:
            for path, spec in specs.items():
                for _, array in _convert(checkpoint, spec, places[path], destination[path]):
                    yield array.astype(dtype, copy=False)
                bar.advance()

        stream = arrays()
        for name, shapes in zip(names, files, strict=True):
            some = (next(stream) for _ in shapes)
            safetensors.write_file(storage.join(folder, name), shapes, dtype, some)
        next(stream, None)
        if len(files) > 1:
            index = {
                "metadata": {"total_size": sum(safetensors.size(shapes, dtype) for shapes in files)},
                "weight_map": {array: name for name, shapes in zip(names, files, strict=True) for array in shapes},
            }
            _write_json(storage.join(folder, huggingface.SAFETENSORS + huggingface.INDEX), index)
        config = {"architectures": [hf.architecture], **hf.config, "torch_dtype": str(dtype)}
        _write_json(storage.join(folder, huggingface.CONFIG), config)


def _write_json(path: str, content: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")


# ---------------------------------------------------------------------------------------------------- T5X


def write_t5x(
    checkpoint: Source, places: Mapping[str, list[Part]], model: ModelConfig, slots: Any, output: str
) -> None:
    """Writes a T5X legacy checkpoint (version 3), float32: scanned where the network has a bias in every layer (umT5),
    else an array a layer.

    Adafactor's second moments and the step come along where the source has them. Otherwise the moments are zeros and
    the step is 0, as T5X starts.

    Args:
      checkpoint, places: what to write; see `load.plan`.
      slots: the nested dict of Adafactor's slots (anything with a shape and axes) for a source that has none.

    Raises:
      UserError: T5X has no such network; `output` is not free; or an array of the source cannot be read.
    """
    specs, flat = model.param_specs(), flatten(model.param_specs())
    headless = [path for path, spec in flat.items() if spec.t5x is None]
    if headless:
        raise UserError(f"T5X has no such network: it has no name for {headless[0]}. Write a Hugging Face folder.")
    scanned = any(spec.stacked and "heads" in spec.axes for spec in flat.values())
    target = Source(T5X, output, output, 0, {}, scanned=scanned)
    destination, heads = layout.parts(target, specs), layout.heads_of(specs)
    brought = _slot_kinds(checkpoint, places)
    kinds = brought or _group(name.rpartition("/")[::2] for name in flatten(slots))
    of_slots = dataclasses.replace(checkpoint, arrays=layout.stored_slots(checkpoint))
    with _new_folder(output) as folder, progress("write T5X checkpoint", len(flat)) as bar:
        leaves: dict[str, Any] = {}
        states: dict[str, Any] = {}
        for path, spec in flat.items():
            for name, array in _convert(checkpoint, spec, places[path], destination[path]):
                leaves[name] = _write_zarr(folder, t5x.TARGET + name, array)
                states |= {f"{name}.{slot}": np.zeros(1, np.float32) for slot in ("m", *t5x.SLOTS)}
            for kind in kinds[path]:
                parts = layout.slot_parts(target, spec, path, kind, heads)
                arrays: Iterable[tuple[str, np.ndarray]] = ((p.name, np.zeros(p.shape, np.float32)) for p in parts)
                if brought:
                    slot, lie = layout.slot_spec(spec, kind), layout.slot_parts(checkpoint, spec, path, kind, heads)
                    arrays = _convert(of_slots, slot, lie, parts)
                for name, array in arrays:
                    dotted = name.replace("/", ".")
                    # T5X gives a folder to what is sharded as its parameter is, and to nothing smaller.
                    states[dotted] = _write_zarr(folder, t5x.PARAM_STATES + dotted, array) if kind == "v" else array
            bar.advance()
        optimizer = {
            "target": _nest(leaves),
            "state": {
                "step": np.asarray(checkpoint.step if brought else 0, np.int32),
                "param_states": _nest(states),
            },
        }
        with open(storage.join(folder, t5x.FILE), "wb") as file:
            file.write(flax.serialization.msgpack_serialize({"version": 3, "optimizer": optimizer}))


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for path, slot in pairs:
        out.setdefault(path, []).append(slot)
    return out


def _slot_kinds(checkpoint: Source, places: Mapping[str, list[Part]]) -> dict[str, list[str]]:
    """{parameter's path: names of its second moments}; {} where the source lacks any, or has another optimizer's."""
    found = {
        path: sorted(checkpoint.slots.get(path if checkpoint.kind == XTR else parts[0].name, ()))
        for path, parts in places.items()
    }
    return found if all(kinds in (["v"], ["v_col", "v_row"]) for kinds in found.values()) else {}


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten({name.replace(".", "/"): leaf for name, leaf in leaves.items()})


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> list[int]:
    """The largest dimension is cut to its next smaller divisor until a chunk is small enough."""
    chunk = list(shape)
    while math.prod(chunk) * itemsize > CHUNK_BYTES:
        axis = max(range(len(chunk)), key=lambda a: chunk[a])
        chunk[axis] = next(n for n in range(chunk[axis] - 1, 0, -1) if shape[axis] % n == 0)
    return chunk


def _write_zarr(folder: str, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes one array to a zarr folder of that name; returns its entry in the msgpack file."""
    metadata = {
        "chunks": _chunk_shape(array.shape, array.itemsize),
        "compressor": {"id": "gzip", "level": 1},
        "shape": list(array.shape),
    }
    store = ts.open(
        {
            "driver": "zarr",
            "kvstore": storage.kvstore(storage.join(folder, name)),
            "metadata": metadata | {"dtype": array.dtype.newbyteorder("<").str, "fill_value": None, "order": "C"},
            # A chunk that is not there means damage, not zeros.
            "store_data_equal_to_fill_value": True,
        },
        create=True,
        context=storage.context(),
    ).result()
    store.write(array).result()
    kvstore = {"driver": "file", "path": f"{name}/"}
    return {"driver": "zarr", "dtype": str(array.dtype), "kvstore": kvstore, "metadata": metadata}
