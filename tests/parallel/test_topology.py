"""Names of TPU slices, and meshes of the devices that libtpu makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import UserError
from xtr.parallel import topology
from xtr.parallel.accelerators import TPUS
from xtr.parallel.mesh import MeshConfig, make_mesh

needs_libtpu = pytest.mark.skipif(not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed")


@pytest.mark.parametrize(
    ("text", "name", "chips", "devices", "hosts", "gcloud"),
    [
        ("v5e:16x16", "v5e:16x16", 256, 256, 64, "v5litepod-256"),
        ("v5litepod-256", "v5e:16x16", 256, 256, 64, "v5litepod-256"),
        ("v5e-8", "v5e:2x4", 8, 8, 1, "v5litepod-8"),
        ("v5p:2x2x1", "v5p:2x2x1", 4, 4, 1, "v5p-8"),
        ("v5p-64", "v5p:2x4x4", 32, 32, 8, "v5p-64"),
        ("v5p-1536", "v5p:8x8x12", 768, 768, 192, "v5p-1536"),
        ("V4-64", "v4:2x4x4", 32, 32, 8, "v4-64"),
        ("v6e-4", "v6e:2x2", 4, 4, 1, "v6e-4"),
        ("v3-32", "v3:4x4", 16, 32, 4, "v3-32"),
        ("tpu7x-8", "tpu7x:2x2x1", 4, 8, 1, "tpu7x-8"),
        ("v5e:1x1", "v5e:1x1", 1, 1, 1, "v5litepod-1"),
    ],
)
def test_names(text, name, chips, devices, hosts, gcloud):
    found = topology.parse(text)
    assert (str(found), found.chips, found.num_devices, found.hosts, found.gcloud) == (
        name, chips, devices, hosts, gcloud,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5x:2x2", "names no TPU.*Did you mean"),
        ("v5lite-8", "Did you mean v5litepod"),
        ("v5e", "is no topology"),
        ("v5e:4by4", "after the colon"),
        ("v5p:2x2", "has 3 dimensions, like v5p:2x2x4"),
        ("v5e:3x5", "must divide"),
        ("v5e:16x32", "largest slice of v5e is 16x16"),
        ("v5p-7", "7 cores are no slice of a v5p. Name the shape, like v5p:2x2x1"),
        ("v5e-12", "12 chips are no slice"),
    ],
)
def test_a_name_that_is_none_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        topology.parse(text)


def test_at_least_one_slice():
    with pytest.raises(UserError, match="--slices is 0"):
        topology.parse("v5e:4x4", 0)


@given(st.sampled_from([a for a in TPUS if a.ici_dimensions == 3]), st.integers(1, 100))
def test_whole_cubes_are_rings_and_as_near_to_a_cube_as_can_be(accelerator, cubes):
    cores = cubes * 64 * accelerator.cores_per_chip
    try:
        found = topology.parse(f"{accelerator.name}-{cores}")
    except UserError as error:
        assert "largest slice" in str(error)
        return
    assert found.chips == cubes * 64 and found.wrap == (True, True, True)
    assert found.gcloud == f"{accelerator.gcloud}-{cores}"
    assert topology.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "wrap"),
    [
        ("v5e:8x8", (False, False, False)),
        ("v5e:8x16", (False, True, False)),
        ("v6e:16x16", (True, True, False)),
        ("v4:2x4x4", (False, False, False)),
        ("v4:4x4x8", (True, True, True)),
    ],
)
def test_which_dimensions_are_rings(text, wrap):
    assert topology.parse(text).wrap == wrap


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    with pytest.raises(UserError, match="pip install 'xtr\\[tpu\\]'"):
        topology.compile_only_devices(topology.parse("v5e:2x2"))


@needs_libtpu
@pytest.mark.parametrize("text", ["v2:2x2", "v3:4x4", "v4:2x2x2", "v5e:2x4", "v5p:4x4x4", "v6e:8x8", "tpu7x:2x2x1"])
def test_libtpu_has_as_many_devices_and_hosts(text):
    slice_ = topology.parse(text)
    devices = topology.compile_only_devices(slice_)
    assert len(devices) == slice_.num_devices
    assert len({d.process_index for d in devices}) == slice_.hosts
    assert {d.device_kind for d in devices} <= set(slice_.accelerator.device_kinds)


@needs_libtpu
@pytest.mark.parametrize(
    ("text", "slices", "config"),
    [
        ("v5e:4x4", 1, MeshConfig(tensor=2)),
        ("v5e:16x16", 1, MeshConfig(replica=4, tensor=4)),
        ("v5p:4x4x4", 1, MeshConfig(replica=2, tensor=2)),
        ("v4:2x4x4", 1, MeshConfig(tensor=8)),
        ("v5e:16x16", 2, MeshConfig(replica=2)),
        ("v5e:16x16", 2, MeshConfig(replica=4, tensor=2)),
        ("tpu7x:2x2x2", 2, MeshConfig(replica=2, tensor=2)),
    ],
)
def test_only_replica_crosses_slices(text, slices, config):
    slice_ = topology.parse(text, slices)
    mesh = make_mesh(config, topology.compile_only_devices(slice_))
    assert mesh.size == slice_.num_devices
    places = [{getattr(d, "slice_index", 0) or 0 for d in row.flat} for row in mesh.devices]
    assert all(len(place) == 1 for place in places)
    assert set().union(*places) == set(range(slices))


@needs_libtpu
def test_slices_ask_for_a_replica_axis():
    devices = topology.compile_only_devices(topology.parse("v5e:2x2", 2))
    with pytest.raises(UserError, match="replica"):
        make_mesh(MeshConfig(replica=1), devices)
