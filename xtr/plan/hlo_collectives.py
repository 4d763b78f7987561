"""The collectives of an HLO module: what travels, between which devices, how often, and from which line.

The program of several TPU slices is that of one of them: its collectives are numbered within the slice, and what goes
between slices is written as transfers to the host's network runtime ("megascale"), a `send` and a `recv` each.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xtr.plan.hlo_costs import continues
from xtr.plan.hlo_text import ASYNC_CALLS, Module, Op, source, stack_lines, users

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective.

    Attributes:
      kind: one of `KINDS`. An all-reduce of which every device keeps its own part, fused with the slicing, is a
        reduce-scatter: a TPU moves no more than that.
      form: 'sync', or 'async' where other work can go on meanwhile. (An attribute 'async_collective_name' in the text
        is of one that XLA made synchronous again, having nothing to do meanwhile.)
      dtype: of what travels, joined by '+' where it is several.
      shapes: of the whole arrays, 'bf16[4096,10240]'.
      payload_bytes: of the whole arrays: an all-gather's results, a reduce-scatter's operands.
      ici_bytes, dcn_bytes: what each device sends within its slice and to other slices, by the algorithm of a ring.
      group_size: devices between which the data travel.
      axes: the mesh's axes along which they lie.
      slices: how many slices a group reaches.
      executions: how often it runs.
      op_name, source, stack, phase: as of an `Operation`. Where the compiler's notes on a collective are lost they are
        those of what uses its result, or else of what it is made from.
    """

    name: str
    kind: str
    form: str
    dtype: str
    shapes: tuple[str, ...]
    payload_bytes: int
    ici_bytes: float
    dcn_bytes: float
    group_size: int
    axes: tuple[str, ...]
    slices: int
    executions: int
    op_name: str
    source: str
    stack: tuple[str, ...]
    phase: str


