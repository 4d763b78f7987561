"""Examples of any SeqIO task, by SeqIO itself: its source and its preprocessors as they are registered."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtr.data.cache_writer.registered import register
from xtr.data.cache_writer.units import Accountant, Facts, Place, TokenLimit, keep, write_unit
from xtr.errors import DataError, UserError

_FETCH = 128
_EXAMPLES_PER_SHARD = 1 << 17


def user_error(error: BaseException | None) -> UserError | None:
    """Returns the UserError among an exception and its causes, if there is one."""
    while error is not None and not isinstance(error, UserError):
        # Of an error in a Python function of its, tf.data passes on the class's name and the words alone.
        if found := re.search(r"\b(?:Data|User)Error: (.*?)\nTraceback \(", str(error), re.DOTALL):
            return UserError(found[1])
        error = error.__cause__ or error.__context__
    return error


@dataclass(frozen=True)
class FromSeqio:
    """A unit of a SeqIO task: one part of its source, or of the cache that SeqIO has of it.

    Attributes:
      request: what the task is registered by.
      shard, num_shards: which part, of how many.
      cached: SeqIO's cache, which is read in the place of the source; '' for none.
      lengths: for preprocessors that take `sequence_length`.
      limits: see `Accountant`.
    """

    place: Place
    request: Mapping
    shard: int
    num_shards: int
    cached: str
    lengths: Mapping[str, int] | None
    limits: Mapping[str, TokenLimit]

    @property
    def here(self) -> bool:
        """A whole split is read where SeqIO is at work already: elsewhere it would have to start first."""
        return self.num_shards == 1

    def run(self) -> Facts:
        """Writes it. Raises UserError where the task's own code fails."""
        registered = register(self.request)
        import seqio

        from xtr.tasks import foreign
        from xtr.tasks.modules import place_of

        task = seqio.TaskRegistry.get(self.place.task)
        try:
            if self.cached:
                part = cached_dataset(self.cached, self.place.split, self.shard, self.num_shards)
                dataset = foreign.task_dataset(task, self.place.split, self.lengths, precached=part)
            else:
                shard = seqio.ShardInfo(self.shard, self.num_shards) if self.num_shards > 1 else None
                dataset = foreign.task_dataset(task, self.place.split, self.lengths, shard=shard)
            dataset, left_out = _flat(dataset, task.output_features)
            accountant = Accountant(self.place, self.limits)
            shards = write_unit(self.place, _examples(dataset), accountant, _EXAMPLES_PER_SHARD)
        except Exception as e:
            if found := user_error(e):
                raise found from e
            if task.name in registered.catalog.tasks and not self.cached:
                raise
            why = f"{type(e).__name__}: {str(e).strip():.1000}"
            files = list(registered.module_files)
            raise UserError(f"Task {task.name} cannot be read: {why} (at {place_of(e, files)})") from e
        specs = {
            name: {"shape": [None, *spec.shape[1:]] if spec.shape.rank else [], "dtype": spec.dtype.name}
            for name, spec in dataset.element_spec.items()
        }
        return keep(self.place, Facts(shards, dict(accountant.stats), dict(accountant.noted), specs, left_out))


def cached_files(directory: str | os.PathLike, split: str) -> list[Path]:
    """The shard files of a split in a cache that SeqIO wrote, in order: TFRecord or ArrayRecord.

    Raises:
      DataError: there are not as many as its info file says.
    """
    directory = Path(directory)
    try:
        shards = json.loads((directory / f"info.{split}.json").read_text(encoding="utf-8"))["num_shards"]
    except OSError as e:
        raise DataError(f"SeqIO's cache {directory} has no split {split!r} ({e.strerror}).") from e
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{directory}/info.{split}.json is no info file of SeqIO's ({type(e).__name__}: {e}).") from e
    for kind in ("tfrecord", "array_record"):
        found = [directory / f"{split}.{kind}-{i:05d}-of-{shards:05d}" for i in range(shards)]
        if missing := [path for path in found if not path.is_file()]:
            if len(missing) < shards:
                raise DataError(f"SeqIO's cache {directory} lacks {missing[0].name}, one of {shards} shards.")
            continue
        return found
    raise DataError(f"SeqIO's cache {directory} has none of the {shards} shards of its split {split!r}.")


