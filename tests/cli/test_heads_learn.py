"""Every head learns a tiny task of one's own, by commands; and a task under another's head is refused."""

import json
import random
import struct

import pandas as pd
import pytest
from tensorboard.compat.proto import event_pb2

from xtr.cli.main import run
from xtr.errors import UserError

WORDS = ["quick", "brown", "fox", "lazy", "dog", "seven", "wizards", "make", "toxic", "brew"]
TAGS = ["A", "B", "C"]
MODULE = """
from xtr.tasks.simple import jsonl_task

files = {split: f"{{}}.{split}.jsonl" for split in ("train", "validation")}
of = lambda kind: {split: name.format(kind) for split, name in files.items()}
jsonl_task("tiny_choices", kind="multiple_choice", files=of("choices"), language="en",
           question="question", choices="choices", label="label")
jsonl_task("tiny_tags", kind="tagging", files=of("tags"), language="en", label_names=["A", "B", "C"],
           tokens="tokens", tags="tags")
jsonl_task("tiny_spans", kind="span_qa", files=of("spans"), language="en",
           context="context", question="question", answers="answers", metrics=["squad2_em"])
jsonl_task("tiny_pairs", kind="pairs", files=of("pairs"), language="en",
           query="query", positive="positive", group="group")
jsonl_task("tiny_search", kind="retrieval", files={"queries": "queries.jsonl", "candidates": "candidates.jsonl"},
           language="en", id="id", text="text", gold="gold")
"""
# Head's file -> (task, tokens of a row, what else, steps that are enough for `LEARNT`).
HEADS = {
    "choose": ("tiny_choices", {"inputs": 40}, (), 40),
    "tag": ("tiny_tags", {"inputs": 16}, ("--gin.NUM_LABELS=3",), 40),
    "span": ("tiny_spans", {"inputs": 24}, ("--gin.DOC_STRIDE=8", "--gin.MAX_QUERY_LENGTH=8"), 60),
    "dual_encoder": ("tiny_pairs", {"inputs": 12, "targets": 16}, ("--gin.HEAD_POOLER=True",), 40),
}
SCORED = {"tiny_pairs": "tiny_search"}
METRICS = {"choose": "accuracy", "tag": "token_accuracy", "span": "squad2_em", "dual_encoder": "accuracy"}
LEARNT = 0.9


def sentence(rng, length):
    return [rng.choice([w for w in WORDS if w != "fox"]) for _ in range(length)]


def partner(word):
    """The word of the second half that belongs to one of the first."""
    return WORDS[WORDS.index(word) + 5]


def choices(rng):
    """The fox is right, among four or five."""
    texts = [" ".join(sentence(rng, rng.randint(1, 3))) for _ in range(rng.choice([4, 5]))]
    label = rng.randrange(len(texts))
    texts[label] += " fox"
    return {"question": " ".join(sentence(rng, 2)), "choices": texts, "label": label}


def tags(rng):
    """A word's tag is the word's own; some sentences are longer than a row."""
    words = [rng.choice(WORDS) for _ in range(rng.choice([2, 5, 30]))]
    return {"tokens": words, "tags": [TAGS[WORDS.index(word) % 3] for word in words]}


def spans(rng):
    """The fox is the answer, where there is one; contexts are longer than a row."""
    words = sentence(rng, 30)
    at = rng.randrange(30)
    answers = []
    if rng.random() < 0.7:
        words[at] = "fox"
        answers = [{"text": "fox", "answer_start": len(" ".join(words[:at])) + (at > 0)}]
    return {"context": " ".join(words), "question": "make", "answers": answers}


