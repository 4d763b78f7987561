"""Parameters for a new run, from whatever kind of checkpoint a path turns out to be."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import SingleDeviceSharding

from xtr.checkpoints import t5x_legacy
from xtr.checkpoints.manager import committed_steps, compare, is_step_directory, named_leaves, read_arrays, read_index
from xtr.errors import UserError
from xtr.models.spec import ParamSpec, abstract, flatten, layer_names, map_specs, unflatten

XTR, T5X = "xtr", "t5x"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where parameters come from.

    Attributes:
      kind: 'xtr' or 't5x'.
      path: the folder of the very checkpoint (a run directory is resolved to its newest one).
      step: the optimizer steps the checkpoint has behind it.
      has_slots: whether it brings second moments that a new run goes on with: a T5X checkpoint after its first step. A
        new run that starts from another xtr run starts its optimizer afresh.
    """

    kind: str
    path: str
    step: int
    has_slots: bool


def _resolve(path: str) -> tuple[str, str]:
    """(kind, folder of one checkpoint)."""
    if "://" not in path:
        path = os.path.abspath(path)  # Orbax and TensorStore take no relative paths
    root = epath.Path(path)
    if is_step_directory(root):
        return XTR, path
    if t5x_legacy.is_t5x(root):
        return T5X, path
    for folder in (root / "checkpoints", root):
        if steps := committed_steps(folder):
            return XTR, str(folder / str(steps[-1]))
    looked_for = (
        "  an xtr run (checkpoints/<step>/), one of its checkpoints (<step>/index/arrays.json),\n"
        "  or a T5X checkpoint (a folder with a file 'checkpoint')."
    )
    if not root.exists():
        raise UserError(f"There is nothing at {path}. Looked for\n{looked_for}")
    inside = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else []
    hint = f" It holds: {', '.join(inside)}." if inside else ""
    raise UserError(f"{path} is no checkpoint that xtr knows.{hint} Looked for\n{looked_for}")


def inspect(path: str | os.PathLike) -> Origin:
    """What kind of checkpoint a path is; reads no arrays.

    Args:
      path: an xtr run directory or its `checkpoints` folder (the newest step is taken), one of its steps, or a T5X
        checkpoint (`checkpoint_<step>`, legacy version 3).

    Raises:
      UserError: nothing is there, or nothing that is known; says what was looked for.
    """
    kind, folder = _resolve(os.fspath(path))
    if kind == T5X:
        step = t5x_legacy.open_checkpoint(folder).step
        return Origin(kind, folder, step, has_slots=step > 0)
    return Origin(kind, folder, int(epath.Path(folder).name), has_slots=False)


def _shardings(specs: Any, shardings: Any) -> Any:
    default = SingleDeviceSharding(jax.local_devices()[0])
    return map_specs(lambda _: default, specs) if shardings is None else shardings


def _place(array: np.ndarray, dtype: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    array = np.asarray(array, dtype)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _stack(folder: str, spec: ParamSpec, of_layer: Callable[[str], t5x_legacy.StoredArray]) -> np.ndarray:
    arrays = t5x_legacy.read(folder, [of_layer(name) for name in layer_names(spec, "t5x")])
    return np.stack(arrays) if spec.stacked else arrays[0]


def _load_t5x(folder: str, specs: Any, shardings: Any) -> Any:
    checkpoint = t5x_legacy.open_checkpoint(folder)
    expected = {name: spec.layer_shape for spec in flatten(specs).values() for name in layer_names(spec, "t5x")}
    compare(expected, {name: array.shape for name, array in checkpoint.target.items()}, f"The T5X checkpoint {folder}")
    # One parameter at a time: the host never holds more than one of them besides what is placed already.
    return map_specs(
        lambda spec, sharding: _place(_stack(folder, spec, checkpoint.target.__getitem__), spec.dtype, sharding),
        specs,
        shardings,
    )


def load_params(path: str | os.PathLike, specs: Any, shardings: Any = None) -> tuple[Any, Origin]:
    """Parameters of a checkpoint of any known kind, stacked by layer.

    Args:
      path: as for `inspect`.
      specs: the model's nested dict of `ParamSpec`.
      shardings: nested dict of shardings; None puts everything on the first device.

    Raises:
      UserError: nothing known is there; or arrays are missing, not expected, misshapen (one error names all) or
      damaged.
    """
    origin = inspect(path)
    shardings = _shardings(specs, shardings)
    if origin.kind == T5X:
        return _load_t5x(origin.path, specs, shardings), origin
    wanted = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract(specs), shardings
    )
    named = named_leaves({"params": wanted})
    index, _ = read_index(origin.path)
    compare(
        {name: x.shape for name, x in named.items()},
        {name: tuple(entry["shape"]) for name, entry in index.items() if name.startswith("params/")},
        f"The checkpoint {origin.path}",
    )
    arrays = read_arrays(origin.path, named)
    return unflatten({name.removeprefix("params/"): array for name, array in arrays.items()}), origin


def load_slots(path: str | os.PathLike, specs: Any) -> Any:
    """Adafactor's second moments of a T5X checkpoint as a nested dict of NumPy arrays, stacked by layer.

    At each parameter's place {'v'} or {'v_row', 'v_col'}, whichever the checkpoint uses.

    Raises:
      UserError: `path` is not a T5X checkpoint, or the layers of a parameter differ in their slots.
    """
    origin = inspect(path)
    if origin.kind != T5X:
        raise UserError(f"{path} is not a T5X checkpoint; only those bring second moments.")
    checkpoint = t5x_legacy.open_checkpoint(origin.path)

    def slots(spec: ParamSpec) -> dict[str, np.ndarray]:
        names = layer_names(spec, "t5x")
        kinds = {tuple(sorted(checkpoint.slots.get(name, {}))) for name in names}
        if kinds not in ({("v",)}, {("v_col", "v_row")}):
            raise UserError(
                f"The T5X checkpoint {origin.path} has no usable Adafactor slots for {spec.t5x}: {sorted(kinds)}."
            )
        return {
            slot: _stack(origin.path, spec, lambda name, slot=slot: checkpoint.slots[name][slot])
            for slot in kinds.pop()
        }

    return map_specs(slots, specs)


def initial_state(path: str | os.PathLike, specs: Any, state: Any) -> Any:
    """A train state (dataclass with `params` and `opt_state`) whose parameters are those of a checkpoint, placed as
    they were.

    Where the checkpoint brings second moments (see `Origin.has_slots`), `opt_state` is theirs too; the caller then sets
    Adafactor's step_offset to minus the origin's step, so that they go on decaying as slowly as they did. `state.step`
    stays.

    Raises:
      UserError: as `load_params`; or second moments that do not fit `state.opt_state`.
    """
    params, origin = load_params(path, specs, jax.tree.map(lambda x: x.sharding, state.params))
    state = dataclasses.replace(state, params=params)
    if not origin.has_slots:
        return state
    slots, wanted = named_leaves(load_slots(origin.path, specs)), named_leaves(state.opt_state)
    compare(
        {name: x.shape for name, x in wanted.items()},
        {name: x.shape for name, x in slots.items()},
        f"Adafactor's state in {origin.path}",
    )
    placed = {name: _place(slots[name], x.dtype, x.sharding) for name, x in wanted.items()}
    return dataclasses.replace(state, opt_state=unflatten(placed))
