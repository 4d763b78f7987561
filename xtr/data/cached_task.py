"""A task's cached examples: ArrayRecord shards of tf.train.Example, read by number without TensorFlow."""

import json
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from xtr.data.cache_shards import Shard, damaged, mark_damaged, shard_paths, shards_of
from xtr.data.records import Value, check_token_ids, feature_lengths, parse_example
from xtr.errors import DataError, UserError, did_you_mean

_REMEDY = "The cache is damaged: the next run writes it again."
_SHARD_REMEDY = "The cache is damaged: the next run writes this shard again, and no other."
_READ_ONLY_REMEDY = "The cache is damaged, in a folder that cannot be written to: `xtr cache --verify` mends it."
_SCAN = 4096
_OPEN_SHARDS = 256  # of all tasks together; a process may have 1,024 files open


@dataclass(frozen=True)
class CachedTask:
    """One task in the cache.

    Attributes:
      name: SeqIO's name of the task.
      rate: its mixing rate in the mixture it was asked for with (1.0 when it was asked for by itself).
      directory: where its shards lie; the directory's name holds the fingerprint of what it was made from.
      info: `xtr_task.json`.
      components: of that mixture, the members (tasks, or mixtures in it) that draw this task, each with the task's
        share of its draws.
    """

    name: str
    rate: float
    directory: str
    info: Mapping = field(compare=False, repr=False)
    components: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def open(
        directory: str | os.PathLike, rate: float = 1.0, components: Mapping[str, float] | None = None
    ) -> "CachedTask":
        """Reads `xtr_task.json` of a complete cache directory, and looks whether its shards are there in full size.

        Raises:
          DataError: the directory is not a complete task cache, or a shard of it is damaged.
        """
        directory = Path(directory)
        path = directory / "xtr_task.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            name, shards = info["task"], shards_of(info)
        except OSError as e:
            raise DataError(f"{path}: {e.strerror}. {_REMEDY}") from e
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DataError(f"{path}: not a description of a cached task ({type(e).__name__}: {e}). {_REMEDY}") from e
        if not (directory / "COMPLETED").exists():
            raise DataError(f"{directory}: the cache of {name} was never completed. {_REMEDY}")
        for shard, why in damaged(directory, shards).items():
            raise DataError(f"{name}: the shard {shard} is damaged: {why}. {_SHARD_REMEDY}")
        return CachedTask(name, float(rate), str(directory), info, components or {name: 1.0})

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.info["splits"])

    def num_examples(self, split: str) -> int:
        """Examples in a split.

        Raises:
          UserError: no such split.
        """
        splits = self.info["splits"]
        if split not in splits:
            known = ", ".join(splits) or "none"
            raise UserError(f"{self.name} has no split {split!r}; it has {known}.{did_you_mean(split, splits)}")
        return splits[split]["examples"]

    def examples(self, split: str) -> "Examples":
        """The examples of a split, by number, decoded when asked for."""
        self.num_examples(split)  # says that there is no such split
        return _open_examples(self.name, self.directory, split, tuple(self.shards[split]))

    @property
    def shards(self) -> dict[str, list[Shard]]:
        """What is known of the shards of each split."""
        return shards_of(self.info)

    def no_feature(self, split: str, number: int, feature: str) -> str:
        """Says that an example lacks a feature, and which features the task has."""
        has = ", ".join(self.info.get("features", ())) or "none"
        return f"{self.name}: example {number} of {split!r} has no feature {feature!r} (the task has {has})."

    def lengths(self, split: str, features: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of tokens of a split's features, and their last tokens.

        Found by reading the split once, when its token ids are checked too; kept beside the shards, so that the next
        process only maps it into memory.

        Returns:
          Two int32 arrays [features, examples]; -1 and -1 where an example lacks the feature, last token -1 where
          it is empty.

        Raises:
          DataError: a record that cannot be read, or whose tokens are no ids of the vocabulary.
        """
        return _lengths(self, split, tuple(features))


class Examples(Sequence):
    """Random access to the examples of one split. Safe to use from several threads.

    A shard is opened when an example of it is first read, and is one of a limited number of open ones.
    """

    def __init__(self, task: str, paths: Sequence[Path], shards: Sequence[Shard]):
        self._task = task
        self._paths = list(paths)
        self._shards = list(shards)
        self._lock = threading.Lock()
        self._starts = np.cumsum([0] + [shard.examples for shard in shards])
        self._failures = [0] * len(shards)

    def _reader(self, s: int) -> ArrayRecordReader:
        reader = _open_shard(self._task, self._paths[s], self._failures[s])
        if reader.num_records() != self._shards[s].examples:
            raise DataError(
                f"{self._task}: the shard {self._paths[s]} holds {reader.num_records()} records, but its description "
                f"says {self._shards[s].examples}. {_remedy(self._paths[s])}"
            )
        return reader

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Value]:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"example {index} of {n}")
        return self.read([index % n])[0]

    def read(
        self, indices: Sequence[int] | np.ndarray, features: Collection[str] | None = None
    ) -> list[dict[str, Value]]:
        """Reads examples by number, in the order of `indices`; only the named features when given.

        Raises:
          DataError: a damaged record, named by task, shard and record.
        """
        examples = []
        for number, record in zip(indices, self.records(indices), strict=True):
            try:
                examples.append(parse_example(record, features))
            except ValueError as e:
                raise self.unreadable(int(number), e) from e
        return examples

    def records(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The serialised examples, in the order of `indices`."""
        indices = np.asarray(indices, np.int64)
        shard = np.searchsorted(self._starts, indices, side="right") - 1
        out: list[bytes] = [b""] * len(indices)
        for s in np.unique(shard).tolist():
            where = np.flatnonzero(shard == s)
            positions = (indices[where] - self._starts[s]).tolist()
            with self._lock:
                reader = self._reader(s)
                try:
                    found = reader.read(positions)
                except (RuntimeError, IndexError):
                    found = [self._read_one(s, p) for p in positions]
            for w, record in zip(where.tolist(), found, strict=True):
                out[w] = record
        return out

    def _read_one(self, s: int, position: int) -> bytes:
        # A failed read leaves the reader in a failed state, so the culprit is looked for with fresh ones.
        try:
            self._failures[s] += 1
            return self._reader(s).read([position])[0]
        except (RuntimeError, IndexError) as e:
            self._failures[s] += 1
            raise self.unreadable(int(self._starts[s]) + position, e) from e

    def unreadable(self, number: int, why: object) -> DataError:
        """The error of a record that cannot be read, which names task, shard and record. Its shard will be mended."""
        s = int(np.searchsorted(self._starts, number, side="right")) - 1
        return DataError(
            f"{self._task}: record {number - int(self._starts[s])} of the shard {self._paths[s]} "
            f"(example {number} of the split) cannot be read: {why}. {_remedy(self._paths[s])}"
        )


def _remedy(path: Path) -> str:
    return _SHARD_REMEDY if mark_damaged(path) else _READ_ONLY_REMEDY


@lru_cache(maxsize=_OPEN_SHARDS)
def _open_shard(task: str, path: Path, failures: int) -> ArrayRecordReader:
    """Opens a shard; `failures` counts reads that left an earlier reader of it in a failed state."""
    try:
        reader = ArrayRecordReader(
            str(path), options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768
        )
    except (RuntimeError, ValueError, OSError) as e:
        raise DataError(f"{task}: cannot open the shard {path}: {e}. {_remedy(path)}") from e
    if not reader.ok():
        raise DataError(f"{task}: the shard {path} is not a readable ArrayRecord file. {_remedy(path)}")
    return reader


@lru_cache(maxsize=1024)
def _open_examples(task: str, directory: str, split: str, shards: tuple[Shard, ...]) -> Examples:
    return Examples(task, shard_paths(directory, split, len(shards)), shards)


@lru_cache(maxsize=1024)
def _lengths(task: CachedTask, split: str, features: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    n = task.num_examples(split)
    path = Path(task.directory) / f"{split}.lengths.{'-'.join(features)}.npy"
    try:
        table = np.load(path, mmap_mode="r")
        if table.shape == (2, len(features), n) and table.dtype == np.int32:
            return table[0], table[1]
    except (OSError, ValueError, EOFError):
        pass  # Not there yet, or damaged: it is only a summary of the records.
    examples = task.examples(split)
    sizes = {name: size for name, size in task.info.get("vocab_sizes", {}).items() if name in features}
    table = np.empty((2, len(features), n), np.int32)
    for start in range(0, n, _SCAN):
        numbers = range(start, min(start + _SCAN, n))
        for i, record in zip(numbers, examples.records(numbers), strict=True):
            try:
                check_token_ids(record, sizes)
                table[0, :, i], table[1, :, i] = feature_lengths(record, features)
            except ValueError as e:
                raise examples.unreadable(i, e) from e
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(temporary, "wb") as f:
            np.save(f, table)
        os.replace(temporary, path)
    except OSError:
        # A cache directory that cannot be written to is no reason to stop: the table is in memory.
        temporary.unlink(missing_ok=True)
    return table[0], table[1]


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def eval_examples(task: CachedTask, split: str, numbers: Sequence[int] | None = None) -> list[dict]:
    """Examples of a split, all of them in order or those of some numbers, for evaluation.

    Returns:
      One dict an example: integers are int32 arrays (int64 where they do not fit; tokens are not truncated), `meta` the
      parsed JSON (an empty dict where there is none, or the task is none of xtr's kinds), every other bytes feature
      (`inputs_pretokenized`, `targets_pretokenized`) a str, or bytes where it is not UTF-8.

    Raises:
      DataError: a record that cannot be read, or whose `meta` is not JSON.
    """
    of_a_kind = task.info.get("kind") != "text2text"
    examples = task.examples(split)
    out = []
    numbers = range(len(examples)) if numbers is None else numbers
    for number, example in zip(numbers, examples.read(numbers), strict=True):
        row = {"meta": {}}
        for name, value in example.items():
            try:
                if name == "meta":
                    row[name] = json.loads(value) if of_a_kind else {}
                elif isinstance(value, bytes):
                    row[name] = _text(value)
                elif isinstance(value, np.ndarray) and value.dtype == np.int64:
                    narrow = value.astype(np.int32)
                    row[name] = narrow if (narrow == value).all() else value
                else:
                    row[name] = value
            except (ValueError, TypeError) as e:
                raise DataError(
                    f"{task.name}, {split}, example {number}: the field {name!r} is unreadable: {e}."
                ) from e
        out.append(row)
    return out