def pairs(rng):
    """A word is found by its partner."""
    word = rng.choice(WORDS[:5])
    return {"query": word, "positive": f"{partner(word)} the", "group": word}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, small_vocabularies):
    """The arguments that say where the tiny tasks are, and what model learns them."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.py").write_text(MODULE)
    for seed, (split, count) in enumerate({"train": 150, "validation": 40}.items()):
        for make in (choices, tags, spans, pairs):
            rows = [make(random.Random(f"{seed} {i}")) for i in range(count)]
            (folder / f"{make.__name__}.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"id": f"q {w}", "text": w, "gold": w} for w in WORDS[:5]]
    candidates = [{"id": w, "text": f"{partner(w)} the", "gold": f"q {w}"} for w in WORDS[:5]]
    for name, rows in (("queries", queries), ("candidates", candidates)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [*(task for task, *_ in HEADS.values()), "tiny_search"]
    where = (
        f"--vocabulary_path={small_vocabularies['xlmr']}",
        f"--data_dir={folder}",
        f"--cache_dir={folder / 'cache'}",
    )
    assert run(["cache", *tasks, "--format=encoder", f"--task_modules={folder / 'tiny.py'}", *where]) == 0
    return folder, [
        *("--gin_file=models/xlmr/micro.gin", "--gin.bert.BertConfig.num_layers=1", "--gin.VOCAB_SIZE=640"),
        f"--gin.VOCABULARY_PATH={small_vocabularies['xlmr']}", f"--gin.TASK_MODULES=['{folder / 'tiny.py'}']",
        f"--gin.DATA_DIR={folder}", f"--gin.CACHE_DIR={folder / 'cache'}",
    ]  # fmt: skip


def training(tiny, head, task, lengths, more, steps, directory):
    return [
        *("train", *tiny[1], "--gin_file=runs/finetune.gin", "--gin_file=runs/adamw.gin"),
        *(f"--gin_file=heads/{head}.gin", f"--gin.MIXTURE_OR_TASK_NAME={task}", f"--gin.MODEL_DIR={directory}"),
        *(f"--gin.TASK_FEATURE_LENGTHS={lengths}", f"--gin.TRAIN_STEPS={steps}", "--gin.BATCH_SIZE=32", *more),
        *("--gin.WARMUP_STEPS=4", "--gin.utils.create_learning_rate_scheduler.base_learning_rate=0.003"),
        *(f"--gin.EVAL_PERIOD={steps}", "--gin.EVAL_STEPS=100", "--gin.DROPOUT_RATE=0.0"),
    ]


def scalars(directory):
    """The last value of each curve."""
    (path,) = (directory / "tensorboard" / "train").iterdir()
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        found |= {value.tag: value.tensor.float_val[0] for value in event.summary.value if value.tensor.float_val}
        at += length + 16
    return found


def evaluated(tiny, directory, files, task, lengths, *more):
    """The values of the metrics of the run below a directory; nothing was cut."""
    where = directory / f"eval{len(files)}"
    arguments = [
        *("eval", *tiny[1], "--gin_file=runs/eval.gin", *files, *more, f"--gin.MIXTURE_OR_TASK_NAME={task}"),
        *(f"--gin.CHECKPOINT_PATH={directory / 'run'}", f"--gin.EVAL_OUTPUT_DIR={where}"),
        *("--gin.evaluate.split='validation'", f"--gin.TASK_FEATURE_LENGTHS={lengths}"),
        f"--gin.LENGTH_BUCKETS=({max(lengths.values())},)",
    ]
    assert run(arguments) == 0
    assert json.loads((where / "DONE").read_text())["truncated"] == 0
    rows = pd.read_parquet(where / "results.parquet")
    return dict(zip(rows["metric"], rows["value"], strict=True))


@pytest.mark.parametrize("head", [h if h != "choose" else pytest.param(h, marks=pytest.mark.slow) for h in HEADS])
def test_a_head_learns(tiny, head, tmp_path):
    task, lengths, more, steps = HEADS[head]
    assert run(training(tiny, head, task, lengths, more, steps, tmp_path / "run")) == 0
    found = scalars(tmp_path / "run")
    print({name: round(value, 3) for name, value in found.items()})
    assert found["validation/accuracy"] > LEARNT
    done = json.loads((tmp_path / "run" / "DONE").read_text())["data"]
    assert done["examples"] == done["rows"] == 32 * steps and done["truncated_examples"] == 0
    # What was learnt is what `xtr eval` reads.
    values = evaluated(tiny, tmp_path, (f"--gin_file=heads/{head}.gin",), SCORED.get(task, task), lengths, *more)
    print(values)
    assert list(values) == [METRICS[head]] and values[METRICS[head]] > 100 * LEARNT
    if head in ("choose", "tag"):
        assert values[METRICS[head]] == pytest.approx(100 * found["validation/accuracy"], abs=1e-3)
    if head == "dual_encoder":  # without the head's file all layers are read
        values = evaluated(tiny, tmp_path, (), "tiny_search", {"inputs": 16})
        assert list(values) == ["accuracy", "accuracy/layer_0", "accuracy/layer_1"]
        print(values)
        assert values["accuracy"] == values["accuracy/layer_1"] > 100 * LEARNT


def test_a_task_under_anothers_head(tiny, tmp_path):
    lengths = {"inputs": 16}
    for number, (head, task, more, message) in enumerate(
        [
            (
                "classify",
                "tiny_choices",
                ("--gin.NUM_LABELS=4",),
                "have choice_lengths. Train on it with heads/choose.gin",
            ),
            ("choose", "tiny_tags", (), "tiny_tags is not for heads/choose.gin: .*Train on it with heads/tag.gin"),
            (
                "tag",
                "tiny_tags",
                ("--gin.NUM_LABELS=4",),
                r"has 3 tags \(A, B, C\), but the head has 4: set NUM_LABELS=3",
            ),
            ("span", "tiny_pairs", (), "tiny_pairs is not for heads/span.gin: .*heads/dual_encoder.gin"),
            ("tag", "tiny_spans", ("--gin.NUM_LABELS=3",), "tiny_spans is not for heads/tag.gin: .*heads/span.gin"),
        ]
    ):
        directory = tmp_path / str(number)
        with pytest.raises(UserError, match=message):
            run(training(tiny, head, task, lengths, more, 5, directory))
        assert not directory.exists()
