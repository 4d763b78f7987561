"""Going on from the last good checkpoint of a run: what is damaged is said and set aside, and nothing is deleted."""

import os
from typing import Any, NamedTuple

from xtr import storage
from xtr.checkpoints.index import DamagedCheckpoint
from xtr.checkpoints.manager import is_step_directory, read_state, steps_found
from xtr.parallel import distributed
from xtr.progress import note

DAMAGED = "damaged"
_READINGS = 2  # that must fail alike


class Resumed(NamedTuple):
    """Where a run goes on."""

    step: int
    state: Any
    extras: dict[str, Any]


def resume(directory: str | os.PathLike, abstract_state: Any) -> Resumed | None:
    """Reads the newest checkpoint that is what was written. Every process must call it.

    Newer ones that are not, or that lack files, are renamed to '<step>.damaged', so that the steps can be saved again;
    but only when a second reading says so too. What says nothing of the checkpoint (a disk that does not answer, a lack
    of memory) is raised, and leaves it in its place.

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
        for _ in range(_READINGS):
            found = _read(directory, step, abstract_state)
            if isinstance(found, Resumed):
                if lost:
                    note(f"xtr: going on from step {step}; lost: the work of {step + 1} to {lost[0]}.")
                return found
        kept = distributed.from_first(lambda step=step: _set_aside(directory, step))
        note(f"xtr: {found}\nxtr: kept as {kept}.")
        lost.append(step)
    if lost:
        note(f"xtr: no good checkpoint is left in {directory}; beginning anew.")
    return None


def _read(directory: str | os.PathLike, step: int, abstract_state: Any) -> Resumed | str:
    """A step's state, or why it is damaged; the same in every process."""
    path = storage.join(directory, str(step))
    if not distributed.from_first(lambda: is_step_directory(path)):
        return f"The checkpoint {path} is damaged: files of it are missing."
    try:
        return Resumed(step, *read_state(directory, step, abstract_state))
    except DamagedCheckpoint as error:
        return str(error)


def _set_aside(directory: str | os.PathLike, step: int) -> str:
    name, number = storage.join(directory, f"{step}.{DAMAGED}"), 1
    while os.path.lexists(name):
        number += 1
        name = storage.join(directory, f"{step}.{DAMAGED}.{number}")
    os.rename(storage.join(directory, str(step)), name)
    return name
