"""Ahead-of-time compilation: a run's programs for a slice of TPUs that is not here, from shapes alone.

Nothing is allocated. A program that does not fit is a result like any other, see `Compiled.out_of_memory`.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xtr.errors import UserError
from xtr.evaluate import batching, continuous
from xtr.models.spec import abstract as abstract_params
from xtr.parallel.mesh import make_mesh
from xtr.parallel.sharding import batch_sharding, batch_shards, replicated, tree_shardings
from xtr.parallel.topology import Topology, compile_only_devices
from xtr.plan import batches
from xtr.plan.run import PlanRun
from xtr.train.loop import options_for
from xtr.train.step import abstract_state, make_eval_step, make_train_step

EOS_ID = 1  # of which token a sequence ends with, the compiled program hardly depends
# What `xtr plan --programs` names, and the compiled programs behind each.
PROGRAMS = {"train": ("train",), "score": ("score",), "decode": ("decode_step", "decode_refill")}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device, as the compiler planned them.

    Attributes:
      arguments: of the inputs, the parameters and the optimizer's state among them.
      outputs: of the outputs that are not written over inputs.
      temporaries: of everything between: activations, gathered weights, gradients.
      code: of the program itself.
      scheduled: the most that is in use at once, of arguments, outputs and temporaries.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    scheduled: int

    @property
    def peak(self) -> int:
        """What is in use at once, with the code. The compiler refuses programs by this, not by `buffers`."""
        return self.scheduled + self.code

    @property
    def buffers(self) -> int:
        """All of it beside each other, as if no buffer took the place of another that is done with."""
        return self.arguments + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of one program.

    Attributes:
      program: a name of `PROGRAMS`' values.
      mesh: sizes of the mesh's axes.
      extents: for each of them how many chips it reaches in each dimension of a slice, see `extents`.
      parameters: bytes of the parameters on one device.
      optimizer: bytes of the optimizer's state on one device.
      trace_seconds, compile_seconds: how long it took.
      memory: None where it does not fit.
      out_of_memory: bytes that are missing of one device's memory; None where it fits.
      message: what the compiler said where it does not fit.
      cost: the compiler's own counts, in which a loop's body counts once.
      hlo: the optimised program's text; '' where it does not fit.
    """

    program: str
    mesh: dict[str, int]
    extents: dict[str, tuple[int, ...]]
    parameters: int
    optimizer: int
    trace_seconds: float
    compile_seconds: float
    memory: Memory | None
    out_of_memory: int | None
    message: str
    cost: dict[str, float]
    hlo: str


def programs_of(names: tuple[str, ...], run: PlanRun) -> tuple[str, ...]:
    """The compiled programs behind names of `PROGRAMS`, of those that the model has. UserError for an impossible one.

    Without names: all that the model can do.
    """
    generates = run.train.loss in ("seq2seq", "causal")
    if "decode" in names and not generates:
        raise UserError(f"this {run.train.model.family} writes no text: leave out --programs decode.")
    chosen = names or [name for name in PROGRAMS if name != "decode" or generates]
    return tuple(program for name in chosen for program in PROGRAMS[name])


def compile_program(run: PlanRun, topology: Topology, program: str) -> Compiled:
    """Traces and compiles one of a run's programs for a topology, in this process.

    Raises:
      UserError: libtpu is missing, or the run does not fit the topology's devices (batch size, mesh).
    """
    mesh = make_mesh(run.train.mesh, compile_only_devices(topology))
    started = time.monotonic()
    lower, params, optimizer = _PROGRAMS[program](run, mesh)
    traced, memory, missing, message, cost, hlo = started, None, None, "", {}, ""
    try:
        lowered = lower()
        traced = time.monotonic()
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        missing, message = missing_bytes(str(error)), str(error).splitlines()[0]
        if missing is None:
            raise
    else:
        stats = compiled.memory_analysis()
        memory = Memory(
            arguments=stats.argument_size_in_bytes,
            outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
            code=stats.generated_code_size_in_bytes,
            scheduled=stats.peak_memory_in_bytes,
        )
        cost = {name: value for name, value in compiled.cost_analysis().items() if name in ("flops", "bytes accessed")}
        hlo = compiled.as_text()
    return Compiled(
        program=program,
        mesh=dict(mesh.shape),
        extents={name: extents(mesh, name) for name in mesh.axis_names},
        parameters=_bytes_of_one_device(params),
        optimizer=_bytes_of_one_device(optimizer),
        trace_seconds=traced - started,
        compile_seconds=time.monotonic() - traced,
        memory=memory,
        out_of_memory=missing,
        message=message,
        cost=cost,
        hlo=hlo,
    )


