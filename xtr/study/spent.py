"""What a study has taken: measured seconds and chip-hours of the stages that are done."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from xtr import rundir
from xtr.study.jobs import Job


@dataclass(frozen=True)
class Spent:
    """The stages of one model and kind that are done.

    Attributes:
      model: its name.
      kind: pretrain, intermediate, target or evaluate.
      device: its kind, as the run recorded it; '' where it did not.
      stages: how many.
      seconds: of all of them one after another, with compiling, reading data and starts that were interrupted.
      chip_hours: seconds times the devices of each run, in hours. Stages that ran on one machine at the same time
        shared its devices and count in full each.
      unmeasured: stages that are done and did not record their devices: their hours are counted for one device.
    """

    model: str
    kind: str
    device: str
    stages: int
    seconds: float
    chip_hours: float
    unmeasured: int = 0


def spent(jobs: Sequence[Job]) -> list[Spent]:
    """What the stages that are done took, in the order of `jobs`."""
    found: dict[tuple[str, str, str], list[tuple[float, float, bool]]] = {}
    for job in jobs:
        summary = rundir.done_summary(job.directory)
        if summary is None:
            continue
        path = job.directory / "environment.json"
        devices = json.loads(path.read_text())["devices"] if path.exists() else {}
        key = job.stage.model, job.stage.kind, devices.get("kind", "")
        seconds = summary["seconds"]
        of_devices = summary.get("device_seconds", seconds * devices.get("count", 1))
        found.setdefault(key, []).append((seconds, of_devices, not devices))
    return [
        Spent(
            *key,
            stages=len(stages),
            seconds=sum(seconds for seconds, _, _ in stages),
            chip_hours=sum(of_devices for _, of_devices, _ in stages) / 3600,
            unmeasured=sum(missing for *_, missing in stages),
        )
        for key, stages in found.items()
    ]
