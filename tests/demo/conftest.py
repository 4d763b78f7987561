import pytest

from xtr.demo.world import WorldSizes
from xtr.demo.write import write_world

SIZES = WorldSizes(
    mnli_train=300,
    mnli_dev=30,
    xnli_dev=30,
    xnli_test=60,
    squad_train=60,
    squad_dev=21,
    xquad=40,
    tatoeba=25,
    monolingual=150,
    bilingual=150,
)


@pytest.fixture(scope="session")
def sizes():
    """A world small enough to write in a second."""
    return SIZES


@pytest.fixture(scope="session")
def summary(tmp_path_factory):
    """A small world, written once."""
    return write_world(tmp_path_factory.mktemp("demo") / "world", seed=3, sizes=SIZES)
