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
    file, objective = ("dual_encoder", "contrastive") if kind == "embed" else (kind, kind)
    lengths, pooling = (BOTH, "mean") if kind == "embed" else (LENGTHS, pooling)
    run = build([f"models/{model}", "runs/finetune", f"heads/{file}"], [lengths, *labels])
    assert isinstance(run.model, WithHead) and isinstance(run.model.body, body)
    assert (run.model.kind, run.objective, run.loss, run.model.read) == (kind, objective, objective, "last")
    assert run.model.pooling == (None if kind in ("tag", "span") else pooling)
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


def test_the_settings_of_spans_and_of_a_dual_encoder():
    run = build(["models/xlmr/base", "runs/finetune", "heads/span"])
    assert (run.task_feature_lengths, run.doc_stride, run.max_query_length) == ({"inputs": 384}, 128, 64)
    assert build(["models/xlmr/base", "runs/finetune", "heads/span"], ["DOC_STRIDE=64"]).doc_stride == 64
    files = ["models/xlmr/base", "runs/finetune", "heads/dual_encoder"]
    run = build(files, ["HEAD_POOLING=first", "HEAD_POOLER=True"])
    assert (run.model.pooling, run.model.pooler) == ("first", True)
    assert run.task_feature_lengths == {"inputs": 96, "targets": 256}
    places = ["CHECKPOINT_PATH=/c", "EVAL_OUTPUT_DIR=/e", *PLACES[1:3], "NULL_THRESHOLD=-1.5", "DOC_STRIDE=64"]
    config.load(["models/xlmr/base.gin", "runs/eval.gin", "heads/span.gin"], places, entry="evaluate")
    scored = config.build("evaluate")
    assert (scored.doc_stride, scored.max_query_length, scored.null_threshold) == (64, 64, -1.5)
    assert (scored.n_best, scored.max_answer_length) == (20, 30)
    for file in ("span", "dual_encoder"):
        places = ["CHECKPOINT_PATH=/c", "EVAL_OUTPUT_DIR=/e", *PLACES[1:3]]
        config.load(["models/xlmr/base.gin", "runs/eval.gin", f"heads/{file}.gin"], places, entry="evaluate")
        assert config.build("evaluate").model.kind == {"dual_encoder": "embed"}.get(file, file)


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
        (["models/xlmr/base", "runs/finetune", "heads/span"], [LENGTHS, "DOC_STRIDE=0"], "train.doc_stride is 0"),
        (["models/xlmr/base", "runs/finetune", "heads/dual_encoder"], [LENGTHS], "'contrastive' it must be like"),
        (
            ["models/xlmr/base", "runs/finetune", "heads/dual_encoder"],
            ["TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 600}"],
            "texts of 600 tokens, but this xlmr has positions for 512",
        ),
        (
            ["models/xlmr/base", "runs/finetune", "heads/dual_encoder"],
            ["NUM_MICROBATCHES=2"],
            "NUM_MICROBATCHES is 2, but .* 'contrastive'.* Set 1",
        ),
    ],
)
def test_refusals(files, overrides, message):
    with pytest.raises(UserError, match=message):
        build(files, overrides)
