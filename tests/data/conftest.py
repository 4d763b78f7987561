"""Small cached tasks and vocabularies, made without TensorFlow."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from xtr.data.cache_shards import shard_paths, write_shard
from xtr.data.cached_task import CachedTask
from xtr.data.records import serialize_example
from xtr.data.vocabulary import SentencePieceVocabulary


def write_task(directory, name, splits, *, shards=2, rate=1.0, **info) -> CachedTask:
    """Writes a cached task as the cache writer lays it out."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    files = {}
    for split, examples in splits.items():
        parts = np.array_split(np.arange(len(examples)), shards)
        files[split] = [
            asdict(write_shard(path, (serialize_example(examples[i]) for i in numbers), unit))
            for unit, (path, numbers) in enumerate(zip(shard_paths(directory, split, shards), parts, strict=True))
        ]
    described = {split: {"examples": len(examples), "shards": shards} for split, examples in splits.items()}
    info = {"task": name, "splits": described, "shard_files": files, **info}
    (directory / "xtr_task.json").write_text(json.dumps(info))
    (directory / "COMPLETED").touch()
    return CachedTask.open(directory, rate)


@pytest.fixture
def task_writer(tmp_path):
    """write_task(name, splits, ...) into a folder below tmp_path."""
    return lambda name, splits, **options: write_task(tmp_path / f"{name}-0123456789ab", name, splits, **options)


@pytest.fixture(scope="session")
def shared_task_writer(tmp_path_factory):
    """As task_writer, for tasks that many tests share."""
    folder = tmp_path_factory.mktemp("tasks")
    return lambda name, splits, **options: write_task(folder / f"{name}-0123456789ab", name, splits, **options)


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    """Trains a tiny model; `sentinels` of them in mT5's reversed order, the last one first."""

    def train(sentinels: int) -> str:
        folder = tmp_path_factory.mktemp("vocabulary")
        text = "the quick brown fox jumps over the lazy dog while seven wizards make toxic brew for the queen and jack"
        (folder / "text").write_text("\n".join(text.split(" ") + [text] * 5), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / "tiny"),
            vocab_size=60 + sentinels,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            user_defined_symbols=[f"▁<extra_id_{i}>" for i in reversed(range(sentinels))],
            minloglevel=2,
        )
        return str(folder / "tiny.model")

    return train


@pytest.fixture(scope="session")
def vocabulary(sentencepiece_model) -> SentencePieceVocabulary:
    return SentencePieceVocabulary(sentencepiece_model(20))
