"""A tiny generated world and a tiny study on it, for tests that run real commands."""

from pathlib import Path

import pytest

from xtr.demo.world import WorldSizes
from xtr.demo.write import WorldSummary, write_world

SIZES = WorldSizes(
    mnli_train=60,
    mnli_dev=20,
    xnli_dev=12,
    xnli_test=24,
    squad_train=60,
    squad_dev=12,
    xquad=12,
    tatoeba=16,
    monolingual=60,
    bilingual=60,
    vocabulary=500,
)

STUDY = """
include 'studies/demo.gin'
study.models = {{'tiny': '{model}'}}
study.seeds = (0, 1)
study.intermediates = {{'none': (), 'nli': ('intermediate/mnli.gin',)}}
study.overlaps = {{'nli': ('xnli',)}}
study.resamples = 200
study.overrides = {{'VOCAB_SIZE': %VOCAB_SIZE, 'TASK_FEATURE_LENGTHS': {{'inputs': 64, 'targets': 32}}}}
study.stage_overrides = {{
    'pretrain': {{'MIXTURE_OR_TASK_NAME': 'text.corpus', 'TRAIN_STEPS': 6, 'BATCH_SIZE': 8, 'SAVE_PERIOD': 2}},
    'intermediate': {{'TRAIN_STEPS': 4, 'BATCH_SIZE': 8, 'SAVE_PERIOD': 1, 'DROPOUT_RATE': 0.1}},
    'target': {{'TRAIN_STEPS': 4, 'BATCH_SIZE': 8, 'SAVE_PERIOD': 1, 'DROPOUT_RATE': 0.1}},
    'evaluate': {{'LENGTH_BUCKETS': (64,), 'TOKENS_PER_BATCH': 2048, 'evaluate.max_decode_length': 6}},
}}
"""


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> WorldSummary:
    return write_world(tmp_path_factory.mktemp("demo") / "world", seed=0, sizes=SIZES)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def study_arguments(world, cache_dir, tmp_path_factory, tiny_mt5):
    """A function: study directory -> the command line of a tiny study in it."""
    folder = tmp_path_factory.mktemp("gin")
    (folder / "tiny.gin").write_text(tiny_mt5)
    (folder / "study.gin").write_text(STUDY.format(model=folder / "tiny.gin"))

    def arguments(study_dir: Path, action: str = "run") -> list[str]:
        return [
            "study",
            action,
            f"--gin_file={folder / 'study.gin'}",
            f"--gin.STUDY_DIR={study_dir}",
            f"--gin.DATA_DIR={world.directory}",
            f"--gin.CACHE_DIR={cache_dir}",
            f"--gin.VOCABULARY_PATH={world.vocabulary_path}",
            f"--gin.VOCAB_SIZE={-(-world.vocabulary_size // 128) * 128}",
        ]

    return arguments
