"""Predictions as they are made: whole shards of examples, appended to a file that a killed evaluation goes on with.

    {"journal": digest}
    {"shard": 3, "records": [...]}

A line is a shard. One that was cut off is not there; of another digest, nothing is.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtr.evaluate.batching import bucket_of, rows_per_batch


class Journal:
    """The shards of one task and split.

    Args:
      path: the file; made with the first shard.
      digest: says what is predicted, on what, and how it is divided into shards.
      writes: whether this process is the one that reads and writes the file.

    Attributes:
      shards: shard -> its records, of those that were whole when it was opened.
    """

    def __init__(self, path: Path, digest: str, writes: bool = True):
        self.path, self.digest, self.writes = path, digest, writes
        self.shards: dict[int, list[dict]] = {}
        self._whole = 0
        self._read()

    def _read(self) -> None:
        if not (self.writes and self.path.exists()):
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].decode().split("\n")[:-1]
        if not lines or json.loads(lines[0]) != {"journal": self.digest}:
            return
        for line in lines[1:]:
            shard = json.loads(line)
            self.shards[shard["shard"]] = shard["records"]
        self._whole = whole

    def add(self, shard: int, records: Sequence[Mapping]) -> None:
        """Appends a shard; once it returns, the shard outlives the process and the machine."""
        if not self.writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as out:
            if out.tell() != self._whole:
                out.truncate(self._whole)
            lines = [] if self._whole else [{"journal": self.digest}]
            lines.append({"shard": shard, "records": records})
            text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
            out.write(text.encode())
            out.flush()
            os.fsync(out.fileno())
            self._whole = out.tell()

    def remove(self) -> None:
        """Deletes the file: its records now stand elsewhere."""
        if self.writes:
            self.path.unlink(missing_ok=True)


def plan_shards(
    lengths: Sequence[int], buckets: Sequence[int], tokens_per_batch: int, examples_per_shard: int
) -> list[list[int]]:
    """Divides examples of like length into shards of whole batches.

    It knows nothing of devices, so that an evaluation may go on with others.

    Args:
      lengths: of each example's input, in tokens.
      buckets, tokens_per_batch: as in `batching`.
      examples_per_shard: at least so many, where a bucket has them.

    Returns:
      The examples' numbers, each once: shard by shard, the shortest inputs first.
    """
    by_bucket: dict[int, list[int]] = {}
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        by_bucket.setdefault(bucket_of(lengths[i], buckets), []).append(i)
    shards = []
    for bucket, members in sorted(by_bucket.items()):
        rows = rows_per_batch(bucket, tokens_per_batch)
        size = rows * max(1, -(-examples_per_shard // rows))
        shards += [members[start : start + size] for start in range(0, len(members), size)]
    return shards
