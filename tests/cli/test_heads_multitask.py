"""A mixture of tasks of different kinds on one encoder, by commands: its batches, a restart, and what is handed on."""

import json
import random
import shutil

import pandas as pd
import pytest

from xtr.checkpoints.index import read_index
from xtr.cli.main import run
from xtr.errors import UserError
from xtr.train import loop
from xtr.train.lengths import settled

WORDS = ["quick", "brown", "fox", "lazy", "dog", "seven", "wizards", "make"]
MODULE = """
import seqio
from xtr.tasks.simple import jsonl_task

jsonl_task("mt_nli", kind="classification", files={"train": "nli.jsonl", "validation": "nli.jsonl"}, language="en",
           text_a="a", text_b="b", label="label", label_names=["no", "yes"])
jsonl_task("mt_choices", kind="multiple_choice", files={"train": "choices.jsonl"}, language="en",
           question="question", choices="choices", label="label")
jsonl_task("mt_spans", kind="span_qa", files={"train": "spans.jsonl"}, language="en",
           context="context", question="question", answers="answers")
seqio.MixtureRegistry.add("mt_all", [("mt_nli", 2.0), ("mt_choices", 1.0), ("mt_spans", 1.0), ("text.corpus", 1.0)])
seqio.MixtureRegistry.add("mt_scored", ["mt_nli", "mt_choices", "mt_spans"], default_rate=1.0)
"""
HEADS = "{'nli': ('classify', 2), 'choice': 'choose', 'span': 'span', 'text': 'mlm'}"
STEPS = 10
SAVES = ("--gin.SAVE_PERIOD=4", "--gin.EVAL_PERIOD=10", "--gin.EVAL_STEPS=2")


def rows(rng):
    words = [rng.choice(WORDS) for _ in range(4)]
    text, word = " ".join(words), rng.choice(WORDS)
    nli = {"a": text, "b": word, "label": "yes" if word in words else "no"}
    choices = {"question": text, "choices": [word, "fox"], "label": 1}
    answer = {"text": words[0], "answer_start": 0}
    return {"nli": nli, "choices": choices, "spans": {"context": text, "question": word, "answers": [answer]}}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, small_vocabularies):
    folder = tmp_path_factory.mktemp("multitask")
    (folder / "mt.py").write_text(MODULE)
    made = [rows(random.Random(i)) for i in range(40)]
    for name in made[0]:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row[name]) + "\n" for row in made))
    (folder / "text/corpus").mkdir(parents=True)
    (folder / "text/corpus/en.txt").write_text("".join(" ".join(row["nli"].values()) + "\n" for row in made))
    return [
        *("train", "--gin_file=models/xlmr/micro.gin", "--gin.bert.BertConfig.num_layers=1", "--gin.VOCAB_SIZE=640"),
        f"--gin.VOCABULARY_PATH={small_vocabularies['xlmr']}", f"--gin.TASK_MODULES=['{folder / 'mt.py'}']",
        f"--gin.DATA_DIR={folder}", f"--gin.CACHE_DIR={folder / 'cache'}", "--gin.BATCH_SIZE=8",
    ]  # fmt: skip


