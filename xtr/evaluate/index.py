"""A candidate index on disk: vectors in shards, and a manifest that says what they are the vectors of.

    <directory>/manifest.json
    <directory>/00000.npy ...

It is written shard by shard while candidates are embedded. A killed run goes on behind the last whole shard; a later
run with the same identity reads the vectors instead of embedding again.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from xtr import rundir
from xtr.errors import DataError, UserError
from xtr.progress import note

MANIFEST = "manifest.json"
SHARD_ROWS = 16_384
_FORMAT = 1
_DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class Index:
    """A whole index. It is read like an array, by slices of rows or arrays of row numbers; nothing of it stays in
    memory, mapped or copied, but what was asked for.

    Attributes:
      directory: where it lies.
      identity: what it holds the vectors of.
      shape: (count, dimension), or (count, layers, dimension).
      shard_rows: rows of each shard but the last.
    """

    directory: Path
    identity: Mapping[str, Any]
    shape: tuple[int, ...]
    shard_rows: int

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.read(rows)

    def read(self, rows: slice | np.ndarray, layer: int | slice = slice(None)) -> np.ndarray:
        """Vectors [rows, ...] of rows in any order; of one layer, where it is given."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of an index of {len(self)}")
        out: np.ndarray | None = None
        shard_N = rows // self.shard_rows
        for shard in np.unique(shard_N):
            # Opened for this part alone: a mapping that stays would count as the process's memory, page by page.
            vectors = np.load(_path(self.directory, shard), mmap_mode="r")
            vectors = vectors if vectors.ndim == 2 else vectors[:, layer]
            where = np.flatnonzero(shard_N == shard)
            inside = rows[where] - shard * self.shard_rows
            one_run = inside[-1] - inside[0] + 1 == len(inside) and (np.diff(inside) == 1).all()
            part = vectors[inside[0] : inside[-1] + 1] if one_run else vectors[inside]
            if len(where) == len(rows):
                return np.array(part)
            if out is None:
                out = np.empty((len(rows), *part.shape[1:]), part.dtype)
            out[where] = part
        return np.empty((0, self.shape[-1]), np.float32) if out is None else out

    def layer(self, number: int) -> "Layer":
        """The vectors of one of the layers that it holds, by its place among them."""
        return Layer(self, number)


@dataclasses.dataclass(frozen=True)
class Layer:
    """The vectors [count, dimension] of one layer of an index of several."""

    index: Index
    number: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.index.shape[0], self.index.shape[-1]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.index.read(rows, self.number)


