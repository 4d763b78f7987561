"""xtr train on the tiny world for the families without an encoder-decoder; and what each is evaluated on."""

import json

import pandas as pd
import pytest

from xtr.cli.main import run

SPEED = (
    "--gin.TRAIN_STEPS=4",
    "--gin.BATCH_SIZE=8",
    "--gin.EVAL_PERIOD=4",
    "--gin.EVAL_STEPS=1",
    "--gin.DROPOUT_RATE=0.0",
)


@pytest.fixture(scope="module")
def command(world, cache_dir, small_vocabularies):
    """command(action, vocabulary kind, *arguments): runs it on the tiny world."""

    def start(action, kind, *arguments):
        places = (f"--gin.DATA_DIR={world.directory}", f"--gin.CACHE_DIR={cache_dir}")
        vocabulary = (f"--gin.VOCABULARY_PATH={small_vocabularies[kind]}", "--gin.VOCAB_SIZE=1024")
        assert run([action, *arguments, *places, *vocabulary]) == 0

    return start


def done(directory) -> dict:
    return json.loads((directory / "DONE").read_text())


def test_bloom_learns_targets_behind_inputs_and_is_evaluated(command, tmp_path):
    model = (
        "--gin_file=models/bloom/micro.gin",
        "--gin.bloom.BloomConfig.emb_dim=16",
        "--gin.bloom.BloomConfig.num_heads=2",
    )
    files = ("--gin_file=runs/finetune.gin", "--gin_file=targets/xnli.gin")
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 240, 'targets': 16}"
    command("train", "bpe", *model, *files, *SPEED, lengths, f"--gin.MODEL_DIR={tmp_path / 'run'}")
    found = done(tmp_path / "run")
    assert found["loss_normalizing_factor"] == "NUM_REAL_TARGET_TOKENS"
    assert found["data"]["rows"] == 32 and found["data"]["examples"] > 32  # packed
    where = (f"--gin.CHECKPOINT_PATH={tmp_path / 'run'}", f"--gin.EVAL_OUTPUT_DIR={tmp_path / 'eval'}")
    command(
        "eval",
        "bpe",
        *model,
        "--gin_file=runs/eval.gin",
        files[1],
        *where,
        "--gin.LENGTH_BUCKETS=(128,)",
        "--gin.LIMIT=4",
    )
    rows = pd.read_parquet(tmp_path / "eval" / "results.parquet")
    assert set(rows["family"]) == {"bloom"} and rows["value"].between(0, 100).all()


@pytest.mark.parametrize(
    ("family", "kind", "files", "lengths"),
    [
        ("xlmr", "xlmr", ["runs/mlm.gin"], {"inputs": 48}),
        pytest.param(
            *("mbert", "wordpiece", ["runs/mlm.gin", "runs/adamw.gin"], {"inputs": 48}), marks=pytest.mark.slow
        ),
        pytest.param(*("bloom", "bpe", ["runs/finetune.gin"], {"inputs": 24, "targets": 24}), marks=pytest.mark.slow),
    ],
)
def test_plain_text(command, family, kind, files, lengths, tmp_path):
    model = (f"--gin_file=models/{family}/micro.gin", *(f"--gin_file={name}" for name in files))
    more = ["--gin.WARMUP_STEPS=2"] if "runs/adamw.gin" in files else []
    where = (f"--gin.TASK_FEATURE_LENGTHS={lengths}", f"--gin.MODEL_DIR={tmp_path / 'run'}")
    speed = [option for option in SPEED if "EVAL" not in option]  # plain text has no validation split
    command("train", kind, *model, *speed, *where, "--gin.MIXTURE_OR_TASK_NAME=text.corpus", *more)
    data = done(tmp_path / "run")["data"]
    assert data["batches"] == 4 and data["encoder_density"] > 0.7 and not any("decoder" in name for name in data)
