"""What a compiled program spends its time on: every collective with its line, and the costliest operations."""

from typing import Any

from xtr.parallel.topology import Topology
from xtr.plan.compile import Compiled
from xtr.plan.estimate import link_bandwidth
from xtr.plan.hlo import Analysis

_MB, _MS = 1e6, 1e3


def collectives(analysis: Analysis, compiled: Compiled, topology: Topology) -> list[dict[str, Any]]:
    """A row for the collectives of one kind, line, array and group of devices; those that take longest first."""
    rows: dict[tuple, dict[str, Any]] = {}
    for c in analysis.collectives:
        if not c.executions:
            continue
        key = (c.kind, c.form, c.axes, c.shapes, c.source, c.phase, c.slices)
        row = rows.setdefault(
            key,
            {
                "collective": c.kind,
                "form": c.form,
                "axes": "+".join(c.axes),
                "network": ("DCN" if c.ici_bytes == 0 else "ICI+DCN") if c.dcn_bytes else "ICI",
                "devices": c.group_size,
                "arrays": " ".join(c.shapes[:3]) + (f" +{len(c.shapes) - 3}" if len(c.shapes) > 3 else ""),
                "times": 0,
                "MB": 0.0,
                "sent MB": 0.0,
                "ms": 0.0,
                "phase": c.phase,
                "line": c.source,
            },
        )
        dcn = topology.accelerator.dcn_bandwidth / topology.accelerator.devices_per_chip
        seconds = c.ici_bytes / link_bandwidth(topology, compiled.extents, c.axes) + c.dcn_bytes / dcn
        row["times"] += c.executions
        row["MB"] += c.executions * c.payload_bytes / _MB
        row["sent MB"] += c.executions * (c.ici_bytes + c.dcn_bytes) / _MB
        row["ms"] += c.executions * seconds * _MS
    ordered = sorted(rows.values(), key=lambda row: -row["ms"])
    return [row | {name: float(f"{row[name]:.3g}") for name in ("MB", "sent MB", "ms")} for row in ordered]


def operations(analysis: Analysis, topology: Topology, count: int = 10) -> list[dict[str, Any]]:
    """The costliest operations by the compiler's cycles, the costliest first."""
    rows = []
    for o in (o for o in analysis.costliest(count) if o.total_cycles):
        seconds = o.total_cycles / topology.accelerator.clock
        rows.append(
            {
                "operation": o.name,
                "share": f"{o.total_cycles / max(analysis.cycles, 1):.1%}",
                "times": o.executions,
                "cycles": o.total_cycles,
                "ms": float(f"{seconds * _MS:.3g}"),
                "of peak": f"{o.executions * o.flops / seconds / topology.accelerator.peak_flops:.0%}",
                "phase": o.phase,
                "from": o.op_name.rpartition("/")[2],
                "line": o.source,
            }
        )
    return rows
