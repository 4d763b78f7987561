"""Ends a job that would hang, and says which host is to blame: one that is late, one that failed, one that died.

Each process says through JAX's coordination service, once a second and from a thread of its own, where its work is.
Process 0 judges. What it finds, or what a process ends with, reaches all the others through the same service, so that
none waits for a process that does not come any more. A single process watches itself alone.
"""

import atexit
import contextlib
import dataclasses
import faulthandler
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jax._src.distributed import global_state  # the coordination service has no public name

from xtr import preemption

TIMEOUT = 1800.0  # seconds without progress; what compiles, saves or evaluates may take SLOW times as long
SLOW = 10
PERIOD = 1.0  # seconds between two words of a process
LOST_AFTER = 60.0  # seconds of silence after which a process counts as dead; JAX's own limit is 100
SUSPECT_AFTER = 10.0  # the same, once a connection to some process broke
CRASHED = 1
DEVICES = "waiting for its devices"  # what a process does that others may be late for
_BEATS, _SIGNALS = "xtr/beat/", "xtr/signal/"
# What the errors of a collective say whose other side is gone.
_BROKEN = re.compile(r"gloo|nccl|connection|socket|unavailable|coordination|heartbeat|barrier|deadline|timed out", re.I)
# Says its last line of input when the process that writes there ends without saying 'well'.
_LAST_WORDS = 'while IFS= read -r line; do words=$line; done; [ "$words" = well ] || printf "%s\\n" "$words" >&2'


@dataclasses.dataclass
class Watch:
    """Where one piece of work is; `beat` moves it on."""

    directory: Path
    timeout: float
    number: int
    phase: str = "starting"
    step: int = 0
    since: float = 0.0
    slow: bool = True
    error: Exception | None = None  # what the next beat raises

    def beat(self, phase: str, step: int = 0, slow: bool = False) -> None:
        """Says that the work goes on; costs nothing.

        Args:
          phase: what comes now, as in 'process 1 is ...'.
          step: of the work, the same in all processes at the same place.
          slow: whether it may take SLOW times the timeout (compiling, saving).

        Raises:
          Exception: what `interrupt` was given.
        """
        if self.error:
            raise self.error
        self.phase, self.step, self.since, self.slow = phase, step, time.monotonic(), slow

    @property
    def limit(self) -> float:
        return self.timeout * (SLOW if self.slow else 1)


