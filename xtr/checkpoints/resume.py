"""Going on from the last good checkpoint of a run: what is damaged is said and set aside, and nothing is deleted."""

import os
from typing import Any, NamedTuple

from xtr import storage
from xtr.checkpoints.index import DamagedCheckpoint
from xtr.checkpoints.manager import is_step_directory, read_state, steps_found
from xtr.parallel import distributed
from xtr.progress import note

DAMAGED = "damaged"


class Resumed(NamedTuple):
    """Where a run goes on."""

    step: int
    state: Any
    extras: dict[str, Any]


def resume(directory: str | os.PathLike, abstract_state: Any) -> Resumed | None:
    """Reads the newest checkpoint that is what was written. Every process must call it.

    Newer ones that are not, or that lack files, are renamed to '<step>.damaged', so that the steps can be saved again.

    Args:
      directory: the run's checkpoints, on a disk.
      abstract_state: see `manager.read_state`.

    Returns:
      None where no checkpoint is good: the run begins anew.

    Raises:
      UserError: a whole checkpoint holds other arrays than the run has.
    """
    lost = []
    for step in reversed(distributed.from_first(lambda: steps_found(directory))):
        reason, found = None, None
        try:
            path = storage.join(directory, str(step))
            if not is_step_directory(path):
                raise DamagedCheckpoint(f"The checkpoint {path} is damaged: files of it are missing.")
            found = read_state(directory, step, abstract_state)
        except DamagedCheckpoint as error:
            reason = str(error)
        if not (reasons := [each for each in distributed.from_every(reason) if each]):
            if lost:
                note(f"xtr: going on from step {step}; lost: the work of {step + 1} to {lost[0]}.")
            return Resumed(step, *found)
        kept = distributed.from_first(lambda step=step: _set_aside(directory, step))
        note(f"xtr: {reasons[0]}\nxtr: kept as {kept}.")
        lost.append(step)
    if lost:
        note(f"xtr: no good checkpoint is left in {directory}; beginning anew.")
    return None


def _set_aside(directory: str | os.PathLike, step: int) -> str:
    name, number = storage.join(directory, f"{step}.{DAMAGED}"), 1
    while os.path.lexists(name):
        number += 1
        name = storage.join(directory, f"{step}.{DAMAGED}.{number}")
    os.rename(storage.join(directory, str(step)), name)
    return name
