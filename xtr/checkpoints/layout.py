"""Where a parameter lies in a checkpoint: which stored arrays, and how their axes run.

xtr            one array a parameter, as it is
t5x            one array a layer, as it is
t5x, scanned   one array a stack: the layers on its second axis, joined_kv split into (heads, kv)
hf             one array a layer, matrices transposed where the spec says so
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from xtr.checkpoints import source
from xtr.checkpoints.source import Index, Source
from xtr.errors import UserError
from xtr.models.spec import ParamSpec, flatten, largest_axes, layer_names, stored_shape

SCAN_AXIS = 1  # of the layers in T5X's scanned arrays


@dataclasses.dataclass(frozen=True)
class Part:
    """One stored array and what it holds of a parameter.

    Attributes:
      name: of the stored array.
      shape: of the stored array, as it is expected.
      axes: for each axis of the parameter the stored axes that make it up, the first one the slowest. An empty tuple
        stands for the layers axis where the array holds one layer.
      layer: which layer, or None where the array holds all of the parameter.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    layer: int | None = None

    def stored_index(self, index: Index) -> Index:
        """The slice of the stored array that covers a slice of the parameter, given without its layers axis where
        `layer` is set. A cut through a joined axis takes whole places of the axes before its last one."""
        out: list[slice] = [slice(0, 0)] * len(self.shape)
        for want, axes in zip(index, self.held_axes(), strict=True):
            inner = math.prod(self.shape[a] for a in axes[1:])
            out[axes[0]] = slice(want.start // inner, -(-want.stop // inner))
            for axis in axes[1:]:
                out[axis] = slice(0, self.shape[axis])
        return tuple(out)

    def held_axes(self) -> tuple[tuple[int, ...], ...]:
        """`axes`, without that of the layers where `layer` is set."""
        return self.axes if self.layer is None else self.axes[1:]

    def covers_exactly(self, index: Index) -> bool:
        """Whether `stored_index` takes no more than was asked for: no joined axis is cut inside a place."""
        inner = (math.prod(self.shape[a] for a in axes[1:]) for axes in self.held_axes())
        return all(want.start % n == want.stop % n == 0 for want, n in zip(index, inner, strict=True))

    def cut(self, block: np.ndarray, covered: Index, index: Index) -> np.ndarray:
        """A slice of the parameter out of a block that holds the slice `covered` of the stored array."""
        starts = [
            want.start - covered[axes[0]].start * math.prod(self.shape[a] for a in axes[1:])
            for want, axes in zip(index, self.held_axes(), strict=True)
        ]
        arranged = arrange(block, self.held_axes())
        return arranged[tuple(slice(s, s + w.stop - w.start) for s, w in zip(starts, index, strict=True))]


def arrange(block: Any, axes: tuple[tuple[int, ...], ...]) -> Any:
    """A block of a stored array with its axes in the parameter's order, and joined. NumPy stays NumPy."""
    order = tuple(itertools.chain.from_iterable(axes))
    moved = block if order == tuple(range(len(order))) else block.transpose(order)
    if len(axes) == len(order):
        return moved
    return moved.reshape([math.prod(block.shape[a] for a in joined) for joined in axes])


def disarrange(array: np.ndarray, axes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `arrange` for the whole of a stored array, whose shape is `shape`."""
    order = tuple(itertools.chain.from_iterable(axes))
    return array.reshape([shape[a] for a in order]).transpose(np.argsort(order)) if order else array


def _identity(rank: int, layered: bool) -> tuple[tuple[int, ...], ...]:
    return ((),) * layered + tuple((axis,) for axis in range(rank))


def parts(checkpoint: Source, specs: Any) -> dict[str, list[Part]]:
    """{parameter's path: where it lies}, for every parameter that the checkpoint's kind has a name for.

    Raises:
      UserError: T5X has no such network.
    """
    flat = flatten(specs)
    if checkpoint.kind == source.XTR:
        return {
            path: [Part(f"params/{path}", spec.shape, _identity(len(spec.shape), False))] for path, spec in flat.items()
        }
    if checkpoint.kind == source.HUGGING_FACE:
        return {path: _by_layer(spec, "hf") for path, spec in flat.items()}
    nameless = [path for path, spec in flat.items() if spec.t5x is None and not spec.fresh]
    if nameless:
        raise UserError(
            f"{checkpoint.what} cannot be read by this model: T5X has no such network (no name for {nameless[0]}). "
            "Use a Hugging Face checkpoint, or the model that this one was made with."
        )
    named = {path: spec for path, spec in flat.items() if spec.t5x is not None}
    if not checkpoint.scanned:
        return {path: _by_layer(spec, "t5x") for path, spec in named.items()}
    return {path: [_scanned(spec, heads_of(specs))] for path, spec in named.items()}


def _by_layer(spec: ParamSpec, layout: str) -> list[Part]:
    shape = stored_shape(spec, layout)
    axes = _identity(len(shape), spec.stacked)
    if layout == "hf" and spec.hf_transpose:
        axes = axes[: spec.stacked] + axes[spec.stacked :][::-1]
    names = layer_names(spec, layout)
    return [Part(name, shape, axes, i if spec.stacked else None) for i, name in enumerate(names)]


def _scanned(spec: ParamSpec, heads: int) -> Part:
    """`encoder.layers_{layer}.mlp.wi_0.kernel` becomes `encoder.encoder.mlp.wi_0.kernel`."""
    if not spec.stacked:
        return Part(spec.t5x, spec.shape, _identity(len(spec.shape), False))
    stack = spec.t5x.partition(".")[0]
    name = spec.t5x.replace(".layers_{layer}.", f".{stack}.")
    sizes: list[int] = []
    groups: list[range] = []
    for size, axis in zip(spec.shape[1:], spec.axes[1:], strict=True):
        pieces = [heads, size // heads] if axis == "joined_kv" else [size]
        groups.append(range(len(sizes), len(sizes) + len(pieces)))
        sizes += pieces
    sizes.insert(SCAN_AXIS, spec.shape[0])
    moved = (tuple(a + (a >= SCAN_AXIS) for a in group) for group in groups)
    return Part(name, tuple(sizes), ((SCAN_AXIS,), *moved))


# ---------------------------------------------------------------------------------------------------- second moments


def slot_parts(checkpoint: Source, spec: ParamSpec, path: str, slot: str, heads: int) -> list[Part]:
    """Where one of a parameter's second moments lies in a checkpoint of T5X or xtr.

    Part.name is 'parameter's name/slot's name'. T5X's unscanned layout keeps what ours keeps. The scanned one factors
    by axis names (T5X's logical factor rules: 'embed' is the row, everything else the column), so that its v_row always
    runs along 'embed', where ours runs along the smaller dimension. Rows and columns play symmetric parts in Adafactor,
    so the moments are taken by the axis that they run along.
    """
    kept, of_slot = _kept_axes(spec, slot), slot_spec(spec, slot)
    shape, axes = of_slot.shape, of_slot.axes
    if checkpoint.kind == source.XTR:
        return [Part(f"{path}/{slot}", shape, _identity(len(shape), False))]
    if not checkpoint.scanned:
        layered = spec.stacked
        return [
            Part(f"{name}/{slot}", shape[layered:], _identity(len(shape) - layered, layered), i if layered else None)
            for i, name in enumerate(layer_names(spec, "t5x"))
        ]
    if not spec.stacked:
        return [Part(f"{spec.t5x}/{slot}", shape, _identity(len(shape), False))]
    # What is left of the scanned array without the axes that were averaged.
    scanned = _scanned(spec, heads)
    left = sorted(a for axis in kept for a in scanned.axes[axis])
    places = tuple(tuple(left.index(a) for a in scanned.axes[axis]) for axis in kept)
    stored = slot if slot == "v" else "v_row" if axes[-1] == "embed" else "v_col"
    return [Part(f"{scanned.name}/{stored}", tuple(scanned.shape[a] for a in left), places)]


def _kept_axes(spec: ParamSpec, slot: str) -> list[int]:
    """The axes of a parameter that a slot has: v_row lacks the largest dimension, v_col the second-largest."""
    every = list(range(len(spec.shape)))
    if slot == "v":
        return every
    second, largest = largest_axes(spec)
    every.remove(largest if slot == "v_row" else second)
    return every


def slot_spec(spec: ParamSpec, slot: str) -> ParamSpec:
    """A second moment as if it were a parameter."""
    shape, axes = (tuple(x[a] for a in _kept_axes(spec, slot)) for x in (spec.shape, spec.axes))
    return dataclasses.replace(spec, shape=shape, axes=axes, hf_transpose=False, dtype="float32")


def stored_slots(checkpoint: Source) -> dict[str, source.StoredArray]:
    """{'parameter's name/slot's name': array} of all second moments, named as in `slot_parts`."""
    return {f"{name}/{slot}": a for name, some in checkpoint.slots.items() for slot, a in some.items()}


def heads_of(specs: Any) -> int:
    """Number of attention heads, as the relative position bias tells; 1 where there is none."""
    sizes = (n for s in flatten(specs).values() for axis, n in zip(s.axes, s.shape, strict=True) if axis == "heads")
    return next(sizes, 1)


def expected(places: Mapping[str, list[Part]]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all stored arrays."""
    return {part.name: part.shape for some in places.values() for part in some}