class _Monitor:
    """The thread, and what it shares with the process's work."""

    def __init__(self):
        self.lock = threading.Lock()
        self.watches: list[Watch] = []
        self.thread: threading.Thread | None = None
        self.started = 0  # watches so far
        self.broken = False  # a connection to another process is
        self.at = (0, 0, 0)  # (watch, step, part of it) that the work has passed
        self.stop_at: tuple[int, int, int] | None = None
        self.points = itertools.count(1)  # that the work passes without steps of its own
        self.ending = threading.Lock()
        self.finished = False  # the work is done, and this process about to end
        self.lost: set[int] = set()
        self.guard: subprocess.Popen | None = None

    # ------------------------------------------------------------------------------------------------------ the thread

    def start(self) -> None:
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self.run, name="xtr-watchdog", daemon=True)
            self.thread.start()

    def run(self) -> None:
        client, count = global_state.client, 0
        heard: dict[int, tuple[int, float]] = {p: (0, time.monotonic()) for p in range(processes())}
        while client or self.watches:
            time.sleep(PERIOD)
            if client is None:
                if stuck := [watch for watch in list(self.watches) if _seconds(watch) > watch.limit]:
                    self.end(CRASHED, _alone(stuck[0]), stacks=str(stuck[0].directory))
                continue
            count += 1
            try:
                with self.lock:
                    if self.finished:
                        return
                    client.key_value_set(f"{_BEATS}{index()}", json.dumps(self.where(count)), allow_overwrite=True)
                signals = {key.removeprefix(_SIGNALS): value for key, value in client.key_value_dir_get(_SIGNALS)}
                if ends := [json.loads(value) for key, value in signals.items() if key.startswith("end/")]:
                    self.follow(ends[0])
                self.agree_to_stop(client, "stop" in signals)
                if index() == 0:
                    beats = {int(k.rpartition("/")[2]): json.loads(v) for k, v in client.key_value_dir_get(_BEATS)}
                    self.judge(beats, heard)
            except Exception:  # where the service is gone, process 0 is, and JAX ends this process: see `_LAST_WORDS`
                continue

    def where(self, count: int) -> dict[str, Any]:
        watches = list(self.watches)
        said = {"host": socket.gethostname(), "count": count, "broken": self.broken}
        if watches:
            last = watches[-1]
            own = {"phase": last.phase, "step": last.step, "seconds": _seconds(last), "limit": last.limit}
            said |= own | {"directory": str(last.directory), "timeout": last.timeout}
        return said

    def judge(self, beats: Mapping[int, Mapping[str, Any]], heard: dict[int, tuple[int, float]]) -> None:
        """Process 0's: whether one is dead or late. Ends the job then."""
        now = time.monotonic()
        patience = SUSPECT_AFTER if any(beat["broken"] for beat in beats.values()) else LOST_AFTER
        for process, (count, since) in heard.items():
            beat = beats.get(process, {"count": 0})
            if beat["count"] != count or beat.get("left"):
                heard[process] = (beat["count"], now)
            elif now - since > patience:
                self.lost.add(process)
        if self.lost:
            names = ", ".join(_name(process, beats.get(process, {})) for process in sorted(self.lost))
            last = [f"{b['phase']}, step {b['step']}" for p in sorted(self.lost) if "phase" in (b := beats.get(p, {}))]
            self.end(
                CRASHED,
                f"{names} no longer answers{f' (last heard of: {last[0]})' if last else ''}: killed, out of memory, or "
                "its machine is gone. Its log may say why; the same command again goes on from the last checkpoint.",
            )
        working = {process: beat for process, beat in beats.items() if "phase" in beat}
        if any(beat["seconds"] > beat["limit"] for beat in working.values()):
            self.end(CRASHED, _blame(working), stacks=next(iter(working.values()))["directory"])

    # ------------------------------------------------------------------------------------------------------ stopping

    def agree_to_stop(self, client: Any, asked: bool) -> None:
        """After a request to one process: the place at which all stop, the first that none has passed."""
        if preemption.requested() and not asked:
            client.key_value_set(f"{_SIGNALS}stop", "", allow_overwrite=True)
        elif asked and self.stop_at is None:
            preemption.hear()
            with self.lock:  # the work waits meanwhile at its next step's end
                client.key_value_set(f"xtr/stop/{index()}", json.dumps(self.at), allow_overwrite=True)
                places = [client.blocking_key_value_get(f"xtr/stop/{p}", 60_000) for p in range(processes())]
                number, step, part = max(tuple(json.loads(place)) for place in places)
                self.stop_at = (number, step, part + 1)

    # ------------------------------------------------------------------------------------------------------ ending

    def end(self, code: int, message: str, stacks: str | None = None, said: bool = False) -> None:
        """Ends this process, and all others with the same code. Does not return.

        Args:
          stacks: the directory below which every process writes what its threads are doing.
          said: whether the user has seen `message` here.
        """
        told = {"process": index(), "host": socket.gethostname(), "code": code, "message": message}
        told |= {"stacks": stacks, "lost": sorted(self.lost)}
        if global_state.client:
            with contextlib.suppress(Exception):
                # The first word counts.
                global_state.client.key_value_set(f"{_SIGNALS}end/0", json.dumps(told))
        self.follow(told | {"said": said})

    def follow(self, told: Mapping[str, Any]) -> None:
        self.ending.acquire()  # never given back: a process ends once
        self.lost |= set(told["lost"])
        if not told.get("said"):
            judged = told["stacks"] or told["lost"]
            prefix = "" if judged else f"{_name(told['process'], told)}: "
            print(f"xtr: {prefix}{told['message']}", file=sys.stderr, flush=True)
        if told["stacks"]:
            with contextlib.suppress(OSError):
                _dump_stacks(Path(told["stacks"]))
        with contextlib.suppress(Exception):
            self.take_leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(told["code"])

    def take_leave(self) -> None:
        """Waits until all have heard: an earlier end would break their connections, and be taken for the reason. Then
        process 0, whose end is that of the service, waits until the others are gone."""
        if global_state.client:
            due = set(range(processes())) - self.lost
            self.meet("heard", due)
            if self.guard:
                self.guard.communicate(b"well\n", timeout=1)
            self.meet("gone", due if index() == 0 else set())

    def meet(self, where: str, due: set[int]) -> None:
        client, deadline = global_state.client, time.monotonic() + 10
        client.key_value_set(f"xtr/{where}/{index()}", "", allow_overwrite=True)
        while time.monotonic() < deadline:
            if due <= {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(f"xtr/{where}/")}:
                break
            time.sleep(0.05)


_monitor = _Monitor()


def index() -> int:
    """This process's number; asks no device."""
    return global_state.process_id


def processes() -> int:
    """How many processes the run has; asks no device."""
    return global_state.num_processes or 1


def _seconds(watch: Watch) -> float:
    return time.monotonic() - watch.since


def _name(process: int, beat: Mapping[str, Any]) -> str:
    return f"process {process} of {processes()}" + (f" on {beat['host']}" if "host" in beat else "")


def _alone(watch: Watch) -> str:
    return (
        f"no progress for {_seconds(watch):.0f} s: {watch.phase}, step {watch.step}. What every thread was doing is in "
        f"{watch.directory / 'stacks'}. (hang_timeout is {watch.timeout:g} s; the same command again goes on from the "
        "last checkpoint.)"
    )


