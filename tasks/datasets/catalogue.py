"""Data sets out of the catalogue of TensorFlow Datasets, in place of the official files: TFDS_TASKS in gin.

TFDS prepares a builder once (it downloads what that needs) below $TFDS_DATA_DIR, by default ~/tensorflow_datasets. Its
examples come in TFDS's own order, and with TFDS's own reading of the files (of PAWS-X as quoted CSV, for one, which it
is not). Importing this module imports no TensorFlow.
"""

import contextlib
import functools
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtr.errors import DataError, UserError, did_you_mean

from .. import benchmarks
from ..examples import Answer, Classification, MultipleChoice, Retrieval, SpanQA, Tagging
from . import Dataset, Found, Sources
from .copa import asked
from .nli import LABELS
from .paraphrase import PAWSX_LABELS, QQP_LABELS
from .tagging import ENTITY_TAGS


@dataclass(frozen=True)
class Entry:
    """How a data set is had from TFDS.

    Attributes:
      builder: TFDS's name of it and its config; '{language}' stands for the language.
      splits: our split -> (TFDS's split, where '{language}' stands for the language; the converter).
      example_type: what the converters make.
      languages: whether there is one for each language of the benchmark, named `<data set>.<language>`.
      label_names: the tags of a tagging data set, in the order that our reader of the official files has them in.
      of_english: the splits that only English has.
    """

    builder: str
    example_type: type
    splits: Mapping[str, tuple[str, "Convert"]]
    languages: bool = False
    label_names: tuple[str, ...] = ()
    of_english: tuple[str, ...] = ()


# (TFDS's example as Python values, its number in the split, the language, the builder's features) -> ours, or why the
# example is dropped, or None for one of another language.
Convert = Callable[[Mapping[str, Any], int, str, Mapping[str, Any]], Any]


def _pair(a: str, b: str, names: tuple[str, ...], example, number, language, features):
    if example["label"] < 0:
        return "no gold label"
    return Classification(str(number), example[a], example[b], example["label"], names)


def _xnli(example, number, language, features):
    hypotheses = dict(zip(example["hypothesis"]["language"], example["hypothesis"]["translation"], strict=True))
    return Classification(
        str(number), example["premise"][language], hypotheses[language], example["label"], LABELS
    )  # fmt: skip


def _span(example, number, language, features):
    spans = zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True)
    answers = tuple(Answer(text, start) for text, start in spans)
    context = example["context"]
    for answer in answers:
        if context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise DataError(
                f"TFDS, question id {example['id']!r}: the answer {answer.text!r} is not in the context at code point "
                f"{answer.start}."
            )
    impossible = example.get("is_impossible", False)
    return SpanQA(example["id"], context, example["question"], () if impossible else answers, not impossible)


def _tydiqa_train(example, number, language, features):
    names = {"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ko": "korean",
             "ru": "russian", "sw": "swahili", "te": "telugu"}  # fmt: skip
    return _span(example, number, language, features) if example["id"].startswith(names[language] + "-") else None


def _hellaswag(example, number, language, features):
    # TFDS has `ctx`, not its parts: as our reader does where a row has no `ctx_a`.
    choices = tuple(f" {ending}" for ending in example["endings"])
    return MultipleChoice(str(number), example["context"], "", choices, example["label"])


def _cosmosqa(example, number, language, features):
    choices = tuple(example[f"answer{i}"] for i in range(4))
    return MultipleChoice(example["id"], example["context"], example["question"], choices, example["label"])


def _copa(example, number, language, features):
    choices = (example["choice1"], example["choice2"])
    question = asked(example["question"])
    return MultipleChoice(str(example["idx"]), example["premise"], question, choices, example["label"])


def _tags(feature: str, example, number, language, features):
    names = features[feature].feature.names
    return Tagging(str(number), tuple(example["tokens"]), tuple(names[tag] for tag in example[feature]))


def _side(feature: str, example, number, language, features):
    # TFDS keeps the end of the line.
    return Retrieval(str(number), example[feature].removesuffix("\n"), (str(number),))


