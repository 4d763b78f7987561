"""Each shipped model's training step is sharded as it was, takes the memory it took and sends what it sent."""

import goldens
import pytest

from xtr.parallel.topology import has_compiler
from xtr.plan.store import Store

GiB = 2**30


def test_every_shipped_model_has_a_golden():
    folder = goldens.FOLDER.parent.parent.parent / "gin" / "models"
    sizes = {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.gin")}
    shipped = {name for name in sizes if name.rpartition("/")[2] not in ("common", "micro")}
    assert shipped == set(goldens.SHIPPED)
    assert {path.name for path in goldens.FOLDER.iterdir()} == {goldens.path_of(name).name for name in shipped}


@pytest.mark.parametrize("name", goldens.SHIPPED)
def test_sharding(name):
    assert goldens.sharding(name) == goldens.read(name)["sharding"]


@pytest.mark.slow
@pytest.mark.parametrize("name", goldens.SHIPPED)
def test_memory_and_collectives(name):
    golden = goldens.read(name)
    if not has_compiler():
        pytest.skip("libtpu, the TPU compiler, is not installed")
    if golden["versions"] != goldens.versions():
        pytest.skip(f"the golden is of {golden['versions']}, not {goldens.versions()}")
    assert goldens.step(name, Store()) == golden["step"]


@pytest.mark.parametrize("name", goldens.SHIPPED)
def test_the_golden_is_one_to_keep(name):
    """It fits, its products are those of the model, and nobody gathers a whole state."""
    step = goldens.read(name)["step"]
    flops, memory = step["flops"], step["memory"]
    assert step["missing"] is None and memory["peak"] < memory["usable"]
    assert flops["hardware"] - flops["anew"] == pytest.approx(flops["model"], rel=0.05)
