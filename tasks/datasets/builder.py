"""One TFDS builder for every reader, and the SeqIO source that prepares and reads it."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import typing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from xtr.errors import DataError

from . import Dataset
from .files import readable

_VERSION = "1.0.0"


@functools.cache
def _field_types(example_type: type) -> dict[str, Any]:
    return typing.get_type_hints(example_type)


def tfds_features(example_type: type) -> dict[str, Any]:
    """Returns the TFDS features of a canonical dataclass: str, int, bool, and tuples of str or of flat dataclasses."""
    scalars = {str: tfds.features.Text(), int: tf.int64, bool: tf.bool}

    def feature(kind):
        if kind in scalars:
            return scalars[kind]
        element, _ = typing.get_args(kind)
        return tfds.features.Sequence(tfds_features(element) if dataclasses.is_dataclass(element) else feature(element))

    return {name: feature(kind) for name, kind in _field_types(example_type).items()}


def batch_columns(example_type: type, batch: dict[str, Any]) -> list[tf.Tensor]:
    """Returns a `ragged_batch` of TFDS examples as tensors: one for a scalar field, values and splits for a list."""
    columns = []
    for name, kind in _field_types(example_type).items():
        if kind in (str, int, bool):
            columns.append(batch[name])
            continue
        element, _ = typing.get_args(kind)
        parts = [batch[name][n] for n in _field_types(element)] if dataclasses.is_dataclass(element) else [batch[name]]
        columns += [tensor for part in parts for tensor in (part.values, part.row_splits)]
    return columns


def examples_of_columns(example_type: type, columns: Sequence[np.ndarray]) -> list[Any]:
    """Returns the canonical examples of a batch laid out by `batch_columns`."""
    arrays = iter(columns)

    def scalars(kind):
        return [v.decode("utf-8") if kind is str else kind(v) for v in next(arrays).tolist()]

    def lists(kind):
        values, splits = scalars(kind), next(arrays).tolist()
        return [tuple(values[a:b]) for a, b in zip(splits[:-1], splits[1:], strict=True)]

    def fields(kind):
        if kind in (str, int, bool):
            return scalars(kind)
        element, _ = typing.get_args(kind)
        if not dataclasses.is_dataclass(element):
            return lists(element)
        parts = [lists(part) for part in _field_types(element).values()]
        return [tuple(element(*row) for row in zip(*rows, strict=True)) for rows in zip(*parts, strict=True)]

    columns_of_fields = [fields(kind) for kind in _field_types(example_type).values()]
    return [example_type(*row) for row in zip(*columns_of_fields, strict=True)]


@dataclasses.dataclass(eq=False)
class OfficialFilesConfig(tfds.core.BuilderConfig):
    """A builder config that carries the data set to read."""

    dataset: Dataset | None = None


class OfficialFiles(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares a data set from its official files by its own reader; examples keep the order of the files."""

    name = "official_files"
    VERSION = tfds.core.Version(_VERSION)
    # TFDS looks beside a builder's code for checksums of its downloads; this one downloads nothing.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(tfds_features(self.builder_config.dataset.example_type))
        return tfds.core.DatasetInfo(
            builder=self, features=features, metadata=tfds.core.MetadataDict(), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.builder_config.dataset.splits}

    def _generate_examples(self, split: str):
        tally: Counter = Counter()
        part = self.builder_config.dataset.splits[split]
        examples = 0
        with readable():
            for index, example in enumerate(part.read(part.files, tally)):
                examples += 1
                yield index, dataclasses.asdict(example)
        if not examples:  # TFDS has no splits without examples.
            dropped = ", ".join(f"{what} {number:,}" for what, number in tally.items())
            name = f"split '{split}' of {self.builder_config.dataset.name}"
            raise DataError(f"{part.files[0]}: {name} has no examples ({dropped or 'no rows'}).")
        self.info.metadata[split] = {**tally, "examples": examples}


def _digest(paths: Sequence[Path], detail: str) -> str:
    """Returns a hash of the names and bytes of files, and of a text."""
    digest = hashlib.sha256(detail.encode())
    for path in paths:
        with readable(), open(path, "rb") as f:
            digest.update(f"{path.name}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


class OfficialFilesSource(seqio.DataSource):
    """A SeqIO source over official files: prepared by TFDS on first use, below `<cache_dir>/tfds`.

    The prepared data's name holds a hash of the files and of the readers' code, so changed files are prepared anew.
    """

    def __init__(self, dataset: Dataset, cache_dir: str, code: Sequence[Path], detail: str = ""):
        """Args:
        dataset: what is read.
        cache_dir: where it is prepared.
        code: the files whose code decides the examples.
        detail: what else decides them, such as the names of columns.
        """
        self.dataset = dataset
        self.code = tuple(code)
        self.detail = detail
        self._cache_dir = cache_dir
        self._builder: OfficialFiles | None = None
        self.counted: dict[str, int] = {}  # examples of splits that somebody has counted, so that none need be prepared
        super().__init__(splits=tuple(dataset.splits), caching_permitted=True)

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """The files that the data set is read from."""
        return tuple(dict.fromkeys(path for split in self.dataset.splits.values() for path in split.files))

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    @property
    def builder(self) -> OfficialFiles:
        """The TFDS builder, prepared."""
        if self._builder is None:
            digest = _digest((*self.files, *self.code), self.detail)
            config = OfficialFilesConfig(name=f"{self.dataset.name}-{digest[:12]}", dataset=self.dataset)
            builder = OfficialFiles(config=config, data_dir=str(Path(self._cache_dir) / "tfds"), file_format="tfrecord")
            # TFDS announces downloads on stdout, where nothing is downloaded and scripts may be reading.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(
                        try_download_gcs=False,
                        compute_stats=tfds.download.ComputeStatsMode.SKIP,
                        verify_ssl=True,
                    )
                )
            self._builder = builder
        return self._builder

    def tally(self, split: str) -> dict[str, int]:
        """Returns what the reader counted in a split: 'rows', 'examples', and 'dropped: <reason>' entries."""
        return dict(self.builder.info.metadata[split])

    def num_input_examples(self, split: str) -> int | None:
        if split in self.counted:
            return self.counted[split]
        return self.builder.info.splits[split].num_examples if split in self.splits else None

    def list_shards(self, split: str) -> list[str]:
        return list(self.builder.info.splits[split].filenames)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length=None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """Returns the canonical examples of a split, in file order unless shuffled."""
        # TFDS guards the order of ordered data sets; a caller who shuffles does not want it.
        read_config = tfds.ReadConfig(
            shuffle_seed=seed, skip_prefetch=True, try_autocache=False, enable_ordering_guard=not shuffle
        )
        if shard_info:
            read_config.input_context = tf.distribute.InputContext(
                num_input_pipelines=shard_info.num_shards, input_pipeline_id=shard_info.index
            )
        return self.builder.as_dataset(split=split, shuffle_files=shuffle, read_config=read_config)
