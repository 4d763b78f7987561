"""One declarative spec a parameter: shape, logical axes, initialiser and its names in other layouts.

A model's `param_specs(config)` returns a nested dict of `ParamSpec`; initialisation, sharding, optimizer factoring and
every checkpoint layout follow from it. Parameters of a stack of layers carry a leading axis named 'layers'.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtr.errors import UserError

LAYERS = "layers"
Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


@dataclass(frozen=True)
class HuggingFaceLayout:
    """How Hugging Face stores a family, beyond the names in its `ParamSpec`s (which are those of `architecture`).

    Attributes:
      architecture: class whose state dict the specs name, e.g. 'MT5ForConditionalGeneration'.
      config: contents of `config.json`.
      base_prefix: prefix of the base model's arrays, which other classes' checkpoints may lack (or have), e.g.
        'roberta.'.
      aliases: (pattern, replacement) of `re.sub` on the names of older checkpoints, e.g. LayerNorm's gamma.
      left_out: {pattern of `re.fullmatch` on a name: reason} of arrays that checkpoints hold and this network does
        not need, such as copies of a tied embedding.
    """

    architecture: str
    config: Mapping[str, Any]
    base_prefix: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class ParamSpec:
    """What is known of one parameter before it exists.

    Attributes:
      shape: sizes, the layer count first where the parameter is stacked.
      axes: logical axis names, one a dimension: 'layers', 'vocab', 'output_vocab' (of an output kernel),
        'embed', 'joined_kv', 'mlp', 'heads', 'relpos_buckets', 'positions', 'token_types', 'labels'.
      init: (key, shape, dtype) -> array.
      hf: name in a Hugging Face state dict, with '{layer}' where stacked.
      t5x: name in a T5X checkpoint, with '{layer}' where stacked; None for a family that T5X does not have.
      hf_transpose: True where Hugging Face stores the transpose of one layer's matrix.
      dtype: of the stored parameter.
      fresh: a parameter of a head: a checkpoint that lacks it is no fault, it is drawn anew then.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Initializer
    hf: str
    t5x: str | None = None
    hf_transpose: bool = False
    dtype: str = "float32"
    fresh: bool = False

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{self.hf}: shape {self.shape} and axes {self.axes} differ in rank")
        names = (self.hf,) if self.t5x is None else (self.hf, self.t5x)
        if any(("{layer}" in name) != self.stacked for name in names) or LAYERS in self.axes[1:]:
            raise ValueError(
                f"{self.hf}: stacked parameters, and they alone, have '{{layer}}' in their names, 'layers' first"
            )

    @property
    def stacked(self) -> bool:
        """Whether the first axis counts layers."""
        return self.axes[:1] == (LAYERS,)

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one layer's array (the whole shape where not stacked)."""
        return self.shape[1:] if self.stacked else self.shape


def largest_axes(spec: ParamSpec) -> tuple[int, int] | None:
    """(second-largest, largest) axis of one layer's array, which Adafactor factors; None below rank 2.

    Among equal sizes the later axis is the larger one.
    """
    order = sorted(range(int(spec.stacked), len(spec.shape)), key=lambda axis: (spec.shape[axis], axis))
    return (order[-2], order[-1]) if len(order) > 1 else None


@functools.cache
def variance_scaling(mode: str, distribution: str, *, stacked: bool = False, divide: float = 1.0) -> Initializer:
    """Variance-scaling initialiser of scale 1 over the last two axes, divided by `divide`.

    The layer axis takes no part in the fan. Cached, so that the specs of equal configs are equal.
    """
    base = jax.nn.initializers.variance_scaling(1.0, mode, distribution, batch_axis=(0,) if stacked else ())
    return base if divide == 1.0 else lambda key, shape, dtype: base(key, shape, dtype) / jnp.asarray(divide, dtype)


normal = jax.nn.initializers.normal(1.0)
normal_02 = jax.nn.initializers.normal(0.02)  # of BERT and its kin
ones = jax.nn.initializers.ones
zeros = jax.nn.initializers.zeros


def is_spec(x: Any) -> bool:
    """Whether `x` is a leaf of a spec tree."""
    return isinstance(x, ParamSpec)


