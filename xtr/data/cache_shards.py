"""The shard files of a cached task: their names, how one is written, and what is kept to know it again.

A shard is an ArrayRecord file of serialised tf.train.Examples. `xtr_task.json` holds of each its number of examples,
its size and its SHA-256, so that damage is found by sizes whenever a cache is opened, and wholly by reading it.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

# A record a group, so that any example is read without its neighbours. Records this small hardly compress; snappy
# takes what there is in a quarter of the time that the default (zstd) takes to write, and as long to read.
RECORD_OPTIONS = "group_size:1,snappy"
# Beside a shard that could not be read: the next run writes it anew, however whole it looks.
_DAMAGED = ".damaged"


def shard_paths(directory: str | os.PathLike, split: str, shards: int) -> list[Path]:
    """The shard files of a split, in order."""
    return [Path(directory) / f"{split}.array_record-{i:05d}-of-{shards:05d}" for i in range(shards)]


@dataclass(frozen=True)
class Shard:
    """What is known of one shard file.

    Attributes:
      examples: its records.
      bytes: its size.
      sha256: of its bytes.
      unit: the unit of work that wrote it, so that it can be written again alone.
    """

    examples: int
    bytes: int
    sha256: str
    unit: int = 0


def write_shard(path: Path, records: Iterable[bytes], unit: int = 0) -> Shard:
    """Writes records into a new file, which is there whole or not at all, and reads back how many it holds.

    Raises:
      RuntimeError: it does not hold what was written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = ArrayRecordWriter(str(temporary), RECORD_OPTIONS)
    examples = 0
    for record in records:
        writer.write(record)
        examples += 1
    writer.close()
    reader = ArrayRecordReader(str(temporary))
    written = reader.num_records()
    reader.close()
    if written != examples:
        raise RuntimeError(f"{path}: {examples} examples were written and {written} are there.")
    with open(temporary, "rb") as f:
        shard = Shard(examples, os.fstat(f.fileno()).st_size, hashlib.file_digest(f, "sha256").hexdigest(), unit)
        os.fsync(f.fileno())
    os.replace(temporary, path)
    return shard


def why_damaged(path: Path, shard: Shard, *, wholly: bool = False) -> str:
    """What is wrong with a shard file, '' for nothing: its size, and wholly its bytes too."""
    try:
        size = os.stat(path).st_size
        if size != shard.bytes:
            return f"it has {size:,} bytes and had {shard.bytes:,}"
        if wholly:
            with open(path, "rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != shard.sha256:
                    return "its checksum is another than when it was written"
    except OSError as e:
        return e.strerror or str(e)
    return "it could not be read" if not wholly and os.path.exists(_mark(path)) else ""


def mark_damaged(path: Path) -> bool:
    """Has the next run write a shard anew; False where the folder cannot be written to."""
    try:
        Path(_mark(path)).touch()
    except OSError:
        return False
    return True


def unmark(path: Path) -> None:
    """Takes the mark of damage off a shard that has been written anew, or proved whole."""
    Path(_mark(path)).unlink(missing_ok=True)


def _mark(path: Path) -> str:
    return f"{path}{_DAMAGED}"


def shards_of(described: Mapping) -> dict[str, list[Shard]]:
    """The shards of each split of a task as its `xtr_task.json` describes them.

    Raises:
      KeyError, TypeError, ValueError: it does not, or they do not add up.
    """
    shards = {split: [Shard(**shard) for shard in described["shard_files"][split]] for split in described["splits"]}
    for split, numbers in described["splits"].items():
        if (sum(s.examples for s in shards[split]), len(shards[split])) != (numbers["examples"], numbers["shards"]):
            raise ValueError(f"the shards of {split!r} do not add up to its examples")
    return shards


def damaged(
    directory: str | os.PathLike, splits: Mapping[str, Sequence[Shard]], *, wholly: bool = False
) -> dict[Path, str]:
    """The damaged shards of a task and why: by their sizes, or wholly by their checksums (several files at once)."""
    files = [
        (path, shard)
        for split, shards in splits.items()
        for path, shard in zip(shard_paths(directory, split, len(shards)), shards, strict=True)
    ]
    if wholly:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda file: why_damaged(*file, wholly=True), files))
    else:
        found = [why_damaged(*file) for file in files]
    return {path: why for (path, _), why in zip(files, found, strict=True) if why}