def extents(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """How many chips the devices along a mesh axis reach in each dimension of their slice: (16, 16, 1)."""
    along = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), 0).reshape(mesh.shape[axis], -1)[:, 0]
    slices = [getattr(device, "slice_index", 0) or 0 for device in along]
    coords = [device.coords for device, own in zip(along, slices, strict=True) if own == slices[0]]
    return tuple(len(set(places)) for places in zip(*coords, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Programs: each function gives how to lower it, its abstract parameters and its abstract optimizer state.
# ---------------------------------------------------------------------------------------------------------------------

_Program = tuple[Callable[[], jax.stages.Lowered], Any, Any]


def _train(run: PlanRun, mesh: Mesh) -> _Program:
    options = dataclasses.replace(options_for(run.train, None), objective=run.train.loss)
    model = run.train.model
    step = make_train_step(model, options, mesh, run.train.mesh.rules)
    state = abstract_state(model.param_specs(), options, mesh, run.train.mesh.rules)
    key = jax.eval_shape(lambda: jax.random.key(0)) if model.dropout_rate else None
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    batch = batches.abstract(run.train, mesh)
    return lambda: step.jitted.lower(state, batch, key, rate), state.params, state.opt_state


def _score(run: PlanRun, mesh: Mesh) -> _Program:
    params = _abstract_params(run, mesh)
    step = make_eval_step(run.train.model, mesh, run.train.mesh.rules, run.train.loss)
    batch = batches.abstract(run.train, mesh)
    return lambda: step.jitted.lower(params, batch), params, ()


def _decode_step(run: PlanRun, mesh: Mesh) -> _Program:
    decoding = _Decoding(run, mesh)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    return (
        lambda: decoding.programs.extend.lower(decoding.params, decoding.abstract_slots(), count),
        decoding.params,
        (),
    )


def _decode_refill(run: PlanRun, mesh: Mesh) -> _Program:
    decoding = _Decoding(run, mesh)
    rows, length = decoding.refilled, decoding.length
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=batch_sharding(mesh))
    ids = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=batch_sharding(mesh))
    return (
        lambda: decoding.programs.refill.lower(decoding.params, decoding.abstract_slots(), tokens, ids),
        decoding.params,
        (),
    )


_PROGRAMS = {
    "train": _train,
    "score": _score,
    "decode_step": _decode_step,
    "decode_refill": _decode_refill,
}


def _abstract_params(run: PlanRun, mesh: Mesh) -> Any:
    """The parameters on the mesh."""
    specs = run.train.model.param_specs()
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        abstract_params(specs),
        tree_shardings(specs, mesh, run.train.mesh.rules),
    )


def slots(run: PlanRun, groups: int) -> tuple[int, int]:
    """How many sequences are decoded together, and how many begin together, on so many groups of devices."""
    length = run.train.task_feature_lengths["inputs"] + run.decode_length
    rows = batching.rows_per_batch(length, run.tokens_per_batch, groups)
    return rows, continuous.refilled_at_once(rows, groups)


class _Decoding:
    """Continuous greedy decoding of a run's model, as `xtr eval` runs it once all slots are full."""

    def __init__(self, run: PlanRun, mesh: Mesh):
        model, self.length = run.train.model, run.train.task_feature_lengths["inputs"]
        self.params = _abstract_params(run, mesh)
        self.programs = continuous.programs_of(model, mesh, run.train.mesh.rules, run.decode_length, EOS_ID)
        self.rows, self.refilled = slots(run, batch_shards(mesh))

    def abstract_slots(self) -> Any:
        """The slots on the devices, where the program that makes them puts them."""
        empty = self.programs.empty
        made = empty.lower(self.params, self.rows, self.length).compile()
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(lambda params: empty(params, self.rows, self.length), self.params),
            made.output_shardings,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"([\d.]+)([KMGT]?)i?B?"


def missing_bytes(message: str) -> int | None:
    """By how many bytes a program exceeds the memory, of the compiler's message; None where it says something else."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None

    def amount(number: str, unit: str) -> float:
        return float(number) * _UNITS[unit]

    if found := re.search(rf"[Ee]xceeded hbm capacity by {_AMOUNT}", message):
        return int(amount(*found.groups()))
    if found := re.search(rf"\({_AMOUNT}\) exceeds available HBM \({_AMOUNT}\)", message):
        return int(amount(*found.groups()[:2]) - amount(*found.groups()[2:]))
    if found := re.search(rf"[Uu]sed {_AMOUNT} of {_AMOUNT} hbm", message):
        return int(amount(*found.groups()[:2]) - amount(*found.groups()[2:]))
    return 0


def _bytes_of_one_device(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
