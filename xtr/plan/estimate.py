"""From a compiled program to memory, time and cost on one device and on all: what `xtr plan` says.

Times are bounds of a roofline, not measurements: what arithmetic, memory and network would take at their peaks, and
what the compiler itself expects of the program's operations. Where all goes on at once the longest of them is a step's
time; real chips overlap less. Source of the network's part: jax-ml/scaling-book, "Sharded matrices".
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from xtr.models import flops
from xtr.parallel.accelerators import Accelerator
from xtr.parallel.topology import Topology
from xtr.plan.batches import shapes
from xtr.plan.compile import Compiled, slots
from xtr.plan.hlo import Analysis, analyse
from xtr.plan.run import PlanRun


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      parameters, optimizer: the state between steps.
      activations: all else that holds data where most is in use: activations, gradients, gathered weights, the batch, a
        decoder's cache.
      code: the program.
      peak: the most that is in use at once.
      buffers: the sum of all buffers, as if none took the place of another.
      usable: what programs can have.
    """

    parameters: int
    optimizer: int
    activations: int
    code: int
    peak: int
    buffers: int
    usable: float


@dataclasses.dataclass(frozen=True)
class Seconds:
    """What one execution takes at least, by what it waits for.

    Attributes:
      compute: floating-point operations at the chip's peak.
      hbm: bytes of main memory at its bandwidth.
      ici, dcn: bytes between chips of a slice, and between slices.
      compiler: the compiler's own cycles of all operations; it knows how well each fills the units, and no network.
        It knows nothing of hand-written kernels: `kernels` is added.
      kernels: the part of these, see `kernel_seconds`.
    """

    compute: float
    hbm: float
    ici: float
    dcn: float
    compiler: float
    kernels: float

    @property
    def bound(self) -> str:
        """The part that the others wait for."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

    @property
    def overlapped(self) -> float:
        """Where all goes on at once: the longest."""
        return max(dataclasses.astuple(self))

    @property
    def serial(self) -> float:
        """Where the network waits for the arithmetic, and the arithmetic for the network."""
        return max(self.compute, self.hbm, self.compiler) + self.ici + self.dcn


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one program takes.

    Attributes:
      program, topology, mesh: which.
      fits: whether it does.
      missing: bytes that one device lacks where it does not.
      memory: None where it does not fit: the compiler then says no more than what is missing.
      model_flops: floating-point operations that the model's sizes ask for, of one device.
      hardware_flops: those that the program makes, rematerialisation included.
      rematerialised: its part of them.
      hbm_bytes, ici_bytes, dcn_bytes: of one device and one execution.
      seconds: see `Seconds`.
      tokens: positions that one execution works on, over all devices; of a decoding step one a sequence.
      compile_seconds: how long tracing and compiling took.
      assumed_loops: loops of which the program does not say how often they run; they were counted once.
      kernels: hand-written kernels, and how often they run.
    """

    program: str
    topology: str
    mesh: Mapping[str, int]
    fits: bool
    missing: int | None
    memory: Memory | None
    model_flops: float
    hardware_flops: float
    rematerialised: float
    hbm_bytes: float
    ici_bytes: float
    dcn_bytes: float
    seconds: Seconds | None
    peak_flops: float
    devices: int
    tokens: int
    compile_seconds: float
    assumed_loops: int
    kernels: Mapping[str, int]

    @property
    def step_seconds(self) -> float:
        """One execution, at least; infinite where it does not fit."""
        return self.seconds.overlapped if self.seconds else math.inf

    @property
    def mfu_bound(self) -> float:
        """Model FLOPs a second over the chips' peak, at most."""
        return self.model_flops / (self.step_seconds * self.peak_flops)

    @property
    def tokens_per_second(self) -> float:
        """Positions a second of all devices together, at most."""
        return self.tokens / self.step_seconds

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        facts = dataclasses.asdict(self)
        if self.seconds:
            facts["seconds"] |= {
                "bound": self.seconds.bound, "overlapped": self.seconds.overlapped, "serial": self.seconds.serial
            }  # fmt: skip
            facts |= {
                "step_seconds": self.step_seconds, "mfu_bound": self.mfu_bound,
                "tokens_per_second": self.tokens_per_second,
            }  # fmt: skip
        return facts


