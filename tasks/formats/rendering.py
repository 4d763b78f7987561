"""The steps of a SeqIO task between its canonical examples and its tokens, by what a format's function returns.

Each rendering says them twice: as SeqIO's preprocessors, for whoever uses the task with SeqIO, and as one plain
function of examples, by which the cache is written without tf.data. A test holds the two against each other.
"""

import functools
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError

from ..datasets import Dataset
from .encoder import Encoded
from .text2text import Rendered

if TYPE_CHECKING:
    import tensorflow as tf

_BATCH = 64  # crossing between TensorFlow and Python costs more than rendering
_SCALARS = {int: np.int32, np.int64: np.int64}
_LISTS = {list[int]: (np.int32, np.int64)}  # of the values, and of their rows' lengths


class Steps(tuple):
    """A task's preprocessors that are a rendering's and nothing else."""

    rendering: "Rendering"

    @classmethod
    def of(cls, rendering: "Rendering", steps: Sequence[Callable]) -> "Steps":
        """The preprocessors of a rendering."""
        out = cls(steps)
        out.rendering = rendering
        return out


@dataclass(frozen=True)
class Encoder:
    """What `encode` of a rendering needs besides examples.

    Attributes:
      vocabulary: the family's.
      tokenize: ids of each of some texts, as the vocabulary's SeqIO counterpart makes them.
      eos: the features that end in EOS.
      dataset, label_names: of the data set.
    """

    vocabulary: Vocabulary
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    eos: Collection[str]
    dataset: str
    label_names: Sequence[str]


@dataclass(frozen=True)
class Strings:
    """Strings that SeqIO tokenises; an EOS is added behind the cache.

    Attributes:
      function: canonical example -> `Rendered`.
      features: the features that become tokens.
      meta: whether there is `meta` besides.
      without_eos: the features that no EOS is added to.
    """

    function: Callable[[Any], Rendered]
    features: tuple[str, ...] = ("inputs", "targets")
    meta: bool = True
    without_eos: tuple[str, ...] = ()

    def encode(self, examples: Sequence[Any], by: "Encoder") -> list[dict[str, list[int] | str]]:
        """The features of canonical examples, as all preprocessors together make them."""
        rendered = [self.function(example) for example in examples]
        columns: dict[str, Sequence[list[int] | str]] = {}
        for name in self.features:
            texts = [getattr(r, name) for r in rendered]
            columns[name] = by.tokenize(texts)
            if name in by.eos:
                for ids in columns[name]:
                    ids.append(by.vocabulary.eos_id)
            if self.meta:
                columns[f"{name}_pretokenized"] = texts
        if self.meta:
            columns["meta"] = [r.meta_json() for r in rendered]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def specs(self) -> dict[str, dict]:
        """Each feature's shape and type, as SeqIO's info file says them."""
        texts = [*(f"{name}_pretokenized" for name in self.features), "meta"] if self.meta else []
        return {name: _spec([None], np.int32) for name in self.features} | {name: _TEXT_SPEC for name in texts}

    def preprocessors(self, dataset: Dataset, vocabulary_path: str) -> Steps:
        """Returns the task's preprocessors."""
        import seqio
        import tensorflow as tf

        from ..datasets.builder import batch_columns, examples_of_columns

        names = (*self.features, "meta") if self.meta else self.features

        def call(*columns):
            rendered = [self.function(example) for example in examples_of_columns(dataset.example_type, columns)]
            columns = ([r.meta_json() if name == "meta" else getattr(r, name) for r in rendered] for name in names)
            return [_strings(column) for column in columns]

        def to_strings(batch):
            columns = batch_columns(dataset.example_type, batch)
            texts = tf.numpy_function(call, columns, [tf.string] * len(names), stateful=False)
            return {name: tf.ensure_shape(text, (None,)) for name, text in zip(names, texts, strict=True)}

        steps = [
            lambda data: _map_batches(data, to_strings),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=self.meta),
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
        ]
        return Steps.of(self, steps)


