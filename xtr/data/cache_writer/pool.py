"""Processes that run units of work; each ends when the one that started it does, however that was."""

import contextlib
import multiprocessing
import os
import pickle
import queue
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from xtr.errors import UserError


def default_workers() -> int:
    """As many as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_units(units: Iterator[Any], num_workers: int) -> Iterator[tuple[Any, Any]]:
    """Runs units in processes; yields (place, facts) of each as it is finished, in any order.

    `units` is read in this process, no further ahead than the processes need to be busy. A worker is started when there
    is a unit for it; with one worker everything runs in this process, as do units that want it (`here`) and those that
    cannot be sent to another.

    Raises:
      UserError: what a unit raised.
      RuntimeError: a unit crashed, or its process did.
    """
    if num_workers <= 1:
        for unit in units:
            yield unit.place, unit.run()
        return
    with _Workers(num_workers) as workers:
        for unit in units:
            if getattr(unit, "here", False):
                yield unit.place, unit.run()
                continue
            try:
                message = pickle.dumps(unit, pickle.HIGHEST_PROTOCOL)
            except (pickle.PicklingError, AttributeError, TypeError):  # made of a function without a module
                yield unit.place, unit.run()
                continue
            while (worker := workers.free()) is None:
                yield from workers.results()
            workers.give(worker, unit.place, message)
        while workers.busy():
            yield from workers.results()


class _Workers:
    """At most `limit` processes, each with one unit in work and one waiting."""

    def __init__(self, limit: int):
        self._limit = limit
        self._context = multiprocessing.get_context("spawn")  # threads of TensorFlow do not survive a fork
        self._given: dict[Connection, list[Any]] = {}
        self._processes: list[multiprocessing.Process] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for connection in self._given:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()

    def free(self) -> Connection | None:
        """A worker that can be given a unit: an idle one, a new one, or the one with least to do."""
        if not self._given or (min(map(len, self._given.values())) > 0 and len(self._given) < self._limit):
            self._start()
        worker = min(self._given, key=lambda w: len(self._given[w]))
        return worker if len(self._given[worker]) < 2 else None

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(process)
        self._given[ours] = []

    def give(self, worker: Connection, place: Any, message: bytes) -> None:
        self._given[worker].append(place)
        worker.send_bytes(message)

    def busy(self) -> bool:
        return any(self._given.values())

    def results(self) -> list[tuple[Any, Any]]:
        """Waits until at least one unit is finished."""
        found = []
        for worker in wait([worker for worker, given in self._given.items() if given]):
            place = self._given[worker][0]
            try:
                kind, result = worker.recv()
            except (EOFError, OSError) as e:
                raise RuntimeError(
                    f"A process that wrote {place.split!r} of {place.task} died (out of memory?). What is finished is "
                    "kept: the same command goes on from there."
                ) from e
            if kind == "mistake":
                raise UserError(result)
            if kind == "crash":
                raise RuntimeError(f"{place.task}, {place.split}, part {place.number}: {result}")
            self._given[worker].pop(0)
            found.append((place, result))
        return found


def _serve(connection: Connection) -> None:
    """A worker's life: runs what comes, in order, until nothing can come any more."""
    received: queue.Queue = queue.Queue()

    def receive():
        with contextlib.suppress(EOFError, OSError):
            while True:
                received.put(connection.recv_bytes())
        os._exit(0)  # whoever wanted the rest is gone

    threading.Thread(target=receive, daemon=True).start()
    while True:
        message = received.get()
        try:
            answer = "done", pickle.loads(message).run()
        except UserError as e:
            answer = "mistake", str(e)
        except KeyboardInterrupt:
            return
        except BaseException:
            answer = "crash", traceback.format_exc()
        del message
        connection.send(answer)
