"""What a study costs: an estimate for each stage by the FLOPs of its model, or by the compiler's bounds for training.

An estimate, not a measurement. Training: model FLOPs of a step (`xtr.models.flops`) times steps, at a stated share of
the chips' peak; or, compiled, the longest of the bounds that `xtr plan` gives a step, which no chip beats. Evaluation:
FLOPs of the test sets in their published sizes, at the same share; generated tokens at a part of it, since each reads
all weights for little arithmetic. Reading checkpoints, compiling, metrics and idle chips are not counted.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from xtr.parallel.topology import Topology
from xtr.plan.analytic import EMBED, GENERATE, TestSet, evaluation_flops, step_flops, with_lengths
from xtr.plan.estimate import analysis_of, estimate
from xtr.plan.run import PlanRun
from xtr.plan.store import Store
from xtr.study.graph import Stage
from xtr.study.jobs import Job

GENERATION_SHARE = 1 / 8  # of the share of the peak that training reaches

# Target -> size. Examples: of the published test sets in all languages of XTREME-R (or XTREME); UD-POS, WikiANN,
# MultiCheckList and BUCC rounded. Tokens: the medians of XLM-R's vocabulary, mean over languages, measured on
# XNLI, PAWS-X, XCOPA, UD-POS, WikiANN, XQuAD and Tatoeba (`xtr data stats`); the others are taken to be like these.
TEST_SETS: Mapping[str, TestSet] = {
    "xnli": TestSet(75_150, 15, 47, 2, choices=3),
    "pawsx": TestSet(14_000, 7, 67, 5, choices=2),
    "xcopa": TestSet(5_500, 11, 39, 3, choices=2),
    "siqa": TestSet(1_954, 1, 50, 3, choices=3),
    "udpos": TestSet(60_000, 38, 59, 53, GENERATE),
    "panx": TestSet(304_000, 48, 24, 13, GENERATE),
    "xquad": TestSet(14_280, 12, 198, 5, GENERATE),
    "mlqa": TestSet(42_245, 7, 198, 5, GENERATE),
    "tydiqa": TestSet(5_077, 9, 198, 5, GENERATE),
    "multichecklist": TestSet(320_000, 50, 30, 3, GENERATE),
    "tatoeba": TestSet(73_384, 41, 9, how=EMBED),
    "lareqa": TestSet(26_104, 11, 120, how=EMBED),
    "mewslix": TestSet(1_018_517, 11, 60, how=EMBED),
    "bucc2018": TestSet(2_700_000, 4, 30, how=EMBED),
}


@dataclasses.dataclass(frozen=True)
class StageCost:
    """What one stage takes.

    Attributes:
      job: the stage.
      flops: model FLOPs, of a training stage with the backward pass.
      chip_hours: of all chips; infinite where the program does not fit, NaN where nothing is known.
      how: 'compiled' or 'analytic'.
      note: why it is not known, or what was assumed.
    """

    job: Job
    flops: float
    chip_hours: float
    how: str = "analytic"
    note: str = ""


def stage_costs(
    jobs: Sequence[Job],
    topology: Topology,
    mfu: float,
    store: Store | None = None,
    on_compiled: Callable[[str], None] = lambda name: None,
) -> list[StageCost]:
    """The cost of every stage, in the order of `jobs`.

    Args:
      topology: the chips that each stage runs on.
      mfu: share of the chips' peak that training reaches.
      store: compiled programs, kept and made; None: no compiling.
      on_compiled: is told the stage whose program is there now.
    """
    peak = topology.accelerator.chip_flops * mfu * 3600  # FLOPs of a chip-hour
    compiled: dict[tuple, tuple[float, str]] = {}
    costs = []
    for job in jobs:
        if job.entry == "evaluate":
            costs.append(_evaluation(job, peak))
            continue
        flops = step_flops(job.run) * job.run.train_steps
        cost = StageCost(job, flops, flops / peak, note=_assumed(job))
        if store is not None:
            key = step_key(job)
            if key not in compiled:
                compiled[key] = _compiled(job, topology, store)
                on_compiled(job.stage.name)
            seconds, why = compiled[key]
            if why:
                cost = dataclasses.replace(cost, note=why)
            if not math.isnan(seconds):
                hours = seconds * job.run.train_steps / 3600 * topology.chips
                cost = dataclasses.replace(cost, chip_hours=hours, how="compiled")
        costs.append(cost)
    return costs


def step_key(job: Job) -> tuple:
    """What the programs of two training stages have to share to be one."""
    run = with_lengths(job.run)
    lengths = tuple(sorted(run.task_feature_lengths.items()))
    return repr(run.model), run.objective, run.batch_size, lengths, run.num_microbatches, repr(run.optimizer)


def _assumed(job: Job) -> str:
    return (
        ""
        if with_lengths(job.run) is job.run
        else f"lengths 'auto' counted as {with_lengths(job.run).task_feature_lengths}"
    )


def _compiled(job: Job, topology: Topology, store: Store) -> tuple[float, str]:
    """(seconds of a step, what is to be said of it); NaN where it was not compiled."""
    if job.run.objective == "multitask":
        return math.nan, "several heads are several programs: by arithmetic"
    run = PlanRun(with_lengths(job.run))
    program = store.compiled(run, topology, "train")
    found = estimate(run, topology, program, analysis_of(program, topology) if program.memory else None)
    if not found.fits:
        return math.inf, f"does not fit: {found.missing / 2**30:.1f} GiB of a device's memory are missing"
    return found.step_seconds, _assumed(job)


def _evaluation(job: Job, peak: float) -> StageCost:
    size = TEST_SETS.get(job.run.target or job.stage.target)
    if size is None:
        return StageCost(job, math.nan, math.nan, note="the size of this target's test data is not known")
    flops = evaluation_flops(job.run, size)
    hours = (flops["forward"] + flops["generate"] / GENERATION_SHARE) / peak
    return StageCost(job, sum(flops.values()), hours)


def known(costs: Sequence[StageCost]) -> list[StageCost]:
    """Those with a number."""
    return [cost for cost in costs if math.isfinite(cost.chip_hours)]


def total_hours(costs: Sequence[StageCost]) -> float:
    """Chip-hours of all that are known."""
    return sum(cost.chip_hours for cost in known(costs))


def longest_chain(costs: Sequence[StageCost]) -> float:
    """Chip-hours of the costliest chain of stages, each of which waits for the one before: with chips for all stages
    at once, nothing takes less. Parents that are not among them cost nothing."""
    ends: dict[Stage, float] = {}
    for cost in costs:
        own = cost.chip_hours if math.isfinite(cost.chip_hours) else 0.0
        ends[cost.job.stage] = own + ends.get(cost.job.stage.parent, 0.0)
    return max(ends.values(), default=0.0)
