"""Parameters for a new run, from whatever kind of checkpoint a path turns out to be."""

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from xtr import storage
from xtr.checkpoints import huggingface, index, layout, manager, t5x
from xtr.checkpoints.fill import Target, fill
from xtr.checkpoints.source import HUGGING_FACE, T5X, XTR, Source
from xtr.errors import UserError
from xtr.models.interface import ModelConfig
from xtr.models.spec import ParamSpec, flatten, init_params, map_specs, unflatten
from xtr.progress import note

HEAD = "head/"  # of the paths of a head's parameters


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where parameters come from.

    Attributes:
      kind: 'xtr', 't5x' or 'hf'.
      path: the folder of the very checkpoint (a run directory is resolved to its newest one).
      step: the optimizer steps the checkpoint has behind it; 0 where it does not say.
      has_slots: whether it brings second moments that a new run goes on with: a T5X checkpoint after its first step. A
        new run that starts from another xtr run starts its optimizer afresh.
    """

    kind: str
    path: str
    step: int
    has_slots: bool


@functools.lru_cache(maxsize=1024)
# ---------------------------------------------------------------------------------------------------- what it is


def _kind(path: str) -> str | None:
    """The kind of the one checkpoint in a folder; None where it holds none."""
    if manager.is_step_directory(path):
        return XTR
    if t5x.is_orbax(path) or t5x.is_legacy(path):
        return T5X
    return HUGGING_FACE if huggingface.is_huggingface(path) else None


def resolve(path: str | os.PathLike) -> tuple[str, str]:
    """(kind, folder of one checkpoint): of a run directory of xtr or T5X, the newest one.

    Raises:
      UserError: nothing is there, or nothing that is known; says what was looked for.
      OSError: the disk or the bucket does not answer now. So it is wherever a checkpoint is opened or read.
    """
    path = storage.absolute(path)
    try:
        if kind := _kind(path):
            return kind, path
        names = storage.list_directory(path)
        for folder in (storage.join(path, "checkpoints"), path):
            if steps := manager.committed_steps(folder):
                return XTR, storage.join(folder, str(steps[-1]))
        steps = sorted(int(m[1]) for name in names if (m := re.fullmatch(r"checkpoint_(\d+)", name)))
        for step in reversed(steps):
            folder = storage.join(path, f"checkpoint_{step}")
            if _kind(folder) == T5X:
                return T5X, folder
        there = bool(names) or storage.exists(path)
    except OSError as error:
        storage.raise_if_passing(error)
        raise UserError(f"{path} cannot be read: {error}.") from error
    looked_for = (
        "  an xtr run (checkpoints/<step>/), one of its checkpoints (<step>/index/arrays.json),\n"
        "  a T5X checkpoint (checkpoint_<step>/ with a file 'checkpoint' or a folder 'state'),\n"
        "  or a Hugging Face folder (config.json with model.safetensors, or its index and several files)."
    )
    if not there:
        raise UserError(f"There is nothing at {path}. Looked for\n{looked_for}")
    hint = f" It holds: {', '.join(names[:8])}." if names else ""
    raise UserError(f"{path} is no checkpoint that xtr knows.{hint} Looked for\n{looked_for}")


def open_source(kind: str, path: str, model: ModelConfig | None, *, allow_pickle: bool = False) -> Source:
    """Opens a checkpoint: names, shapes and where the data is. UserError if it cannot be opened.

    Args:
      kind, path: from `resolve`.
      model: the network that is to be read; only Hugging Face's names need it.
    """
    try:
        if kind == XTR:
            return manager.open_source(path)
        if kind == T5X:
            return t5x.open_orbax(path) if t5x.is_orbax(path) else t5x.open_legacy(path)
        places = layout.parts(Source(kind, path, path, 0, {}), model.param_specs())
        wanted = layout.expected(places)
        return huggingface.open_folder(path, model.huggingface(), wanted, allow_pickle=allow_pickle)
    except OSError as error:
        storage.raise_if_passing(error)
        raise UserError(f"{path} cannot be read: {error}.") from error


def inspect(path: str | os.PathLike, model: ModelConfig | None = None, slots: Any = None) -> Origin:
    """What kind of checkpoint a path is; reads no arrays.

    Args:
      path: an xtr run directory or its `checkpoints` folder (the newest step is taken), one of its steps, a T5X
        checkpoint (`checkpoint_<step>`, legacy version 3 or Orbax's, scanned or not) or a folder of them, or a Hugging
        Face folder; local or gs://.
      model, slots: the network, and its optimizer's slots (nested dicts of anything with a shape). With them
        `has_slots` says whether the checkpoint's second moments can be those; where not, one line says why.

    Raises:
      UserError: nothing is there, or nothing that is known; says what was looked for.
    """
    kind, folder = resolve(path)
    if kind == HUGGING_FACE:
        return Origin(kind, folder, 0, has_slots=False)
    return _origin(open_source(kind, folder, model), model, slots)


def _origin(checkpoint: Source, model: ModelConfig | None = None, slots: Any = None) -> Origin:
    has_slots = checkpoint.kind == T5X and checkpoint.step > 0 and bool(checkpoint.slots)
    if has_slots and model is not None and slots is not None:
        has_slots = _slots_can_go_on(checkpoint, model.param_specs(), slots)
    return Origin(checkpoint.kind, checkpoint.path, checkpoint.step, has_slots)


def _slots_can_go_on(checkpoint: Source, specs: Any, slots: Any) -> bool:
    wanted = flatten(slots)
    if not all(path.rpartition("/")[2] in t5x.SLOTS for path in wanted):
        note(f"{checkpoint.what}: its second moments are Adafactor's; another optimizer starts its own.")
        return False
    if not checkpoint.scanned:
        return True
    # The scanned network factors whatever has rows and columns; ours keeps small parameters whole.
    found = {name: a.shape for name, a in layout.stored_slots(checkpoint).items()}
    places = _slot_places(checkpoint, specs, wanted)
    differing = [p.name for parts in places.values() for p in parts if found.get(p.name) != p.shape]
    if differing:
        note(
            f"{checkpoint.what}: its second moments are not used and start afresh, because they are factored otherwise "
            f"than this run's ({differing[0]}{' and more' * (len(differing) > 1)})."
        )
    return not differing


# ---------------------------------------------------------------------------------------------------- parameters


def _left_out(name: str, model: ModelConfig) -> str | None:
    """Why an array of a T5X or xtr checkpoint is left aside; None where it is not. The reasons that a model gives for
    Hugging Face's names hold for these too, which begin alike."""
    if name.startswith(HEAD):
        return "this run has no such head"
    dotted = name.replace("/", ".")
    return next((why for pattern, why in model.huggingface().left_out.items() if re.fullmatch(pattern, dotted)), None)


def plan(checkpoint: Source, model: ModelConfig, *, draw: bool) -> tuple[dict[str, list[layout.Part]], list[str]]:
    """What is to be read: ({path of a parameter: its parts}, paths that are drawn anew instead).

    Args:
      draw: whether a head's parameters may be drawn anew where the checkpoint lacks them or has others.

    Raises:
      UserError: one error names every array that is missing, not expected, misshapen or known to be damaged.
    """
    specs = flatten(model.param_specs())
    places = layout.parts(checkpoint, model.param_specs())
    found = dict(checkpoint.arrays)
    drawn = []
    for path, spec in specs.items():
        parts = places.get(path, [])
        fits = parts and all(p.name in found and (found[p.name].fault or found[p.name].shape == p.shape) for p in parts)
        if spec.fresh and not fits and draw:
            drawn.append(path)
            for part in places.pop(path, []):
                found.pop(part.name, None)
        elif not parts:
            places[path] = [layout.Part(path.replace("/", "."), spec.shape, ())]
    wanted = layout.expected(places)
    aside = {reason: list(names) for reason, names in checkpoint.aside.items()}
    if checkpoint.kind != HUGGING_FACE:
        prefix = "params/" if checkpoint.kind == XTR else ""
        for name in [name for name in found if name not in wanted]:
            if why := _left_out(name.removeprefix(prefix), model):
                aside.setdefault(why, []).append(name)
                del found[name]
    faults = {name: a.fault for name, a in found.items() if a.fault}
    for name in wanted:
        if name in found and not faults.get(name) and found[name].dtype.kind not in "fV":
            faults[name] = f"it is stored as {found[name].dtype}, not as floating-point numbers"
    manager.compare(wanted, {name: a.shape for name, a in found.items()}, checkpoint.what, faults)
    for reason, names in aside.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        note(f"{checkpoint.what}: {names[0]}{more} left aside: {reason}.")
    if drawn:
        note(f"{checkpoint.what} has no {', '.join(drawn)} of this shape: drawn anew.")
    return places, drawn


def _target(checkpoint: Source, spec: Any, parts: list[layout.Part], sharding: Any, buffer: Any = None) -> Target:
    arrays = [(part, checkpoint.arrays[part.name]) for part in parts]
    return Target(tuple(spec.shape), np.dtype(spec.dtype), sharding, arrays, buffer)


def load_params(
    path: str | os.PathLike,
    model: ModelConfig,
    shardings: Any = None,
    *,
    key: jax.Array | None = None,
    allow_pickle: bool = False,
) -> tuple[Any, Origin]:
    """Parameters of a checkpoint of any known kind, stacked by layer. Each process reads what its devices hold.

    Args:
      path: as for `inspect`.
      model: the network.
      shardings: nested dict of shardings; None puts everything on the first device.
      key: draws a head's parameters where the checkpoint lacks them or has others; None: that is an error too.
      allow_pickle: whether the weights of a Hugging Face folder may be unpickled.

    Raises:
      UserError: nothing known is there; or arrays are missing, not expected, misshapen or damaged (one error names
      all).
    """
    checkpoint = open_source(*resolve(path), model, allow_pickle=allow_pickle)
    specs = model.param_specs()
    if shardings is None:
        shardings = map_specs(lambda _: SingleDeviceSharding(jax.local_devices()[0]), specs)
    flat_specs, flat_shardings = flatten(specs), flatten(shardings)
    places, drawn = plan(checkpoint, model, draw=key is not None)
    read = [path for path in flat_specs if path not in drawn]
    arrays = dict(zip(read, _read(checkpoint, flat_specs, places, flat_shardings, read), strict=True))
    if drawn:
        some = unflatten({path: flat_specs[path] for path in drawn})
        out = unflatten({path: flat_shardings[path] for path in drawn})
        arrays |= flatten(jax.jit(lambda key: init_params(some, key), out_shardings=out)(key))
    return unflatten({path: arrays[path] for path in flat_specs}), _origin(checkpoint)


def _read(
    checkpoint: Source,
    specs: Mapping[str, ParamSpec],
    places: Mapping[str, list[layout.Part]],
    shardings: Mapping[str, Any],
    paths: list[str],
    buffers: Mapping[str, Any] | None = None,
) -> list[jax.Array]:
    targets = [
        _target(checkpoint, specs[path], places[path], shardings[path], buffers[path] if buffers else None)
        for path in paths
    ]
    arrays = fill(targets, checkpoint.what)
    if checkpoint.kind == XTR:
        written, _ = index.read_index(checkpoint.path)
        index.verify(checkpoint.path, written, {f"params/{path}": a for path, a in zip(paths, arrays, strict=True)})
    return arrays


# ---------------------------------------------------------------------------------------------------- second moments


def _slot_places(checkpoint: Source, specs: Any, wanted: Iterable[str]) -> dict[str, list[layout.Part]]:
    """{'parameter's path/slot': where it lies}, without those of a head that the checkpoint's kind has no name for."""
    flat, heads = flatten(specs), layout.heads_of(specs)
    places = {}
    for name in wanted:
        path, _, slot = name.rpartition("/")
        if checkpoint.kind == XTR or flat[path].t5x is not None:
            places[name] = layout.slot_parts(checkpoint, flat[path], path, slot, heads)
    return places


@dataclasses.dataclass(frozen=True)
class Initial:
    """A checkpoint that a run starts from: opened, checked against the model, not read yet. See `open_initial`."""

    origin: Origin
    model: ModelConfig
    checkpoint: Source
    places: Mapping[str, list[layout.Part]]
    slot_places: Mapping[str, list[layout.Part]]


def open_initial(path: str | os.PathLike, model: ModelConfig, slots: Any, *, allow_pickle: bool = False) -> Initial:
    """Opens a checkpoint to start a run from and compares it with what the run needs; reads no arrays.

    Args:
      path: as for `inspect`.
      allow_pickle: as for `load_params`.
      model, slots: the network and its optimizer's slots, as for `inspect`.

    Raises:
      UserError: as `inspect`; or arrays that are missing, not expected, misshapen or damaged (one error names all), or
        second moments that are none of `slots`.
    """
    checkpoint = open_source(*resolve(path), model, allow_pickle=allow_pickle)
    origin = _origin(checkpoint, model, slots)
    places, drawn = plan(checkpoint, model, draw=True)
    slot_places: dict[str, list[layout.Part]] = {}
    if origin.has_slots:
        wanted = [name for name in flatten(slots) if name.rpartition("/")[0] not in drawn]
        slot_places = _slot_places(checkpoint, model.param_specs(), wanted)
        of_model = {part.name.rpartition("/")[0] for parts in slot_places.values() for part in parts}
        found = {n: a for n, a in layout.stored_slots(checkpoint).items() if n.rpartition("/")[0] in of_model}
        manager.compare(
            {name.replace(".", "/"): shape for name, shape in layout.expected(slot_places).items()},
            {name.replace(".", "/"): a.shape for name, a in found.items()},
            f"Adafactor's state in {origin.path}",
            {name.replace(".", "/"): a.fault for name, a in found.items() if a.fault},
        )
    return Initial(origin, model, checkpoint, places, slot_places)


def initial_state(initial: Initial, state: Any) -> Any:
    """A train state (dataclass with `params` and `opt_state`) whose parameters are those of a checkpoint, placed as
    they were.

    Where the checkpoint brings second moments (see `Origin.has_slots`), `opt_state` is theirs too; the caller then sets
    Adafactor's step_offset to minus the origin's step, so that they go on decaying as slowly as they did. A head that
    the checkpoint lacks, and its second moments, stay as they are in `state`; so does `state.step`. The arrays of
    `state` that are replaced lend their memory and cannot be used afterwards.

    Raises:
      UserError: arrays that turn out to be damaged.
    """
    checkpoint, params, slots = initial.checkpoint, flatten(state.params), flatten(state.opt_state)
    shardings = {path: x.sharding for path, x in params.items()}
    read = [path for path in params if path in initial.places]
    specs = flatten(initial.model.param_specs())
    params |= zip(read, _read(checkpoint, specs, initial.places, shardings, read, params), strict=True)
    state = dataclasses.replace(state, params=unflatten(params))
    if not initial.slot_places:
        return state
    of_slots = dataclasses.replace(checkpoint, arrays=layout.stored_slots(checkpoint))
    targets = [
        _target(of_slots, slots[name], parts, slots[name].sharding, slots[name])
        for name, parts in initial.slot_places.items()
    ]
    slots |= zip(initial.slot_places, fill(targets, f"Adafactor's state in {checkpoint.path}"), strict=True)
    return dataclasses.replace(state, opt_state=unflatten(slots))