def open_index(directory: str | os.PathLike, identity: Mapping[str, Any] | None = None) -> Index:
    """Opens a whole index, after comparing its checksums.

    Raises:
      UserError: there is none, it is not whole, or it holds the vectors of something else than `identity`.
      DataError: its manifest or a shard is damaged.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    if manifest is None:
        raise UserError(f"{directory} holds no candidate index: there is no {MANIFEST} in it.")
    if identity is not None:
        _check_identity(directory, manifest, identity)
    written, shards = len(manifest["sha256"]), _shards(manifest)
    for shard in range(written):
        if not _is_whole(directory, manifest, shard):
            raise DataError(f"{_path(directory, shard)}: missing, or its checksum is not the manifest's. {_REMEDY}")
    if written < shards:
        raise UserError(
            f"{directory}: {written} of {shards} shards are written; the run that builds it must end first."
        )
    return _index(directory, manifest)


def open_or_build(
    directory: str | os.PathLike,
    identity: Mapping[str, Any],
    count: int,
    embed_rows: Callable[[range], np.ndarray],
    *,
    shard_rows: int = SHARD_ROWS,
    dtype: str = "float32",
    advance: Callable[[int], None] = lambda rows: None,
) -> Index:
    """Opens the index of `identity`; embeds what of it is not there yet, or is damaged.

    Args:
      directory: of this index alone. Where several processes embed, all must see it; the first writes.
      identity: JSON values that say what the vectors are of: checkpoint and step, model, task and its fingerprint,
        split, layers, pooling, length.
      count: how many candidates there are.
      embed_rows: a range of candidates -> their vectors, [rows, D] or [rows, layers, D]. Called by every process.
      shard_rows: rows of a shard: what a killed run loses at the most, and what is held while it is written.
      dtype: 'float32', or 'float16' for half the space; what is found is then exact for the rounded vectors.
      advance: told how many candidates are there, as they come to be.

    Raises:
      UserError: the directory holds another index, or other files.
      DataError: its manifest is damaged, or `embed_rows` gave another number of vectors, or some not finite.
    """
    directory = Path(directory)
    if dtype not in _DTYPES or shard_rows < 1 or count < 1:
        raise UserError(
            f"an index has one or more vectors in shards of one or more, of {' or '.join(_DTYPES)}; not {count} in "
            f"shards of {shard_rows}, of {dtype!r}."
        )
    manifest = _read_manifest(directory)
    if manifest is None:
        if directory.is_dir() and any(directory.iterdir()):
            raise UserError(f"{directory} holds other files, and no candidate index: give a directory of its own.")
        manifest = {"format": _FORMAT, "identity": rundir.plain(identity), "count": count, "dtype": dtype}
        manifest |= {"shard_rows": shard_rows, "row_shape": None, "sha256": []}
    else:
        _check_identity(directory, manifest, identity)
        if (manifest["count"], manifest["dtype"]) != (count, dtype):
            raise UserError(
                f"{directory} holds {manifest['count']} vectors of {manifest['dtype']}, not {count} of {dtype}. "
                f"{_REMEDY}"
            )
    whole = [_is_whole(directory, manifest, shard) for shard in range(len(manifest["sha256"]))]
    _wait("read")  # No process writes before all have seen what there is.
    for shard in range(_shards(manifest)):
        rows = range(shard * manifest["shard_rows"], min(count, (shard + 1) * manifest["shard_rows"]))
        if shard >= len(whole) or not whole[shard]:
            if shard < len(whole):
                note(f"{_path(directory, shard)} is damaged; its {len(rows)} candidates are embedded again.")
            _write(directory, manifest, shard, rows, embed_rows(rows))
        advance(len(rows))
    _wait("written")
    return _index(directory, manifest)


def weights_digest(params: Any) -> str:
    """A hash of the bits of a tree of parameters, for an identity: a checkpoint's path and step do not say that it was
    written anew. The same however the parameters are sharded: it is made of sums of whole numbers."""
    leaves, structure = jax.tree.flatten(params)
    sums = [int(n) for n in jax.device_get(_bit_sums(leaves))]
    return rundir.digest({"structure": str(structure), "sums": sums, "shapes": [list(leaf.shape) for leaf in leaves]})


@jax.jit
def _bit_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    def bits(leaf: jax.Array) -> jax.Array:
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)

    def place(leaf: jax.Array) -> jax.Array:
        # Odd factors that differ along every axis: values that changed places change the sum.
        factors = jnp.ones((), jnp.uint32)
        for axis in range(leaf.ndim):
            factors = factors * (jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * (2 * axis + 2) + 1)
        return factors

    return [(bits(leaf) * place(leaf)).sum(dtype=jnp.uint32) for leaf in leaves]


_REMEDY = "Delete the directory, and the next run embeds the candidates again."


def _write(directory: Path, manifest: dict, shard: int, rows: range, vectors: np.ndarray) -> None:
    """Writes a shard and then the manifest that knows it."""
    vectors = np.asarray(vectors)
    row_shape = list(vectors.shape[1:])
    if len(vectors) != len(rows) or len(row_shape) not in (1, 2) or row_shape != (manifest["row_shape"] or row_shape):
        wanted = (len(rows), *(manifest["row_shape"] or ("dimension",)))
        raise DataError(
            f"{directory}, candidates {rows.start} to {rows.stop - 1}: vectors {vectors.shape}, not {wanted}"
        )
    with np.errstate(over="ignore"):
        vectors = vectors.astype(manifest["dtype"])
    finite_N = np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1)
    if not finite_N.all():
        wrong = rows.start + int(np.argmin(finite_N))
        raise DataError(f"{directory}, candidate {wrong}: its vector is not finite in {manifest['dtype']}")
    file = io.BytesIO()
    np.save(file, vectors)
    data = file.getvalue()
    manifest["row_shape"] = row_shape
    manifest["sha256"][shard : shard + 1] = [hashlib.sha256(data).hexdigest()]
    if jax.process_index() == 0:
        rundir.write_atomic(_path(directory, shard), data)
        rundir.write_atomic(directory / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _wait(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"candidate index: {what}")


def _path(directory: Path, shard: int) -> Path:
    return directory / f"{shard:05d}.npy"


def _shards(manifest: Mapping) -> int:
    return -(-manifest["count"] // manifest["shard_rows"])


def _index(directory: Path, manifest: Mapping) -> Index:
    shape = (manifest["count"], *manifest["row_shape"])
    return Index(directory, manifest["identity"], shape, manifest["shard_rows"])


def _read_manifest(directory: Path) -> dict | None:
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        whole = [manifest["count"], manifest["shard_rows"], *(manifest["row_shape"] or ())]
        valid = all(type(number) is int and number > 0 for number in whole) and manifest["dtype"] in _DTYPES
        valid = valid and len(manifest["sha256"]) <= _shards(manifest) and isinstance(manifest["identity"], dict)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the manifest of a candidate index ({error!r}). {_REMEDY}") from error
    if not valid or manifest["format"] != _FORMAT:
        raise DataError(f"{path}: not the manifest of a candidate index that this xtr reads. {_REMEDY}")
    return manifest


def _check_identity(directory: Path, manifest: Mapping, identity: Mapping[str, Any]) -> None:
    changes = rundir.difference(manifest["identity"], json.loads(json.dumps(rundir.plain(identity))))
    if changes:
        raise UserError(
            f"{directory} holds the candidate index of something else; give another directory or set these back: "
            + "; ".join(changes[:8])
        )


def _is_whole(directory: Path, manifest: Mapping, shard: int) -> bool:
    try:
        with open(_path(directory, shard), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == manifest["sha256"][shard]
    except OSError:
        return False
