"""train and eval of a classification head on each family, as commands, on the tiny world."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from xtr.checkpoints.index import read_index
from xtr.cli.main import run
from xtr.errors import UserError
from xtr.evaluate.results import is_mean

LABELS = {"entailment", "neutral", "contradiction"}
# Family -> kind of its vocabulary, its model file, and what makes it smaller still.
FAMILIES = {
    "xlmr": ("xlmr", "xlmr", "bert.BertConfig.emb_dim=16"),
    "mbert": ("wordpiece", "mbert", "bert.BertConfig.emb_dim=16"),
    "bloom": ("bpe", "bloom", "bloom.BloomConfig.emb_dim=16"),
    "mt5": ("t5", "mt5", "mt5.MT5Config.emb_dim=16"),
}
# A model of a study, its head with it: every stage reads MODEL.
HEADED_MODEL = """
include 'models/xlmr/micro.gin'
MODEL = @heads.WithHead()
heads.WithHead.body = @bert.BertConfig()
heads.WithHead.kind = 'classify'
heads.WithHead.num_labels = 3
bert.BertConfig.emb_dim = 16
"""
STUDY = """
include 'studies/demo.gin'
study.models = {{'xlmr': {{'gin_file': '{model}', 'initial_checkpoint': '{checkpoint}'}}}}
study.pretrain = ()
study.seeds = (0,)
study.intermediates = {{'none': (), 'nli': ('intermediate/mnli.gin',)}}
study.targets = {{'xnli': 'targets/xnli.gin', 'tatoeba': 'targets/tatoeba.gin'}}
study.overlaps = {{'nli': ('xnli',)}}
study.resamples = 100
study.overrides = {{'VOCAB_SIZE': %VOCAB_SIZE, 'TASK_FEATURE_LENGTHS': {{'inputs': 64}}}}
study.stage_overrides = {{
    'intermediate': {{'TRAIN_STEPS': 2, 'BATCH_SIZE': 8}},
    'target': {{'TRAIN_STEPS': 2, 'BATCH_SIZE': 8}},
    'evaluate': {{'LENGTH_BUCKETS': (64,)}},
}}
"""
ALL = [f if f == "xlmr" else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]


@pytest.fixture(scope="module")
def places(world, cache_dir, small_vocabularies):
    """A function: family -> the arguments that say what model it is and where things are."""

    def of(family):
        kind, model, smaller = FAMILIES[family]
        return [
            *(f"--gin_file=models/{model}/micro.gin", f"--gin.{smaller}", "--gin.VOCAB_SIZE=640"),
            *(f"--gin.VOCABULARY_PATH={small_vocabularies[kind]}", f"--gin.DATA_DIR={world.directory}"),
            f"--gin.CACHE_DIR={cache_dir}",
        ]

    return of


HEAD = ("--gin_file=heads/classify.gin", "--gin.NUM_LABELS=3")


def training(places, family, directory, *more):
    return [
        *("train", *places(family), "--gin_file=runs/finetune.gin", "--gin_file=targets/xnli.gin", *HEAD),
        *(f"--gin.MODEL_DIR={directory}", "--gin.TRAIN_STEPS=3", "--gin.BATCH_SIZE=8", *more),
    ]


def evaluation(places, family, target, checkpoint, directory, *more):
    return [
        *("eval", *places(family), "--gin_file=runs/eval.gin", f"--gin_file=targets/{target}.gin"),
        *(f"--gin.CHECKPOINT_PATH={checkpoint}", f"--gin.EVAL_OUTPUT_DIR={directory}", *more),
    ]


def predictions(directory, language="qab"):
    text = (directory / "predictions" / "run" / f"xnli.{language}.test.jsonl").read_text()
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


@pytest.fixture(scope="module")
def tokenise(world, cache_dir, small_vocabularies):
    """A function: kind of vocabulary -> caches all that a family is trained and evaluated on, in one go."""

    def all_of(kind):
        where = (f"--vocabulary_path={small_vocabularies[kind]}", f"--data_dir={world.directory}")
        names = ("mnli", "xnli", "xnli.en", "tatoeba")
        assert run(["cache", *names, "--format=encoder", *where, f"--cache_dir={cache_dir}"]) == 0

    return all_of


@pytest.fixture(scope="module")
def trained(places, tokenise, tmp_path_factory):
    """A function: family -> the directory of its trained run."""
    directories = {}

    def of(family):
        if family not in directories:
            tokenise(FAMILIES[family][0])
            directories[family] = tmp_path_factory.mktemp("runs") / family
            assert run(training(places, family, directories[family], "--gin.EVAL_PERIOD=3", "--gin.EVAL_STEPS=2")) == 0
        return directories[family]

    return of


@pytest.mark.parametrize("family", ALL)
def test_train_and_eval(places, trained, family, tmp_path):
    directory = trained(family)
    done = json.loads((directory / "DONE").read_text())
    assert done["steps"] == 3 and done["loss_normalizing_factor"] == "NUM_REAL_TARGET_TOKENS"
    assert done["data"]["examples"] == done["data"]["rows"] == 24 and done["data"]["encoder_tokens"] > 24
    assert run(evaluation(places, family, "xnli", directory, tmp_path, *HEAD)) == 0
    rows = pd.read_parquet(tmp_path / "results.parquet")
    test = rows[(rows["split"] == "test") & ~rows["language"].map(is_mean)]
    assert set(test["language"]) == {"en", "qaa", "qab", "qac"} and set(rows["metric"]) == {"accuracy"}
    assert set(rows["family"]) == {family} and set(rows["step"]) == {3} and rows["value"].between(0, 100).all()
    for row in test.itertuples():
        records = predictions(tmp_path, row.language)
        assert len(records) == row.n == 24
        assert np.isclose(np.mean([r["contributions"]["accuracy"] for r in records]), row.value)
        for record in records:
            assert {record["prediction"], record["gold"]} <= LABELS
            np.testing.assert_allclose(np.exp(record["scores"]).sum(), 1.0, rtol=1e-5)
    chance = json.loads((tmp_path / "DONE").read_text())["chance"]
    assert chance["qab"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("family", ALL)
def test_retrieval_reads_the_states_below_a_head(places, trained, family, tmp_path):
    """With the head's file or, where the family reads the same data without one, without it: the same rows."""
    heads = [HEAD, ()] if family == "xlmr" else [HEAD]
    values = []
    for number, head in enumerate(heads):
        where = tmp_path / str(number)
        arguments = evaluation(places, family, "tatoeba", trained(family), where, *head, "--gin.LENGTH_BUCKETS=(64,)")
        assert run(arguments) == 0
        rows = pd.read_parquet(where / "results.parquet").sort_values(["language", "metric"])
        assert set(rows["language"]) == {"qaa", "qab", "qac", "mean 3/3"}
        assert {"accuracy", "accuracy/layer_0", "accuracy/layer_2"} <= set(rows["metric"])
        values.append((rows["value"].tolist(), set(rows["parameters"])))
    assert values[0] == values[-1]


