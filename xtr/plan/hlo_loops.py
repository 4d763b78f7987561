"""How often the parts of an HLO module run: trip counts of loops, and from them the executions of each computation."""

import dataclasses
import math
from collections.abc import Iterator

from xtr.plan.hlo_text import Module, Op

_THROUGH = ("copy", "bitcast", "convert", "reshape")


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop.

    Attributes:
      name: of its operation.
      trips: how often its body runs each time; for a loop whose count is not `known`, what was assumed.
      known: whether the program itself says how often: False for a loop that stops by what it computes.
      at_most: the bound that the condition of such a loop sets beside others; None for none.
      executions: how often the loop is entered.
      op_name: JAX's path.
    """

    name: str
    trips: int
    known: bool
    at_most: int | None
    executions: int
    op_name: str


@dataclasses.dataclass(frozen=True)
class _Scope:
    """A computation; of a fusion's also the fusion and where that stands."""

    computation: str
    caller: Op | None = None
    outer: "_Scope | None" = None


class _Reader:
    """Follows values of a module to where they are made."""

    def __init__(self, module: Module):
        self.module = module

    def origin(self, scope: _Scope, name: str) -> tuple[Op, _Scope]:
        """The operation that makes a value: behind copies, into and out of fusions and tuples."""
        while True:
            op = self.module.computations[scope.computation][name]
            if op.opcode in _THROUGH:
                name = op.operands[0]
            elif op.opcode == "fusion":
                scope = _Scope(op.calls[0], op, scope)
                name = self.module.root(scope.computation).name
            elif op.opcode == "parameter" and scope.caller is not None:
                name, scope = scope.caller.operands[int(op.literal)], scope.outer
            elif op.opcode == "get-tuple-element":
                source, where = self.origin(scope, op.operands[0])
                if source.opcode != "tuple":
                    return op, scope
                name, scope = source.operands[int(op.attribute("index"))], where
            else:
                return op, scope

    def constant(self, scope: _Scope, name: str) -> int | None:
        """The value of an integer constant; None for what is none."""
        op, _ = self.origin(scope, name)
        return int(op.literal) if op.opcode == "constant" and op.literal.lstrip("-").isdecimal() else None

    def element(self, scope: _Scope, name: str) -> int | None:
        """Which element of the computation's own parameter, a tuple, a value is; None for something else."""
        op, where = self.origin(scope, name)
        if op.opcode != "get-tuple-element" or self.origin(where, op.operands[0])[0].opcode != "parameter":
            return None
        return int(op.attribute("index"))


class _While(_Reader):
    """One loop: what it carries, at the start and from trip to trip, and when it goes on."""

    def __init__(self, module: Module, computation: str, op: Op):
        super().__init__(module)
        self.condition, self.body = (_Scope(op.attribute(a).lstrip("%")) for a in ("condition", "body"))
        self.start = self.origin(_Scope(computation), op.operands[0])
        self.result = self.origin(self.body, module.root(self.body.computation).name)

    def first(self, place: int) -> int | None:
        """The value of a carried element at the start, where it is a constant."""
        op, scope = self.start
        return self.constant(scope, op.operands[place]) if op.opcode == "tuple" else None

    def step(self, place: int) -> int | None:
        """By how much a carried element grows in one trip: 0 where it stays; None where that is not a constant."""
        op, scope = self.result
        if op.opcode != "tuple":
            return None
        name = op.operands[place]
        if self.element(scope, name) == place:
            return 0
        op, scope = self.origin(scope, name)
        if op.opcode != "add":
            return None
        steps = [self.constant(scope, operand) for operand in op.operands]
        counts = [self.element(scope, operand) == place for operand in op.operands]
        return next((s for s, other in zip(steps, counts[::-1], strict=True) if s is not None and other), None)

    def comparisons(self) -> Iterator[tuple[Op, _Scope, bool]]:
        """The comparisons that must all hold for the loop to go on, each with whether it is the whole condition."""
        pending, alone = [self.origin(self.condition, self.module.root(self.condition.computation).name)], True
        while pending:
            op, scope = pending.pop()
            if op.opcode == "compare":
                yield op, scope, alone
            elif op.opcode == "and":
                alone = False
                pending += [self.origin(scope, operand) for operand in op.operands]

    def trips(self) -> tuple[int | None, bool]:
        """(how often the body runs, or runs at most; whether it is exactly so). (None, False) where nothing is said."""
        for op, scope, alone in self.comparisons():
            (counter, limit), direction = op.operands, op.attribute("direction")
            if direction in ("GT", "GE"):
                counter, limit, direction = limit, counter, {"GT": "LT", "GE": "LE"}[direction]
            place, last = self.element(scope, counter), self.constant(scope, limit)
            carried = self.element(scope, limit)
            if last is None and carried is not None and self.step(carried) == 0:
                last = self.first(carried)
            if place is None or last is None or direction not in ("LT", "LE"):
                continue
            first, step = self.first(place), self.step(place)
            if first is not None and step is not None and step > 0:
                return max(0, math.ceil((last + (direction == "LE") - first) / step)), alone
        return None, False


def executions(module: Module, assumed_trips: int | None = None) -> tuple[dict[str, int], tuple[Loop, ...]]:
    """How often each computation that is not part of a fusion runs, and the loops.

    A loop whose count the program does not say runs `assumed_trips` times; None: as often as its condition allows at
    most, or once. All branches of a conditional are taken to run.
    """
    counts: dict[str, int] = {}
    loops: list[Loop] = []

    def trips_of(computation: str, op: Op) -> tuple[int, bool, int | None]:
        said = op.backend_config.get("known_trip_count", {}).get("n")
        count, known = (int(said), True) if said is not None else _While(module, computation, op).trips()
        if known:
            return count, True, None
        return assumed_trips if assumed_trips is not None else count if count is not None else 1, False, count

    def visit(computation: str, times: int) -> None:
        counts[computation] = counts.get(computation, 0) + times
        for op in module.computations[computation].values():
            if op.opcode in ("fusion", "async-update", "async-done"):
                continue
            inner = times
            if op.opcode == "while":
                trips, known, bound = trips_of(computation, op)
                loops.append(Loop(op.name, trips, known, bound, times, op.op_name))
                inner *= trips
            for called in op.calls:
                if called in module.computations:
                    visit(called, inner)

    visit(module.entry, 1)
    return counts, tuple(loops)
