"""Each shipped model's training step on a slice of TPUs is sharded as it was, takes the memory it took and sends what
it sent over the network: the files in `goldens/`. A wanted change is written by

    python tests/aot/test_goldens.py              all of them: a minute or two each
    python tests/aot/test_goldens.py mt5/small    those named

Programs are kept as `xtr plan` keeps them.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from xtr.cli.plan import load
from xtr.models.spec import flatten
from xtr.parallel.mesh import AXES
from xtr.parallel.sharding import tree_shardings
from xtr.parallel.topology import has_compiler, parse
from xtr.plan.estimate import analysis_of, estimate
from xtr.plan.run import PlanRun
from xtr.plan.store import Store, version

FOLDER = Path(__file__).parent / "goldens"

# A slice that is usual for each model, and the rows of a step there.
SHIPPED = {
    "mt5/small": ("v5e:2x4", 64), "mt5/base": ("v5e:2x4", 64), "mt5/large": ("v5e:2x4", 32),
    "mt5/xl": ("v5e:2x4", 16), "mt5/xxl": ("v5e:4x4", 16),
    "umt5/small": ("v5e:2x4", 64), "umt5/base": ("v5e:2x4", 64),
    "umt5/xl": ("v5e:2x4", 16), "umt5/xxl": ("v5e:4x4", 16),
    "mbert/cased": ("v5e:2x4", 64),
    "xlmr/base": ("v5e:2x4", 64), "xlmr/large": ("v5e:2x4", 64),
    "xlmr/xl": ("v5e:4x4", 64), "xlmr/xxl": ("v5e:8x8", 256),
    "bloom/560m": ("v5e:4x4", 16), "bloom/1b1": ("v5e:2x4", 16), "bloom/1b7": ("v5e:4x4", 16),
    "bloom/3b": ("v5e:4x4", 16), "bloom/7b1": ("v5e:4x4", 16), "bloom/176b": ("v5p:4x8x8", 256),
}  # fmt: skip
_ENCODERS = ("xlmr", "mbert")


def run_of(name: str) -> PlanRun:
    """The training run of a shipped model: masked tokens for an encoder, text to text for the others."""
    encoder = name.partition("/")[0] in _ENCODERS
    files = ["runs/mlm.gin", "runs/adamw.gin"] if encoder else ["runs/finetune.gin"]
    lengths = {"inputs": 1792 if name.startswith("bloom/") else 1024, "targets": 256}
    if encoder:
        lengths = {"inputs": 512}
    overrides = [f"TASK_FEATURE_LENGTHS={lengths}", f"BATCH_SIZE={SHIPPED[name][1]}"]
    return load([f"models/{name}.gin", *files], overrides)


def sharding(name: str) -> dict[str, str]:
    """The mesh axes along which each parameter is divided, {path: "fsdp, tensor"}; '-' is a whole dimension."""
    run, topology = run_of(name), parse(SHIPPED[name][0])
    sizes = run.train.mesh.sizes(topology.num_devices, topology.slices)
    shardings = tree_shardings(run.train.model.param_specs(), AbstractMesh(sizes, AXES), run.train.mesh.rules)
    return {path: _text(own.spec) for path, own in flatten(shardings).items()}


def _text(spec: PartitionSpec) -> str:
    return ", ".join("-" if axes is None else axes if isinstance(axes, str) else "+".join(axes) for axes in spec)


def step(name: str, store: Store) -> dict[str, Any]:
    """What the compiler makes of the training step: bytes of memory, floating-point operations and collectives."""
    run, topology = run_of(name), parse(SHIPPED[name][0])
    compiled = store.compiled(run, topology, "train")
    analysis = analysis_of(compiled, topology) if compiled.memory else None
    found = estimate(run, topology, compiled, analysis)
    return {
        "mesh": dict(found.mesh),
        "missing": found.missing,
        "memory": found.memory and dataclasses.asdict(found.memory),
        "flops": {"model": found.model_flops, "hardware": found.hardware_flops, "anew": found.rematerialised},
        "kernels": dict(found.kernels),
        "collectives": analysis.counts() if analysis else {},
    }


def versions() -> dict[str, str]:
    """On what a compiled program depends besides the source."""
    return {name: version(name) for name in ("jax", "libtpu")}


def path_of(name: str) -> Path:
    """The golden of a model."""
    return FOLDER / f"{name.replace('/', '-')}.json"


def read(name: str) -> dict[str, Any]:
    """The golden of a model, as it is kept."""
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def write(name: str, store: Store) -> None:
    """Makes the golden of a model anew."""
    topology, batch = SHIPPED[name]
    golden = {"versions": versions(), "topology": topology, "batch": batch}
    golden |= {"sharding": sharding(name), "step": step(name, store)}
    FOLDER.mkdir(exist_ok=True)
    path_of(name).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


def test_every_shipped_model_has_a_golden():
    folder = Path(__file__).parent.parent.parent / "gin" / "models"
    sizes = {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.gin")}
    shipped = {name for name in sizes if name.rpartition("/")[2] not in ("common", "micro")}
    assert shipped == set(SHIPPED)
    assert {path.name for path in FOLDER.iterdir()} == {path_of(name).name for name in shipped}


@pytest.mark.parametrize("name", SHIPPED)
def test_sharding(name):
    assert sharding(name) == read(name)["sharding"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_memory_and_collectives(name):
    golden = read(name)
    if not has_compiler():
        pytest.skip("libtpu, the TPU compiler, is not installed")
    if golden["versions"] != versions():
        pytest.skip(f"the golden is of {golden['versions']}, not {versions()}")
    assert step(name, Store()) == golden["step"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_golden_is_one_to_keep(name):
    """It fits, and its products are those of the model."""
    kept = read(name)["step"]
    flops, memory = kept["flops"], kept["memory"]
    assert kept["missing"] is None and memory["peak"] < memory["usable"]
    assert flops["hardware"] - flops["anew"] == pytest.approx(flops["model"], rel=0.05)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SHIPPED:
        write(chosen, Store())
        print(chosen)
