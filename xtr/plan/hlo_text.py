"""Reads the text of an optimised HLO module: computations, operations, shapes, source lines.

The grammar is XLA's own print-out (`compiled.as_text()`) of its TPU, GPU and CPU compilers; what is not needed to count
work, memory and communication is skipped.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Sequence

ASYNC_CALLS = ("async-start", "call-start")  # they start a computation beside this one, the latter on a SparseCore

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      dtype: XLA's name: 'bf16', 'f32', 's32', 'pred'.
      dims: sizes.
      order: dimensions from the minor-most to the major-most; empty where the text has no layout.
      tile: the layout's first tile, which pads the minor-most dimensions: (8, 128).
      space: memory space: 0 is the device's main memory (HBM), 1 a TPU's VMEM, others scalars, flags and the host.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def bits(self) -> int:
        """Bits of an element."""
        if self.dtype in _BITS:
            return _BITS[self.dtype]
        digits = re.match(r"[a-z]+(\d+)", self.dtype)
        return int(digits[1]) if digits else 8

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of the elements, without padding."""
        return math.ceil(self.size * self.bits / 8)

    @property
    def padded_bytes(self) -> int:
        """Bytes in memory, the tile's padding included."""
        dims = [self.dims[i] for i in self.order][::-1] if self.order else list(self.dims)
        tile = self.tile[-len(dims) :] if dims else ()
        for place, size in zip(range(len(dims) - len(tile), len(dims)), tile, strict=True):
            dims[place] = -(-dims[place] // size) * size
        return math.ceil(math.prod(dims) * self.bits / 8)


_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([0-9,]*)((?::[^{}]*)?)\})?")


@functools.lru_cache(maxsize=65536)
def parse_shape(text: str) -> tuple[Array, ...]:
    """The arrays of a shape's text, in order; a tuple's, nested or not, one after another."""
    arrays = []
    for dtype, dims, order, layout in _ARRAY.findall(text):
        tile = re.search(r"T\(([0-9,]+)\)", layout)
        space = re.search(r"S\((\d+)\)", layout)
        arrays.append(
            Array(
                dtype,
                tuple(int(d.removeprefix("<=")) for d in dims.split(",") if d),
                tuple(int(d) for d in order.split(",") if d),
                tuple(map(int, tile[1].split(","))) if tile else (),
                int(space[1]) if space else 0,
            )
        )
    return tuple(arrays)


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation: `%name = shape opcode(operands), attributes`.

    Attributes:
      operands: names of its operands.
      literal: the text between its brackets, which is a constant's value and a parameter's number.
      attributes: the rest of the line.
      root: whether it is its computation's result.
    """

    name: str
    shape: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @functools.cached_property
    def op_name(self) -> str:
        """JAX's path to what it came from: 'jit(train_step)/jvp()/while/body/closed_call/dot_general'."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""

    @functools.cached_property
    def frame(self) -> int:
        """Its place in `Module.frames`; 0 for none."""
        found = re.search(r"stack_frame_id=(\d+)", self.attributes)
        return int(found[1]) if found else 0

    def attribute(self, name: str) -> str:
        """The value of an attribute that is a name, a number or in braces or brackets; '' where it is absent."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if not found:
            return ""
        rest = self.attributes[found.end() :]
        if rest[:1] in "{[(":
            return rest[: _closing(rest, 0) + 1]
        return re.match(r"[^, ]*", rest)[0]

    @functools.cached_property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations that it calls: a fusion's, a loop's body, a conditional's branches; neither a
        loop's condition nor the scalar function of a reduction."""
        names = [self.attribute(a) for a in ("calls", "body", "true_computation", "false_computation")]
        names += self.attribute("branch_computations").strip("{}").split(",")
        if self.opcode == "call" or self.opcode in ASYNC_CALLS:
            names.append(self.attribute("to_apply") or self.attribute("called_computations").strip("{}"))
        return tuple(n.strip().lstrip("%") for n in names if n.strip())

    @functools.cached_property
    def backend_config(self) -> dict:
        """The backend's own notes, from JSON; empty where there are none or they are not JSON."""
        found = re.search(r"backend_config=(?=[{\"])", self.attributes)
        if not found:
            return {}
        try:
            value, _ = json.JSONDecoder().raw_decode(self.attributes, found.end())
            value = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def target(self) -> str:
        """A custom call's target."""
        return self.attribute("custom_call_target").strip('"')


@dataclasses.dataclass(frozen=True)
class Frame:
    """A line of source, and the frame that called it (0: none)."""

    file: str
    line: int
    function: str
    parent: int


