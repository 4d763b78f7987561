"""The accelerator table: devices find their entry by any of their names, unknown ones find none."""

import types

import jax
import pytest

from xtr.parallel.accelerators import ACCELERATORS, CPU, TPUS, of_device


def device(platform, kind):
    return types.SimpleNamespace(platform=platform, device_kind=kind)


@pytest.mark.parametrize(
    ("platform", "kind", "name"),
    [
        ("tpu", "TPU v5 lite", "v5e"),
        ("tpu", "TPU v5e", "v5e"),
        ("tpu", "TPU v5", "v5p"),
        ("tpu", "TPU v6 lite", "v6e"),
        ("tpu", "TPU7x", "tpu7x"),
        ("gpu", "NVIDIA H100 80GB HBM3", "H100"),
        ("gpu", "NVIDIA H100 PCIe", "H100-PCIe"),
        ("gpu", "NVIDIA H200", "H200"),
        ("gpu", "NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "A100"),
        ("gpu", "NVIDIA A10", "A10"),
        ("gpu", "NVIDIA A10G", "A10G"),
        ("gpu", "NVIDIA L4", "L4"),
        ("gpu", "NVIDIA L40S", "L40S"),
        ("gpu", "Tesla V100-SXM2-16GB", "V100"),
    ],
)
def test_a_device_is_known_by_its_kind(platform, kind, name):
    assert of_device(device(platform, kind)).name == name


@pytest.mark.parametrize(
    ("platform", "kind"), [("tpu", "TPU v9"), ("gpu", "NVIDIA A1000"), ("gpu", "gfx942"), ("metal", "M3")]
)
def test_an_unknown_device_is_no_fault(platform, kind):
    assert of_device(device(platform, kind)) is None


def test_a_cpu_has_no_peak():
    found = of_device(jax.devices("cpu")[0])
    assert found is CPU and found.peak_flops is None and found.device_hbm is None


def test_names_are_unique():
    assert len({a.name for a in ACCELERATORS}) == len(ACCELERATORS)
    kinds = [kind for a in ACCELERATORS for kind in a.device_kinds]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("tpu", TPUS, ids=lambda a: a.name)
def test_peak_and_clock_agree(tpu):
    """FLOP/s / clock is what the matrix units do in a cycle: a power of two times 128 x 128 multiply-adds."""
    units = tpu.chip_flops / tpu.clock / (2 * 128 * 128)
    nearest = 2 ** round(units).bit_length() // 2
    assert units == pytest.approx(nearest, rel=0.02)


def test_a_device_may_be_half_a_chip():
    half = next(a for a in TPUS if a.name == "tpu7x")
    assert half.peak_flops == half.chip_flops / 2
    assert half.device_hbm == half.usable_hbm < half.hbm / 2