def _same(convert: Convert, *, train: str = "train", validation: str = "validation", test: str = ""):
    names = {"train": train, "validation": validation, "test": test}
    return {split: (name, convert) for split, name in names.items() if name}


def _pairs(a: str, b: str, names: tuple[str, ...]) -> Convert:
    return functools.partial(_pair, a, b, names)


_NLI = _pairs("premise", "hypothesis", LABELS)

CATALOGUE: dict[str, dict[str, Entry]] = {
    "mnli": {
        "mnli": Entry(
            "glue/mnli", Classification,
            _same(_NLI, validation="validation_matched")
            | {"validation_mismatched": ("validation_mismatched", _NLI)},
        )
    },
    "snli": {"snli": Entry("snli", Classification, _same(_NLI, test="test"))},
    "anli": {
        f"anli_r{i}": Entry(
            f"anli/r{i}", Classification, _same(_pairs("context", "hypothesis", LABELS), test="test")
        )
        for i in (1, 2, 3)
    },
    "qqp": {"qqp": Entry("glue/qqp", Classification, _same(_pairs("question1", "question2", QQP_LABELS)))},
    "squad_v1": {"squad_v1": Entry("squad/v1.1", SpanQA, _same(_span))},
    "squad_v2": {"squad_v2": Entry("squad/v2.0", SpanQA, _same(_span))},
    "hellaswag": {"hellaswag": Entry("hellaswag", MultipleChoice, _same(_hellaswag))},
    "cosmosqa": {"cosmosqa": Entry("cosmos_qa", MultipleChoice, _same(_cosmosqa))},
    "copa": {"copa": Entry("super_glue/copa", MultipleChoice, _same(_copa))},
    "xnli": {"xnli": Entry("xnli", Classification, _same(_xnli, train="", test="test"), languages=True)},
    "pawsx": {
        "pawsx": Entry(
            "paws_x_wiki/{language}", Classification,
            _same(_pairs("sentence1", "sentence2", PAWSX_LABELS), test="test"),
            languages=True, of_english=("train",),
        )
    },
    "xquad": {"xquad": Entry("xquad/{language}", SpanQA, _same(_span, train="", validation="", test="test"), True)},
    "mlqa": {"mlqa": Entry("mlqa/{language}", SpanQA, _same(_span, train="", test="test"), True)},
    "tydiqa": {
        "tydiqa": Entry(
            "tydi_qa/goldp", SpanQA,
            {
                "train": ("train", _tydiqa_train), "validation": ("validation-{language}", _span),
                "test": ("validation-{language}", _span),
            },
            languages=True, of_english=("train", "validation"),
        )
    },
    "panx": {
        "panx": Entry(
            "wikiann/{language}", Tagging, _same(functools.partial(_tags, "tags"), test="test"),
            languages=True, label_names=ENTITY_TAGS, of_english=("train",),
        )
    },
    "tatoeba": {
        "tatoeba": Entry(
            "tatoeba/tatoeba_{language}", Retrieval,
            {
                "queries": ("train", functools.partial(_side, "target_sentence")),
                "candidates": ("train", functools.partial(_side, "source_sentence")),
            },
            languages=True,
        )
    },
}  # fmt: skip


def chosen(text: str) -> tuple[str, ...]:
    """Reads XTR_TFDS_TASKS: names of data sets with commas between them, or 'all'.

    Raises:
      UserError: a name that TFDS has no data set for.
    """
    names = [name for name in text.split(",") if name]
    if "all" in names:
        return tuple(CATALOGUE)
    for name in names:
        if name not in CATALOGUE:
            hint = did_you_mean(name, CATALOGUE)
            raise UserError(
                f"TFDS_TASKS has {name!r}, but TensorFlow Datasets has no such data set for us.{hint} It has "
                f"{', '.join(CATALOGUE)}; 'all' stands for these."
            )
    return tuple(dict.fromkeys(names))


