"""What lies beside a checkpoint's arrays, so that damage is found: Orbax restores flipped bits without a word.

arrays.json                {name: {shape, dtype}} and how many processes wrote
digests.<process>.json     {name: its share of the array's digest (`xtr.checkpoints.digests`)}
extras.json                what the caller put beside the state
<file>.crc32               the CRC of each of these files
"""

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import future

from xtr import storage
from xtr.checkpoints import digests
from xtr.errors import UserError
from xtr.parallel import distributed

T = TypeVar("T")

INDEX = "index"
ARRAYS = "arrays.json"
_EXTRAS, _CRC = "extras.json", ".crc32"
ADVICE = "Use another checkpoint, or copy this one anew from its source."


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written. The message names what differs."""


def _digests_file(process: int) -> str:
    return f"digests.{process}.json"


# ---------------------------------------------------------------------------------------------------------------- write


class _IndexHandler(ocp.AsyncCheckpointHandler):
    """Writes the files; digests are computed in the background, before the commit."""

    def save(self, directory, args):
        process = jax.process_index()
        own = {name: digests.of_parts(parts, args.shapes[name][0]) for name, parts in args.parts.items()}
        _write(directory, _digests_file(process), json.dumps(own))
        if process == 0:
            arrays = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in args.shapes.items()}
            _write(directory, ARRAYS, json.dumps({"processes": jax.process_count(), "arrays": arrays}, indent=1))
            _write(directory, _EXTRAS, args.extras)

    async def async_save(self, directory, args):
        async def write():
            self.save(directory, args)

        return [future.CommitFutureAwaitingContractedSignals(write(), name="xtr_index_save")]

    def restore(self, directory, args=None):
        return [_read(directory, name) for name in (ARRAYS, _EXTRAS)]


def _write(directory: Any, name: str, text: str) -> None:
    (directory / name).write_text(text)
    (directory / f"{name}{_CRC}").write_text(f"{zlib.crc32(text.encode()):08x}")


@ocp.args.register_with_handler(_IndexHandler, for_save=True)
@dataclasses.dataclass
class IndexSave(ocp.args.CheckpointArgs):
    """What is written: of every array (shape, dtype) and copies of the parts that this process counts."""

    shapes: dict[str, tuple[tuple[int, ...], str]]
    parts: dict[str, list[tuple[tuple[int, ...], np.ndarray]]]
    extras: str


@ocp.args.register_with_handler(_IndexHandler, for_restore=True)
@dataclasses.dataclass
class _IndexRestore(ocp.args.CheckpointArgs):
    """Orbax wants a pair; it has no settings."""


def of_state(arrays: Mapping[str, Any], extras: Mapping[str, Any]) -> IndexSave:
    """What to write of {name: array}. Copies: the device buffer behind a view is given away with the next step."""
    text = json.dumps(dict(extras))
    counted = {
        name: digests.own_parts(x) if distributed.is_first() or not digests.is_own(x) else []
        for name, x in arrays.items()
    }
    for parts in counted.values():
        for _, part in parts:
            if isinstance(part, jax.Array):
                part.copy_to_host_async()
    return IndexSave(
        {name: (tuple(x.shape), str(x.dtype)) for name, x in arrays.items()},
        {name: [(starts, np.array(part, copy=True)) for starts, part in parts] for name, parts in counted.items()},
        text,
    )


# ----------------------------------------------------------------------------------------------------------------- read


def _read(step_directory: str | os.PathLike, name: str) -> Any:
    file = storage.join(step_directory, INDEX, name)
    try:
        text = storage.read_bytes(file)
        if int(storage.read_bytes(file + _CRC), 16) != zlib.crc32(text):
            raise ValueError("its CRC is another")
        return json.loads(text)
    except (OSError, ValueError) as error:
        if storage.blame(error) != storage.STORED:
            raise
        raise DamagedCheckpoint(
            f"The checkpoint {step_directory} is damaged: {INDEX}/{name} cannot be read ({error})."
        ) from error


def read_index(step_directory: str | os.PathLike) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """({array name: {shape, dtype, digest}}, extras) of a checkpoint. DamagedCheckpoint where they are not what was
    written; OSError where that cannot be found out."""
    head = _read(step_directory, ARRAYS)
    shares = [_read(step_directory, _digests_file(process)) for process in range(head["processes"])]
    arrays = {
        name: entry | {"digest": sum(share[name] for share in shares if name in share) % digests.MODULUS}
        for name, entry in head["arrays"].items()
    }
    return arrays, _read(step_directory, _EXTRAS)


def read_alike(read: Callable[[], T]) -> T:
    """What `read` returns in this process. Every process must call it: what one finds damaged is damaged to all.

    Raises:
      DamagedCheckpoint: `read` raised it in some process.
    """
    found, reason = None, None
    try:
        found = read()
    except DamagedCheckpoint as error:
        if jax.process_count() == 1:
            raise
        reason = str(error)
    if reasons := [each for each in distributed.from_every(reason) if each]:
        raise DamagedCheckpoint(reasons[0])
    return found


def verify(
    step_directory: str | os.PathLike, index: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, jax.Array]
) -> None:
    """Compares the digests of arrays that were read with those that were written, whatever the mesh. Every process must
    call it, with its view of the same arrays. An array that was cast while it was read is not compared.

    Args:
      index: from `read_index`.

    Raises:
      DamagedCheckpoint: naming every array that is not what was written; in every process.
    """
    same = {name: x for name, x in arrays.items() if np.dtype(index[name]["dtype"]) == x.dtype}
    own = {name: digests.of_parts(digests.own_parts(x), x.shape) for name, x in same.items()}
    brought = distributed.from_every({name: share for name, share in own.items() if not digests.is_own(same[name])})

    def found(name: str) -> int:
        return own[name] if digests.is_own(same[name]) else sum(each[name] for each in brought) % digests.MODULUS

    if damaged := [name for name in same if found(name) != index[name]["digest"]]:
        raise DamagedCheckpoint(
            f"The checkpoint {step_directory} is damaged: what was read differs from what was written in\n  "
            + "\n  ".join(damaged)
            + f"\n{ADVICE}"
        )
