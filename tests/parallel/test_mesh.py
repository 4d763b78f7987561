"""Mesh sizes, on the eight CPU devices of the test process and on made-up ones."""

import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from xtr.errors import UserError
from xtr.parallel.mesh import AXES, MeshConfig, make_mesh
from xtr.parallel.sharding import partition_spec


def test_default_mesh_shards_parameters_over_every_device():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"replica": 1, "fsdp": len(jax.devices()), "tensor": 1}
    assert mesh.axis_names == AXES
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_mesh_of_some_devices():
    mesh = make_mesh(MeshConfig(replica=2, fsdp=-1, tensor=2), jax.devices()[:4])
    assert dict(mesh.shape) == {"replica": 2, "fsdp": 1, "tensor": 2}


@given(st.permutations([0, 1, 2]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_free_axis_takes_what_is_left(order, a, b, c):
    sizes = [0, 0, 0]
    for place, size in zip(order, (a, b, c), strict=True):
        sizes[place] = size
    free = list(sizes)
    free[order[0]] = -1
    assert MeshConfig(*free).sizes(math.prod(sizes)) == tuple(sizes)


@pytest.mark.parametrize(("config", "devices"), [((1, 3, 1), 8), ((1, -1, 3), 8), ((2, 2, 1), 8), ((1, -1, 16), 8)])
def test_a_mesh_that_does_not_cover_the_devices_is_refused(config, devices):
    with pytest.raises(UserError, match=f"does not cover {devices} devices"):
        MeshConfig(*config).sizes(devices)


@pytest.mark.parametrize("config", [(-1, -1, 1), (0, 1, 1), (1, -2, 1)])
def test_impossible_sizes_are_refused(config):
    with pytest.raises(UserError, match="at most one -1"):
        MeshConfig(*config)


class _Chip:
    platform, device_kind, process_index, core_on_chip = "tpu", "TPU v5 lite", 0, 0

    def __init__(self, index, slice_index):
        self.id, self.slice_index = index, slice_index
        self.coords = (index // 2 % 2, index // 4, 0)


def test_slices_need_a_replica_axis():
    chips = [_Chip(i, i // 2) for i in range(4)]
    with pytest.raises(UserError, match="2 slices.*replica"):
        make_mesh(MeshConfig(replica=1, fsdp=4), chips)


def test_slices_are_replicas_unless_told_otherwise():
    assert dict(make_mesh(MeshConfig(), [_Chip(i, i % 2) for i in range(8)]).shape) == dict(replica=2, fsdp=4, tensor=1)


def test_rules_given_take_the_place_of_the_default_ones_and_win():
    rules = MeshConfig(logical_axis_rules=[["mlp", ["tensor", "fsdp"]], ("joined_kv", None)]).rules
    assert rules[:2] == (("mlp", ("tensor", "fsdp")), ("joined_kv", None))
    assert partition_spec(("embed", "mlp"), rules) == P(None, ("tensor", "fsdp"))
    assert partition_spec(("embed", "joined_kv"), rules) == P("fsdp", None)
    assert partition_spec(("embed", "heads"), rules) == P("fsdp", "tensor")


@pytest.mark.parametrize(
    "rules, message",
    [
        ([("mpl", "tensor")], "'mpl'.*mlp"),
        ([("mlp", "tensro")], "'tensro'.*replica, fsdp, tensor"),
        (["mlp"], "'mlp'"),
    ],
)
def test_rules_that_name_no_axis_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        MeshConfig(logical_axis_rules=rules)


def test_only_the_replica_axis_crosses_slices():
    chips = [_Chip(i, i % 2) for i in range(8)]
    grid = make_mesh(MeshConfig(replica=2, fsdp=-1, tensor=2), chips).devices
    assert grid.shape == (2, 2, 2)
    assert [{chip.slice_index for chip in replica.flat} for replica in grid] == [{0}, {1}]
