"""Heads, AdamW and objectives by gin: what composes, and what each refusal says."""

import pytest

from xtr import config
from xtr.errors import UserError
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import KINDS, WithHead
from xtr.models.mt5 import MT5Config
from xtr.train.adafactor import AdafactorConfig
from xtr.train.adamw import AdamWConfig

PLACES = ["MODEL_DIR=/tmp/run", "VOCABULARY_PATH=/tmp/v", "MIXTURE_OR_TASK_NAME=mnli", "TRAIN_STEPS=1000"]
LENGTHS = "TASK_FEATURE_LENGTHS={'inputs': 128}"
BOTH = "TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 16}"


def build(files, overrides=()):
    config.load([f"{name}.gin" for name in files], [*PLACES, *overrides], entry="train")
    return config.build("train")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("model", "body", "pooling"),
    [("xlmr/base", BertConfig, "first"), ("mt5/small", MT5Config, "mean"), ("bloom/560m", BloomConfig, "last")],
)
def test_a_head_on_each_family(model, body, pooling, kind):
    labels = ["NUM_LABELS=3"] if kind in ("classify", "tag") else []
    run = build([f"models/{model}", "runs/finetune", f"heads/{kind}"], [LENGTHS, *labels])
    assert isinstance(run.model, WithHead) and isinstance(run.model.body, body)
    assert (run.model.kind, run.objective, run.loss, run.model.read) == (kind, kind, kind, "last")
    assert run.model.pooling == (pooling if kind in ("classify", "choose") else None)
    assert run.model.dropout_rate == 0.1
    assert isinstance(run.optimizer, AdafactorConfig)


def test_what_a_head_reads_is_set_by_a_macro():
    files = ["models/xlmr/base", "runs/finetune", "heads/classify"]
    run = build(files, [LENGTHS, "NUM_LABELS=2", "HEAD_READ=7", "HEAD_POOLING=mean"])
    assert (run.model.read, run.model.pooling) == (7, "mean")
    assert build(files, [LENGTHS, "NUM_LABELS=2", "HEAD_READ=attention"]).model.read == "attention"


def test_a_head_can_be_evaluated():
    config.load(
        ["models/xlmr/base.gin", "runs/eval.gin", "heads/tag.gin"],
        ["CHECKPOINT_PATH=/c", "EVAL_OUTPUT_DIR=/e", *PLACES[1:3], "NUM_LABELS=17"],
        entry="evaluate",
    )
    assert config.build("evaluate").model.num_labels == 17


def test_adamw_with_linear_decay():
    run = build(["models/xlmr/base", "runs/finetune", "runs/adamw", "heads/span"], [LENGTHS, "WARMUP_STEPS=100"])
    assert run.optimizer == AdamWConfig()
    assert (run.schedule.total_steps, run.schedule.warmup_steps, run.schedule.base_learning_rate) == (1000, 100, 3e-5)
    with pytest.raises(UserError, match="above warmup_steps, 1000"):
        build(["models/xlmr/base", "runs/finetune", "runs/adamw", "heads/span"], [LENGTHS, "WARMUP_STEPS=1000"])


@pytest.mark.parametrize(
    ("model", "overrides", "objective", "loss"),
    [
        ("mt5/small", [BOTH], "seq2seq", "seq2seq"),
        ("mt5/small", [BOTH, "train.objective=denoise"], "denoise", "seq2seq"),
        ("bloom/560m", [BOTH], "causal", "causal"),
        ("xlmr/base", [LENGTHS, "bert.BertConfig.mlm_head=True"], "mlm", "mlm"),
    ],
)
def test_the_objective_is_the_models_own_unless_set(model, overrides, objective, loss):
    run = build([f"models/{model}", "runs/finetune"], overrides)
    assert (run.objective, run.loss) == (objective, loss)


@pytest.mark.parametrize(
    ("files", "overrides", "message"),
    [
        (["models/xlmr/base", "runs/finetune"], [LENGTHS], "nothing to train this xlmr on.*mlm_head = True"),
        (["models/xlmr/base", "runs/finetune"], [LENGTHS, "train.objective=seq2seq"], "needs an encoder-decoder: mT5"),
        (["models/bloom/560m", "runs/finetune"], [BOTH, "train.objective=denoise"], "can be trained with 'causal'"),
        (["models/mt5/small", "runs/finetune"], [BOTH, "train.objective=classify"], "heads/classify.gin"),
        (["models/mt5/small", "runs/finetune"], [BOTH, "train.objective=denoize"], "Did you mean denoise"),
        (["models/mt5/small", "runs/finetune"], [LENGTHS], "'seq2seq' it must be like {'inputs': 512, 'targets': 114}"),
        (["models/xlmr/base", "runs/finetune", "heads/classify"], [LENGTHS], "required and not set: NUM_LABELS"),
        (["models/xlmr/base", "runs/finetune", "heads/span"], [LENGTHS, "LABEL_SMOOTHING=0.1"], "LABEL_SMOOTHING"),
        (["models/xlmr/base", "runs/finetune", "heads/span"], [LENGTHS, "HEAD_READ=13"], "to 12"),
        (["models/xlmr/base", "runs/finetune", "heads/span"], [LENGTHS, "NUM_LABELS=2"], "NUM_LABELS is set but"),
    ],
)
def test_refusals(files, overrides, message):
    with pytest.raises(UserError, match=message):
        build(files, overrides)
