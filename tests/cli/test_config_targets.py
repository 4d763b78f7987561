"""Every file of gin/intermediate and gin/targets composes with a model and a run, and says what the reference says."""

from pathlib import Path

import pytest

from xtr import config
from xtr.tasks.benchmarks import DIAGNOSTIC, XTREME, XTREME_R
from xtr.train.adamw import AdamWConfig

GIN = Path(config.__file__).parents[1] / "gin"
INTERMEDIATES = sorted(path.stem for path in GIN.glob("intermediate/*.gin"))
TARGETS = sorted(path.stem for path in GIN.glob("targets/*.gin"))
ENCODER_INTERMEDIATES = sorted(path.stem for path in GIN.glob("intermediate/encoder/*.gin"))
ENCODER_TARGETS = sorted(path.stem for path in GIN.glob("targets/encoder/*.gin"))
NOT_TRAINED = {"tatoeba", "bucc2018", "lareqa", "mewslix"}  # the last two are trained as dual encoders only
PLACES = ["VOCABULARY_PATH=/v"]

# Target -> epochs, examples, rate, rows a step: XLM-R large in google-research/xtreme's scripts.
REFERENCE = {
    "xnli": (5, 392_702, 3e-5, 32),
    "pawsx": (5, 49_401, 2e-5, 32),
    "siqa": (5, 33_410, 3e-5, 32),
    "xcopa": (5, 400, 3e-5, 32),
    "udpos": (10, 21_253, 2e-5, 32),
    "panx": (10, 20_000, 2e-5, 32),
    "xquad": (3, 87_599, 3e-5, 32),
    "mlqa": (3, 87_599, 3e-5, 32),
    "multichecklist": (3, 87_599, 3e-5, 32),
    "tydiqa": (3, 3_696, 3e-5, 32),
    "lareqa": (3, 87_599, 2e-5, 32),
    "mewslix": (2, 167_719, 1e-5, 32),
}
LENGTHS = {name: {"inputs": 384} for name in ("xquad", "mlqa", "multichecklist", "tydiqa")}
LENGTHS |= {"lareqa": {"inputs": 96, "targets": 256}, "mewslix": {"inputs": 64, "targets": 64}}


def training(model, *files):
    config.load([f"models/{model}.gin", *files], ["MODEL_DIR=/m", *PLACES], entry="train")
    return config.build("train")


def evaluation(model, *files):
    config.load(
        [f"models/{model}.gin", "runs/eval.gin", *files], ["CHECKPOINT_PATH=/c", "EVAL_OUTPUT_DIR=/e", *PLACES],
        entry="evaluate",
    )  # fmt: skip
    return config.build("evaluate")


def test_every_target_of_both_benchmarks_has_a_file():
    assert set(TARGETS) == {*XTREME, *XTREME_R, *DIAGNOSTIC, "siqa"}
    assert set(REFERENCE) == set(ENCODER_TARGETS) == {*TARGETS} - {"tatoeba", "bucc2018"}


@pytest.mark.parametrize("name", INTERMEDIATES)
def test_an_intermediate_run(name):
    run = training("mt5/small", "runs/intermediate.gin", f"intermediate/{name}.gin")
    assert run.mixture_or_task_name == name and run.objective == "seq2seq"


def test_every_intermediate_has_a_file_with_heads():
    assert ENCODER_INTERMEDIATES == INTERMEDIATES


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model, name)
        for model in ("xlmr/large", "mbert/cased", "bloom/560m", "mt5/small")
        for name in ENCODER_INTERMEDIATES
        if name != "mnli_denoise" or model in ("xlmr/large", "mbert/cased")  # masked tokens are for these two
    ],
)
def test_an_intermediate_run_with_heads_of_its_kind(model, name):
    run = training(model, "runs/intermediate.gin", f"intermediate/encoder/{name}.gin")
    several = {"all_nine", "all_available", "nli_qa", "mnli_denoise"}
    assert run.mixture_or_task_name == name and (run.objective == "multitask") == (name in several)
    assert run.format == "encoder" and isinstance(run.optimizer, AdamWConfig)
    assert (run.schedule.base_learning_rate, run.batch_size) == (1e-5, 32)
    assert run.schedule.warmup_steps == run.train_steps // 10
    assert run.task_feature_lengths == {"inputs": 384 if name.startswith("squad") else 256}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("model", ["mt5/small", "bloom/560m"])
def test_a_target_of_a_model_that_writes(model, name):
    run = evaluation(model, f"targets/{name}.gin")
    assert (run.mixture_or_task_name, run.target) == (name, name)
    if name not in NOT_TRAINED:
        assert training(model, "runs/finetune.gin", f"targets/{name}.gin").train_steps > 0


@pytest.mark.parametrize("name", ENCODER_TARGETS)
def test_a_target_of_an_encoder_has_the_reference_settings(name):
    file = f"targets/encoder/{name}.gin"
    run = training("xlmr/large", "runs/finetune.gin", file)
    epochs, examples, rate, rows = REFERENCE[name]
    assert (run.batch_size, run.train_steps) == (rows, -(-epochs * examples // rows))
    assert (run.schedule.base_learning_rate, run.task_feature_lengths) == (rate, LENGTHS.get(name, {"inputs": 128}))
    assert run.schedule.warmup_steps < run.train_steps and isinstance(run.optimizer, AdamWConfig)
    scored = evaluation("xlmr/large", file)
    assert (scored.mixture_or_task_name, scored.model.kind) == (name, run.model.kind)
    assert (scored.doc_stride, scored.max_query_length) == (run.doc_stride, run.max_query_length) == (128, 64)
