"""How a split of a task is divided into units, and what there is to say of it when all are written."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from xtr.data.cache_writer.seqio_examples import FromSeqio
from xtr.data.cache_writer.units import BYTES_PER_UNIT, EXAMPLES_PER_UNIT, Facts, Place, Rendered, TokenLimit
from xtr.errors import DataError, UserError

# A source smaller than this is one unit: to begin with a part takes SeqIO longer than to go through it.
_BYTES_TO_DIVIDE = 1 << 26
_MOST_PARTS = 32


class Split(Protocol):
    """A split that is to be written."""

    split: str

    def units(self, done: Collection[int] = (), only: Collection[int] | None = None) -> Iterator[Any]:
        """The units, in order: all but those that are done, or only some."""

    @property
    def number(self) -> int:
        """How many units there are in all, known when `units` has been read to its end."""

    def info(self, facts: list[Facts]) -> dict:
        """The split's info file, but for the number of shards and SeqIO's version. Checks the numbers of examples."""


@dataclass
class OfficialSplit:
    """A split of an official data set: read in this process, rendered and tokenised in others, without TensorFlow.

    Attributes:
      settings: the data set, its rendering, the features that end in EOS, and the vocabulary's path.
    """

    split: str
    task: str
    work: Path
    limits: Mapping[str, TokenLimit]
    settings: tuple
    number: int = 0
    examples: int = 0
    tally: Counter = field(default_factory=Counter)

    def units(self, done=(), only=None):
        from xtr.tasks.datasets.files import readable

        dataset, rendering, eos, vocabulary = self.settings
        part = dataset.splits[self.split]
        self.number, self.examples, self.tally = 0, 0, Counter()
        with readable():
            for examples in self._batches(part.read(part.files, self.tally)):
                if self.number not in done and (only is None or self.number in only):
                    yield Rendered(
                        Place(str(self.work), self.task, self.split, self.number),
                        rendering, eos, tuple(dataset.label_names), vocabulary, self.limits, examples,
                    )  # fmt: skip
                self.number += 1
        if not self.examples:
            dropped = ", ".join(f"{what} {number:,}" for what, number in self.tally.items())
            name = f"split '{self.split}' of {dataset.name}"
            raise DataError(f"{part.files[0]}: {name} has no examples ({dropped or 'no rows'}).")

    def _batches(self, examples: Iterator[Any]) -> Iterator[list[Any]]:
        batch, size = [], 0
        for example in examples:
            batch.append(example)
            self.examples += 1
            size += sum(len(value) for value in vars(example).values() if isinstance(value, str))
            if len(batch) == EXAMPLES_PER_UNIT or size >= BYTES_PER_UNIT:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def info(self, facts):
        written = sum(f.stats["examples"] for f in facts)
        if written != self.examples:
            raise RuntimeError(f"Task {self.task}, split {self.split}: {self.examples} examples in, {written} written.")
        _, rendering, _, _ = self.settings
        return {
            "features": rendering.specs,
            "examples_in": self.examples,
            "examples_out": written,
            "read": {**self.tally, "examples": self.examples},
        }


@dataclass
class SeqioSplit:
    """A split of any SeqIO task: by SeqIO's own shards of its source, where that is large.

    Attributes:
      request, cached, lengths: see `FromSeqio`.
      shards, size: of the source: how many, and bytes of all of its files.
      examples_in: examples of the source, None where it does not say.
      expected: examples that SeqIO's own cache of it should hold; None where there is none.
    """

    split: str
    task: str
    work: Path
    limits: Mapping[str, TokenLimit]
    request: Mapping
    cached: str
    lengths: Mapping[str, int] | None
    shards: int
    size: int
    examples_in: int | None
    expected: int | None

    @property
    def number(self) -> int:
        return 1 if self.size < _BYTES_TO_DIVIDE else max(1, min(self.shards, _MOST_PARTS))

    def units(self, done=(), only=None):
        for shard in range(self.number):
            if shard not in done and (only is None or shard in only):
                place = Place(str(self.work), self.task, self.split, shard)
                yield FromSeqio(place, self.request, shard, self.number, self.cached, self.lengths, self.limits)

    def info(self, facts):
        written = sum(f.stats.get("examples", 0) for f in facts)
        if not written:
            raise UserError(f"Task {self.task} has no examples in its split {self.split}.")
        if self.expected is not None and written != self.expected:
            raise DataError(
                f"SeqIO's cache {self.cached} of {self.task}: its files hold {written:,} examples of {self.split!r}, "
                f"and stats.{self.split}.json says {self.expected:,}."
            )
        left_out = next((f.left_out for f in facts if f.left_out), [])
        return {
            "features": next(f.specs for f in facts if f.specs),
            "examples_in": written if self.cached else self.examples_in,
            "examples_out": written,
            **({"left_out": left_out} if left_out else {}),
        }