def find(name: str, sources: Sources, official: Found) -> Found:
    """Returns a data set of the catalogue, and of the official files what TFDS lacks (such as further languages)."""
    from ..modules import import_tensorflow

    import_tensorflow()
    datasets = [
        _dataset(task, language, entry)
        for task, entry in CATALOGUE[name].items()
        for language in (benchmarks.languages(sources).get(name, ()) if entry.languages else ("",))
        if _exists(entry.builder.format(language=language))
    ]
    here = {dataset.name for dataset in datasets}
    more = [dataset for dataset in official.datasets if dataset.name not in here]
    absent = {task: why for task, why in official.absent.items() if task not in here}
    looked_for = f"neither TensorFlow Datasets has it nor the data folder: {official.looked_for}"
    return Found((*datasets, *more), absent, looked_for if official.looked_for else "")


def _exists(name: str) -> bool:
    import tensorflow_datasets as tfds

    builder, _, config = name.partition("/")
    configs = getattr(tfds.builder_cls(builder), "BUILDER_CONFIGS", None)
    return not config or any(known.name == config for known in configs)


def _dataset(task: str, language: str, entry: Entry) -> Dataset:
    splits = {
        split: PreparedSplit(entry, split, language)
        for split in entry.splits
        if language in ("", "en") or split not in entry.of_english
    }
    name = f"{task}.{language}" if language else task
    return Dataset(name, language or "en", entry.example_type, splits, entry.label_names)


@functools.cache
def _builder(name: str):
    import tensorflow_datasets as tfds

    return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))


@functools.cache
def _prepared(name: str):
    """Returns a builder whose data TFDS has prepared: on first use, which may download."""
    import tensorflow_datasets as tfds

    builder = _builder(name)
    if builder.is_prepared():
        return builder
    print(f"TensorFlow Datasets prepares {name} below {builder.data_dir} (once)", file=sys.stderr, flush=True)
    # Each of its ten tries at a server that is not there would be a line; the last one's reason is in the error.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as e:  # Whatever TFDS, its builders or the network fail with.
        raise UserError(
            f"TensorFlow Datasets cannot prepare {name} ({type(e).__name__}: {e}). Run this once where there is a "
            "network, TFDS_DATA_DIR set to a folder that both see, or take it out of TFDS_TASKS and use the official "
            "files."
        ) from e
    return builder


@dataclass(frozen=True)
class PreparedSplit:
    """A `Split` of prepared TFDS data; its files are known once TFDS has prepared them, which asking for them does."""

    entry: Entry
    split: str
    language: str

    @property
    def builder(self):
        return _prepared(self.entry.builder.format(language=self.language))

    @property
    def files(self) -> tuple[Path, ...]:
        """The builder's shards, and the description that says what they hold."""
        builder = self.builder
        shards = builder.info.splits[self._tfds_split].filepaths
        return (*map(Path, shards), Path(builder.data_dir) / "features.json")

    @property
    def _tfds_split(self) -> str:
        return self.entry.splits[self.split][0].format(language=self.language)

    def read(self, files: tuple[Path, ...], tally: Counter) -> Iterator[Any]:
        """Yields canonical examples in the order of the shards."""
        import tensorflow_datasets as tfds

        _, convert = self.entry.splits[self.split]
        # One shard after the other: interleaved ones depend on how many are read at a time.
        order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, skip_prefetch=True)
        rows = self.builder.as_dataset(split=self._tfds_split, shuffle_files=False, read_config=order)
        features = self.builder.info.features
        for number, row in enumerate(tfds.as_numpy(rows)):
            example = convert(_text(row), number, self.language, features)
            if example is None:
                continue
            tally["rows"] += 1
            if isinstance(example, str):
                tally[f"dropped: {example}"] += 1
            else:
                yield example


def _text(value: Any) -> Any:
    """Returns what TFDS reads as plain Python values, text decoded."""
    if isinstance(value, dict):
        return {name: _text(part) for name, part in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "flat_values"):  # a ragged tensor
        return [_text(part) for part in value.to_list()]
    return (
        [_text(part) for part in value.tolist()]
        if getattr(value, "ndim", 0)
        else getattr(value, "item", lambda: value)()
    )