def test_eval_does_not_depend_on_batches_or_buckets(places, trained, tmp_path):
    records = []
    for number, more in enumerate(["--gin.TOKENS_PER_BATCH=512", "--gin.LENGTH_BUCKETS=(512,)", "--gin.LIMIT=24"]):
        assert run(evaluation(places, "xlmr", "xnli", trained("xlmr"), tmp_path / str(number), *HEAD, more)) == 0
        records.append(predictions(tmp_path / str(number)))
    for others in records[1:]:
        assert [r["prediction"] for r in records[0]] == [r["prediction"] for r in others]
        np.testing.assert_allclose([r["scores"] for r in records[0]], [r["scores"] for r in others], rtol=1e-5)


def test_a_run_goes_on_to_the_same_bits(places, trained, tmp_path):
    """Stopped by a save after each step, and run again, it ends where one left alone does."""
    whole = read_index(trained("xlmr") / "checkpoints" / "3")[0]
    directory = tmp_path / "run"
    more = ("--gin.EVAL_PERIOD=3", "--gin.EVAL_STEPS=2", "--gin.SAVE_PERIOD=1")
    assert run(training(places, "xlmr", directory, *more)) == 0
    (directory / "DONE").unlink()
    for step in ("2", "3"):
        shutil.rmtree(directory / "checkpoints" / step)
    assert run(training(places, "xlmr", directory, *more)) == 0
    assert read_index(directory / "checkpoints" / "3")[0] == whole


