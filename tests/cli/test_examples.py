"""The example of a user's own data, tried from an empty folder; and what is said where a name is unknown."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from xtr.cli.main import run

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULE = "--gin.TASK_MODULES=['my_mixture.py']"


@pytest.fixture(scope="module")
def common(world, study_arguments):
    model = next(a for a in study_arguments("x") if a.startswith("--gin_file=")).replace("study.gin", "tiny.gin")
    size = -(-world.vocabulary_size // 128) * 128
    return [
        model, f"--gin.VOCABULARY_PATH={world.vocabulary_path}", f"--gin.VOCAB_SIZE={size}",
        f"--gin.DATA_DIR={world.directory}",
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with nothing but the example in it, to work in."""
    shutil.copy(EXAMPLES / "my_mixture.py", tmp_path)
    shutil.copytree(EXAMPLES / "my_data", tmp_path / "my_data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(path):
    return [json.loads(line) for line in path.read_text().removesuffix("\n").split("\n")]


def test_the_example_trains_and_is_evaluated(folder, common):
    shared = [*common, MODULE, "--gin.CACHE_DIR=cache", "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}"]
    train = ["train", shared[0], "--gin_file=runs/finetune.gin", *shared[1:], "--gin.MIXTURE_OR_TASK_NAME=my_mixture"]
    assert run([*train, "--gin.MODEL_DIR=run", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8"]) == 0
    assert json.loads(Path("run/DONE").read_text())["steps"] == 2

    def evaluate(mixture, out):
        files = [shared[0], "--gin_file=runs/eval.gin", *shared[1:], "--gin.LENGTH_BUCKETS=(64,)"]
        where = ["--gin.CHECKPOINT_PATH=run", f"--gin.EVAL_OUTPUT_DIR={out}", f"--gin.MIXTURE_OR_TASK_NAME={mixture}"]
        assert run(["eval", *files, *where, "--gin.TOKENS_PER_BATCH=2048", "--gin.evaluate.max_decode_length=12"]) == 0
        return pd.read_parquet(Path(out) / "results.parquet")

    rows = evaluate("my_reviews", "reviews")
    assert set(zip(rows["target"], rows["language"], rows["metric"], rows["n"], strict=True)) == {
        ("my_reviews", "en", "accuracy", 2), ("my_reviews", "sw", "accuracy", 3),
        ("my_reviews", "mean 2/2", "accuracy", 5),
    }  # fmt: skip
    assert len(records(Path("reviews/predictions/run/my_reviews.sw.test.jsonl"))) == 3

    (row,) = evaluate("my_spelling", "spelling").to_dict("records")
    assert (row["target"], row["language"], row["metric"], row["n"]) == ("my_spelling", "und", "letters_right", 2)
    found = records(Path("spelling/predictions/run/my_spelling.und.test.jsonl"))
    assert [r["gold"] for r in found] == [["c l o u d"], ["b r e a d"]] and "tokens" not in found[0]
    words = [r["prediction"].replace(" ", "") for r in found]
    right = sum(a == word[i : i + 1] for gold, word in zip(("cloud", "bread"), words, strict=True)
                for i, a in enumerate(gold))  # fmt: skip
    assert row["value"] == pytest.approx(10 * right)
    assert json.loads(Path("spelling/DONE").read_text())["skipped_metrics"] == {}


@pytest.mark.slow
def test_the_example_in_every_format(folder, common, world, capsys):
    for form in ("text2text", "causal", "encoder"):
        names = ["my_nli", "my_reviews"]
        where = [f"--vocabulary_path={world.vocabulary_path}", f"--data_dir={world.directory}", "--cache_dir=cache"]
        assert run(["cache", *names, *where, f"--format={form}", "--task_modules=my_mixture.py", "--json"]) == 0
        facts = {fact["task"]: fact["examples"] for fact in json.loads(capsys.readouterr().out)}
        assert facts["my_nli"] == {"train": 8, "validation": 3} and facts["my_reviews.sw"] == {"test": 3}
