"""Which stages of a study have nothing left to do, by the files that runners leave."""

from collections.abc import Mapping, Sequence

from xtr.study.graph import Stage
from xtr.study.jobs import Job


def children_of(jobs: Sequence[Job]) -> dict[Stage, list[Job]]:
    """Stage -> the stages that start from it."""
    children: dict[Stage, list[Job]] = {}
    for job in jobs:
        if job.stage.parent:
            children.setdefault(job.stage.parent, []).append(job)
    return children


def is_settled(job: Job, children: Mapping[Stage, Sequence[Job]], known: dict[Stage, bool] | None = None) -> bool:
    """Whether nothing is left to do at a stage: it is done, and its checkpoint is there or nobody needs it any more.

    A checkpoint that was pruned is needed where the study has grown: by a stage that is not done, or by one whose own
    checkpoint was pruned and is needed.

    Args:
      children: `children_of` the whole plan, not of the stages alone that are run now.
      known: earlier answers, to which this one is added, so that a look at many stages reads each one's files once.
    """
    known = {} if known is None else known
    if job.stage not in known:
        known[job.stage] = job.done and (
            job.entry == "evaluate"
            or job.has_checkpoint
            or all(is_settled(child, children, known) for child in children.get(job.stage, ()))
        )
    return known[job.stage]
