"""What a compiled program does, read from its optimised HLO: floating-point operations, memory traffic, the compiler's
own cycle estimates and every collective, with loops counted by their trips and each item's line of source.

All numbers are of one device and one execution of the program.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from xtr.plan import hlo_costs
from xtr.plan.hlo_collectives import Collective, Layout, collectives_of
from xtr.plan.hlo_loops import Loop, executions
from xtr.plan.hlo_text import Module, Op, parse, source, stack_lines

__all__ = ["Analysis", "Collective", "Flops", "Loop", "Operation", "analyse", "device_slices"]

PHASES = ("forward", "backward", "rematerialised")


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of products (2 a multiply-add), by what JAX's paths say that they are for.

    Attributes:
      forward: of the forward pass, and all that is in no backward pass: also the gradients that a custom derivative
        computes ahead, as the loss over a vocabulary does.
      backward: of the backward pass, without what it computes anew.
      rematerialised: what the backward pass computes anew, by a remat policy or by the compiler's choice.
    """

    forward: float = 0.0
    backward: float = 0.0
    rematerialised: float = 0.0

    @property
    def total(self) -> float:
        """All that the hardware does."""
        return self.forward + self.backward + self.rematerialised

    @property
    def without_rematerialisation(self) -> float:
        """What is comparable with a model's analytic count."""
        return self.forward + self.backward


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation that runs as a whole: a fusion, or one outside of every fusion.

    Attributes:
      name, opcode: as the compiler calls it.
      op_name: JAX's path to what it comes from, or to its largest part.
      source: its line, 'xtr/models/layers.py:172'; '' where unknown.
      stack: the lines that lead to it, the innermost first.
      phase: one of `PHASES`.
      executions: how often it runs.
      cycles: the compiler's estimate for one execution; None where it makes none (collectives, Pallas kernels, copies
        between memories).
      flops, hbm_bytes: of one execution.
      flops_by_phase: the same flops, by the phase of each product in it.
    """

    name: str
    opcode: str
    op_name: str
    source: str
    stack: tuple[str, ...]
    phase: str
    executions: int
    cycles: int | None
    flops: float
    hbm_bytes: float
    flops_by_phase: Flops

    @property
    def total_cycles(self) -> int:
        """Cycles of all executions; 0 where the compiler makes no estimate."""
        return self.executions * (self.cycles or 0)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a program does on one device.

    Attributes:
      devices: how many devices run it.
      flops: of products.
      hbm_bytes: read from and written to main memory.
      cycles: the sum of the compiler's estimates. `seconds` makes time of it.
      operations: those with a cost, the costliest by cycles first.
      collectives: in the order of the program.
      loops: with their trip counts.
      kernels: custom calls (Pallas kernels), of which no cycles are known, and no flops but those that they declare:
        {target: executions}.
      without_cycles: operations without an estimate, other than those: {opcode: executions}.
    """

    devices: int
    flops: Flops
    hbm_bytes: float
    cycles: int
    operations: tuple[Operation, ...]
    collectives: tuple[Collective, ...]
    loops: tuple[Loop, ...]
    kernels: Mapping[str, int]
    without_cycles: Mapping[str, int]

    @property
    def assumed_loops(self) -> tuple[Loop, ...]:
        """Loops whose number of trips the program does not say: every figure depends on what was assumed."""
        return tuple(loop for loop in self.loops if not loop.known)

    @property
    def kernel_operations(self) -> tuple[Operation, ...]:
        """The hand-written kernels among the operations."""
        return tuple(o for o in self.operations if o.opcode.removeprefix("custom-call ") in hlo_costs.KERNELS)

    @property
    def ici_bytes(self) -> float:
        """Bytes that a device sends to others of its slice."""
        return sum(c.executions * c.ici_bytes for c in self.collectives)

    @property
    def dcn_bytes(self) -> float:
        """Bytes that a device sends to other slices."""
        return sum(c.executions * c.dcn_bytes for c in self.collectives)

    def costliest(self, count: int = 10) -> tuple[Operation, ...]:
        """The operations with the most cycles, all executions together."""
        return self.operations[:count]

    def seconds(self, clock: float) -> float:
        """The compiler's estimate of computing time, of a core that makes `clock` cycles a second."""
        return self.cycles / clock

    def counts(self) -> dict[str, Any]:
        """Collectives by kind, mesh axes and dtype, as JSON: how many there are in the program, how often they run, and
        the bytes of all executions. Equal for equal programs, whatever the lines of their source."""
        table: dict[str, dict[str, float]] = {}
        for c in self.collectives:
            key = " ".join((c.kind, "+".join(c.axes) or "none", c.dtype))
            row = table.setdefault(key, {"count": 0, "executions": 0, "payload_bytes": 0, "wire_bytes": 0})
            row["count"] += 1
            row["executions"] += c.executions
            row["payload_bytes"] += c.executions * c.payload_bytes
            row["wire_bytes"] += round(c.executions * (c.ici_bytes + c.dcn_bytes))
        return dict(sorted(table.items()))

    def to_json(self, operations: int = 10) -> dict[str, Any]:
        """All of it as JSON, with the costliest operations alone."""
        return {
            "devices": self.devices,
            "flops": dataclasses.asdict(self.flops),
            "hbm_bytes": self.hbm_bytes,
            "cycles": self.cycles,
            "ici_bytes": self.ici_bytes,
            "dcn_bytes": self.dcn_bytes,
            "counts": self.counts(),
            "operations": [
                {**dataclasses.asdict(o), "total_cycles": o.total_cycles, "share": o.total_cycles / max(1, self.cycles)}
                for o in self.costliest(operations)
            ],
            "collectives": [dataclasses.asdict(c) for c in self.collectives],
            "loops": [dataclasses.asdict(loop) for loop in self.loops],
            "kernels": dict(self.kernels),
            "without_cycles": dict(self.without_cycles),
        }