@dataclasses.dataclass(frozen=True)
class Module:
    """A module's computations, each a dict of its operations in order.

    Attributes:
      entry: name of the computation that runs.
      devices: replicas x partitions, the number of devices that run it.
      frames: source lines by number.
    """

    computations: dict[str, dict[str, Op]]
    entry: str
    devices: int
    frames: dict[int, Frame]

    def root(self, computation: str) -> Op:
        """The operation whose value is the computation's."""
        return next(op for op in self.computations[computation].values() if op.root)

    def stack(self, op: Op) -> tuple[Frame, ...]:
        """The source lines that an operation comes from, the innermost first."""
        found = re.search(r'source_file="([^"]*)" source_line=(\d+)', op.attributes)
        if found:
            return (Frame(found[1], int(found[2]), "", 0),)
        frames, number = [], op.frame
        while number in self.frames:
            frames.append(self.frames[number])
            number = self.frames[number].parent
        return tuple(frames)


_OPENING, _CLOSES = "([{", {"(": ")", "[": "]", "{": "}"}
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[()\[\]{}]')


def _closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`. Strings are skipped."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        if found[0] in _OPENING:
            depth += 1
        elif not found[0].startswith('"'):
            depth -= 1
            if not depth:
                return found.start()
    raise ValueError(f"HLO: no closing bracket in {text[start : start + 80]!r}")


_HEAD = re.compile(r"\s*(ROOT )?%?([^\s=]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([^\s(]+) (?:\(.*\) -> .*)?\{")
_OPERAND = re.compile(r"%([^\s,()]+)")


def _parse_op(line: str) -> Op | None:
    head = _HEAD.match(line)
    if not head:
        return None
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    opening = line.index("(", end)
    closing = _closing(line, opening)
    inside = line[opening + 1 : closing]
    return Op(
        name=head[2],
        shape=parse_shape(line[start:end]),
        opcode=line[end:opening].strip(),
        operands=tuple(_OPERAND.findall(inside)),
        literal=inside,
        attributes=line[closing + 1 :].lstrip(", "),
        root=bool(head[1]),
    )


def _numbers(line: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}


def _frames(tables: dict[str, dict[int, str]]) -> dict[int, Frame]:
    files, functions, places = (tables.get(t, {}) for t in ("FileNames", "FunctionNames", "FileLocations"))
    frames = {}
    for number, line in tables.get("StackFrames", {}).items():
        entry = _numbers(line)
        place = _numbers(places[entry["file_location_id"]])
        frames[number] = Frame(
            file=files[place["file_name_id"]].strip('"'),
            line=place["line"],
            function=functions[place["function_name_id"]].strip('"'),
            # Printed one too high: a frame without a caller has 1, and no frame calls itself.
            parent=entry.get("parent_frame_id", 1) - 1,
        )
    return frames


def parse(text: str) -> Module:
    """Reads a module's text. ValueError where it is none."""
    computations: dict[str, dict[str, Op]] = {}
    tables: dict[str, dict[int, str]] = {}
    entry, current, table = "", None, None
    lines = iter(text.splitlines())
    header = next(lines, "")
    if not header.startswith("HloModule"):
        raise ValueError("This is no HLO module: its text does not begin with 'HloModule'.")
    for line in lines:
        if current is not None:
            if line.startswith("}"):
                current = None
            elif (op := _parse_op(line)) is not None:
                current[op.name] = op
            continue
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = tables.setdefault(line, {})
        elif table is not None and line[:1].isdigit():
            number, _, rest = line.partition(" ")
            table[int(number)] = rest
        elif found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
    devices = math.prod(int(n) for n in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header))
    return Module(computations, entry, devices, _frames(tables))


def users(computation: dict[str, Op]) -> dict[str, list[Op]]:
    """Who uses each operation's value, in order."""
    found: dict[str, list[Op]] = {name: [] for name in computation}
    for op in computation.values():
        for operand in dict.fromkeys(op.operands):
            found.setdefault(operand, []).append(op)
    return found


def stack_lines(module: Module, op: Op) -> tuple[str, ...]:
    """The lines that an operation comes from, the innermost first: 'xtr/models/layers.py:172'. A loop's own frames,
    which come again, are left out."""
    lines = []
    for frame in module.stack(op):
        line = f"{_short(frame.file)}:{frame.line}"
        if line in lines:
            break
        lines.append(line)
    return tuple(lines)


def source(lines: Sequence[str]) -> str:
    """The line to name of a stack: the innermost that does not merely state a sharding; '' of an empty stack."""
    return next((line for line in lines if "/parallel/sharding.py:" not in line), lines[0] if lines else "")


def _short(file: str) -> str:
    """A file's path from the package on."""
    place = file.rfind("/xtr/")
    return file[place + 1 :] if place >= 0 else file.rsplit("/", 1)[-1]
