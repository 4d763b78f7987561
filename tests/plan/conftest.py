"""Small runs to plan."""

import dataclasses

import pytest

from xtr.models.bert import BertConfig
from xtr.models.mt5 import MT5Config
from xtr.plan.run import PlanRun
from xtr.train.run import TrainRun

NOWHERE = {"model_dir": "", "mixture_or_task_name": "", "vocabulary_path": ""}


@pytest.fixture(scope="session")
def plan_run() -> PlanRun:
    """A tiny mT5."""
    model = MT5Config(
        vocab_size=512, emb_dim=128, num_heads=4, head_dim=32, num_encoder_layers=2, num_decoder_layers=2, mlp_dim=256,
        dropout_rate=0.1, dtype="bfloat16",
    )  # fmt: skip
    lengths = {"inputs": 128, "targets": 64}
    return PlanRun(
        TrainRun(model=model, task_feature_lengths=lengths, train_steps=10, batch_size=16, **NOWHERE),
        tokens_per_batch=1024,
    )


@pytest.fixture(scope="session")
def encoder_run(plan_run) -> PlanRun:
    """A tiny XLM-R with its language modelling head."""
    model = BertConfig(
        kind="xlmr", vocab_size=512, emb_dim=128, num_heads=4, num_layers=2, mlp_dim=256, max_positions=130,
        dropout_rate=0.1, mlm_head=True,
    )  # fmt: skip
    train = dataclasses.replace(
        plan_run.train, model=model, objective=None, task_feature_lengths={"inputs": 128}, mesh=plan_run.train.mesh
    )
    return dataclasses.replace(plan_run, train=train)
