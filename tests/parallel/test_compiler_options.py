"""Options of the TPU compiler: which chips get which, and that the compiler knows them."""

import jax
import jax.numpy as jnp
import pytest

from xtr.errors import UserError
from xtr.parallel import topology
from xtr.parallel.compiler_options import OPTIONS, compiler_options

needs_libtpu = pytest.mark.skipif(not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed")


def test_other_devices_get_none():
    assert compiler_options(jax.devices()[0]) == {}


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="'throrough'.*thorough"):
        compiler_options(jax.devices()[0], "throrough")


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_compiler_knows_them(name):
    device = topology.compile_only_devices(topology.parse(name))[0]
    chip = name.partition(":")[0]
    options = compiler_options(device, "thorough")
    assert options == {option.name: option.value for option in OPTIONS if chip in option.chips}
    assert set(compiler_options(device)) == {o.name for o in OPTIONS if chip in o.chips and not o.slow}
    assert compiler_options(device, "none") == {}
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
    assert jax.jit(lambda x: x @ x.T, compiler_options=options or None).lower(x).compile().as_text()
