"""Predictions as they are made: whole shards of examples, appended to a file that a killed evaluation goes on with.

    {"journal": digest}
    {"shard": 3, "records": [...]}

A line is a shard. One that was cut off is not there; of another digest, nothing is.
"""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


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


def plan_shards(lengths: Sequence[int], examples_per_shard: int) -> list[list[int]]:
    """Divides examples into shards of equal size, those of like length together.

    It knows nothing of batches and devices, so that an evaluation may go on with others.

    Args:
      lengths: of each example's input, in tokens.
      examples_per_shard: about so many.

    Returns:
      The examples' numbers, each once: shard by shard, the shortest inputs first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    shards = max(1, round(len(order) / examples_per_shard))
    ends = [len(order) * n // shards for n in range(shards + 1)]
    return [order[start:end] for start, end in itertools.pairwise(ends) if end > start]
