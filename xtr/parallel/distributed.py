"""Several processes of one run: start-up, the same call on TPU pods, GPU clusters and CPU processes; and agreement."""

import contextlib
import importlib.util
import itertools
import os
import pickle
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state  # the coordination service has no public name
from jax.experimental import multihost_utils

from xtr import preemption
from xtr.errors import UserError
from xtr.parallel import accelerators, watchdog

T = TypeVar("T")

# Set by the launchers that JAX can read the whole topology from; more than one task means more than one process.
_TASK_COUNTS = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_JOIN_SECONDS = 300
_JOIN_SECONDS_LAUNCHED = 1800  # by a launcher, which starts them all: some of many machines are slow to boot or install
_BEFORE_JAX = 60  # seconds between our giving up and JAX's
# A process may wait as long for another as this one works: for hours, while it tokenises. The watchdog ends a wait for
# one that fails.
_PATIENCE_MS = 7 * 24 * 3600 * 1000
_SEEN_SECONDS = 15.0  # in which a new file of a shared folder is seen by all
_ADDRESS = re.compile(r"\S+:[0-9]{1,5}")
_waits = itertools.count()


class CannotJoin(RuntimeError):
    """The other processes of the run cannot be reached; another try may find them."""


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
        and accelerators.on_tpu()
    )


