"""What a plan says a study costs: FLOPs of steps and of test sets, sums, chains, and what is not known."""

import dataclasses
import math

import pytest

from xtr import config
from xtr.models.flops import forward_flops, training_flops
from xtr.parallel.topology import parse
from xtr.plan.analytic import EMBED, GENERATE, TestSet, evaluation_flops, step_flops
from xtr.plan.compile import Compiled
from xtr.study import costs as costing
from xtr.study.graph import Stage
from xtr.study.jobs import Job

PLACES = ["VOCABULARY_PATH=/v"]
TOPOLOGY = parse("v5e:4x4")


def training(model, *files, **overrides):
    said = [f"{name}={value!r}" for name, value in overrides.items()]
    config.load([f"models/{model}.gin", *files], ["MODEL_DIR=/m", *PLACES, *said], entry="train")
    return config.build("train")


def evaluation(model, *files, **overrides):
    said = [f"{name}={value!r}" for name, value in overrides.items()]
    places = ["CHECKPOINT_PATH=/c", "EVAL_OUTPUT_DIR=/e", *PLACES, *said]
    config.load([f"models/{model}.gin", "runs/eval.gin", *files], places, entry="evaluate")
    return config.build("evaluate")


def job(tmp_path, run, parent=None, **fields) -> Job:
    stage = Stage(model="m", parent=parent, **fields)
    return Job(stage, run, {}, (), "a", tmp_path / stage.name)


def test_a_step_costs_what_its_batch_needs():
    run = training("mt5/small", "runs/intermediate.gin", "intermediate/mnli.gin")
    assert step_flops(run) == training_flops(run.model, "seq2seq", 128, 512, 16)
    run = training("bloom/560m", "runs/intermediate.gin", "intermediate/mnli.gin")
    assert step_flops(run) == training_flops(run.model, "causal", 128, 528)
    run = training("xlmr/large", "runs/intermediate.gin", "intermediate/encoder/hellaswag.gin")
    assert step_flops(run) == training_flops(run.model, "choose", 4 * 32, 256)  # four endings each
    run = training("xlmr/large", "runs/finetune.gin", "targets/encoder/lareqa.gin")
    assert step_flops(run) == training_flops(run.model, "contrastive", 32, 96, 256)
    run = training("xlmr/large", "runs/intermediate.gin", "intermediate/encoder/nli_qa.gin")
    heads = [run.model.head(name) for name in run.model.names]
    assert step_flops(run) == sum(training_flops(head, head.kind, 32, 256) for head in heads) / 2
    auto = training("mt5/small", "runs/intermediate.gin", "intermediate/mnli.gin", TASK_FEATURE_LENGTHS="auto")
    assert step_flops(auto) == training_flops(auto.model, "seq2seq", 128, 512, 128)


def test_an_evaluation_costs_what_its_test_sets_need():
    ranked = TestSet(1000, 10, 50, 2, choices=3)
    mt5 = evaluation("mt5/small", "targets/xnli.gin")
    flops = evaluation_flops(mt5, ranked)
    assert flops["generate"] == 0
    # The input is read once, each choice by the decoder alone.
    once, thrice = (forward_flops(mt5.model, "seq2seq", n, 50, 2) for n in (1000, 3000))
    assert once < flops["forward"] < thrice
    head = evaluation("xlmr/large", "targets/encoder/xnli.gin")
    assert evaluation_flops(head, ranked) == {
        "forward": forward_flops(head.model, "classify", 1000, 50), "generate": 0.0
    }  # fmt: skip
    generated = evaluation_flops(evaluation("mt5/small", "targets/xquad.gin"), TestSet(1000, 10, 200, 5, GENERATE))
    assert 0 < generated["generate"] < generated["forward"]
    found = evaluation_flops(evaluation("xlmr/large", "targets/tatoeba.gin"), TestSet(1000, 10, 9, how=EMBED))
    assert found["forward"] > 0 and found["generate"] == 0
    some = evaluation("xlmr/large", "targets/encoder/xnli.gin", LANGUAGES=("en", "de"), LIMIT=20)
    assert evaluation_flops(some, ranked)["forward"] == pytest.approx(forward_flops(head.model, "classify", 40, 50))


def test_sums_and_chains(tmp_path):
    train = training("mt5/small", "runs/intermediate.gin", "intermediate/mnli.gin", TRAIN_STEPS=1000)
    first = job(tmp_path, train, kind="intermediate", intermediate="mnli")
    second = job(tmp_path, train, first.stage, kind="target", intermediate="mnli", target="xnli")
    other = job(tmp_path, train, first.stage, kind="target", intermediate="mnli", target="pawsx")
    scored = job(
        tmp_path, evaluation("mt5/small", "targets/xnli.gin"), second.stage, kind="evaluate", target="xnli"
    )  # fmt: skip
    own = dataclasses.replace(scored.run, target="mine")
    unknown = job(tmp_path, own, second.stage, kind="evaluate", target="mine")
    costs = costing.stage_costs([first, second, other, scored, unknown], TOPOLOGY, mfu=0.5)
    hours = 1000 * step_flops(train) / (197e12 * 0.5 * 3600)
    assert [cost.chip_hours for cost in costs[:3]] == pytest.approx([hours] * 3)
    assert 0 < costs[3].chip_hours < hours / 10
    assert math.isnan(costs[4].chip_hours) and "not known" in costs[4].note
    assert len(costing.known(costs)) == 4
    assert costing.total_hours(costs) == pytest.approx(3 * hours + costs[3].chip_hours)
    assert costing.longest_chain(costs) == pytest.approx(2 * hours + costs[3].chip_hours)
    assert costing.longest_chain(costs[1:]) == pytest.approx(hours + costs[3].chip_hours)  # the first is done


def test_stages_that_are_one_program_are_compiled_once(tmp_path):
    class Store:
        compilations = 0  # of this stand-in for the compiler

        def compiled(self, run, topology, program):
            Store.compilations += 1
            return Compiled(
                program=program, mesh={"replica": 1, "fsdp": 16}, extents={}, parameters=0, optimizer=0,
                hlo="", memory=None, out_of_memory=3 * 2**30, trace_seconds=0.0, compile_seconds=0.0,
                message="", cost={},
            )  # fmt: skip

    runs = [
        training("mt5/small", "runs/intermediate.gin", "intermediate/mnli.gin"),
        training("mt5/small", "runs/intermediate.gin", "intermediate/qqp.gin", RANDOM_SEED=3),  # the same lengths
        training("mt5/small", "runs/intermediate.gin", "intermediate/squad_v1.gin"),
        training("xlmr/large", "runs/intermediate.gin", "intermediate/encoder/nli_qa.gin"),
    ]
    jobs = [job(tmp_path, run, kind="intermediate", intermediate=str(i)) for i, run in enumerate(runs)]
    told = []
    costs = costing.stage_costs(jobs, TOPOLOGY, 0.4, Store(), told.append)
    assert Store.compilations == 2 and len(told) == len({costing.step_key(each) for each in jobs}) == 3
    assert [math.isinf(cost.chip_hours) for cost in costs] == [True, True, True, False]
    assert "does not fit: 3.0 GiB" in costs[0].note and "by arithmetic" in costs[3].note
    assert [cost.how for cost in costs] == ["compiled"] * 3 + ["analytic"]


def test_every_shipped_target_has_a_size():
    from pathlib import Path

    shipped = {path.stem for path in (Path(config.__file__).parents[1] / "gin/targets").glob("*.gin")}
    assert shipped == set(costing.TEST_SETS)