def cached_dataset(directory: str, split: str, part: int, parts: int):
    """The examples of a part of the shard files of a cache that SeqIO wrote, in their order; a tf.data.Dataset.

    SeqIO's own reader knows TFRecord files alone, though its writer makes ArrayRecord files too.
    """
    import tensorflow as tf

    features = json.loads((Path(directory) / f"info.{split}.json").read_text(encoding="utf-8"))["features"]
    files = cached_files(directory, split)
    first, end = part * len(files) // parts, (part + 1) * len(files) // parts
    paths = [str(path) for path in files[first:end]]

    def array_records():
        from array_record.python.array_record_module import ArrayRecordReader

        for path in paths:
            reader = ArrayRecordReader(path)
            for start in range(0, reader.num_records(), _FETCH):
                yield from reader.read(list(range(start, min(start + _FETCH, reader.num_records()))))

    if ".array_record-" in paths[0]:
        records = tf.data.Dataset.from_generator(array_records, output_signature=tf.TensorSpec((), tf.string))
    else:
        records = tf.data.TFRecordDataset(paths)
    description = {name: _description(name, spec["shape"], spec["dtype"]) for name, spec in features.items()}

    def parse(record):
        example = tf.io.parse_single_example(record, description)
        return {name: tf.cast(value, features[name]["dtype"]) for name, value in example.items()}

    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _description(name: str, shape: list, dtype: str):
    """How tf.io parses a feature that an info file describes (int32 and bool are stored as int64)."""
    import tensorflow as tf

    stored = "int64" if dtype in ("int32", "bool") else dtype
    if not shape:
        return tf.io.FixedLenFeature((), stored)
    if None in shape[1:]:
        raise DataError(f"feature {name!r} of SeqIO's cache is ragged in more than its first dimension.")
    if shape[0] is None:
        return tf.io.FixedLenSequenceFeature(shape[1:], stored, allow_missing=True)
    return tf.io.FixedLenFeature(shape, stored)


def _flat(dataset, output_features: Mapping) -> tuple[object, list[str]]:
    """A dataset without what a record cannot hold, and the names of that: features of two dimensions or more, nested
    ones, and those without a fixed number of dimensions. The task's own metrics read them from the task itself.

    Raises:
      UserError: an output feature, which training reads, is such a one.
    """
    kept, left_out = [], []
    for name, spec in dataset.element_spec.items():
        shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
        plain = dtype is not None and (dtype.is_integer or dtype.is_floating or dtype.is_bool or dtype.name == "string")
        if plain and shape is not None and shape.rank in (0, 1) and spec.value_type.__name__ != "SparseTensor":
            kept.append(name)
        elif name in output_features:
            what = f"of rank {shape.rank}" if plain else "no plain tensor"
            raise UserError(f"Feature '{name}' is {what}; the cache holds scalars and one-dimensional lists.")
        else:
            left_out.append(name)
    return (dataset.map(lambda example: {name: example[name] for name in kept}) if left_out else dataset), left_out


def _examples(dataset) -> Iterator[dict[str, np.ndarray]]:
    """Yields a tf.data dataset's examples as NumPy arrays, fetched in batches: each fetch has a high fixed cost."""
    ranks = {name: spec.shape.rank for name, spec in dataset.element_spec.items()}
    for batch in dataset.ragged_batch(_FETCH):
        columns = {}
        for name, value in batch.items():
            if ranks[name] == 1 and hasattr(value, "row_splits"):
                values, splits = value.values.numpy(), value.row_splits.numpy()
                columns[name] = np.split(values, splits[1:-1])
            else:
                columns[name] = value.numpy()
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def limits(output_features: Mapping) -> dict[str, TokenLimit]:
    """What the tokens of a task's integer output features may be."""
    return {
        name: TokenLimit(
            # Ready-made ids may come without a vocabulary's size.
            feature.vocabulary.vocab_size or 2**31,
            feature.vocabulary.eos_id,
            feature.vocabulary.pad_id,
        )
        for name, feature in output_features.items()
        if feature.dtype.is_integer
    }
