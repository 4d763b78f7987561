"""Multi-process start-up, the same call on TPU pods, GPU clusters and CPU processes."""

import glob
import importlib.util
import os

import jax

from xtr.errors import UserError

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