def initialize(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> tuple[int, int]:
    """Joins the processes of one run; returns (process index, number of processes). Call it before any other JAX call.

    Arguments win over the environment: XTR_COORDINATOR ('host:port' of process 0), XTR_NUM_PROCESSES, XTR_PROCESS_ID.
    With neither, JAX finds the processes itself on a TPU and under Slurm or Open MPI. For one process it does nothing.
    Calling it again does nothing. Where the others do not come in time, it ends the process with 1.

    Raises:
      UserError: only some of the three values are given, or they cannot be; or a launcher expects another number of
        processes (XTR_EXPECT_PROCESSES).
      CannotJoin: another failure, which may be over at the next try.
    """
    if jax.distributed.is_initialized():
        return jax.process_index(), jax.process_count()
    index, count = _initialize(coordinator_address, num_processes, process_id)
    expected = _integer("XTR_EXPECT_PROCESSES", os.environ.get("XTR_EXPECT_PROCESSES"))
    if expected not in (None, count):
        raise UserError(
            f"The run has {count} processes, but was launched for {expected}: this host found no others, or other ones."
        )
    return index, count


def _initialize(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> tuple[int, int]:
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
        if not _ADDRESS.fullmatch(address):
            raise UserError(f"XTR_COORDINATOR must be host:port, an address of process 0, but is {address!r}.")
        _join(coordinator_address=address, num_processes=count, process_id=index)
    elif _on_tpu() or any(int(os.environ.get(name, "1") or 1) > 1 for name in _TASK_COUNTS):
        _join()
    else:
        return 0, 1
    if jax.process_count() > 1:
        watchdog.start()
    return jax.process_index(), jax.process_count()


def _join(**whom: str | int) -> None:
    seconds = _JOIN_SECONDS_LAUNCHED if os.environ.get("XTR_EXPECT_PROCESSES") else _JOIN_SECONDS
    joined = threading.Event()

    def message(why: str) -> str:
        where = f" as process {whom['process_id']} of {whom['num_processes']}" if whom else ""
        return (
            f"Cannot join the run's other processes{where}: {why} Start all of them within {seconds} s, each with its "
            "own number, and with an address of process 0 that they can reach."
        )

    def give_up() -> None:  # before JAX does, which aborts the process without a word of the reason
        if not joined.wait(seconds):
            print(f"xtr: {message(f'{seconds} s are over.')}", file=sys.stderr, flush=True)
            os._exit(watchdog.CRASHED)

    threading.Thread(target=give_up, name="xtr-join", daemon=True).start()
    try:
        jax.distributed.initialize(**whom, initialization_timeout=seconds + _BEFORE_JAX)
    except Exception as error:
        # What JAX or its coordination service cannot take is wrong at the next try too; all else is the network, or
        # machines that are late.
        wrong = isinstance(error, (ValueError, TypeError)) or "INVALID_ARGUMENT" in str(error)
        raise (UserError if wrong else CannotJoin)(message([*str(error).splitlines(), ""][0])) from error
    finally:
        joined.set()


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
    wait("told by the first process")  # for longer than a collective would
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


def first_alone(make: Callable[[], T]) -> T:
    """What `make` returns in each process, the first calling it before the others: these find what it wrote. What it
    raises in the first process is raised in all."""
    made: list[T] = []
    from_first(lambda: made.append(make()))
    return made[0] if made else make()


def wait(what: str) -> None:
    """Waits until every process is here.

    Args:
      what: its name, the same in all.
    """
    if jax.process_count() > 1:
        global_state.client.wait_at_barrier(f"xtr/wait/{next(_waits)}/{what}", _PATIENCE_MS)


def from_every(value: T) -> list[T]:
    """What each process brings, by its number; small things that can be pickled."""
    if jax.process_count() == 1:
        return [value]
    client, place = global_state.client, f"xtr/each/{next(_waits)}/"
    client.key_value_set_bytes(f"{place}{jax.process_index()}", pickle.dumps(value))
    found = (client.blocking_key_value_get_bytes(f"{place}{p}", _PATIENCE_MS) for p in range(jax.process_count()))
    return [pickle.loads(each) for each in found]


def check_same(what: str, value: str) -> None:
    """Raises a UserError in every process unless all bring the same value.

    Args:
      what: as in 'The processes differ in ...'.
    """
    brought = from_every((socket.gethostname(), value))
    if others := [f"{p} on {host}" for p, (host, found) in enumerate(brought) if found != brought[0][1]]:
        raise UserError(
            f"The processes differ in {what}: process {', '.join(others)} has another than process 0 on "
            f"{brought[0][0]}. Start all with the same command, code and files."
        )


def check_shared(directory: str | os.PathLike) -> None:
    """Raises a UserError in every process, naming the hosts, unless all see one and the same folder.

    The first process makes the folder where it is missing; it leaves none behind where others do not see it.
    """
    if jax.process_count() == 1 or "://" in str(directory):
        return
    directory = Path(directory).absolute()

    def mark() -> tuple[str, list[Path]]:
        made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            name = f".xtr-shared-{uuid.uuid4().hex[:12]}"
            (directory / name).touch()
        except OSError as error:
            raise UserError(f"Cannot write into {directory}: {error.strerror}.") from error
        return name, made

    name, made = from_first(mark)
    deadline = time.monotonic() + _SEEN_SECONDS
    while not (seen := name in _names(directory)) and time.monotonic() < deadline:
        time.sleep(0.5)
    brought = from_every((socket.gethostname(), str(directory), seen))
    blind = [f"process {p} on {host} ({folder})" for p, (host, folder, seen) in enumerate(brought) if not seen]
    if is_first():
        (directory / name).unlink(missing_ok=True)
        if blind:
            with contextlib.suppress(OSError):  # somebody else may use it by now
                for folder in made:
                    folder.rmdir()
    if blind:
        raise UserError(
            f"{directory} of process 0 on {brought[0][0]} is not one folder for all hosts: {', '.join(blind)} does not "
            "see what process 0 writes there. Every process writes its part of a checkpoint: give a directory on a "
            "file system that all hosts share."
        )


def _names(directory: Path) -> list[str]:
    """Read anew: a network's file system may remember that a name was not there."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def asked_to_stop() -> bool:
    """Whether any process was asked to stop; the same answer in all."""
    asked = preemption.requested()
    if jax.process_count() == 1:
        return asked
    return bool(multihost_utils.process_allgather(np.int32(asked)).any())
