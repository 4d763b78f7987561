"""What is known of each accelerator: sizes, speeds, and its name in every API. A table to plan by, never to refuse by.

Bytes and bytes/s are plain (1e9 is 1e9); memories are in bytes of the chip as its maker states them. Sources: Google
Cloud's pages of each TPU version (cloud.google.com/tpu/docs/v4, v5p, v5e, v6e, tpu7x); for v2 and v3 Jouppi et al.,
"A domain-specific supercomputer for training deep neural networks" (CACM 63(7), 2020), table 3; bandwidths of links as
jax-ml/scaling-book (tpus.md) gives them where it does; NVIDIA's data sheets, dense bf16 with f32 accumulation.
`usable_hbm` is what libtpu 0.0.42 itself names as available when a program does not fit.
"""

import dataclasses
import glob
from typing import Any

GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of chip.

    A JAX device is a chip, but half of one where a chip has two cores that JAX sees apart (TPU v2, v3, 7x).

    Attributes:
      name: the name that topologies and messages use: 'v5e', 'v5p', 'H100'.
      platform: JAX's: 'tpu', 'gpu' or 'cpu'.
      device_kinds: what `jax.Device.device_kind` says; of a GPU, what it begins with.
      gcloud: the prefix of Google Cloud's accelerator types, whose number follows a hyphen: 'v5litepod'; '' for none.
      counts_cores: whether that number counts TensorCores in the place of chips.
      cores_per_chip: TensorCores.
      devices_per_chip: JAX devices.
      chips_per_host: of a host that is part of a pod, or of the usual server.
      hbm: bytes of memory of a chip.
      usable_hbm: bytes of it that programs of one JAX device get; None where nobody has said.
      chip_flops: peak bf16 FLOP/s of a chip; None where unknown (then there is no MFU).
      hbm_bandwidth: bytes/s of a chip.
      ici_link_bandwidth: bytes/s of one link between chips in one direction (NVLink: all links of a chip together).
      ici_dimensions: of the torus; a chip has two links in each. 0: all chips of a host reach each other alike.
      pod_shape: the largest slice; a dimension of full length closes to a ring where the torus has two dimensions.
      dcn_bandwidth: bytes/s between hosts, of one chip, in one direction; None where unknown.
      libtpu: the name that libtpu's topologies have; '' for none.
      clock: cycles/s by which the compiler's estimates become seconds; None where unknown.
      mxu: rows and columns of a matrix unit: a product with a shorter dimension leaves a part of it idle.
    """

    name: str
    platform: str
    device_kinds: tuple[str, ...]
    hbm: float | None = None
    usable_hbm: float | None = None
    chip_flops: float | None = None
    hbm_bandwidth: float | None = None
    ici_link_bandwidth: float | None = None
    ici_dimensions: int = 0
    pod_shape: tuple[int, ...] = ()
    dcn_bandwidth: float | None = None
    gcloud: str = ""
    counts_cores: bool = False
    cores_per_chip: int = 1
    devices_per_chip: int = 1
    chips_per_host: int = 4
    libtpu: str = ""
    clock: float | None = None
    mxu: int = 128

    @property
    def peak_flops(self) -> float | None:
        """Peak bf16 FLOP/s of one JAX device; None where unknown."""
        return None if self.chip_flops is None else self.chip_flops / self.devices_per_chip

    @property
    def device_hbm_bandwidth(self) -> float | None:
        """Bytes/s between one JAX device and its memory; None where unknown."""
        return None if self.hbm_bandwidth is None else self.hbm_bandwidth / self.devices_per_chip

    @property
    def device_hbm(self) -> float | None:
        """Bytes of memory that one JAX device can use; the whole of it where nobody has said how much that is."""
        if self.usable_hbm is not None or self.hbm is None:
            return self.usable_hbm
        return self.hbm / self.devices_per_chip


# The clock follows from a peak and its matrix units: FLOP/s / (2 x cores x units x width^2). A core has one (v2), two
# (v3) or four; they are 128 wide, 256 from v6e on.
TPUS = (
    Accelerator(
        "v2", "tpu", ("TPU v2",), hbm=16 * GiB, usable_hbm=7.48 * GiB, chip_flops=46e12, hbm_bandwidth=7.0e11,
        ici_link_bandwidth=6.2e10, ici_dimensions=2, pod_shape=(16, 16), dcn_bandwidth=6.25e9, gcloud="v2",
        counts_cores=True, cores_per_chip=2, devices_per_chip=2, libtpu="v2", clock=7.0e8,
    ),
    Accelerator(
        "v3", "tpu", ("TPU v3",), hbm=32 * GiB, usable_hbm=15.48 * GiB, chip_flops=123e12, hbm_bandwidth=9.0e11,
        ici_link_bandwidth=8.2e10, ici_dimensions=2, pod_shape=(32, 32), dcn_bandwidth=6.25e9, gcloud="v3",
        counts_cores=True, cores_per_chip=2, devices_per_chip=2, libtpu="v3", clock=9.4e8,
    ),
    Accelerator(
        "v4", "tpu", ("TPU v4",), hbm=32 * GiB, usable_hbm=30.75 * GiB, chip_flops=275e12, hbm_bandwidth=1.2e12,
        ici_link_bandwidth=4.5e10, ici_dimensions=3, pod_shape=(16, 16, 16), dcn_bandwidth=6.25e9, gcloud="v4",
        counts_cores=True, cores_per_chip=2, libtpu="v4", clock=1.05e9,
    ),
    Accelerator(
        "v5e", "tpu", ("TPU v5 lite", "TPU v5e"), hbm=16 * GiB, usable_hbm=15.75 * GiB, chip_flops=197e12,
        hbm_bandwidth=8.2e11, ici_link_bandwidth=4.5e10, ici_dimensions=2, pod_shape=(16, 16), dcn_bandwidth=3.125e9,
        gcloud="v5litepod", libtpu="v5e", clock=1.5e9,
    ),
    Accelerator(
        "v5p", "tpu", ("TPU v5", "TPU v5p"), hbm=96 * GiB, usable_hbm=95.74 * GiB, chip_flops=459e12,
        hbm_bandwidth=2.765e12, ici_link_bandwidth=9e10, ici_dimensions=3, pod_shape=(16, 20, 28), dcn_bandwidth=6.25e9,
        gcloud="v5p", counts_cores=True, cores_per_chip=2, libtpu="v5p", clock=1.75e9,
    ),
    Accelerator(
        "v6e", "tpu", ("TPU v6 lite", "TPU v6e"), hbm=32 * GiB, usable_hbm=31.25 * GiB, chip_flops=918e12,
        hbm_bandwidth=1.638e12, ici_link_bandwidth=9e10, ici_dimensions=2, pod_shape=(16, 16), dcn_bandwidth=1.25e10,
        gcloud="v6e", libtpu="v6e", clock=1.75e9, mxu=256,
    ),
    Accelerator(
        "tpu7x", "tpu", ("TPU7x", "TPU v7x"), hbm=192 * GiB, usable_hbm=94.75 * GiB, chip_flops=2307e12,
        hbm_bandwidth=7.38e12, ici_link_bandwidth=9e10, ici_dimensions=3, pod_shape=(16, 24, 24), dcn_bandwidth=1.25e10,
        gcloud="tpu7x", counts_cores=True, cores_per_chip=2, devices_per_chip=2, libtpu="tpu7x", clock=2.2e9, mxu=256,
    ),
)  # fmt: skip


def _gpu(name, device_kind, gigabytes, teraflops, gigabytes_per_second, link=None, chips_per_host=8) -> Accelerator:
    return Accelerator(
        name, "gpu", (device_kind,), hbm=gigabytes * 1e9, chip_flops=teraflops and teraflops * 1e12,
        hbm_bandwidth=gigabytes_per_second * 1e9, ici_link_bandwidth=link and link * 1e9, chips_per_host=chips_per_host,
    )  # fmt: skip


GPUS = (
    _gpu("B200", "NVIDIA B200", 180, 2250, 7700, link=900),
    _gpu("GB200", "NVIDIA GB200", 186, 2500, 8000, link=900, chips_per_host=4),
    _gpu("H200", "NVIDIA H200", 141, 989, 4800, link=450),
    _gpu("GH200", "NVIDIA GH200", 96, 989, 4000, link=450, chips_per_host=1),
    _gpu("H100-PCIe", "NVIDIA H100 PCIe", 80, 756, 2000),
    _gpu("H100-NVL", "NVIDIA H100 NVL", 94, 835, 3900),
    _gpu("H100", "NVIDIA H100", 80, 989, 3350, link=450),
    _gpu("A100-40GB", "NVIDIA A100-SXM4-40GB", 40, 312, 1555, link=300),
    _gpu("A100-40GB-PCIe", "NVIDIA A100-PCIE-40GB", 40, 312, 1555),
    _gpu("A100-80GB-PCIe", "NVIDIA A100 80GB PCIe", 80, 312, 1935),
    _gpu("A100", "NVIDIA A100", 80, 312, 2039, link=300),
    _gpu("L40S", "NVIDIA L40S", 48, 362, 864),
    _gpu("L4", "NVIDIA L4", 24, 121, 300),
    _gpu("A10G", "NVIDIA A10G", 24, 70, 600),
    _gpu("A10", "NVIDIA A10", 24, 125, 600),
    _gpu("RTX-A6000", "NVIDIA RTX A6000", 48, 155, 768),
    _gpu("RTX-4090", "NVIDIA GeForce RTX 4090", 24, 165, 1008),
    _gpu("RTX-3090", "NVIDIA GeForce RTX 3090", 24, 71, 936),
    # Neither has bf16 units, so there is no peak to compare a bf16 program with.
    _gpu("V100", "Tesla V100", 16, None, 900, link=150),
    _gpu("T4", "Tesla T4", 15, None, 320),
)

CPU = Accelerator("cpu", "cpu", ("cpu",), chips_per_host=1)

ACCELERATORS = (*TPUS, *GPUS, CPU)


def on_tpu() -> bool:
    """Whether this machine has TPU chips, by its device files: no library is asked."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def of_device(device: Any) -> Accelerator | None:
    """What is known of a `jax.Device`; None of a kind that is in no table, which is no fault.

    A GPU is the entry that its kind begins with, the longest one: 'NVIDIA H100 80GB HBM3' is an H100.
    """
    kind = device.device_kind
    if device.platform == "tpu":
        return next((a for a in TPUS if kind in a.device_kinds), None)
    if device.platform == "cpu":
        return CPU
    known = [a for a in GPUS if _names(a.device_kinds[0], kind)]
    return max(known, key=lambda a: len(a.device_kinds[0]), default=None)


def _names(prefix: str, kind: str) -> bool:
    """Whether a device kind is one of those called `prefix`: 'NVIDIA A10' is, 'NVIDIA A100' is not an A10."""
    return kind.startswith(prefix) and not kind[len(prefix) : len(prefix) + 1].isalnum()
