"""Units of work: the examples of one part of a split, made and written into shard files by one process.

How a split is divided depends on its data alone, not on the number of processes, so the shards are the same for every
number of them. A unit leaves its shards and, last, a file of facts in the task's work directory: a writer that is
started again after a crash goes on behind the units that have one.
"""

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xtr import rundir
from xtr.data.cache_shards import Shard, why_damaged, write_shard
from xtr.data.records import serialize_example
from xtr.data.vocabulary import Vocabulary, read_vocabulary
from xtr.data.vocabulary_kinds import read_bytes
from xtr.errors import DataError

EXAMPLES_PER_UNIT = 1 << 13
BYTES_PER_UNIT = 1 << 25  # of text; what a unit's process holds in memory is a few times this
_BATCH = 256  # examples that are tokenised together


@dataclass(frozen=True)
class Place:
    """Where a unit writes to, and what its messages name.

    Attributes:
      directory: the task's work directory.
      task, split: what it is a part of.
      number: of the unit in its split.
    """

    directory: str
    task: str
    split: str
    number: int

    @property
    def facts(self) -> Path:
        return Path(self.directory) / f"{self.split}.unit-{self.number:05d}.json"

    def part(self, k: int) -> Path:
        """The k-th shard file of the unit; it gets its final name when the whole split is written."""
        return Path(self.directory) / f"{self.split}.unit-{self.number:05d}.part-{k:05d}"


@dataclass(frozen=True)
class Facts:
    """What a unit wrote.

    Attributes:
      shards: its shard files, in order.
      stats: SeqIO's statistics of its examples.
      noted: what formats noted of them.
      specs, left_out: of a SeqIO task, shape and type of each feature, and the features that a record cannot hold.
    """

    shards: list[Shard]
    stats: dict[str, int]
    noted: dict[str, int] = field(default_factory=dict)
    specs: dict[str, dict] | None = None
    left_out: list[str] = field(default_factory=list)


