"""Which mesh, microbatches and rematerialisation a training step goes best with: by arithmetic first, then by the
compiler, within a budget of compilations.

The arithmetic only decides what is compiled, and in which order; what is reported is the compiler's.
"""

import dataclasses
import heapq
from collections.abc import Callable, Iterator
from typing import Any

from xtr.errors import UserError
from xtr.models import flops
from xtr.models.heads import WithHead
from xtr.models.layers import REMAT_POLICIES
from xtr.models.spec import count
from xtr.parallel.mesh import MeshConfig
from xtr.parallel.topology import Topology
from xtr.plan.batches import shapes
from xtr.plan.estimate import Estimate, analysis_of, estimate
from xtr.plan.run import PlanRun
from xtr.plan.store import Store
from xtr.train.adamw import AdamWConfig

_MICROBATCHES = (1, 2, 4, 8, 16)
_WIDEST = 16  # of the tensor axis: beyond it a layer's products are slivers
_COMPUTED_AGAIN = {"none": 0.0, "minimal": 0.1, "full": 1.0}  # of a forward pass, by the policy


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings that do not change what is computed.

    Attributes:
      mesh: sizes of the mesh's axes, none of them -1.
      microbatches: pieces of a batch.
      remat: a name of `REMAT_POLICIES`.
    """

    mesh: MeshConfig
    microbatches: int
    remat: str

    def __str__(self) -> str:
        sizes = "x".join(str(size) for size in dataclasses.astuple(self.mesh))
        return f"{sizes}, {self.microbatches} microbatches, remat {self.remat}"

    def apply(self, run: PlanRun) -> PlanRun:
        """The run with these settings."""
        model = run.train.model
        if isinstance(model, WithHead):
            model = dataclasses.replace(model, body=dataclasses.replace(model.body, remat=self.remat))
        else:
            model = dataclasses.replace(model, remat=self.remat)
        train = dataclasses.replace(run.train, model=model, mesh=self.mesh, num_microbatches=self.microbatches)
        return dataclasses.replace(run, train=train)

    def gin_lines(self) -> list[str]:
        """The gin statements that set them."""
        sizes = dataclasses.asdict(self.mesh).items()
        return [
            *(f"partitioning.MeshConfig.{name} = {size}" for name, size in sizes),
            f"NUM_MICROBATCHES = {self.microbatches}",
            f"REMAT = {self.remat!r}",
        ]


@dataclasses.dataclass(frozen=True)
class Tried:
    """A candidate that was compiled: its estimate, or why there is none."""

    candidate: Candidate
    estimate: Estimate | None
    failure: str = ""

    @property
    def rank(self) -> tuple:
        """What fits, and is fast, comes first."""
        fits = self.estimate is not None and self.estimate.fits
        return (not fits, self.estimate.step_seconds if fits else 0.0, self.estimate.seconds.serial if fits else 0.0)

    def facts(self) -> dict[str, Any]:
        """A row of a table."""
        e, mesh = self.estimate, self.candidate.mesh
        fits = e is not None and e.fits
        short = f"no: {e.missing / 2**30:.2f} GiB missing" if e is not None and not fits else self.failure
        return {
            "replica": mesh.replica,
            "fsdp": mesh.fsdp,
            "tensor": mesh.tensor,
            "microbatches": self.candidate.microbatches,
            "remat": self.candidate.remat,
            "fits": "yes" if fits else short,
            "peak GiB": round(e.memory.peak / 2**30, 2) if fits else None,
            "at least ms": round(e.step_seconds * 1e3, 1) if fits else None,
            "no overlap ms": round(e.seconds.serial * 1e3, 1) if fits else None,
            "bound by": e.seconds.bound if fits else "",
            "MFU at most": f"{e.mfu_bound:.1%}" if fits else "",
        }

    def to_json(self) -> dict[str, Any]:
        """The same for scripts, with the whole estimate."""
        return {
            "gin": self.candidate.gin_lines(), "failure": self.failure,
            "estimate": self.estimate and self.estimate.to_json(),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """The ranking.

    Attributes:
      tried: what was compiled, the best first.
      left_out: how many candidates were not.
    """

    tried: tuple[Tried, ...]
    left_out: int

    @property
    def best(self) -> Tried | None:
        """The fastest that fits; None where none does."""
        first = self.tried[0] if self.tried else None
        return first if first and first.estimate and first.estimate.fits else None


def candidates(run: PlanRun, topology: Topology) -> Iterator[Candidate]:
    """All settings that divide: axes over devices and heads, rows over devices and microbatches."""
    train = run.train
    heads = getattr(getattr(train.model, "body", train.model), "num_heads", 1)
    inside = topology.num_devices // topology.slices
    powers = [2**i for i in range(inside.bit_length())]
    for tensor in (t for t in powers if t <= min(_WIDEST, heads) and inside % t == 0 and heads % t == 0):
        for replicas in (r for r in powers if inside // tensor % r == 0):
            mesh = MeshConfig(replicas * topology.slices, inside // tensor // replicas, tensor)
            for microbatches in _MICROBATCHES:
                whole = train.batch_size % (mesh.replica * mesh.fsdp * microbatches) == 0
                if not whole or (microbatches > 1 and train.loss == "contrastive"):
                    continue
                for remat in REMAT_POLICIES:
                    yield Candidate(mesh, microbatches, remat)


def least_bytes(run: PlanRun, candidate: Candidate) -> float:
    """Bytes that a device needs at the least: state, gradients, and what the backward pass keeps of each layer."""
    model, mesh = run.train.model, candidate.mesh
    body = getattr(model, "body", model)
    shards = mesh.fsdp * mesh.tensor
    arrays = 4 if isinstance(run.train.optimizer, AdamWConfig) else 2  # parameters, gradients; AdamW's two moments
    state = 4.0 * arrays * count(model.param_specs()) / shards
    rows = run.train.batch_size / (mesh.replica * mesh.fsdp * candidate.microbatches)
    positions = sum(shape[-1] for name, shape in shapes(run.train).items() if name.endswith("_input_tokens"))
    layers = max(body.num_layers, getattr(body, "num_decoder_layers", 0))
    # A layer's input always; but with 'full' the products with weights too: attention's four, two of the MLP's.
    width = body.width
    if candidate.remat != "full":
        width += (4 * body.num_heads * body.head_dim + 2 * body.mlp_dim) / mesh.tensor
    return state + 2.0 * rows * positions * layers * width


def least_seconds(run: PlanRun, topology: Topology, candidate: Candidate) -> float:
    """What a step takes at the least: arithmetic at its peak, or the weights' way through the network.

    A weight is gathered in bf16 for the forward and for the backward pass of each microbatch, and its gradient is
    scattered; between replicas the gradients are summed; along 'tensor' each layer sums its activations twice a pass.
    """
    train, mesh, accelerator = run.train, candidate.mesh, topology.accelerator
    body = getattr(train.model, "body", train.model)
    forward = _forward(run)
    work = forward * (3.0 + _COMPUTED_AGAIN.get(candidate.remat, 0.0)) / topology.num_devices / accelerator.peak_flops
    link = accelerator.ici_link_bandwidth / accelerator.devices_per_chip
    dimensions = sum(size > 1 for size in topology.shape) * (2 if any(topology.wrap) else 1)
    weights = 2.0 * count(train.model.param_specs()) / mesh.tensor
    gathered = 3.0 * candidate.microbatches * weights * (mesh.fsdp - 1) / mesh.fsdp
    positions = sum(shape[-1] for name, shape in shapes(train).items() if name.endswith("_input_tokens"))
    activations = 2.0 * train.batch_size / (mesh.replica * mesh.fsdp) * positions * body.width * body.num_layers
    passes = 2.0 + min(1.0, 2 * _COMPUTED_AGAIN.get(candidate.remat, 0.0))
    summed = 2 * passes * 2 * activations * (mesh.tensor - 1) / mesh.tensor
    replicas = mesh.replica // topology.slices
    inside = 2.0 * weights / mesh.fsdp * (replicas - 1) / replicas
    ici = (gathered + summed + inside) / (link * max(dimensions, 1))
    between = 2.0 * weights / mesh.fsdp * (topology.slices - 1) / topology.slices
    dcn = between / (accelerator.dcn_bandwidth / accelerator.devices_per_chip)
    return max(work, ici, dcn)


def _forward(run: PlanRun) -> float:
    train = run.train
    lengths = train.task_feature_lengths["inputs"], train.task_feature_lengths.get("targets", 0)
    if train.loss == "causal":
        lengths = (sum(lengths), 0)
    return flops.forward_flops(train.model, train.loss, train.batch_size, *lengths)


def search(
    run: PlanRun, topology: Topology, store: Store, budget: int, on_tried: Callable[[str], None] = lambda _: None
) -> Found:
    """Compiles the most promising candidates, and ranks them by the time that a step takes at the least.

    A candidate that arithmetic rules out (its state and kept activations alone exceed the memory) is not compiled; nor
    is one that cannot be faster than the best that was found to fit.

    Args:
      budget: compilations at most.
      on_tried: told of each.

    Raises:
      UserError: no settings divide the batch over the devices, or all are too large.
    """
    everything = list(candidates(run, topology))
    usable = topology.accelerator.device_hbm
    possible = [c for c in everything if least_bytes(run, c) <= usable]
    if not possible:
        raise UserError(
            f"no mesh, microbatches and remat policy of this run fits {topology}: "
            + ("the state alone is too large." if everything else f"BATCH_SIZE {run.train.batch_size} does not divide.")
        )
    # Of equal bounds the one that asks for least: fewer microbatches and narrower axes are simpler and faster.
    queue = [
        (least_seconds(run, topology, c), c.microbatches, c.mesh.tensor, c.mesh.replica, i)
        for i, c in enumerate(possible)
    ]
    heapq.heapify(queue)
    tried: list[Tried] = []
    fastest = float("inf")
    while queue and len(tried) < budget:
        bound, *_, index = heapq.heappop(queue)
        if bound >= fastest:
            break
        candidate = possible[index]
        tried.append(_try(run, topology, store, candidate))
        if tried[-1].estimate is not None:
            fastest = min(fastest, tried[-1].estimate.step_seconds)
        on_tried(str(candidate))
    tried.sort(key=lambda t: t.rank)
    return Found(tuple(tried), len(everything) - len(tried))


def _try(run: PlanRun, topology: Topology, store: Store, candidate: Candidate) -> Tried:
    own = candidate.apply(run)
    try:
        compiled = store.compiled(own, topology, "train")
    except UserError as error:
        return Tried(candidate, None, str(error).splitlines()[0])
    analysis = analysis_of(compiled, topology) if compiled.memory else None
    return Tried(candidate, estimate(own, topology, compiled, analysis))
