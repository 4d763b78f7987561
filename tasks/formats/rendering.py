"""The steps of a SeqIO task between its canonical examples and its tokens, by what a format's function returns."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import seqio
import tensorflow as tf

from ..datasets import Dataset
from ..datasets.builder import batch_columns, examples_of_columns
from ..vocabularies import family_vocabulary
from .encoder import Encoded
from .text2text import Rendered

_BATCH = 64  # crossing between TensorFlow and Python costs more than rendering


@dataclass(frozen=True)
class Strings:
    """Strings that SeqIO tokenises; an EOS is added behind the cache.

    Attributes:
      function: canonical example -> `Rendered`.
      features: the features that become tokens.
      meta: whether there is `meta` besides.
    """

    function: Callable[[Any], Rendered]
    features: tuple[str, ...] = ("inputs", "targets")
    meta: bool = True
    eos: ClassVar[bool] = True

    def preprocessors(self, dataset: Dataset, vocabulary_path: str) -> list[Callable]:
        """Returns the task's preprocessors."""
        names = (*self.features, "meta") if self.meta else self.features

        def call(*columns):
            rendered = [self.function(example) for example in examples_of_columns(dataset.example_type, columns)]
            columns = ([r.meta_json() if name == "meta" else getattr(r, name) for r in rendered] for name in names)
            return [_strings(column) for column in columns]

        def to_strings(batch):
            columns = batch_columns(dataset.example_type, batch)
            texts = tf.numpy_function(call, columns, [tf.string] * len(names), stateful=False)
            return {name: tf.ensure_shape(text, (None,)) for name, text in zip(names, texts, strict=True)}

        return [
            lambda data: _map_batches(data, to_strings),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=self.meta),
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
        ]


@dataclass(frozen=True)
class TokenIds:
    """Token ids, special tokens included: the format tokenises.

    Attributes:
      function: (canonical example, the family's vocabulary) -> `Encoded`.
      labelled: whether there is a `label`.
    """

    function: Callable[[Any, Any], Encoded]
    labelled: bool = False
    features: ClassVar[tuple[str, ...]] = ("inputs",)
    eos: ClassVar[bool] = False

    def preprocessors(self, dataset: Dataset, vocabulary_path: str) -> list[Callable]:
        """Returns the task's preprocessors."""
        lists, names = ("inputs", "token_types", "text_spans"), ("label",) if self.labelled else ()

        def call(*columns):
            vocabulary = family_vocabulary(vocabulary_path)
            examples = examples_of_columns(dataset.example_type, columns)
            encoded = [self.function(example, vocabulary) for example in examples]
            out = [part for name in lists for part in _ragged([getattr(e, name) for e in encoded])]
            out += [np.array([getattr(e, name) for e in encoded], np.int32) for name in names]
            return [*out, _strings([e.meta_json() for e in encoded])]

        def to_ids(batch):
            types = [tf.int32, tf.int64] * len(lists) + [tf.int32] * len(names) + [tf.string]
            arrays = tf.numpy_function(call, batch_columns(dataset.example_type, batch), types, stateful=False)
            arrays = iter([tf.ensure_shape(array, (None,)) for array in arrays])
            out = {name: tf.RaggedTensor.from_row_lengths(next(arrays), next(arrays)) for name in lists}
            return out | {name: next(arrays) for name in (*names, "meta")}

        return [lambda data: _map_batches(data, to_ids), seqio.CacheDatasetPlaceholder()]


Rendering = Strings | TokenIds


def _strings(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode("utf-8") for text in texts], dtype=object)


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Values and lengths of rows."""
    return np.array([value for row in rows for value in row], np.int32), np.array([len(row) for row in rows], np.int64)


def _map_batches(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    # Nothing in the function needs rewriting by autograph, which would take a second.
    return dataset.ragged_batch(_BATCH).map(tf.autograph.experimental.do_not_convert(function)).unbatch()
