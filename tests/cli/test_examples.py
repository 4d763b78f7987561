"""The example of a user's own data, tried from an empty folder; and tasks with metrics of their own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xtr.cli.main import run
from xtr.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def common(world, study_arguments):
    model = next(a for a in study_arguments("x") if a.startswith("--gin_file=")).replace("study.gin", "tiny.gin")
    size = -(-world.vocabulary_size // 128) * 128
    return [
        model, f"--gin.VOCABULARY_PATH={world.vocabulary_path}", f"--gin.VOCAB_SIZE={size}",
        f"--gin.DATA_DIR={world.directory}", "--gin.CACHE_DIR=cache",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(common, tmp_path_factory):
    """A folder with nothing but the example in it and a run of two steps on `my_mixture`."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copy(EXAMPLES / "my_mixture.py", folder)
    shutil.copytree(EXAMPLES / "my_data", folder / "my_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train = ["train", common[0], "--gin_file=runs/finetune.gin", *common[1:]]
        train += ["--gin.TASK_MODULES=['my_mixture.py']", "--gin.MIXTURE_OR_TASK_NAME=my_mixture"]
        lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}"
        assert run([*train, lengths, "--gin.MODEL_DIR=run", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8"]) == 0
    return folder


@pytest.fixture
def evaluate(common, folder, monkeypatch):
    """`evaluate(mixture, module)`: the rows, the predictions by task and language, and what DONE says."""
    monkeypatch.chdir(folder)

    def evaluate(mixture, module="my_mixture.py"):
        files = ["eval", common[0], "--gin_file=runs/eval.gin", *common[1:], f"--gin.TASK_MODULES={module}"]
        where = [
            f"--gin.MIXTURE_OR_TASK_NAME={mixture}",
            "--gin.CHECKPOINT_PATH=run",
            f"--gin.EVAL_OUTPUT_DIR={mixture}",
        ]
        how = ["--gin.LENGTH_BUCKETS=(64,)", "--gin.TOKENS_PER_BATCH=2048", "--gin.evaluate.max_decode_length=12"]
        assert run([*files, *where, *how]) == 0
        predictions = {
            path.name: [json.loads(line) for line in path.read_text().removesuffix("\n").split("\n")]
            for path in Path(mixture).glob("predictions/run/*.jsonl")
        }
        rows = pd.read_parquet(Path(mixture) / "results.parquet")
        return rows, predictions, json.loads((Path(mixture) / "DONE").read_text())

    return evaluate


def test_the_example_trains(folder):
    assert json.loads((folder / "run/DONE").read_text())["steps"] == 2
    tasks = {path.name.rpartition("-")[0] for path in (folder / "cache").iterdir() if (path / "COMPLETED").exists()}
    assert tasks == {"my_nli", "my_reviews.en", "mnli"}


def test_a_kind_brings_its_metrics_and_languages(evaluate):
    rows, predictions, _ = evaluate("my_reviews")
    assert set(zip(rows["target"], rows["language"], rows["metric"], rows["n"], strict=True)) == {
        ("my_reviews", "en", "accuracy", 2), ("my_reviews", "sw", "accuracy", 3),
        ("my_reviews", "mean 2/2", "accuracy", 5),
    }  # fmt: skip
    assert {name: len(found) for name, found in predictions.items()} == {
        "my_reviews.en.test.jsonl": 2, "my_reviews.sw.test.jsonl": 3,
    }  # fmt: skip


def test_a_seqio_task_is_scored_by_its_own_metric(evaluate):
    rows, predictions, done = evaluate("my_spelling")
    (row,) = rows.to_dict("records")
    assert (row["target"], row["language"], row["metric"], row["n"]) == ("my_spelling", "und", "letters_right", 2)
    found = predictions["my_spelling.und.test.jsonl"]
    assert [r["gold"] for r in found] == [["c l o u d"], ["b r e a d"]] and "tokens" not in found[0]
    words = [r["prediction"].replace(" ", "") for r in found]
    letters = [(a, word[i : i + 1]) for gold, word in zip(("cloud", "bread"), words, strict=True)
               for i, a in enumerate(gold)]  # fmt: skip
    assert row["value"] == pytest.approx(10 * sum(a == b for a, b in letters))
    assert done["skipped_metrics"] == {}


MODULE = """
import numpy as np
import seqio
import tensorflow as tf
import xtr.tasks

def made(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["what is it", "who"], "targets": ["a thing", "somebody"]})

def by_score(targets, scores):
    return {"log_likelihood": np.mean(scores), "examples": seqio.metrics.Text(" ".join(targets))}

def by_confidence(targets, predictions, aux_values):
    print("noise on standard output")
    return {"confidence": aux_values["scores"].mean(), "length": seqio.metrics.Scalar(len(predictions))}

def broken(targets, predictions):
    return {"none": targets[5]}

def add(name, *metrics):
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(made, ["test"]), metric_fns=metrics,
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=xtr.tasks.output_features())

add("scored", by_score)
add("both", by_confidence, by_score)
add("failing", broken)
seqio.MixtureRegistry.add("two", [("scored", 1), ("both", 1)])
"""


def test_metrics_on_scores_and_auxiliary_values(evaluate, folder, caplog):
    (folder / "with_metrics.py").write_text(MODULE)
    rows, predictions, done = evaluate("two", "with_metrics.py")
    values = {(row.target, row.metric): row.value for row in rows.itertuples()}
    assert values.keys() == {
        ("scored", "log_likelihood"), ("both", "confidence"), ("both", "length"), ("both", "log_likelihood"),
    }  # fmt: skip
    scored, both = (predictions[f"{name}.und.test.jsonl"] for name in ("scored", "both"))
    assert values["scored", "log_likelihood"] == pytest.approx(np.mean([r["score"] for r in scored]), rel=1e-6)
    assert values["both", "log_likelihood"] == values["scored", "log_likelihood"] < 0
    assert values["both", "confidence"] == pytest.approx(np.mean([r["log_prob"] for r in both]), rel=1e-6)
    assert values["both", "length"] == 2 and [r["gold"] for r in scored] == ["a thing", "somebody"]
    why = "a Text is no number"
    assert done["skipped_metrics"] == {"scored, test: examples": why, "both, test: examples": why}
    assert f"scored, test: the metric examples is not in the results: {why}" in caplog.text


def test_a_metric_that_fails_is_named_with_its_line(evaluate, folder):
    (folder / "with_metrics.py").write_text(MODULE)
    line = MODULE.split("\n").index("def broken(targets, predictions):") + 2
    with pytest.raises(
        UserError, match=rf"failing: its metric broken failed at .*with_metrics\.py, line {line}: Index"
    ):
        evaluate("failing", "with_metrics.py")


@pytest.mark.slow
def test_the_example_in_every_format(folder, world, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    for form in ("text2text", "causal", "encoder"):
        where = [f"--vocabulary_path={world.vocabulary_path}", f"--data_dir={world.directory}", "--cache_dir=cache"]
        how = [f"--format={form}", "--task_modules=my_mixture.py", "--json"]
        assert run(["cache", "my_nli", "my_reviews", *where, *how]) == 0
        facts = {fact["task"]: fact["examples"] for fact in json.loads(capsys.readouterr().out)}
        assert facts["my_nli"] == {"train": 8, "validation": 3} and facts["my_reviews.sw"] == {"test": 3}
