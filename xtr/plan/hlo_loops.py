"""How often the parts of an HLO module run: trip counts of loops, and from them the executions of each computation."""

import dataclasses
import math

from xtr.plan.hlo_text import Module, Op

_THROUGH = ("copy", "bitcast", "convert", "reshape")


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop.

    Attributes:
      name: of its operation.
      trips: how often its body runs each time; for a loop whose count is not `known`, what was assumed.
      known: whether the program itself says how often: False for a loop that stops by what it computes.
      at_most: the bound that the condition sets beside others; None for none.
      executions: how often the loop is entered.
      op_name: JAX's path.
    """

    name: str
    trips: int
    known: bool
    at_most: int | None
    executions: int
    op_name: str


def _constant(module: Module, computation: str, name: str) -> int | None:
    """The value of an integer constant, also behind copies and conversions."""
    ops = module.computations[computation]
    op = ops[name]
    while op.opcode in _THROUGH:
        op = ops[op.operands[0]]
    if op.opcode == "fusion":
        root = module.root(op.calls[0])
        return _constant(module, op.calls[0], root.name) if root.opcode in ("constant", *_THROUGH) else None
    if op.opcode != "constant" or not op.literal.lstrip("-").isdecimal():
        return None
    return int(op.literal)


def _element(module: Module, computation: str, name: str) -> int | None:
    """Which element of the computation's one parameter a value is; None for something else."""
    ops = module.computations[computation]
    op = ops[name]
    while op.opcode in _THROUGH:
        op = ops[op.operands[0]]
    if op.opcode == "get-tuple-element" and ops[op.operands[0]].opcode == "parameter":
        return int(op.attribute("index"))
    return None


class _While:
    """What is looked up of one loop."""

    def __init__(self, module: Module, computation: str, op: Op):
        self.module, self.computation, self.op = module, computation, op
        self.condition, self.body = (op.attribute(a).lstrip("%") for a in ("condition", "body"))
        self.start = module.computations[computation][op.operands[0]]
        self.result = module.root(self.body)

    def value(self, name: str) -> int | None:
        """The value in the condition, where it is a constant: its own, or one that the loop carries unchanged."""
        ops = self.module.computations[self.condition]
        if (place := _element(self.module, self.condition, name)) is not None:
            carried = self.result.opcode == "tuple" and _element(self.module, self.body, self.result.operands[place])
            return self.first(place) if carried == place else None
        return _constant(self.module, self.condition, name) if name in ops else None

    def first(self, place: int) -> int | None:
        """The value of a carried element at the start."""
        if self.start.opcode != "tuple":
            return None
        return _constant(self.module, self.computation, self.start.operands[place])

    def step(self, place: int) -> int | None:
        """By how much a carried counter grows in one trip."""
        if self.result.opcode != "tuple":
            return None
        where, name, arguments = self.body, self.result.operands[place], None
        ops = self.module.computations[where]
        op = ops[name]
        while op.opcode in _THROUGH:
            op = ops[op.operands[0]]
        if op.opcode == "fusion":
            where, arguments = op.calls[0], op.operands
            ops = self.module.computations[where]
            op = self.module.root(where)
            while op.opcode in _THROUGH:
                op = ops[op.operands[0]]
        if op.opcode != "add":
            return None
        step, counts = None, False
        for operand in op.operands:
            outer, at = operand, where
            if arguments is not None and ops[operand].opcode == "parameter":
                outer, at = arguments[int(ops[operand].literal)], self.body
            value = _constant(self.module, at, outer)
            step = value if value is not None else step
            counts = counts or (at == self.body and _element(self.module, at, outer) == place)
        return step if counts else None

    def comparisons(self) -> tuple[list[tuple[str, str, str]], bool]:
        """(left, direction, right) of the condition's comparisons that must all hold, and whether it is one alone.

        The names are the condition's own, also where the comparison lies in a fusion.
        """
        found, alone, pending = [], True, [(self.condition, self.module.root(self.condition), {})]
        while pending:
            where, op, outer = pending.pop()
            ops = self.module.computations[where]
            names = [outer.get(o, o) for o in op.operands]
            if op.opcode in _THROUGH:
                pending.append((where, ops[op.operands[0]], outer))
            elif op.opcode == "fusion" and where == self.condition:
                inner = op.calls[0]
                parameters = {
                    o.name: op.operands[int(o.literal)]
                    for o in self.module.computations[inner].values()
                    if o.opcode == "parameter"
                }
                pending.append((inner, self.module.root(inner), parameters))
            elif op.opcode == "and":
                alone = False
                pending += [(where, ops[o], outer) for o in op.operands]
            elif op.opcode == "compare":
                constant = [
                    str(_constant(self.module, where, o)) if o not in outer and outer else n
                    for o, n in zip(op.operands, names, strict=True)
                ]
                found.append((constant[0], op.attribute("direction"), constant[1]))
            else:
                alone = False
        return found, alone


def _trips(module: Module, computation: str, op: Op) -> tuple[int | None, bool]:
    """(how often a loop's body runs or at most runs, whether it is exactly so); None where nothing is said."""
    known = op.backend_config.get("known_trip_count", {}).get("n")
    if known is not None:
        return int(known), True
    loop = _While(module, computation, op)
    comparisons, alone = loop.comparisons()
    for left, direction, right in comparisons:
        if direction not in ("LT", "LE", "GT", "GE"):
            continue
        if direction in ("GT", "GE"):
            left, direction, right = right, {"GT": "LT", "GE": "LE"}[direction], left
        if left not in module.computations[loop.condition]:
            continue
        place = _element(module, loop.condition, left)
        limit = (
            int(right)
            if right.lstrip("-").isdecimal()
            else loop.value(right)
            if right in module.computations[loop.condition]
            else None
        )
        if place is None or limit is None:
            continue
        first, step = loop.first(place), loop.step(place)
        if first is None or not step or step < 0:
            continue
        return max(0, math.ceil((limit + (direction == "LE") - first) / step)), alone
    return None, False


def executions(module: Module, assumed_trips: int | None = None) -> tuple[dict[str, int], tuple[Loop, ...]]:
    """How often each computation that is not part of a fusion runs, and the loops.

    A loop whose count the program does not say runs `assumed_trips` times; None: as often as its condition allows at
    most, or once. Both branches of a conditional are taken to run.
    """
    counts: dict[str, int] = {}
    loops: list[Loop] = []

    def visit(computation: str, times: int) -> None:
        counts[computation] = counts.get(computation, 0) + times
        for op in module.computations[computation].values():
            if op.opcode in ("fusion", "async-update", "async-done"):
                continue
            inner = times
            if op.opcode == "while":
                bound, known = _trips(module, computation, op)
                if known:
                    trips = bound
                else:
                    trips = assumed_trips if assumed_trips is not None else bound if bound is not None else 1
                loops.append(Loop(op.name, trips, known, None if known else bound, times, op.op_name))
                inner = times * trips
            for called in op.calls:
                if called in module.computations:
                    visit(called, inner)

    visit(module.entry, 1)
    return counts, tuple(loops)