def slice_of_devices(topology: Topology) -> tuple[int, ...]:
    """The slice of each device, in the order of a mesh: its first axis goes from slice to slice."""
    if topology.slices == 1:
        return ()
    each = topology.num_devices // topology.slices
    return tuple(i // each for i in range(topology.num_devices))


def analysis_of(compiled: Compiled, topology: Topology) -> Analysis:
    """What a compiled program does; a loop that says not how often it runs counts once."""
    return analyse(compiled.hlo, compiled.mesh, slice_of_devices(topology), assumed_trips=1)


def link_bandwidth(topology: Topology, extents: Mapping[str, Sequence[int]], axes: Sequence[str]) -> float:
    """Bytes/s that one device sends to others along mesh axes: one link in each dimension of the torus that the axes
    reach, two where the dimension closes to a ring and they go all around."""
    accelerator, links = topology.accelerator, 0
    for dimension, (size, ring) in enumerate(zip((*topology.shape, 1)[:3], topology.wrap, strict=True)):
        reached = math.prod(extents[axis][dimension] for axis in axes)
        if reached > 1:
            links += 2 if ring and reached == size else 1
    return max(links, 1) * accelerator.ici_link_bandwidth / accelerator.devices_per_chip


def kernel_seconds(analysis: Analysis, accelerator: Accelerator, head_dim: int) -> float:
    """What hand-written kernels take at least: what they declare, at the chip's peaks.

    Each product of attention has a dimension of one head's size, and fills that share of a matrix unit at most.
    """
    peak = accelerator.peak_flops * min(1.0, head_dim / accelerator.mxu)
    return sum(
        o.executions * max(o.flops / peak, o.hbm_bytes / accelerator.device_hbm_bandwidth)
        for o in analysis.kernel_operations
    )


def seconds_of(analysis: Analysis, compiled: Compiled, topology: Topology, head_dim: int) -> Seconds:
    """The bounds of one execution of a network with heads of that size."""
    accelerator = topology.accelerator
    kernels = kernel_seconds(analysis, accelerator, head_dim)
    ici = sum(
        c.executions * c.ici_bytes / link_bandwidth(topology, compiled.extents, c.axes)
        for c in analysis.collectives
        if c.ici_bytes
    )
    return Seconds(
        compute=analysis.flops.total / accelerator.peak_flops,
        hbm=analysis.hbm_bytes / accelerator.device_hbm_bandwidth,
        ici=ici,
        dcn=analysis.dcn_bytes / (accelerator.dcn_bandwidth / accelerator.devices_per_chip),
        compiler=analysis.seconds(accelerator.clock) + kernels,
        kernels=kernels,
    )


def model_flops(run: PlanRun, compiled: Compiled) -> float:
    """Floating-point operations that one execution asks for by the model's sizes, over all devices.

    A decoding step is one more target token of each sequence; a refill is what is done before the first one.
    """
    train, sizes = run.train, shapes(run.train)
    model, objective = train.model, train.loss
    inputs, targets = train.task_feature_lengths["inputs"], train.task_feature_lengths.get("targets", 0)
    slots_, refilled = slots(run, compiled.mesh["replica"] * compiled.mesh["fsdp"])
    causal = objective == "causal"
    if compiled.program == "decode_step":
        before, after = ((inputs, 0), (inputs + 1, 0)) if causal else ((inputs, 1), (inputs, 2))
        return flops.forward_flops(model, objective, slots_, *after) - flops.forward_flops(
            model, objective, slots_, *before
        )
    if compiled.program == "decode_refill":
        vocabulary = 2.0 * refilled * inputs * model.width * model.vocab_size if causal else 0.0
        return flops.forward_flops(model, objective, refilled, inputs, 0) - vocabulary
    rows = train.batch_size * (sizes["encoder_input_tokens"][1] if objective == "choose" else 1)
    lengths = (inputs + targets, 0) if causal else (inputs, targets)
    count = flops.training_flops if compiled.program == "train" else flops.forward_flops
    return count(model, objective, rows, *lengths)


def tokens(run: PlanRun, compiled: Compiled) -> int:
    """Positions that one execution works on, padding included."""
    train, groups = run.train, compiled.mesh["replica"] * compiled.mesh["fsdp"]
    rows, refilled = slots(run, groups)
    if compiled.program == "decode_step":
        return rows
    if compiled.program == "decode_refill":
        return refilled * train.task_feature_lengths["inputs"]
    return sum(math.prod(shape) for name, shape in shapes(train).items() if name.endswith("_input_tokens"))


def estimate(run: PlanRun, topology: Topology, compiled: Compiled, analysis: Analysis | None) -> Estimate:
    """What a compiled program takes.

    Args:
      analysis: `analysis_of` it; None where it does not fit.
    """
    devices, memory, seconds = topology.num_devices, None, None
    if analysis is not None:
        used, known = compiled.memory, compiled.parameters + compiled.optimizer
        memory = Memory(
            parameters=compiled.parameters,
            optimizer=compiled.optimizer,
            activations=used.peak - used.code - known,
            code=used.code,
            peak=used.peak,
            buffers=used.buffers,
            usable=topology.accelerator.device_hbm,
        )
        seconds = seconds_of(analysis, compiled, topology, run.train.model.head_dim)
    return Estimate(
        program=compiled.program,
        topology=str(topology),
        mesh=compiled.mesh,
        fits=analysis is not None,
        missing=compiled.out_of_memory,
        memory=memory,
        model_flops=model_flops(run, compiled) / devices,
        hardware_flops=analysis.flops.total if analysis else 0.0,
        rematerialised=analysis.flops.rematerialised if analysis else 0.0,
        hbm_bytes=analysis.hbm_bytes if analysis else 0.0,
        ici_bytes=analysis.ici_bytes if analysis else 0.0,
        dcn_bytes=analysis.dcn_bytes if analysis else 0.0,
        seconds=seconds,
        peak_flops=topology.accelerator.peak_flops,
        devices=devices,
        tokens=tokens(run, compiled),
        compile_seconds=compiled.trace_seconds + compiled.compile_seconds,
        assumed_loops=len(analysis.assumed_loops) if analysis else 0,
        kernels=analysis.kernels if analysis else {},
    )


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run of training steps takes.

    Attributes:
      hours: of time, at least.
      chip_hours: those of all chips.
      serial_chip_hours: the same, were nothing done while the network is busy.
      money: at the run's price; None without one.
    """

    hours: float
    chip_hours: float
    serial_chip_hours: float
    money: float | None


def cost(run: PlanRun, topology: Topology, estimates: Sequence[Estimate]) -> Cost | None:
    """What the run's TRAIN_STEPS take; None where the training step was not compiled, or does not fit."""
    step = next((e for e in estimates if e.program == "train" and e.seconds), None)
    if step is None:
        return None
    hours = run.train.train_steps * step.seconds.overlapped / 3600
    serial = run.train.train_steps * step.seconds.serial / 3600
    price = run.price_per_chip_hour
    return Cost(
        hours=hours,
        chip_hours=hours * topology.chips,
        serial_chip_hours=serial * topology.chips,
        money=None if price is None else hours * topology.chips * price,
    )
