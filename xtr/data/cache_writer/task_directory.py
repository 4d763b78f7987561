"""The directory of one task in the cache: what is whole of it, what is to be written, and the moment it is done."""

import importlib.metadata
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xtr import rundir
from xtr.data import fingerprint
from xtr.data.cache_shards import damaged, shard_paths, shards_of, unmark
from xtr.data.cache_writer.splits import Split
from xtr.data.cache_writer.units import Facts, Place, finished
from xtr.progress import note

_DESCRIPTION = "xtr_task.json"


class TaskDirectory:
    """A task's place in the cache.

    Args:
      cache_dir: of the cache.
      record: what `xtr_task.json` says of the task, but for its splits.
      digest: the fingerprint of what it is made from.
      splits: makes the splits to be written, given the work directory.

    Attributes:
      path: where it lies, or will lie.
      unfinished: whether something is to be written.
      damage: what is said of shards that are damaged.
    """

    def __init__(self, cache_dir: Path, record: dict, digest: str, splits: Callable[[Path], dict[str, Split]]):
        self.path = fingerprint.cache_directory(cache_dir, record["task"], digest)
        self._work = cache_dir / f".{self.path.name}.partial"
        self._record, self._digest, self._make_splits = record, digest, splits
        self.damage: list[str] = []
        self._described = self._found()
        self._repairs: dict[str, set[int]] = self._damaged()
        self.unfinished = self._described is None or bool(self._repairs)
        self._splits: dict[str, Split] = {}
        self._read: set[str] = set()
        self._facts: dict[str, dict[int, Facts]] = {}

    @property
    def name(self) -> str:
        return self._record["task"]

    @property
    def source_bytes(self) -> int:
        return sum(source["size"] for source in self._record["sources"])

    @property
    def examples(self) -> dict[str, int]:
        """Examples of each split of a task that is finished."""
        return {split: described["examples"] for split, described in self._described["splits"].items()}

    def _found(self) -> dict | None:
        """The description of a directory that was completed once."""
        try:
            described = json.loads((self.path / _DESCRIPTION).read_text(encoding="utf-8"))
            return described if (self.path / "COMPLETED").exists() and shards_of(described) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _damaged(self) -> dict[str, set[int]]:
        """The units of damaged shards, by split."""
        units: dict[str, set[int]] = {}
        if self._described is None:
            return units
        shards = shards_of(self._described)
        unit_of = {
            path: (split, shard.unit)
            for split, of in shards.items()
            for path, shard in zip(shard_paths(self.path, split, len(of)), of, strict=True)
        }
        for path, why in damaged(self.path, shards).items():
            split, unit = unit_of[path]
            units.setdefault(split, set()).add(unit)
            self.damage.append(f"{self.name}: the shard {path} is damaged ({why}) and is written again.")
        return units

    def refresh(self) -> None:
        """Has a finished description say where the same bytes lie by now: folders and times may be new."""
        if any(self._described.get(key) != value for key, value in _as_json(self._record).items()):
            self._described = {**self._described, **_as_json(self._record)}
            _write_json(self.path / _DESCRIPTION, self._described)

    def units(self) -> Iterator[Any]:
        """The units that are to be run; those that an earlier writer finished are taken as they are."""
        self._work.mkdir(exist_ok=True)
        for stray in self._work.glob(".*"):  # what was in the works when a writer was killed
            stray.unlink()
        self._splits = self._make_splits(self._work)
        for name, split in self._splits.items():
            only = self._repairs.get(name, set()) if self._described else None
            if only == set():
                self._read.add(name)
                continue
            done = self._finished(name)
            self._facts[name] = done
            yield from split.units(done=frozenset(done), only=only)
            self._read.add(name)

    def _finished(self, split: str) -> dict[int, Facts]:
        found = {}
        for path in self._work.glob(f"{split}.unit-*.json"):
            place = Place(str(self._work), self.name, split, int(path.name.removesuffix(".json").rpartition("-")[2]))
            if (facts := finished(place)) is not None:
                found[place.number] = facts
        return found

    def add(self, place: Place, facts: Facts) -> None:
        """Takes the facts of a unit that was run."""
        self._facts[place.split][place.number] = facts

    @property
    def whole(self) -> bool:
        """Whether all units are finished."""
        if not self._splits or self._read != set(self._splits):
            return False
        if self._described:
            return all(units <= self._facts[split].keys() for split, units in self._repairs.items())
        return all(len(self._facts[name]) == split.number for name, split in self._splits.items())

    def discard(self) -> None:
        """Removes what is not finished."""
        shutil.rmtree(self._work, ignore_errors=True)

    def commit(self) -> None:
        """Puts what was written into its place; then nothing is unfinished, or all of it is."""
        self._mend() if self._described else self._complete()

    def _complete(self) -> None:
        described, files = {}, {}
        for name, split in self._splits.items():
            facts = [self._facts[name][number] for number in range(split.number)]
            info = split.info(facts)
            shards = [shard for f in facts for shard in f.shards]
            parts = [Place(str(self._work), self.name, name, n).part(k) for n, f in enumerate(facts)
                     for k in range(len(f.shards))]  # fmt: skip
            for part, final in zip(parts, shard_paths(self._work, name, len(shards)), strict=True):
                os.replace(part, final)
            noted = sum((Counter(f.noted) for f in facts), Counter())
            info = {
                "num_shards": len(shards),
                "seqio_version": importlib.metadata.version("seqio"),
                **info,
                **({"rendered": dict(noted)} if noted else {}),
            }
            _write_json(self._work / f"info.{name}.json", info)
            _write_json(self._work / f"stats.{name}.json", _stats(facts))
            described[name] = {"examples": info["examples_out"], "shards": len(shards)}
            files[name] = [asdict(shard) for shard in shards]
        for facts_file in self._work.glob("*.unit-*.json"):
            facts_file.unlink()
        made = {"splits": described, "fingerprint": self._digest, "shard_files": files}
        self._described = _as_json(self._record | made)
        _write_json(self._work / _DESCRIPTION, self._described)
        (self._work / "COMPLETED").touch()
        shutil.rmtree(self.path, ignore_errors=True)  # what lies there is no whole task
        os.rename(self._work, self.path)
        self.unfinished = False

    def _mend(self) -> None:
        """Puts new shards into the place of damaged ones."""
        for split, units in self._repairs.items():
            old = shards_of(self._described)[split]
            paths = shard_paths(self.path, split, len(old))
            for unit in units:
                places = [i for i, shard in enumerate(old) if shard.unit == unit]
                new = self._facts[split][unit].shards
                if [shard.sha256 for shard in new] != [old[i].sha256 for i in places]:
                    self._begin_again()
                    return
                for k, i in enumerate(places):
                    os.replace(Place(str(self._work), self.name, split, unit).part(k), paths[i])
                    unmark(paths[i])
        self.unfinished = False
        shutil.rmtree(self._work, ignore_errors=True)

    def _begin_again(self) -> None:
        """Has the whole task written: other versions of libraries may give other bytes than the ones that are there."""
        note(f"{self.name}: what was damaged cannot be made again bit by bit, so the whole task is written again.")
        shutil.rmtree(self.path)
        self._described, self._repairs = None, {}
        self._splits, self._read, self._facts, self.damage = {}, set(), {}, []


def _stats(facts: list[Facts]) -> dict[str, int]:
    """SeqIO's statistics of a split from those of its units: sums, and maxima of what is called so."""
    total: Counter = Counter()
    for f in facts:
        for name, value in f.stats.items():
            total[name] = max(total[name], value) if name.endswith("_max_tokens") else total[name] + value
    return dict(total)


def _as_json(value: object) -> dict:
    return json.loads(json.dumps(value))


def _write_json(path: Path, value: object) -> None:
    rundir.write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