def map_specs(f: Callable[..., Any], specs: Any, *rest: Any) -> Any:
    """Maps `f(spec, *leaves)` over a nested dict of specs and any trees of the same structure."""
    return jax.tree.map(f, specs, *rest, is_leaf=is_spec)


def stored_as(dtype: str, specs: Any) -> Any:
    """The specs of parameters that are kept in that dtype: 'float32' or 'bfloat16'. UserError for another."""
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"PARAMS_DTYPE is {dtype!r}; parameters are kept as 'float32' or 'bfloat16'.")
    return map_specs(lambda spec: dataclasses.replace(spec, dtype=dtype), specs)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested dict to {'a/b/c': leaf}, in sorted order of the paths' parts (the order of `jax.tree`)."""
    flat: dict[str, Any] = {}
    for name in sorted(tree):
        value = tree[name]
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def path_number(path: str) -> int:
    """32 bits that stand for a parameter's path, for random keys: the same in every process and version."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")


def init_params(specs: Any, key: jax.Array) -> Any:
    """Draws every parameter, each with a key of its own path, so that adding one changes no other. Jit-able."""

    def draw(path: str, spec: ParamSpec) -> jax.Array:
        return spec.init(jax.random.fold_in(key, path_number(path)), spec.shape, jnp.dtype(spec.dtype))

    return unflatten({path: draw(path, spec) for path, spec in flatten(specs).items()})


def abstract(specs: Any) -> Any:
    """The parameters as `jax.ShapeDtypeStruct`s."""
    return map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(s.dtype)), specs)


def count(specs: Any) -> int:
    """Number of parameters (scalars)."""
    return sum(math.prod(s.shape) for s in flatten(specs).values())


def layer_names(spec: ParamSpec, layout: str) -> list[str]:
    """The names of a parameter's arrays in a layout, 't5x' or 'hf': one a layer where stacked."""
    name = getattr(spec, layout)
    return [name] if not spec.stacked else [name.replace("{layer}", str(i)) for i in range(spec.shape[0])]


def stored_shape(spec: ParamSpec, layout: str) -> tuple[int, ...]:
    """Shape of one layer's array in a layout."""
    return spec.layer_shape[::-1] if layout == "hf" and spec.hf_transpose else spec.layer_shape


def to_layers(specs: Any, params: Any, layout: str = "t5x") -> dict[str, Any]:
    """Unstacks to the layout of T5X ('t5x') or of Hugging Face ('hf'): {name: one layer's array}."""
    arrays = flatten(params)
    out: dict[str, Any] = {}
    for path, spec in flatten(specs).items():
        layers = arrays[path] if spec.stacked else [arrays[path]]
        if layout == "hf" and spec.hf_transpose:
            layers = [array.T for array in layers]
        out |= dict(zip(layer_names(spec, layout), layers, strict=True))
    return out


def from_layers(specs: Any, arrays: Mapping[str, Any], layout: str = "t5x") -> Any:
    """Stacks {name: one layer's array} of a layout to the nested parameters (NumPy stays NumPy).

    Raises:
      UserError: naming every array that is missing, not expected, or of another shape.
    """
    flat = flatten(specs)
    expected = {name: stored_shape(spec, layout) for spec in flat.values() for name in layer_names(spec, layout)}
    faults = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in arrays]
    faults += [f"not expected: {name} {tuple(np.shape(a))}" for name, a in arrays.items() if name not in expected]
    faults += [
        f"shape of {name}: {tuple(np.shape(arrays[name]))}, not {shape}"
        for name, shape in expected.items()
        if name in arrays and tuple(np.shape(arrays[name])) != shape
    ]
    if faults:
        raise UserError("These arrays do not fit the model:\n  " + "\n  ".join(faults))

    def gather(spec: ParamSpec) -> Any:
        layers = [arrays[name] for name in layer_names(spec, layout)]
        if layout == "hf" and spec.hf_transpose:
            layers = [array.T for array in layers]
        if not spec.stacked:
            return layers[0]
        return np.stack(layers) if all(isinstance(a, np.ndarray) for a in layers) else jnp.stack(layers)

    return map_specs(gather, specs)
