"""The shipped step, compiled by the real TPU compiler for slices that are not here: what must hold for every one."""

import dataclasses
import functools

import pytest

from xtr.cli.plan import load
from xtr.models.spec import count
from xtr.parallel.mesh import MeshConfig
from xtr.parallel.topology import has_compiler, parse
from xtr.plan.compile import compile_program
from xtr.plan.estimate import analysis_of, estimate

pytestmark = pytest.mark.skipif(not has_compiler(), reason="libtpu, the TPU compiler, is not installed")

TINY = {
    "mt5": (["models/mt5/micro.gin"], ["VOCAB_SIZE=1024", "mt5.MT5Config.head_dim=64", "mt5.MT5Config.emb_dim=256"]),
    "bloom": (["models/bloom/micro.gin"], ["VOCAB_SIZE=1024"]),
    "xlmr": (["models/xlmr/micro.gin", "runs/mlm.gin"], ["VOCAB_SIZE=1024"]),
}
SHORT = ["DTYPE=bfloat16", "TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 64}", "BATCH_SIZE=16"]


def planned(family: str, *overrides: str):
    """A tiny run of a family."""
    files, own = TINY[family]
    return load(files, [*own, *SHORT, *overrides])


@functools.lru_cache
def compiled(family: str, topology: str, program: str, *overrides: str, slices: int = 1):
    """What the compiler made of a program, its estimate and its analysis."""
    run, slice_ = planned(family, *overrides), parse(topology, slices)
    made = compile_program(run, slice_, program)
    analysis = analysis_of(made, slice_)
    return made, estimate(run, slice_, made, analysis), analysis


@pytest.mark.parametrize(
    "topology",
    ["v5e:2x2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2"))],
)
def test_scoring_compiles_for_every_generation(topology):
    made, found, _ = compiled("mt5", topology, "score")
    assert found.fits and found.memory.peak < found.memory.usable
    assert found.hardware_flops == pytest.approx(found.model_flops, rel=0.05)
    assert made.hlo.startswith("HloModule")


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_training_compiles_for_every_generation(topology):
    made, found, _ = compiled("mt5", topology, "train")
    assert found.fits
    without = found.hardware_flops - found.rematerialised
    assert without == pytest.approx(found.model_flops, rel=0.05)
    # The state is spread over all devices, and given back in the place it came in.
    assert made.parameters * found.devices == pytest.approx(4 * _count(planned("mt5")), rel=0.05)
    assert made.memory.outputs < made.parameters


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bloom", "xlmr"])
def test_training_of_every_family(family):
    _, found, _ = compiled(family, "v5e:2x2", "train")
    assert found.fits
    assert found.hardware_flops - found.rematerialised == pytest.approx(found.model_flops, rel=0.05)


@pytest.mark.slow
def test_between_slices_go_gradients_alone():
    """No parameter, no activation: gradients of weights, and of embedded tokens on their way into the table."""
    run = planned("mt5", "partitioning.MeshConfig.replica=2")
    made, found, analysis = compiled("mt5", "v5e:2x2", "train", "partitioning.MeshConfig.replica=2", slices=2)
    assert made.mesh == {"replica": 2, "fsdp": 4, "tensor": 1}
    large = [c for c in analysis.collectives if c.dcn_bytes * c.executions > 2**14]
    assert {c.axes for c in large} == {("replica",)}
    assert all(c.kind == "all-reduce" or c.phase == "backward" for c in large)
    # Half of what a ring over two slices sends of each shard of the gradients, in f32 at most.
    assert 0 < found.dcn_bytes < 1.1 * 4 * _count(run) / 4


@pytest.mark.slow
def test_no_step_gathers_a_whole_embedding_table_or_state():
    _, _, analysis = compiled("mt5", "v5e:2x4", "train", "VOCAB_SIZE=32768")
    whole = {f"{kind}[{shape}]" for kind in ("f32", "bf16") for shape in ("32768,256", "256,32768")}
    gathered = {shape for c in analysis.collectives if c.kind in ("all-gather", "all-reduce") for shape in c.shapes}
    assert not whole & gathered


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(1, -1, 1), MeshConfig(1, 2, -1)], ids=["fsdp", "fsdp-tensor"])
@pytest.mark.parametrize("program", ["decode_step", "decode_refill"])
def test_decoding(mesh, program):
    overrides = [f"partitioning.MeshConfig.{name}={size}" for name, size in dataclasses.asdict(mesh).items()]
    _, found, analysis = compiled("mt5", "v5e:2x2", program, *overrides, "TOKENS_PER_BATCH=4096")
    assert found.fits and found.tokens > 0
    assert all(loop.trips == 1 for loop in analysis.assumed_loops)


def _count(run) -> int:
    return count(run.train.model.param_specs())
