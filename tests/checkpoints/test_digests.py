"""A digest is that of the whole, however an array is cut, and tells every change of one element."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xtr.checkpoints.digests import MODULUS, of_part, of_parts, own_parts
from xtr.parallel.mesh import MeshConfig, make_mesh

DTYPES = (np.float32, ml_dtypes.bfloat16, np.int32, np.uint8, np.float64, np.complex64, np.bool_)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)


def whole(x):
    return of_part(x, (0,) * x.ndim, x.shape)


def drawn(data):
    shape, dtype = data.draw(SHAPES), data.draw(st.sampled_from(DTYPES))
    return (np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape) * 100).astype(dtype)


@given(st.data())
def test_it_is_the_sum_that_the_docstring_gives(data):
    x = drawn(data)
    words = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    bits = np.frombuffer(x.tobytes(), words[4 if x.dtype == np.complex64 else x.dtype.itemsize])
    assert whole(x) == sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % MODULUS


@given(st.data())
def test_parts_add_up(data):
    x = drawn(data)
    cuts = [sorted({0, size, data.draw(st.integers(0, size))}) for size in x.shape]
    spans = [list(zip(ends[:-1], ends[1:], strict=True)) or [(0, 0)] for ends in cuts]
    total = 0
    for number in np.ndindex(*(len(each) for each in spans)):
        ends = [each[i] for each, i in zip(spans, number, strict=True)]
        part = x[tuple(slice(*pair) for pair in ends)]
        total += of_part(part, [start for start, _ in ends], x.shape)
    assert total % MODULUS == whole(x)


@given(st.data())
def test_every_change_of_one_element_is_seen(data):
    x = drawn(data)
    if not x.size:
        return
    content = bytearray(x.tobytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert whole(np.frombuffer(bytes(content), x.dtype).reshape(x.shape)) != whole(x)


@pytest.mark.parametrize("spec", [P(), P("fsdp"), P(None, "tensor"), P("fsdp", "tensor"), P("tensor", None, "fsdp")])
def test_no_mesh_changes_it(spec):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    x = jnp.arange(8 * 8 * 8, dtype=jnp.float32).reshape(8, 8, 8) * 0.37
    spread = jax.device_put(x, NamedSharding(mesh, spec))
    assert of_parts(own_parts(spread), x.shape) == whole(np.asarray(x))
    # As each of several processes would see it: its shards, each element once.
    shards = [
        (tuple(s.indices(n)[0] for s, n in zip(shard.index, x.shape, strict=True)), shard.data)
        for shard in spread.addressable_shards
        if shard.replica_id == 0
    ]
    assert sum(of_parts([shard], x.shape) for shard in shards) % MODULUS == whole(np.asarray(x))
