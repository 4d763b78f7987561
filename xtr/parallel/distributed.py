"""Several processes of one run: start-up, the same call on TPU pods, GPU clusters and CPU processes; and agreement."""

import glob
import importlib.util
import os
import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from xtr import preemption
from xtr.errors import UserError

T = TypeVar("T")

# Set by the launchers that JAX can read the whole topology from; more than one task means more than one process.
_TASK_COUNTS = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def _integer(name: str, value: int | str | None) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        raise UserError(f"{name} must be an integer, but is {value!r}.") from None


def _on_tpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return (
        ("tpu" in platforms or not platforms)
        and importlib.util.find_spec("libtpu") is not None
        and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    )


def initialize(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> tuple[int, int]:
    """Joins the processes of one run; returns (process index, number of processes). Call it before any other JAX call.

    Arguments win over the environment: XTR_COORDINATOR ('host:port' of process 0), XTR_NUM_PROCESSES, XTR_PROCESS_ID.
    With neither, JAX finds the processes itself on a TPU and under Slurm or Open MPI. For one process it does nothing.
    Calling it again does nothing. UserError when only some of the three values are given.
    """
    if jax.distributed.is_initialized():
        return jax.process_index(), jax.process_count()
    address = coordinator_address or os.environ.get("XTR_COORDINATOR")
    count = _integer(
        "XTR_NUM_PROCESSES", os.environ.get("XTR_NUM_PROCESSES") if num_processes is None else num_processes
    )
    index = _integer("XTR_PROCESS_ID", os.environ.get("XTR_PROCESS_ID") if process_id is None else process_id)
    given = {"XTR_COORDINATOR": address, "XTR_NUM_PROCESSES": count, "XTR_PROCESS_ID": index}
    if count == 1:
        return 0, 1
    if any(value is not None for value in given.values()):
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise UserError(f"A run of several processes needs {', '.join(given)}; not set: {', '.join(missing)}.")
        if not 0 <= index < count:
            raise UserError(f"XTR_PROCESS_ID must lie in 0..{count - 1}, but is {index}.")
        jax.distributed.initialize(coordinator_address=address, num_processes=count, process_id=index)
    elif _on_tpu() or any(int(os.environ.get(name, "1") or 1) > 1 for name in _TASK_COUNTS):
        jax.distributed.initialize()
    else:
        return 0, 1
    return jax.process_index(), jax.process_count()


# ---------------------------------------------------------------------------------------------------------------------
# Agreement. Every process must come to these calls, in the same order, from its main thread.
# ---------------------------------------------------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns, or raises, in the first process, which alone calls it: so that what every process goes by is
    one reading of files that change. Anything that can be pickled."""
    if jax.process_count() == 1:
        return make()
    value, error = None, None
    if is_first():
        try:
            value = make()
        except Exception as e:
            error = e
    told = np.frombuffer(pickle.dumps((value, error)), np.uint8) if is_first() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    told = multihost_utils.broadcast_one_to_all(np.resize(told, size))
    if is_first():  # An error keeps its traceback here.
        if error is not None:
            raise error
        return value
    value, error = pickle.loads(np.asarray(told, np.uint8).tobytes())
    if error is not None:
        raise error
    return value


def wait(what: str) -> None:
    """Waits until every process is here.

    Args:
      what: its name, the same in all.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def asked_to_stop_alone() -> bool:
    """Whether to stop, where one process by itself may: never among several, which would wait for it."""
    return jax.process_count() == 1 and preemption.requested()


def asked_to_stop() -> bool:
    """Whether any process was asked to stop; the same answer in all."""
    asked = preemption.requested()
    if jax.process_count() == 1:
        return asked
    return bool(multihost_utils.process_allgather(np.int32(asked)).any())
