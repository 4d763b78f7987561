"""What a study no longer needs: stages of an earlier plan, and checkpoints whose children are all done."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from xtr.checkpoints.manager import committed_steps
from xtr.study import lease
from xtr.study.jobs import UNKNOWN, Job
from xtr.study.lease import LEASES
from xtr.study.settled import children_of, is_settled

# Of a stage that is no more planned: what holds results stays, since nothing else remembers them.
_RESULTS = ("results", "results.parquet", "predictions")


@dataclasses.dataclass(frozen=True)
class Removable:
    """Something that can go: its path, why, and its bytes."""

    path: Path
    why: str
    size: int


@dataclasses.dataclass(frozen=True)
class Kept:
    """Something that would go but for a reason."""

    path: Path
    why: str


def removable(
    study_dir: str | Path, jobs: Sequence[Job], checkpoints: bool = False, expiry: float = lease.EXPIRY
) -> tuple[list[Removable], list[Kept]]:
    """What can be deleted, and what stays for a reason that a user may want to know.

    Args:
      study_dir, jobs: the study and its stages.
      checkpoints: also those of planned stages that are done and all of whose children are: nothing starts from them
        any more. Steps before the last one go as well. A study that grows later trains such a stage anew, and those
        before it whose checkpoints went too.

    Nothing under a live lease is in it, and no results. Where the address of some stage is not known, no stage counts
    as of an earlier plan.
    """
    root = Path(study_dir)
    out, kept = [], []
    if any(job.address == UNKNOWN for job in jobs):
        kept.append(Kept(root / "stages", "the data of some stages is not here, so that their folders are not known"))
    else:
        planned = {job.directory.name for job in jobs}
        for folder in sorted((root / "stages").glob("*")):
            if folder.is_dir() and folder.name not in planned:
                _unplanned(root, folder, out, kept, expiry)
    if checkpoints:
        children, known = children_of(jobs), {}
        for job in jobs:
            own = children.get(job.stage, [])
            waiting = [child for child in own if not is_settled(child, children, known)]
            _spent(root, job, len(own), len(waiting), out, kept, expiry)
    return out, kept


def _held(root: Path, name: str, expiry: float) -> str | None:
    held = lease.look(root / LEASES / name, expiry)
    if held is None or not held.alive:
        return None
    return f"held by {held.holder.host}, process {held.holder.pid}" if held.holder else "held by a runner"


def _unplanned(root: Path, folder: Path, out: list[Removable], kept: list[Kept], expiry: float) -> None:
    if why := _held(root, folder.name, expiry):
        kept.append(Kept(folder, why))
    elif any((folder / name).exists() for name in _RESULTS):
        kept.append(Kept(folder, "no stage of this plan, but it holds results, which are never deleted"))
    else:
        out.append(Removable(folder, "no stage of this plan", size_of(folder)))
        if (root / LEASES / folder.name).is_dir():
            out.append(Removable(root / LEASES / folder.name, "the lease of that stage", 0))


def _spent(
    root: Path, job: Job, children: int, waiting: int, out: list[Removable], kept: list[Kept], expiry: float
) -> None:
    folder = job.directory / "checkpoints"
    steps = committed_steps(folder) if job.entry == "train" and job.done else []
    if not steps:
        return
    if why := _held(root, job.directory.name, expiry):
        kept.append(Kept(folder, why))
        return
    for step in steps[:-1]:
        out.append(Removable(folder / str(step), "a step before the last", size_of(folder / str(step))))
    last = folder / str(steps[-1])
    if waiting:
        kept.append(Kept(last, f"{waiting} of {children} stages that start from it are not done"))
    else:
        out.append(Removable(last, f"all {children} stages that start from it are done", size_of(last)))


def remove(found: Sequence[Removable]) -> None:
    """Deletes. Where folders can be renamed, none is ever seen half deleted."""
    for item in found:
        away = item.path.with_name(f".pruned-{item.path.name}")
        try:
            os.rename(item.path, away)
        except OSError:  # of a mounted bucket
            away = item.path
        shutil.rmtree(away)


def size_of(path: Path) -> int:
    """Bytes of a file or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
