"""The only place that runs what a plan says: argument lists without a shell, files, and commands side by side."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtr.errors import UserError
from xtr.launch.actions import Action, Remove, Run, Write
from xtr.rundir import write_atomic

_MARK = re.compile(r"xtr-launch: process (\d+) ended (\d+)\s*")
_DRAIN = 5.0  # seconds for the rest of the output of a command that has ended
_LIMIT = 900.0  # seconds that a command takes which only asks or tells


@dataclass(frozen=True)
class Result:
    """What a command came to: its exit code, and what it wrote."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def why(self) -> str:
        """The last line that says something."""
        lines = (self.err.strip() or self.out.strip() or f"exit code {self.code}").splitlines()
        return lines[-1].strip()


def execute(action: Action, limit: float = _LIMIT, interrupted: Callable[[], bool] = lambda: False) -> Result:
    """Does one action. A command that runs longer than `limit` seconds, or until `interrupted` says yes, is killed, and
    counts as failed.

    Raises:
      UserError: there is no such program.
    """
    if isinstance(action, Write):
        return _write(action)
    if isinstance(action, Remove):
        Path(action.path).unlink(missing_ok=True)
        return Result(0)
    # A session of its own: ctrl-C reaches the launcher alone, which then takes everything down in order.
    try:
        process = subprocess.Popen(
            action.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError:
        raise _no_program(action) from None
    text, end = action.stdin.encode(), time.monotonic() + limit
    while True:
        try:
            out, err = process.communicate(text, timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            text = None  # it is given once
        if interrupted() or time.monotonic() > end:
            _kill(process)
            process.communicate()
            return Result(124, "", f"{action.argv[0]} did not answer within {limit:g} s")
    return Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _write(action: Write) -> Result:
    path = Path(action.path)
    try:
        if not action.exclusive:
            write_atomic(path, action.body)
            return Result(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(action.body)
    except OSError as error:
        return Result(1, "", f"{path}: {error.strerror}")
    return Result(0)


def _no_program(action: Run) -> UserError:
    where = {
        "gcloud": "install the Google Cloud CLI (cloud.google.com/sdk/docs/install)",
        "kubectl": "install it (`gcloud components install kubectl`)",
    }
    program = action.argv[0]
    return UserError(f"{program} is not on PATH: {where.get(program, 'install it')}. `xtr doctor` looks for all.")


def _kill(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@dataclass(frozen=True)
class Followed:
    """What commands side by side came to.

    Attributes:
      codes: process -> exit code, as processes said it.
      late: whether the limit was reached.
      well: whether there were commands, and each ended by itself and with 0.
    """

    codes: dict[int, int]
    late: bool
    well: bool


def follow(
    runs: Sequence[Run],
    on_line: Callable[[str], None],
    interrupted: Callable[[], bool],
    limit: float | None = None,
) -> Followed:
    """Runs commands side by side and hands on what they write, line by line.

    Args:
      on_line: gets each line of output; not those in which a process says how it ended.
      interrupted: asked several times a second; the commands are ended when it says yes.
      limit: seconds; None for none.

    Raises:
      UserError: there is no such program.
    """
    codes: dict[int, int] = {}
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    processes: list[subprocess.Popen] = []
    deadline = None if limit is None else time.monotonic() + limit
    cut = late = well = False

    def read(stream) -> None:
        for line in stream:
            lines.put(line.decode(errors="replace").rstrip("\n"))
        lines.put(None)

    try:
        for run in runs:
            try:
                process = subprocess.Popen(
                    run.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise _no_program(run) from None
            processes.append(process)
            threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
        open_streams, ended_at = len(processes), None
        while open_streams:
            if ended_at is None and all(process.poll() is not None for process in processes):
                ended_at = time.monotonic()
            if ended_at is not None and time.monotonic() > ended_at + _DRAIN:
                break  # what they left behind holds their output open
            if interrupted():
                cut = True
                break
            if deadline is not None and time.monotonic() > deadline:
                cut = late = True
                break
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=0.2)
                if line is None:
                    open_streams -= 1
                elif found := _MARK.fullmatch(line):
                    codes[int(found[1])] = int(found[2])
                else:
                    on_line(line)
        if not cut:
            with contextlib.suppress(subprocess.TimeoutExpired):
                well = bool(processes) and not any([process.wait(timeout=_DRAIN) for process in processes])
    finally:
        for process in processes:
            _kill(process, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                _kill(process)
                process.wait()
    return Followed(codes, late, well)