def finished(place: Place) -> Facts | None:
    """The facts of a unit that an earlier writer finished; None where there are none, or a shard of it is damaged."""
    try:
        facts = json.loads(place.facts.read_text(encoding="utf-8"))
        shards = [Shard(**shard) for shard in facts.pop("shards")]
        facts = Facts(shards, **facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if any(why_damaged(place.part(k), shard, wholly=True) for k, shard in enumerate(shards)):
        return None
    return facts


@dataclass(frozen=True)
class TokenLimit:
    """What the tokens of an output feature may be: ids below `size`; `eos_id` and `pad_id` do not count as tokens."""

    size: int
    eos_id: int | None
    pad_id: int | None


class Accountant:
    """Checks the examples of a unit, and counts them as SeqIO does.

    Args:
      limits: for each output feature of token ids what they may be.
    """

    def __init__(self, place: Place, limits: Mapping[str, TokenLimit]):
        self._place, self._limits = place, limits
        self.stats: Counter = Counter()
        self.noted: Counter = Counter()

    def count(self, example: Mapping[str, Any]) -> None:
        """Adds an example: in SeqIO's statistics neither EOS nor padding is a token.

        Raises:
          DataError: an output feature that is no list of ids of the vocabulary.
        """
        self.stats["examples"] += 1
        for name, limit in self._limits.items():
            ids = example.get(name)
            if ids is None:
                continue
            ids = ids if isinstance(ids, list) else np.atleast_1d(ids).tolist()
            if ids and not (isinstance(ids[0], int) and min(ids) >= 0 and max(ids) < limit.size):
                wrong = ids[0] if not isinstance(ids[0], int) else next(i for i in ids if not 0 <= i < limit.size)
                raise DataError(
                    f"Task {self._place.task}, split {self._place.split}, part {self._place.number}, example "
                    f"{self.stats['examples'] - 1} of it, feature {name!r}: {wrong!r} is no token id of the "
                    f"vocabulary, whose ids are 0 to {limit.size - 1}."
                )
            tokens = len(ids) - sum(map(ids.count, {limit.eos_id, limit.pad_id} - {None}))
            self.stats[f"{name}_tokens"] += tokens
            self.stats[f"{name}_max_tokens"] = max(self.stats[f"{name}_max_tokens"], tokens)
        meta = example.get("meta")
        if isinstance(meta, str | bytes) and (b'"noted":' if isinstance(meta, bytes) else '"noted":') in meta:
            self.noted.update(_noted(meta))


def _noted(meta: str | bytes) -> list[str]:
    """What the format says is worth counting of an example (`tasks/formats/encoder.py`), as a reader's tally has it."""
    try:
        meta = json.loads(meta)
    except ValueError:
        return []  # another's, who may mean by it what they like
    return [f"noted: {meta['noted']}"] if isinstance(meta, dict) and "noted" in meta else []


def write_unit(
    place: Place, examples: Iterator[Mapping[str, Any]], accountant: Accountant, per_shard: int
) -> list[Shard]:
    """Writes a unit's examples into shards of at most `per_shard`."""
    shards: list[Shard] = []
    records = (serialize_example(example) for example in examples if accountant.count(example) is None)
    while (first := next(records, None)) is not None:
        shards.append(write_shard(place.part(len(shards)), _first_of(first, records, per_shard), place.number))
    return shards


def _first_of(first: bytes, rest: Iterator[bytes], limit: int) -> Iterator[bytes]:
    yield first
    for _ in range(limit - 1):
        if (record := next(rest, None)) is None:
            return
        yield record


def keep(place: Place, facts: Facts) -> Facts:
    """Writes the facts beside a unit's shards: now it is finished."""
    rundir.write_atomic(place.facts, json.dumps(asdict(facts)))
    return facts


@dataclass(frozen=True)
class Rendered:
    """A unit of an official data set: canonical examples, rendered, tokenised and written.

    Attributes:
      rendering: what encodes an example (see `xtr.tasks.formats.rendering`).
      eos: the features that end in EOS.
      label_names: of the data set.
      vocabulary_path: of the vocabulary.
      limits: see `Accountant`.
      examples: the canonical examples.
    """

    place: Place
    rendering: Any
    eos: frozenset[str]
    label_names: tuple[str, ...]
    vocabulary_path: str
    limits: Mapping[str, TokenLimit]
    examples: Sequence[Any]

    def run(self) -> Facts:
        """Writes it. Raises DataError for an example that the rendering refuses."""
        from xtr.tasks.formats.rendering import Encoder

        vocabulary, tokenize = _tokenizer(self.vocabulary_path)
        accountant = Accountant(self.place, self.limits)
        by = Encoder(vocabulary, tokenize, self.eos, self.place.task, self.label_names)
        batches = (self.examples[i : i + _BATCH] for i in range(0, len(self.examples), _BATCH))
        encoded = (example for batch in batches for example in self.rendering.encode(batch, by))
        shards = write_unit(self.place, encoded, accountant, len(self.examples))
        return keep(self.place, Facts(shards, dict(accountant.stats), dict(accountant.noted)))


@functools.cache
def _tokenizer(path: str) -> tuple[Vocabulary, Callable[[Sequence[str]], list[list[int]]]]:
    """A vocabulary, and what tokenises texts as SeqIO does it.

    SeqIO tokenises with the sentencepiece library in TensorFlow Text, which is older than Python's: of two
    segmentations of equal score ('yo yoyo' and 'yoyo yo') it may choose the other one.
    """
    vocabulary = read_vocabulary(path)
    if vocabulary.kind != "t5":
        return vocabulary, lambda texts: list(map(vocabulary.encode, texts))
    return vocabulary, _TensorFlowText(read_bytes(vocabulary.path))


class _TensorFlowText:
    """TensorFlow Text's tokenizer of a SentencePiece model."""

    def __init__(self, model: bytes):
        from xtr.tasks.modules import quietly

        os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
        self._model = model
        with quietly():
            self._make()

    def _make(self) -> None:
        import tensorflow_text

        self._tokenizer = tensorflow_text.SentencepieceTokenizer(model=self._model)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        from tensorflow.errors import NotFoundError

        try:
            ids = self._tokenizer.tokenize(texts)
        except NotFoundError:  # to set TensorFlow's seed forgets its ops, and with this one the model
            self._make()
            ids = self._tokenizer.tokenize(texts)
        values, ends = ids.flat_values.numpy().tolist(), ids.row_splits.numpy().tolist()
        return [values[a:b] for a, b in zip(ends, ends[1:], strict=False)]
