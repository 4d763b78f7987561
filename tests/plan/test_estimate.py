"""Arithmetic of the estimates, against numbers worked out by hand."""

import dataclasses
import math

import pytest

from xtr.models.flops import forward_flops, training_flops
from xtr.parallel import topology
from xtr.plan import estimate
from xtr.plan.compile import Compiled, Memory, slots
from xtr.plan.hlo import Analysis, Flops, Operation


@pytest.fixture
def compiled() -> Compiled:
    return Compiled(
        program="train", mesh={"replica": 1, "fsdp": 4, "tensor": 1}, extents={}, parameters=2**20, optimizer=2**10,
        trace_seconds=1.0, compile_seconds=2.0,
        memory=Memory(3 * 2**20, 2**19, 2**20, 2**18, 2**22), out_of_memory=None,
        message="", cost={}, hlo="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "axes", "links"),
    [
        ("v5e:16x16", ("fsdp",), 4),  # two rings
        ("v5e:8x8", ("fsdp",), 2),  # two lines
        ("v5e:8x16", ("fsdp",), 3),  # a line and a ring
        ("v5p:4x4x4", ("fsdp",), 6),
        ("v5p:2x2x1", ("fsdp",), 2),
        ("v5e:16x16", ("tensor",), 1),  # a part of a ring is a line
    ],
)
def test_links(text, axes, links):
    slice_ = topology.parse(text)
    whole = (*slice_.shape, 1)[:3]
    extents = {"fsdp": whole, "tensor": (4, 1, 1), "replica": (1, 1, 1)}
    assert estimate.link_bandwidth(slice_, extents, axes) == links * slice_.accelerator.ici_link_bandwidth


def test_the_longest_part_bounds_a_step():
    seconds = estimate.Seconds(compute=3.0, hbm=1.0, ici=4.0, dcn=2.0, compiler=3.5, kernels=0.5)
    assert (seconds.bound, seconds.overlapped, seconds.serial) == ("ici", 4.0, 3.5 + 4.0 + 2.0)


def test_slices_lie_one_behind_the_other():
    assert estimate.slice_of_devices(topology.parse("v5e:2x2")) == ()
    assert estimate.slice_of_devices(topology.parse("v5e:2x2", 2)) == (0,) * 4 + (1,) * 4


def test_memory_adds_up(plan_run, compiled):
    found = estimate.estimate(plan_run, topology.parse("v5e:2x2"), compiled, None)
    assert not found.fits and found.memory is None and found.step_seconds == math.inf
    assert found.mfu_bound == 0.0 and found.tokens_per_second == 0.0
    assert compiled.memory.buffers == 3 * 2**20 + 2**19 + 2**20 + 2**18
    assert compiled.memory.peak == 2**22 + 2**18


def test_model_flops_are_those_of_the_program(plan_run, encoder_run, compiled):
    model = plan_run.train.model

    def flops(program, run=plan_run):
        return estimate.model_flops(run, dataclasses.replace(compiled, program=program))

    assert flops("train") == training_flops(model, "seq2seq", 16, 128, 64)
    assert flops("score") == forward_flops(model, "seq2seq", 16, 128, 64)
    rows, refilled = slots(plan_run, 4)
    # What is before the first token, and one token after the other, is a forward pass, but for attention to itself,
    # which a pass over whole rows has more of.
    whole = forward_flops(model, "seq2seq", rows, 128, 64)
    apart = rows / refilled * flops("decode_refill") + 64 * flops("decode_step")
    assert 0.9 * whole < apart < whole
    assert flops("train", encoder_run) == training_flops(encoder_run.train.model, "mlm", 16, 128)


def test_tokens_are_positions(plan_run, compiled):
    def tokens(program):
        return estimate.tokens(plan_run, dataclasses.replace(compiled, program=program))

    rows, refilled = slots(plan_run, 4)
    assert tokens("train") == tokens("score") == 16 * (128 + 64)
    assert (tokens("decode_step"), tokens("decode_refill")) == (rows, refilled * 128)


def test_cost(plan_run):
    seconds = estimate.Seconds(compute=1.8, hbm=0.0, ici=0.9, dcn=0.0, compiler=1.8, kernels=0.0)

    class Step:
        program, fits = "train", True

    Step.seconds = seconds
    slice_ = topology.parse("v5e:4x4")
    run = dataclasses.replace(
        plan_run, price_per_chip_hour=2.0, train=dataclasses.replace(plan_run.train, train_steps=2000)
    )
    found = estimate.cost(run, slice_, [Step])
    assert (found.hours, found.chip_hours, found.serial_chip_hours, found.money) == pytest.approx((1, 16, 24, 32))
    assert estimate.cost(plan_run, slice_, [Step]).money is None
    assert estimate.cost(plan_run, slice_, []) is None


def test_kernels_take_what_they_declare_where_heads_fill_half_of_a_matrix_unit():
    accelerator = topology.parse("v5e:2x2").accelerator
    facts = {"op_name": "", "source": "", "stack": (), "phase": "forward", "cycles": None, "flops_by_phase": Flops()}
    kernel = {"name": "k", "opcode": "custom-call tpu_custom_call", **facts}
    operations = (
        Operation(**kernel, executions=3, flops=accelerator.peak_flops, hbm_bytes=0.0),
        Operation(**kernel, executions=1, flops=0.0, hbm_bytes=accelerator.device_hbm_bandwidth),
        Operation(name="f", opcode="fusion", **facts, executions=1, flops=1e20, hbm_bytes=1e20),
    )
    analysis = Analysis(4, Flops(), 0.0, 0, operations, (), (), {}, {})
    assert estimate.kernel_seconds(analysis, accelerator, 64) == pytest.approx(3 * 2 + 1)
    assert estimate.kernel_seconds(analysis, accelerator, 256) == pytest.approx(3 + 1)