@pytest.mark.parametrize(
    ("target", "more", "message"),
    [
        pytest.param("xquad", HEAD, "xquad.* needs a span head, which .* heads/span.gin", marks=pytest.mark.slow),
        ("xnli", (), "xnli.en needs a classification head, which this xlmr lacks: give heads/classify.gin"),
        ("xnli", (HEAD[0], "--gin.NUM_LABELS=2"), r"xnli.en has 3 labels \(.*\), but the head has 2: set NUM_LABELS=3"),
        ("xnli", (*HEAD, "--gin.VOCAB_SIZE=128"), "more than the 128 rows"),
    ],
)
def test_what_a_model_cannot_do_is_said_first(places, trained, target, more, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(evaluation(places, "xlmr", target, trained("xlmr"), tmp_path / "eval", *more))


def test_trainings_that_cannot_work(places, trained, small_vocabularies, tmp_path):
    trained("xlmr")
    long = "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024}"
    for more, message in [
        (long, "positions for 512: set TASK_FEATURE_LENGTHS={'inputs': 128}"),
        ("--gin.NUM_LABELS=2", "mnli has 3 labels .*set NUM_LABELS=3"),
        (f"--gin.VOCABULARY_PATH={small_vocabularies['t5']}", "is an mT5 vocabulary, but the model is an XLM-R"),
    ]:
        with pytest.raises(UserError, match=message):
            run(training(places, "xlmr", tmp_path / message[:4], more))


def test_infer_needs_a_model_that_writes(places, tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    files = (f"--gin.INPUT_FILE={tmp_path / 'in.txt'}", f"--gin.OUTPUT_FILE={tmp_path / 'out.jsonl'}")
    with pytest.raises(UserError, match="xtr infer writes text.*this xlmr cannot"):
        model = [a for a in places("xlmr") if "_DIR" not in a]
        run(["infer", *model, "--gin_file=runs/infer.gin", f"--gin.CHECKPOINT_PATH={tmp_path}", *files])


def test_cache_in_the_encoder_format(world, trained, cache_dir, small_vocabularies, capsys):
    """The tasks of a training with a head are found again."""
    trained("xlmr")
    capsys.readouterr()
    arguments = ["cache", "mnli", f"--vocabulary_path={small_vocabularies['xlmr']}", "--format=encoder", "--json"]
    assert run([*arguments, f"--data_dir={world.directory}", f"--cache_dir={cache_dir}"]) == 0
    printed = capsys.readouterr()
    (fact,) = json.loads(printed.out)
    assert fact["task"] == "mnli" and fact["examples"] == {"train": 60, "validation": 20} and not printed.err


@pytest.mark.slow
def test_a_study_of_a_model_with_a_head(places, trained, world, cache_dir, small_vocabularies, tmp_path):
    """It starts from a checkpoint without a head, as published ones are; retrieval scores that very checkpoint too."""
    model = [a for a in places("xlmr") if a.startswith(("--gin_file", "--gin.bert", "--gin.VOCAB_SIZE"))]
    where = (f"--checkpoint={trained('xlmr')}", "--to=huggingface", f"--output={tmp_path / 'published'}")
    assert run(["convert", *model, *where]) == 0
    (tmp_path / "xlmr.gin").write_text(HEADED_MODEL)
    (tmp_path / "study.gin").write_text(STUDY.format(model=tmp_path / "xlmr.gin", checkpoint=tmp_path / "published"))
    arguments = [
        *("study", "run", f"--gin_file={tmp_path / 'study.gin'}", f"--gin.STUDY_DIR={tmp_path / 'study'}"),
        *(f"--gin.DATA_DIR={world.directory}", f"--gin.CACHE_DIR={cache_dir}", "--gin.VOCAB_SIZE=640"),
        f"--gin.VOCABULARY_PATH={small_vocabularies['xlmr']}",
    ]
    assert run(arguments) == 0
    rows = pd.read_parquet(tmp_path / "study" / "results" / "results.parquet")
    cells = {(row.intermediate, row.target, row.stage) for row in rows.itertuples()}
    assert cells == {
        ("none", "xnli", "target"), ("nli", "xnli", "target"), ("none", "tatoeba", "pretrained"),
        ("nli", "tatoeba", "intermediate"),
    }  # fmt: skip