def multitask(arguments, directory, *more, heads=HEADS):
    return [
        *arguments, "--gin_file=runs/intermediate.gin", "--gin_file=runs/adamw.gin", "--gin_file=heads/multitask.gin",
        "--gin.MIXTURE_OR_TASK_NAME=mt_all", "--gin.bert.BertConfig.mlm_head=True", f"--gin.HEADS={heads}",
        f"--gin.MODEL_DIR={directory}", "--gin.TASK_FEATURE_LENGTHS={'inputs': 24}", f"--gin.TRAIN_STEPS={STEPS}",
        "--gin.WARMUP_STEPS=2", "--gin.MAX_QUERY_LENGTH=8", "--gin.DOC_STRIDE=4", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(arguments, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert (
        run(multitask(arguments, directory, *SAVES)) == 0
    )
    return directory


def test_each_batch_is_of_one_head(trained):
    data = json.loads((trained / "DONE").read_text())["data"]
    batches = {name: stats["batches"] for name, stats in data.items()}
    assert sum(batches.values()) == STEPS and batches["nli"] == 4
    assert all(abs(batches[name] - 2) <= 1 for name in ("choice", "span", "text"))
    assert data["choice"]["examples_by_task"] == {"mt_choices": 8 * batches["choice"]}


def test_a_run_goes_on_to_the_same_bits(arguments, trained, tmp_path):
    directory = tmp_path / "again"
    shutil.copytree(trained, directory)
    (directory / "DONE").unlink()
    for step in ("8", "10"):
        shutil.rmtree(directory / "checkpoints" / step)
    # Where a run lies is no part of what it is.
    assert (
        run(multitask(arguments, directory, *SAVES)) == 0
    )
    ends = [read_index(path / "checkpoints" / "10")[0] for path in (trained, directory)]
    assert ends[0] == ends[1]


def test_each_task_is_scored_by_its_own_head(arguments, trained, tmp_path):
    evaluation = [
        *("eval", *arguments[1:-1], "--gin_file=runs/eval.gin", "--gin_file=heads/multitask.gin"),
        *("--gin.MIXTURE_OR_TASK_NAME=mt_scored", "--gin.evaluate.split='train'", f"--gin.HEADS={HEADS}"),
        *("--gin.bert.BertConfig.mlm_head=True", f"--gin.CHECKPOINT_PATH={trained}", "--gin.LENGTH_BUCKETS=(24,)"),
        *(f"--gin.EVAL_OUTPUT_DIR={tmp_path}", "--gin.TASK_FEATURE_LENGTHS={'inputs': 24}", "--gin.MAX_QUERY_LENGTH=8"),
    ]
    assert run(evaluation) == 0
    rows = pd.read_parquet(tmp_path / "results.parquet")
    found = dict(zip(zip(rows["target"], rows["metric"], strict=True), rows["value"], strict=True))
    print(found)
    assert set(found) == {
        *(("mt_nli", "accuracy"), ("mt_choices", "accuracy"), ("mt_spans", "em"), ("mt_spans", "f1"))
    }
    with pytest.raises(UserError, match=r"no head for mt_spans: add one like \{'mt_spans': 'span'\} to HEADS"):
        lacking = "{'nli': ('classify', 2), 'choice': 'choose', 'text': 'mlm'}"
        run([*evaluation, f"--gin.HEADS={lacking}", f"--gin.EVAL_OUTPUT_DIR={tmp_path / 'none'}"])


@pytest.mark.slow
def test_a_targets_run_takes_the_body_over(arguments, trained, tmp_path, capsys):
    target = [
        *arguments, "--gin_file=runs/finetune.gin", "--gin_file=runs/adamw.gin", "--gin_file=heads/classify.gin",
        "--gin.MIXTURE_OR_TASK_NAME=mt_nli", "--gin.NUM_LABELS=2", f"--gin.INITIAL_CHECKPOINT_PATH={trained}",
        f"--gin.MODEL_DIR={tmp_path / 'target'}", "--gin.TRAIN_STEPS=2", "--gin.WARMUP_STEPS=1",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24}",
    ]  # fmt: skip
    assert run(target) == 0
    said = capsys.readouterr()
    assert "left aside: this run has no such head" in said.out + said.err


def test_a_task_without_a_head_is_refused(arguments, tmp_path):
    with pytest.raises(UserError, match=r"no head for mt_spans: add one like \{'mt_spans': 'span'\} to HEADS"):
        run(multitask(arguments, tmp_path / "run", heads="{'nli': ('classify', 2), 'choice': 'choose', 'text': 'mlm'}"))
    with pytest.raises(UserError, match="'multitask' is the objective of a model with several heads"):
        run(multitask(arguments, tmp_path / "run", "--gin.train.objective=classify"))
    with pytest.raises(UserError, match="LABEL_SMOOTHING is 0.1, which the objective 'classify' lacks"):
        run(multitask(arguments, tmp_path / "run", "--gin.LABEL_SMOOTHING=0.1"))
    assert not (tmp_path / "run").exists()


def test_rows_as_long_as_the_heads_need(arguments, tmp_path, monkeypatch):
    """The longest of the lengths that 'auto' stands for with each head; masked text takes what the others need."""
    chosen = []

    def choose_and_stop(*given):
        chosen.append(settled(*given))
        raise UserError("chosen")

    monkeypatch.setattr(loop, "settled", choose_and_stop)
    with pytest.raises(UserError, match="chosen"):
        run([*multitask(arguments, tmp_path / "run"), "--gin.TASK_FEATURE_LENGTHS=auto"])
    ((lengths, files),) = chosen
    kept = json.loads(files["lengths.json"])
    assert set(kept["chosen for"]) == {"nli", "choice", "span"} and kept["lengths"] == lengths
    assert lengths == {"inputs": max(own["lengths"]["inputs"] for own in kept["chosen for"].values())}
    assert lengths["inputs"] % 16 == 0