@dataclass(frozen=True)
class TokenIds:
    """Token ids, special tokens included: the format tokenises.

    Attributes:
      function: (canonical example, the family's vocabulary) -> an `Encoded` of the kind that its annotation names,
        whose fields are the features.
      label_names: whether it is given the data set's `label_names` too.
    """

    function: Callable[..., Encoded]
    label_names: bool = False

    @functools.cached_property
    def dtypes(self) -> Mapping[str, type]:
        """The features besides `meta`: `list[int]` is a list of int32, `int` one int32, `np.int64` one int64."""
        fields = typing.get_type_hints(typing.get_type_hints(self.function)["return"])
        return {name: kind for name, kind in fields.items() if name != "meta"}

    # SeqIO mixes tasks of the same features, so all kinds have these; a kind without targets has none of them. The
    # format has framed them already.
    features: ClassVar[tuple[str, ...]] = ("inputs", "targets")
    without_eos: ClassVar[tuple[str, ...]] = features

    def encode(self, examples: Sequence[Any], by: "Encoder") -> list[dict[str, list[int] | str]]:
        """The features of canonical examples, as all preprocessors together make them."""
        options = {"label_names": by.label_names} if self.label_names else {}
        rows = []
        for example in examples:
            try:
                encoded = self.function(example, by.vocabulary, **options)
            except DataError as e:
                raise DataError(f"{by.dataset}: {e}") from e
            out: dict[str, list[int] | str] = {name: [] for name in self.features}
            for name, kind in self.dtypes.items():
                value = getattr(encoded, name)
                out[name] = value if kind in _LISTS else [int(value)]
            rows.append(out | {"meta": encoded.meta_json()})
        return rows

    @property
    def specs(self) -> dict[str, dict]:
        """Each feature's shape and type, as SeqIO's info file says them."""
        out = {name: _spec([None], np.int32) for name in self.features}
        for name, kind in self.dtypes.items():
            out[name] = _spec([None], _LISTS[kind][0]) if kind in _LISTS else _spec([], _SCALARS[kind])
        return out | {"meta": _TEXT_SPEC}

    def preprocessors(self, dataset: Dataset, vocabulary_path: str) -> Steps:
        """Returns the task's preprocessors."""
        import seqio
        import tensorflow as tf

        from ..datasets.builder import batch_columns, examples_of_columns
        from ..vocabularies import family_vocabulary

        dtypes = self.dtypes
        options = {"label_names": dataset.label_names} if self.label_names else {}

        def call(*columns):
            vocabulary = family_vocabulary(vocabulary_path)
            examples = examples_of_columns(dataset.example_type, columns)
            try:
                encoded = [self.function(example, vocabulary, **options) for example in examples]
            except DataError as e:
                raise DataError(f"{dataset.name}: {e}") from e
            out = []
            for name, kind in dtypes.items():
                values = [getattr(e, name) for e in encoded]
                out += _ragged(values) if kind in _LISTS else [np.array(values, _SCALARS[kind])]
            return [*out, _strings([e.meta_json() for e in encoded])]

        def to_ids(batch):
            types = [t for kind in dtypes.values() for t in _LISTS.get(kind) or (_SCALARS[kind],)] + [tf.string]
            arrays = tf.numpy_function(call, batch_columns(dataset.example_type, batch), types, stateful=False)
            arrays = iter([tf.ensure_shape(array, (None,)) for array in arrays])

            def feature(kind):
                first = next(arrays)
                return tf.RaggedTensor.from_row_lengths(first, next(arrays)) if kind in _LISTS else first

            return {name: feature(kind) for name, kind in dtypes.items()} | {"meta": next(arrays)}

        absent = {name: tf.zeros((0,), tf.int32) for name in self.features if name not in dtypes}
        steps = [
            lambda data: _map_batches(data, to_ids),
            seqio.CacheDatasetPlaceholder(),
            lambda data: data.map(lambda example: absent | example) if absent else data,
        ]
        return Steps.of(self, steps)


Rendering = Strings | TokenIds
_TEXT_SPEC = {"shape": [], "dtype": "string"}


def _spec(shape: list[int | None], dtype: type) -> dict:
    return {"shape": shape, "dtype": np.dtype(dtype).name}


def _strings(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode("utf-8") for text in texts], dtype=object)


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Values and lengths of rows."""
    return np.array([value for row in rows for value in row], np.int32), np.array([len(row) for row in rows], np.int64)


def _map_batches(dataset: "tf.data.Dataset", function: Callable) -> "tf.data.Dataset":
    import tensorflow as tf

    # Nothing in the function needs rewriting by autograph, which would take a second.
    return dataset.ragged_batch(_BATCH).map(tf.autograph.experimental.do_not_convert(function)).unbatch()