def _blame(beats: Mapping[int, Mapping[str, Any]]) -> str:
    """Names the processes that the others wait for: those furthest behind, unless these wait for devices themselves."""
    lowest = min(beat["step"] for beat in beats.values())
    behind = [process for process, beat in beats.items() if beat["step"] == lowest]
    late = [process for process in behind if beats[process]["phase"] != DEVICES]
    if not late and len(behind) < len(beats):
        late = behind
    first = next(iter(beats.values()))
    where = (
        f" What every process was doing is in {Path(first['directory']) / 'stacks'}. (hang_timeout is "
        f"{first['timeout']:g} s; the same command again goes on from the last checkpoint.)"
    )
    if not late or len(late) == len(beats):
        return (
            f"no progress for {max(beat['seconds'] for beat in beats.values()):.0f} s: every process is "
            f"{first['phase']} at step {lowest}.{where}"
        )
    names = "; ".join(
        f"{_name(p, beats[p])} is late: {beats[p]['phase']} at step {lowest} for {beats[p]['seconds']:.0f} s"
        for p in late
    )
    other = next(beat for process, beat in beats.items() if process not in late)
    return f"{names}. The others wait for it ({other['phase']}, step {other['step']}).{where}"


def _dump_stacks(directory: Path) -> None:
    faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
    folder = directory / "stacks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"process_{index()}.txt", "w") as file:
        faulthandler.dump_traceback(file, all_threads=True)


# ---------------------------------------------------------------------------------------------------------------------
# What the rest of xtr calls
# ---------------------------------------------------------------------------------------------------------------------


def start() -> None:
    """Begins to watch the processes of a run; called once they have joined."""
    if index() > 0:
        _monitor.guard = subprocess.Popen(["sh", "-c", _LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True)
        words = (
            f"xtr: process {index()} of {processes()} on {socket.gethostname()} ended, because process 0 at "
            f"{global_state.coordinator_address}, which holds all together, no longer answers. Its log may say why; "
            "the same command again goes on from the last checkpoint.\n"
        )
        _monitor.guard.stdin.write(words.encode())
        _monitor.guard.stdin.flush()
    atexit.register(_finished)  # runs before JAX leaves the coordination service
    _monitor.start()


def _finished() -> None:
    with contextlib.suppress(Exception):
        left = json.dumps({"host": socket.gethostname(), "count": -1, "broken": False, "left": True})
        with _monitor.ending, _monitor.lock:  # the thread may be about to end the process with a reason
            _monitor.finished = True
            global_state.client.key_value_set(f"{_BEATS}{index()}", left, allow_overwrite=True)
    if _monitor.guard:
        with contextlib.suppress(Exception):
            _monitor.guard.communicate(b"well\n", timeout=1)


@contextlib.contextmanager
def watch(directory: str | os.PathLike, timeout: float = TIMEOUT) -> Iterator[Watch]:
    """Ends the job where the work inside makes no progress.

    Args:
      directory: stacks are written below it.
      timeout: seconds between two beats, above which the work counts as hanging.

    Yields:
      the `Watch`, whose `beat` must be called.
    """
    with _monitor.lock:
        _monitor.started += 1
        own = Watch(Path(directory), timeout, _monitor.started)
        own.beat("starting", slow=True)
        _monitor.watches.append(own)
        _monitor.at = max(_monitor.at, (own.number, 0, 0))
    _monitor.start()
    try:
        yield own
    finally:
        with _monitor.lock:
            _monitor.watches.remove(own)


def where(directory: str | os.PathLike) -> tuple[str, int] | None:
    """(phase, step) of the work that this process does in a directory; None where it does none."""
    with _monitor.lock:
        return next(((w.phase, w.step) for w in _monitor.watches if w.directory == Path(directory)), None)


def interrupt(directory: str | os.PathLike, error: Exception) -> None:
    """Makes the work that this process does in a directory raise an error at its next beat, if there is any."""
    with _monitor.lock:
        for own in _monitor.watches:
            if own.directory == Path(directory):
                own.error = error


def stop_behind(own: Watch, step: int, part: int = 0) -> bool:
    """Whether all processes stop behind this step, because one of them was asked to (SIGTERM). Ask after every step;
    in several processes the answer comes some steps later, and then alike in all.

    Args:
      part: counts the places behind one step at which they may stop, where there are more than one.
    """
    return _stops_at((own.number, step, part))


def stop_here() -> bool:
    """The same for work that has no steps of its own: whether all stop at this place. Every process must come to the
    same places in the same order, from its main thread."""
    return _stops_at((_monitor.started, next(_monitor.points), 0))


def _stops_at(place: tuple[int, int, int]) -> bool:
    if processes() == 1:
        return preemption.requested()
    with _monitor.lock:
        _monitor.at = max(_monitor.at, place)
        return _monitor.stop_at is not None and place >= _monitor.stop_at


def is_broken(message: str) -> bool:
    """Whether an error says that another process cannot be reached, which most likely is at fault then."""
    return bool(_BROKEN.search(message))


def leave(code: int, message: str, details: str = "") -> None:
    """Ends every process of the run with the code that this one ends with. Returns where there is no other process.

    Args:
      message: why, as the other processes tell it.
      details: what this process tells beside, on standard error.
    """
    if processes() == 1 or global_state.client is None:
        return
    if code == CRASHED and is_broken(message):
        # Most likely the other side is at fault: process 0 may find out which, and end this process by its thread.
        _monitor.broken = True
        time.sleep(SUSPECT_AFTER + 5 * PERIOD)
    print(details, end="", file=sys.stderr)
    _monitor.end(code, message, said=True)
