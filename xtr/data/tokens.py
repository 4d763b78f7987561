"""The token ids of a split as training reads them: one flat file beside the shards, an example a read of its bytes.

A record holds an example's texts beside its tokens, compressed, as a protocol buffer; to read and parse one costs some
ten times what the packer and the batch cost it. So the first use of a split copies its token features into
`<split>.tokens.<features>.bin` (int32, little-endian, the features of an example one behind the other), with an index
of where each begins, a CRC-32 of each example and the shards' sizes and times: where a shard is another file than it
was, the table is made anew from the records. Examples are read with `pread`, not mapped into memory, so that a process
does not grow by what it has read.
"""

import os
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from xtr.data.cached_task import CachedTask, shard_paths
from xtr.errors import DataError
from xtr.progress import progress

_BLOCK = 4096  # records read at once while a table is made
_DTYPE = np.dtype("<i4")


class TokenTable:
    """Random access to the token features of one split. Safe to use from several threads.

    Made by `token_table`. The features of an example come in the order of `features`.
    """

    def __init__(self, task: str, features: tuple[str, ...], path: Path, offsets: np.ndarray, checksums: np.ndarray):
        self._task, self._features, self._path = task, features, path
        self._offsets, self._checksums = offsets, checksums
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, numbers: Sequence[int] | np.ndarray) -> list[list[np.ndarray]]:
        """Examples by number, in the order of `numbers`: for each the int32 array [n] of every feature.

        Raises:
          DataError: an example is not what was written, named by file and number.
        """
        numbers = np.asarray(numbers, np.int64)
        features = len(self._features)
        cuts = self._offsets[numbers[:, None] * features + np.arange(features + 1)]
        checksums = self._checksums[numbers].tolist()
        inner = (cuts[:, 1:-1] - cuts[:, :1]).tolist()
        starts, ends = (cuts[:, 0] * _DTYPE.itemsize).tolist(), (cuts[:, -1] * _DTYPE.itemsize).tolist()
        examples = []
        for i, (start, end, checksum, at) in enumerate(zip(starts, ends, checksums, inner, strict=True)):
            data = os.pread(self._file, end - start, start)
            if len(data) != end - start or zlib.crc32(data) != checksum:
                raise DataError(
                    f"{self._task}: the tokens of example {numbers[i]} in {self._path} are damaged. Delete that file: "
                    "the next run makes it again from the records."
                )
            tokens = np.frombuffer(data, _DTYPE)
            examples.append([tokens[a:b] for a, b in zip([0, *at], [*at, len(tokens)], strict=True)])
        return examples


class RecordTokens:
    """As `TokenTable`, from the records themselves: for a cache directory that cannot be written to."""

    def __init__(self, task: CachedTask, split: str, features: tuple[str, ...]):
        self._task, self._split, self._features = task, split, features

    def read(self, numbers: Sequence[int] | np.ndarray) -> list[list[np.ndarray]]:
        return _of_records(self._task, self._split, self._features, numbers)


Tokens = TokenTable | RecordTokens


def token_table(task: CachedTask, split: str, features: tuple[str, ...]) -> Tokens:
    """The token features of a split, made from its records where there is no table of them yet.

    Raises:
      DataError: a record cannot be read, or one of the features does not hold token ids.
    """
    return _open(task, split, features, tuple(_shards(task, split).reshape(-1).tolist()))


@lru_cache(maxsize=1024)
def _open(task: CachedTask, split: str, features: tuple[str, ...], shards: tuple[int, ...]) -> Tokens:
    path = Path(task.directory) / f"{split}.tokens.{'-'.join(features)}.bin"
    of = np.array(shards, np.int64).reshape(-1, 2)
    found = _index(path, task.num_examples(split) * len(features) + 1, of)
    if found is None:
        try:
            found = _make(task, split, features, path, of)
        except OSError:
            return RecordTokens(task, split, features)
    return TokenTable(task.name, features, path, *found)


def _shards(task: CachedTask, split: str) -> np.ndarray:
    """Size and time of change of each shard: int64 [shards, 2]."""
    paths = shard_paths(task.directory, split, task.info["splits"][split]["shards"])
    return np.array([(s.st_size, s.st_mtime_ns) for s in map(os.stat, paths)], np.int64).reshape(-1, 2)


def _index(path: Path, count: int, shards: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Offsets and checksums of a table; None where there is none, or it is of other records."""
    try:
        with np.load(path.with_suffix(".npz")) as index:
            offsets, checksums, of = index["offsets"], index["checksums"], index["shards"]
        whole = len(offsets) == count and path.stat().st_size == offsets[-1] * _DTYPE.itemsize
        if whole and np.array_equal(of, shards):
            return offsets, checksums
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile):
        pass  # Not there yet, or damaged: it is only a copy of the records.
    return None


def _make(task: CachedTask, split: str, features: tuple[str, ...], path: Path, shards: np.ndarray):
    """Writes a table; returns its offsets and checksums. Several processes may do so at once: all write the same."""
    count = task.num_examples(split)
    lengths, checksums = np.zeros((count, len(features)), np.int64), np.zeros(count, np.uint32)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out, progress(f"tokens of {task.name}", count) as bar:
            for start in range(0, count, _BLOCK):
                numbers = range(start, min(start + _BLOCK, count))
                for n, example in zip(numbers, _of_records(task, split, features, numbers), strict=True):
                    data = b"".join(tokens.tobytes() for tokens in example)
                    lengths[n], checksums[n] = [len(tokens) for tokens in example], zlib.crc32(data)
                    out.write(data)
                bar.advance(len(numbers))
        offsets = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = f"{temporary}.npz"
        np.savez(temporary, offsets=offsets, checksums=checksums, shards=shards)
        os.replace(temporary, path.with_suffix(".npz"))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return offsets, checksums


def _of_records(
    task: CachedTask, split: str, features: tuple[str, ...], numbers: Sequence[int] | np.ndarray
) -> list[list[np.ndarray]]:
    examples = []
    for n, example in zip(numbers, task.examples(split).read(numbers, features), strict=True):
        examples.append([_ids(task, split, int(n), name, example.get(name)) for name in features])
    return examples


def _ids(task: CachedTask, split: str, number: int, feature: str, value: object) -> np.ndarray:
    if value is None:
        raise DataError(task.no_feature(split, number, feature))
    if not isinstance(value, np.ndarray) or value.dtype.kind != "i":
        held = "floats" if isinstance(value, np.ndarray) else "text"
        raise task.examples(split).unreadable(number, f"its feature {feature!r} holds {held}, no token ids")
    size = task.info.get("vocab_sizes", {}).get(feature, 2**31)
    if len(value) and not 0 <= value.min() <= value.max() < size:
        wrong = value[(value < 0) | (value >= size)][0]
        why = f"its feature {feature!r} holds {wrong}, and the vocabulary's ids are 0 to {size - 1}"
        raise task.examples(split).unreadable(number, why)
    return value.astype(_DTYPE)