def _between_slices(op: Op) -> str:
    """The type of a transfer between slices that an operation begins, 'all-reduce'; '' for anything else."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.attributes) if op.opcode == "send" else None
    return found[1].lower().replace("_", "-") if found else ""


def _kind(op: Op) -> str | None:
    """Which collective an operation begins; None for one that begins none."""
    if kind := _between_slices(op):
        return kind if kind in KINDS else "collective-permute"
    kind = op.opcode.removesuffix("-start")
    return kind if kind in KINDS and not continues(op) else None


def sent_bytes(kind: str, payload: float, size: int, slices: int = 1) -> tuple[float, float]:
    """(bytes that a device sends within its slice, and to other slices).

    Of n devices in a ring each sends (n-1)/n of the payload for an all-gather, a reduce-scatter or an all-to-all, and
    twice that for an all-reduce; over s slices the n/s of a slice share what goes between slices. A permute sends all.
    Source: R. Thakur et al., "Optimization of Collective Communication Operations in MPICH" (IJHPCA 19(1), 2005),
    sections 4.1 to 4.4; for slices, the same within and then between them.
    """
    if size <= 1:
        return 0.0, 0.0
    inside = size // slices
    if kind == "collective-permute":
        return (payload, 0.0) if slices == 1 else (0.0, payload)
    if kind in ("all-to-all", "ragged-all-to-all"):
        return payload * (inside - 1) / size, payload * (slices - 1) / slices
    rounds = 2 if kind == "all-reduce" else 1
    return rounds * payload * (inside - 1) / inside, rounds * payload * (slices - 1) / size


def _iota(text: str) -> np.ndarray:
    """'[2,4]<=[4,2]T(1,0)': numbers from 0 on in the second shape, transposed, read in the first (absent: flat)."""
    shape, dims, order = re.match(r"(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    sizes = [int(n) for n in dims.split(",")]
    array = np.arange(math.prod(sizes)).reshape(sizes)
    if order:
        array = array.transpose([int(n) for n in order.split(",")])
    return array.reshape([int(n) for n in shape.split(",")] if shape else -1)


def _mesh_groups(text: str) -> np.ndarray:
    """Of "mesh['a'=4,'b'=2], device_ids=(...) {'a':(1)2}", the groups along axes, or along parts of them, of a mesh.

    A part ':(before)size' of an axis is the middle of its three factors, `before` being the first.
    """
    axes_text, ids, grouped = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*)\))? \{(.*)\}", text).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'?([^',=]+)'?=(\d+)", axes_text)}
    if not ids:
        devices = np.arange(math.prod(sizes.values()))
    elif ids.startswith("["):
        devices = _iota(ids)
    else:
        devices = np.array([int(n) for n in re.findall(r"\d+", ids)])
    parts = {name: [] for name in sizes}
    for name, before, size in re.findall(r"'?([^',:]+)'?(?::\((\d+)\)(\d+))?(?:,|$)", grouped):
        parts[name].append((int(before or 1), int(size or sizes[name])))
    factors, chosen = [], []
    for name, whole in sizes.items():
        done = 1
        for before, size in sorted(parts[name]):
            factors += [before // done, size]
            chosen.append(len(factors) - 1)
            done = before * size
        factors.append(whole // done)
    kept = [i for i in range(len(factors)) if i not in chosen]
    return devices.reshape(factors).transpose(kept + chosen).reshape(-1, math.prod(factors[i] for i in chosen))


def replica_groups(op: Op, devices: int) -> list[tuple[int, ...]]:
    """The groups of devices in which a collective's data travel, by their places in the program's list of devices.

    A collective-permute's are its pairs of source and target.
    """
    pairs = op.attribute("source_target_pairs")
    if pairs:
        return [tuple(map(int, pair.split(","))) for pair in re.findall(r"\{(\d+,\d+)\}", pairs)]
    found = re.search(
        r"replica_groups=(mesh\[[^\]]*\](?:, device_ids=\(.*?\))? \{[^}]*\}|\[[^ ]*?(?=,? |$)|)", op.attributes
    )
    text = (found[1] if found else "").rstrip(",")
    if text.startswith("mesh"):
        groups = _mesh_groups(text)
    elif text.startswith("["):
        groups = _iota(text)
    else:
        groups = [[int(n) for n in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", op.attribute("replica_groups"))]
    return [tuple(int(n) for n in group) for group in groups] or [tuple(range(devices))]


class Layout:
    """Where the devices of a program lie on a mesh.

    Args:
      devices: of the program; of one slice where there are several.
      axes: the mesh's axes and their sizes, in order; None: unknown.
      slice_of: the slice of each device in the mesh's order; empty: one slice.

    Raises:
      ValueError: the program is for another number of devices.
    """

    def __init__(self, devices: int, axes: Mapping[str, int] | None, slice_of: Sequence[int]):
        self.names = tuple(axes or ())
        sizes = tuple(axes.values()) if axes else (devices,)
        total = math.prod(sizes)
        slice_of = np.asarray(slice_of if len(slice_of) else np.zeros(total, int))
        # One row a slice: the places of its devices, in the mesh's order.
        by_slice = [np.flatnonzero(slice_of == s) for s in np.unique(slice_of)]
        self.slices = len(by_slice)
        if len(slice_of) != total or devices not in (total, total // self.slices):
            raise ValueError(f"the program is for {devices} devices, not for a mesh of {dict(axes or {})}")
        self.total = total
        self.numbered_in_slice = devices != total
        self.slice_of, self.by_slice = slice_of, by_slice
        self.coordinates = np.stack(np.unravel_index(np.arange(total), sizes), axis=1)

    def _crossed(self, places: Sequence[np.ndarray]) -> tuple[str, ...]:
        at = [self.coordinates[p] for p in places]
        crossed = np.any([np.any(a != a[:1], axis=0) for a in at], axis=0)
        return tuple(name for name, yes in zip(self.names, crossed, strict=False) if yes)

    def within(self, groups: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], int]:
        """(axes along which the devices of any group differ, the most slices that a group reaches)."""
        places = [self.by_slice[0][list(g)] if self.numbered_in_slice else np.array(g) for g in groups]
        return self._crossed(places), max(len(np.unique(self.slice_of[p])) for p in places)

    def between(self) -> tuple[tuple[str, ...], int]:
        """The same of a transfer from each device of a slice to its like in the others."""
        return self._crossed(list(np.stack(self.by_slice, axis=1))), self.slices


def _arrays(module: Module, op: Op, kind: str, computation: dict[str, Op]):
    """The whole arrays of a collective."""
    operands = [array for name in op.operands for array in computation[name].shape]
    if op.opcode == "send":
        return operands[:1]  # then a token
    if kind == "all-gather" and op.opcode.endswith("-start"):
        return op.shape[len(operands) :]  # an asynchronous one's value holds its operands first
    return op.shape if kind == "all-gather" else operands


def _described(module: Module, candidates: Sequence[Op], op: Op, computation: dict[str, Op]) -> Op:
    """The operation that says where a collective comes from: itself, its fusion, a user of it, an operand."""
    found = next((c for c in candidates if c.op_name), None)
    if found is not None:
        return found
    by_user = users(computation)
    for neighbours in (lambda o: by_user[o.name], lambda o: [computation[n] for n in o.operands if n in computation]):
        pending, seen = collections.deque([op]), set()
        while pending and len(seen) < 200:
            current = pending.popleft()
            if current.op_name:
                return current
            for other in neighbours(current):
                if other.name not in seen and other.opcode not in ("parameter", "tuple", "while"):
                    seen.add(other.name)
                    pending.append(other)
    return op


def collectives_of(
    module: Module,
    counts: Mapping[str, int],
    layout: Layout,
    phase_of: Callable[[Op], str],
) -> tuple[Collective, ...]:
    """All collectives of the computations in `counts` (how often each runs) and of their fusions."""
    found = []
    aside = {
        c for ops in module.computations.values() for o in ops.values() if o.opcode in ASYNC_CALLS for c in o.calls
    }

    def visit(computation: str, times: int, outer: tuple[tuple[Op, str], ...]) -> None:
        ops = module.computations[computation]
        for op in ops.values():
            if op.opcode == "fusion":
                for called in op.calls:
                    visit(called, times, ((op, computation), *outer))
            if (kind := _kind(op)) is None:
                continue
            if kind == "all-reduce" and outer and "all-reduce-scatter" in computation:
                kind = "reduce-scatter"
            arrays = _arrays(module, op, kind, ops)
            payload = sum(a.bytes for a in arrays)
            if _between_slices(op):
                axes, slices = layout.between()
                size = slices
                payload *= slices if kind == "all-gather" else 1  # a device sends its own part of it
            else:
                groups = replica_groups(op, module.devices)
                axes, slices = layout.within(groups)
                size = len(groups[0])
            ici, dcn = sent_bytes(kind, payload, size, slices)
            top, where = outer[-1] if outer else (op, computation)
            named = _described(module, (op, *(o for o, _ in outer)), top, module.computations[where])
            lines = stack_lines(module, named)
            is_async = (
                op.opcode == "send"
                or op.opcode.endswith("-start")
                or where in aside
                or any(o.target == "AsyncCollectiveStart" for o in ops.values())
            )
            found.append(
                Collective(
                    name=op.name,
                    kind=kind,
                    form="async" if is_async else "sync",
                    dtype="+".join(sorted({a.dtype for a in arrays})),
                    shapes=tuple(f"{a.dtype}[{','.join(map(str, a.dims))}]" for a in arrays),
                    payload_bytes=payload,
                    ici_bytes=ici,
                    dcn_bytes=dcn,
                    group_size=size,
                    axes=axes,
                    slices=slices,
                    executions=times,
                    op_name=named.op_name,
                    source=source(lines),
                    stack=lines,
                    phase=phase_of(named),
                )
            )

    for computation, times in counts.items():
        visit(computation, times, ())
    return tuple(found)