def phase_of(op: Op) -> str:
    """Which of `PHASES` an operation belongs to, by JAX's path and the compiler's name."""
    if "rematted_computation" in op.op_name or ".remat" in op.name:
        return "rematerialised"
    return "backward" if "transpose(" in op.op_name else "forward"


def device_slices(mesh: Any) -> tuple[int, ...]:
    """The slice of each device of a `jax.sharding.Mesh`, in the order of the program's devices."""
    return tuple(getattr(device, "slice_index", 0) or 0 for device in mesh.devices.flat)


def _cycles(op: Op) -> int | None:
    estimate = op.backend_config.get("window_config", {}).get("estimated_cycles")
    return None if estimate is None else int(estimate)


def _products(module: Module, op: Op, computation: str) -> list[tuple[Op, float]]:
    """The products of an operation or of a fusion, with their flops."""
    found = []

    def visit(op: Op, computation: str) -> None:
        flops = hlo_costs.product_flops(op, module.computations[computation])
        if flops:
            found.append((op, flops))
        for called in op.calls if op.opcode == "fusion" else ():
            for inner in module.computations[called].values():
                visit(inner, called)

    visit(op, computation)
    return found


def _operation(module: Module, op: Op, computation: str, times: int) -> Operation:
    products = _products(module, op, computation)
    by_phase = collections.Counter()
    for product, flops in products:
        by_phase[phase_of(product if product.op_name else op)] += flops
    # A fusion bears the name of its last part; its products say better what it is.
    named = max(products, key=lambda p: p[1])[0] if products else op
    named = named if named.op_name else op
    lines = stack_lines(module, named)
    return Operation(
        name=op.name,
        opcode=op.opcode if op.opcode != "custom-call" else f"custom-call {op.target}",
        op_name=named.op_name,
        source=source(lines),
        stack=lines,
        phase=phase_of(named),
        executions=times,
        cycles=_cycles(op),
        flops=float(sum(by_phase.values())),
        hbm_bytes=hlo_costs.memory_bytes(module, op, module.computations[computation]),
        flops_by_phase=Flops(**by_phase),
    )


def analyse(
    text: str,
    axes: Mapping[str, int] | None = None,
    slice_of: Sequence[int] = (),
    assumed_trips: int | None = None,
) -> Analysis:
    """Reads a compiled program.

    Args:
      text: its optimised HLO, `compiled.as_text()`.
      axes: sizes of the mesh's axes in order, `mesh.shape`; without it no collective is said to cross one.
      slice_of: the slice of each device, `device_slices(mesh)`; empty for a single slice.
      assumed_trips: how often a loop runs whose count the program does not say (decoding). None: as often as its
        condition allows at most, once where that is not said either. Such loops are in `Analysis.assumed_loops`.

    Raises:
      ValueError: the text is no HLO module, or the mesh is not that of the program.
    """
    module = parse(text)
    layout = Layout(module.devices, axes, slice_of)
    counts, loops = executions(module, assumed_trips)
    operations, kernels, without = [], collections.Counter(), collections.Counter()
    for computation, times in counts.items():
        for op in module.computations[computation].values():
            if op.opcode in hlo_costs.FREE:
                continue
            done = _operation(module, op, computation, times)
            if done.cycles or done.flops or done.hbm_bytes:
                operations.append(done)
            if done.cycles is None and times:
                if op.opcode == "custom-call" and op.target in hlo_costs.KERNELS:
                    kernels[op.target] += times
                else:
                    without[op.opcode] += times
    total = {p: sum(o.executions * getattr(o.flops_by_phase, p) for o in operations) for p in PHASES}
    return Analysis(
        devices=layout.total,
        flops=Flops(**total),
        hbm_bytes=sum(o.executions * o.hbm_bytes for o in operations),
        cycles=sum(o.total_cycles for o in operations),
        operations=tuple(sorted(operations, key=lambda o: (-o.total_cycles, -o.executions * o.hbm_bytes, o.name))),
        collectives=collectives_of(module, counts, layout, phase_of),
        loops=loops,
        kernels=dict(sorted(kernels.items())),
        without_cycles=dict(sorted(without.items())),
    )
