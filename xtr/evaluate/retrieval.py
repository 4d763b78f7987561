"""Retrieval tasks in the engine: the texts of both sides to vectors, and these to records (`retrieve`).

A side of more texts than an index's shard holds is embedded into an index on disk (`index`), which a killed evaluation
goes on with; one that was asked for is kept and used again.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xtr.data.cached_task import CachedTask, eval_examples
from xtr.errors import Preempted, UserError
from xtr.evaluate import index, retrieve, search
from xtr.evaluate.methods import inputs_of
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.run import STOPPED, EvaluateRun
from xtr.models.interface import ModelConfig
from xtr.parallel.distributed import asked_to_stop
from xtr.progress import note

SPLITS = ("queries", "candidates")
MINING = "bucc_f1"
_DEV = "validation_"
_MOST_RANKED = ("map@20",)


@dataclasses.dataclass(frozen=True)
class Texts:
    """A split of a task, cut to the first `limit` examples."""

    task: CachedTask
    split: str
    limit: int | None
    length: int  # tokens of a text

    def __len__(self) -> int:
        n = self.task.num_examples(self.split)
        return min(n, self.limit or n)

    def read(self, rows: range) -> list[dict]:
        """Examples, as `eval_examples` has them."""
        return eval_examples(self.task, self.split, rows)

    def facts(self, what: Callable[[Mapping], object]) -> list:
        """What each example says of itself; no more than a part of them is held at once."""
        found = []
        for start in range(0, len(self), index.SHARD_ROWS):
            found += map(what, self.read(range(start, min(start + index.SHARD_ROWS, len(self)))))
        return found

    def cut(self) -> int:
        """How many are longer than what is read of them."""
        lengths, _ = self.task.lengths(self.split, ("inputs",))
        return int((lengths[0][: len(self)] > self.length).sum())


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """One retrieval task of an evaluation.

    Attributes:
      run: the evaluation.
      task: the queries' task.
      candidates: the task whose candidates are searched, the same one or one that several share.
      split: 'validation_queries' for the development pairs, anything else for the queries.
    """

    run: EvaluateRun
    task: CachedTask
    candidates: CachedTask
    split: str = SPLITS[0]

    @property
    def mines(self) -> bool:
        return MINING in self.task.info["metrics"]

    def pairs(self, predictor: Predictor | None = None) -> list[tuple[Texts, Texts]]:
        """Queries and candidates; behind them those of development, where a threshold is chosen on them.

        Raises:
          UserError: the task lacks one of these splits.
        """
        length, positive = (0, 0) if predictor is None else _lengths(predictor, self.run)
        scored = _DEV if self.split == f"{_DEV}{SPLITS[0]}" else ""
        prefixes = (scored, _DEV) if self.mines and not scored else (scored,)
        pairs = []
        for prefix in prefixes:
            queries, candidates = (f"{prefix}{split}" for split in SPLITS)
            sides = (self.task, queries, length), (self.candidates, candidates, positive)
            for task, split, _ in sides:
                if split not in task.splits:
                    use = "is what is scored" if prefix == scored else "the threshold of mining is chosen on"
                    other = f" --gin.evaluate.split={_DEV}{SPLITS[0]} scores the development pairs."
                    raise UserError(
                        f"{task.name} has no split {split!r}, which {use}; it has {', '.join(task.splits)}."
                        + other * self.mines
                    )
            pairs.append(tuple(Texts(task, split, self.run.limit, size) for task, split, size in sides))
        return pairs

    def count(self) -> int:
        return sum(len(side) for pair in self.pairs() for side in pair)

    def predict(self, predictor: Predictor, directory: Path, advance) -> list[dict]:
        """The records of the queries.

        Args:
          directory: of indexes, each in a folder of its own.
          advance: told how many texts are embedded.
        """
        (queries, candidates), *dev = self.pairs(predictor)
        layers, chosen = self._layers(predictor, queries, candidates)
        embed = functools.partial(self._side, predictor, layers, directory, advance)
        find = functools.partial(search.top_k, mesh=predictor.mesh, block_bytes=self.run.search_block_bytes)
        if self.mines:
            thresholds = None
            for pair in [*dev, (queries, candidates)]:
                records, thresholds = self._mined(pair, embed, chosen, find, thresholds)
            return records
        golds = queries.facts(lambda example: example["meta"]["gold"])
        sides = embed(queries), embed(candidates)
        if absent := retrieve.absent_golds(golds, sides[1].ids):
            note(f"{self.task.name}: {absent} of {len(golds)} queries have no right answer among the candidates.")
        ranks = any(name in _MOST_RANKED for name in self.task.info["metrics"])
        records_of = retrieve.ranked if ranks else retrieve.nearest
        return records_of(*sides, golds, self.task.info["metrics"], chosen, find)

    def _mined(self, pair, embed, chosen: int, find, thresholds):
        texts = [side.facts(lambda example: example["inputs"].tobytes()) for side in pair]
        golds = pair[0].facts(lambda example: example["meta"]["gold"])
        return retrieve.mined(*map(embed, pair), *texts, golds, chosen, find, thresholds)

    def _layers(self, predictor: Predictor, queries: Texts, candidates: Texts) -> tuple[tuple[int, ...] | None, int]:
        """The layers that are read, None for a dual encoder's own vectors; and the one that makes the predictions."""
        if is_dual(predictor.config):
            return None, 0
        shared = self.candidates.name != self.task.name
        layers, why_few = retrieve.layers_held(
            self.run.embedding_layer,
            predictor.config.num_layers,
            len(candidates) + (0 if shared else len(queries)),
            predictor.config.width,
            self.run.layers_bytes,
            self.task.name,
        )
        if why_few:
            note(why_few)
        return layers, self.run.embedding_layer % (predictor.config.num_layers + 1)

    def _side(self, predictor, layers, directory, advance, texts: Texts) -> retrieve.Side:
        """The ids and vectors of texts."""
        ids = _ids(texts)

        def embed_rows(rows: range, done: Callable[[int], None]) -> np.ndarray:
            if asked_to_stop():
                raise Preempted(STOPPED)
            inputs = inputs_of(predictor, texts.read(rows), texts.length)
            if layers is None:
                return predictor.vectors(inputs, done)
            return predictor.embed(inputs, done, layers, self.run.embedding_pooling).swapaxes(0, 1)

        shared = self.candidates.name != self.task.name and texts.split == SPLITS[1]
        if len(texts) <= index.SHARD_ROWS and not shared:
            vectors = embed_rows(range(len(texts)), advance)
            return retrieve.Side(ids, _by_layer(vectors, layers, lambda k: vectors[:, k]))
        readout = ((0,), "head") if layers is None else (layers, self.run.embedding_pooling)
        identity = retrieve.index_identity(
            predictor.params, predictor.config, texts.task, texts.split, *readout, texts.length
        ) | {"count": len(texts)}
        place = directory / f"{texts.task.name}.{texts.split}"
        held = index.open_or_build(
            place,
            identity,
            len(texts),
            lambda rows: embed_rows(rows, lambda n: None),
            shard_rows=index.SHARD_ROWS,
            advance=advance,
        )
        return retrieve.Side(ids, _by_layer(held, layers, held.layer))


@functools.lru_cache(maxsize=4)
def _ids(texts: Texts) -> list[str]:
    """The names of texts; of candidates that all languages share they are read once."""
    return texts.facts(lambda example: str(example["meta"]["id"]))


def _by_layer(vectors, layers: Sequence[int] | None, of: Callable[[int], object]) -> dict[int, object]:
    return {0: vectors} if layers is None else {layer: of(k) for k, layer in enumerate(layers)}


def _lengths(predictor: Predictor, run: EvaluateRun) -> tuple[int, int]:
    """Tokens of a query and of a candidate: a dual encoder is trained on positives (`targets`) that may be longer."""
    longest, lengths = predictor.length_buckets[-1], run.task_feature_lengths or {}
    length = min(lengths.get("inputs", longest), longest)
    positives = lengths.get("targets", 0) if is_dual(predictor.config) else 0
    return length, max(length, min(positives, longest))


def is_dual(model: ModelConfig) -> bool:
    """Whether a model gives texts vectors of their own."""
    return "contrastive" in model.objectives
