"""From a data set found on disk to a SeqIO task: source, rendering, tokens, EOS; and mixtures of such tasks."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from xtr import storage
from xtr.errors import UserError

from .datasets import Dataset
from .datasets.builder import OfficialFilesSource, batch_columns, examples_of_columns
from .formats.text2text import Rendered
from .info import TaskInfo, describe, forget
from .vocabularies import TOKENISING_CODE, seqio_vocabulary

# What every registered task's examples pass through besides its own reader and format.
_COMMON_CODE = (
    "examples.py", "languages.py", "registration.py", "vocabularies.py", "datasets/__init__.py", "datasets/builder.py",
    "datasets/files.py",
)  # fmt: skip
_RENDER_BATCH = 64


@dataclass(frozen=True)
class Settings:
    """Where official files are, where prepared data goes, and the vocabulary: a file or a Hugging Face folder."""

    data_dir: Path
    cache_dir: Path
    vocabulary_path: str


def settings(tokenise: bool = True) -> Settings:
    """Returns the settings of XTR_DATA_DIR, XTR_CACHE_DIR (default ~/.cache/xtr) and XTR_VOCABULARY_PATH.

    Args:
      tokenise: whether the vocabulary will be read; without it the last variable may be missing.

    Raises:
      UserError: a variable is missing, or names something that is not there.
    """
    data_dir = os.environ.get("XTR_DATA_DIR")
    if not data_dir:
        raise UserError("XTR_DATA_DIR is not set: set it to the folder that holds the official data files.")
    if not Path(data_dir).is_dir():
        raise UserError(f"XTR_DATA_DIR is {data_dir}, which is not a folder.")
    vocabulary_path = os.environ.get("XTR_VOCABULARY_PATH")
    if not vocabulary_path and not tokenise:
        vocabulary_path = ""
    elif not vocabulary_path:
        raise UserError("XTR_VOCABULARY_PATH is not set: set it to the model's vocabulary, a file or a folder.")
    elif not storage.exists(vocabulary_path):
        raise UserError(f"XTR_VOCABULARY_PATH is {vocabulary_path}, which is not there.")
    cache_dir = os.environ.get("XTR_CACHE_DIR") or Path.home() / ".cache" / "xtr"
    return Settings(Path(data_dir), Path(cache_dir), vocabulary_path)


@functools.cache
def vocabulary(path: str) -> seqio.Vocabulary:
    """Returns the vocabulary of a file or a Hugging Face folder; an empty one for no path (tasks are only listed)."""
    return seqio_vocabulary(path) if path else seqio.PassThroughVocabulary(0)


def output_features(names: Sequence[str] = ("inputs", "targets")) -> dict[str, seqio.Feature]:
    """Returns SeqIO output features over the vocabulary of XTR_VOCABULARY_PATH, EOS added to each.

    For modules that register tasks of their own:

        seqio.TaskRegistry.add("my_task", source=..., preprocessors=[..., seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos], output_features=output_features())
    """
    vocab = vocabulary(settings().vocabulary_path)
    return {name: seqio.Feature(vocabulary=vocab, add_eos=True) for name in names}


def _render(dataset: tf.data.Dataset, example_type: type, render: Callable[[Any], Rendered], names: Sequence[str]):
    """Maps canonical examples to the string features `names`, by the format's Python function.

    In batches: crossing between TensorFlow and Python costs more than rendering.
    """

    def call(*columns):
        rendered = [render(example) for example in examples_of_columns(example_type, columns)]
        texts = ([r.meta_json() if name == "meta" else getattr(r, name) for r in rendered] for name in names)
        return [np.array([text.encode("utf-8") for text in column], dtype=object) for column in texts]

    @tf.autograph.experimental.do_not_convert  # Nothing here needs rewriting, which would take a second.
    def to_strings(batch):
        texts = tf.numpy_function(call, batch_columns(example_type, batch), [tf.string] * len(names), stateful=False)
        return {name: tf.ensure_shape(text, (None,)) for name, text in zip(names, texts, strict=True)}

    return dataset.ragged_batch(_RENDER_BATCH).map(to_strings).unbatch()


@dataclass
class Catalog:
    """What is registered from the data directory, and what cannot be had with the reason why."""

    tasks: dict[str, Dataset] = field(default_factory=dict)
    mixtures: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def add_task(
        self,
        settings: Settings,
        dataset: Dataset,
        info: TaskInfo,
        render: Callable[[Any], Rendered],
        features: Sequence[str] = ("inputs", "targets"),
        meta: bool = True,
    ) -> None:
        """Registers one data set as a SeqIO task under its own name."""
        readers = (getattr(split.read, "func", split.read) for split in dataset.splits.values())
        own = {inspect.getfile(function) for function in (*readers, render)}
        own.add(TOKENISING_CODE)
        code = sorted({*(Path(__file__).parent / name for name in _COMMON_CODE), *map(Path, own)})
        names = (*features, "meta") if meta else tuple(features)

        def render_examples(ds):
            return _render(ds, dataset.example_type, render, names)

        seqio.TaskRegistry.add(
            dataset.name,
            source=OfficialFilesSource(dataset, str(settings.cache_dir), code),
            preprocessors=[
                render_examples,
                functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=meta),
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos,
            ],
            output_features={
                name: seqio.Feature(vocabulary=vocabulary(settings.vocabulary_path), add_eos=True) for name in features
            },
        )
        describe(dataset.name, info)
        self.tasks[dataset.name] = dataset

    def add_mixture(self, name: str, tasks: Iterable[str], rate: float | Callable[[seqio.Task], float] = 1.0) -> None:
        """Registers a mixture of registered tasks, all with one rate or rate function; nothing where no tasks are."""
        tasks = list(tasks)
        if tasks:
            seqio.MixtureRegistry.add(name, [(task, rate) for task in tasks])
            self.mixtures.append(name)

    def clear(self) -> None:
        """Takes everything out of SeqIO's registries again."""
        for name in self.mixtures:
            seqio.MixtureRegistry.remove(name)
        for name in self.tasks:
            seqio.TaskRegistry.remove(name)
            forget(name)
        self.__init__()


def examples_rate(task: seqio.Task, *, cap: int | None = None, temperature: float = 1.0, split: str = "train") -> float:
    """Returns min(examples of the split, cap) ** (1 / temperature): a mixture's rate, its options bound by partial.

    Temperature 1 mixes in proportion to size; larger values favour small tasks (Phang et al. 2020 mixed with
    temperature 2 and cap 2**17; multilingual-t5's alpha is 1 / temperature).
    """
    examples = task.num_input_examples(split)
    if examples is None:
        raise UserError(
            f"The number of '{split}' examples of task {task.name} is unknown, so no rate follows from it: give the "
            "task's source num_input_examples, or the mixture a number as its rate."
        )
    return float(min(examples, cap or examples)) ** (1.0 / temperature)
