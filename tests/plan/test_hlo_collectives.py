"""Collectives: replica groups in each of XLA's forms, the axes of a mesh that they cross, bytes that are sent."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xtr.plan.hlo import analyse
from xtr.plan.hlo_collectives import KINDS, Layout, replica_groups, sent_bytes
from xtr.plan.hlo_text import Op

AXES = {"a": 2, "b": 2, "c": 2}


def groups_of(attributes, devices=8):
    return replica_groups(Op("c", (), "all-reduce", (), "", attributes, False), devices)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, to_apply=%add", [(0, 1), (2, 3)]),
        ("replica_groups={}, to_apply=%add", [tuple(range(8))]),
        ("channel_id=1, to_apply=%add", [tuple(range(8))]),
        ("replica_groups=[2,4]<=[8], use_global_device_ids=true", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("replica_groups=mesh['x'=4,'y'=2] {'y'}, dimensions={0}", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ("replica_groups=mesh['x'=4,'y'=2] {'x'}", [(0, 2, 4, 6), (1, 3, 5, 7)]),
        ("replica_groups=mesh['x'=4,'y'=2] {'x','y'}", [tuple(range(8))]),
        ("replica_groups=mesh[x=8] {x:(2)2}", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=(0,2,1,3) {'y'}, dimensions={0}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=([2,2]<=[2,2]T(1,0)) {'y'}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'y'}, dimensions={0}", [(0, 2), (1, 3)]),
        ("source_target_pairs={{0,1},{1,0}}", [(0, 1), (1, 0)]),
    ],
)
def test_replica_groups(text, groups):
    assert groups_of(text) == groups


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_groups_along_axes_of_a_mesh(sizes, data):
    """Each device is in one group, and a group is where all other coordinates are equal."""
    names = [f"m{i}" for i in range(len(sizes))]
    chosen = data.draw(st.sets(st.sampled_from(names), min_size=1))
    mesh = ",".join(f"'{name}'={size}" for name, size in zip(names, sizes, strict=True))
    groups = groups_of(f"replica_groups=mesh[{mesh}] {{{','.join(repr(n) for n in names if n in chosen)}}}")
    assert sorted(i for g in groups for i in g) == list(range(math.prod(sizes)))
    at = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
    others = [i for i, name in enumerate(names) if name not in chosen]
    assert all((at[list(g)][:, others] == at[g[0], others]).all() for g in groups)
    crossed, _ = Layout(math.prod(sizes), dict(zip(names, sizes, strict=True)), ()).within(groups)
    assert set(crossed) == {n for n in chosen if sizes[names.index(n)] > 1}


@given(st.sampled_from(KINDS), st.integers(1, 8), st.integers(1, 4), st.floats(1, 1e12))
def test_bytes_sent(kind, inside, slices, payload):
    """One slice sends nothing to others; an all-reduce is a reduce-scatter and an all-gather."""
    size = inside * slices
    ici, dcn = sent_bytes(kind, payload, size, slices)
    assert ici >= 0 and dcn >= 0 and (slices > 1 or dcn == 0) and (size > 1 or ici == 0)
    if kind == "all-reduce":
        parts = [sent_bytes(k, payload, size, slices) for k in ("reduce-scatter", "all-gather")]
        assert (ici, dcn) == pytest.approx(tuple(map(sum, zip(*parts, strict=True))))
    if slices == 1 and kind in ("all-gather", "reduce-scatter", "all-to-all"):
        assert ici == pytest.approx(payload * (size - 1) / size)


def test_layout_of_slices():
    """The program of several slices is that of one; its devices are numbered within it."""
    axes, slice_of = {"replica": 4, "fsdp": 2}, (0,) * 4 + (1,) * 4
    layout = Layout(4, axes, slice_of)
    assert layout.within([(0, 1), (2, 3)]) == (("fsdp",), 1)
    assert layout.within([(0, 1, 2, 3)]) == (("replica", "fsdp"), 1)
    assert layout.between() == (("replica",), 2)
    assert Layout(8, axes, slice_of).within([(0, 2, 4, 6), (1, 3, 5, 7)]) == (("replica",), 2)
    with pytest.raises(ValueError, match="for 3 devices"):
        Layout(3, axes, slice_of)


def mesh():
    return Mesh(np.array(jax.devices()[:8]).reshape(tuple(AXES.values())), tuple(AXES))


CASES = {
    "all-reduce": (lambda x: jax.lax.psum(x, "b"), P("b"), P(), ("b",), 4 * 128 * 4, 2),
    "all-gather": (
        lambda x: jax.lax.all_gather(x, ("a", "c"), tiled=True), P(("a", "c")), P(), ("a", "c"), 8 * 128 * 4, 4,
    ),
    "reduce-scatter": (lambda x: jax.lax.psum_scatter(x, "c", tiled=True), P(), P("c"), ("c",), 8 * 128 * 4, 2),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "a", 0, 0, tiled=True), P("a"), P("a"), ("a",), 4 * 128 * 4, 2),
    "collective-permute": (
        lambda x: jax.lax.ppermute(x, "c", [(0, 1), (1, 0)]), P("c"), P("c"), ("c",), 4 * 128 * 4, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_collectives_that_jax_compiles(kind):
    """Each kind, five times in a loop, on eight CPU devices."""
    body, inside, outside, axes, payload, size = CASES[kind]

    @functools.partial(jax.shard_map, mesh=mesh(), in_specs=inside, out_specs=outside, check_vma=False)
    def once(x):
        return body(x * 2.0)

    def loop(x):
        return jax.lax.scan(lambda total, s: (total + jnp.sum(once(x * s)), None), 0.0, jnp.arange(5.0))[0]

    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=NamedSharding(mesh(), P()))
    found = analyse(jax.jit(loop).lower(x).compile().as_text(), AXES)
    (c,) = [c for c in found.collectives if c.executions == 5 and c.payload_bytes > 4]
    assert (c.kind, c.axes, c.payload_bytes, c.group_size) == (kind, axes, payload, size)
    assert (c.dtype, c.slices, c.dcn_bytes) == ("f32", 1, 0.0) and c.ici_bytes == sent_bytes(kind, payload, size)[0]
    assert c.source.startswith("test_hlo_collectives.py:")
