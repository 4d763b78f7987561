"""What is kept of each job on the machine that launched it: one JSON file, $XTR_STATE_DIR/jobs/NAME.json."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtr.errors import DataError, UserError, did_you_mean
from xtr.launch.spec import File, RunSpec
from xtr.launch.watch import Outcome, State
from xtr.parallel.topology import parse
from xtr.rundir import utc_now, write_atomic

_MOST_EVENTS = 1000


def state_dir() -> Path:
    """The folder of the records: $XTR_STATE_DIR, else ~/.local/state/xtr."""
    return Path(os.environ.get("XTR_STATE_DIR") or Path.home() / ".local" / "state" / "xtr") / "jobs"


@dataclasses.dataclass
class Record:
    """One job as it was last seen.

    Attributes:
      spec: what was launched; its local paths are absolute.
      cwd: the folder that it was launched in.
      poll: seconds between two looks.
      state: where it is.
      seen: lines of the present attempt's log that were shown.
      made: whether something was created for it, or started, that was not deleted since.
      pid, host: of the launcher that watches it, or last did.
      events: what happened, each with its time (UTC).
    """

    spec: RunSpec
    cwd: str
    poll: float
    state: State = dataclasses.field(default_factory=State)
    seen: int = 0
    made: bool = False
    pid: int = 0
    host: str = ""
    events: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> Path:
        return state_dir() / f"{self.spec.name}.json"

    @property
    def is_open(self) -> bool:
        """Whether something of it may still be there that is not to be."""
        left = self.state.live or (self.made and not self.spec.keep)
        return self.state.outcome is Outcome.OPEN or not self.state.deleted or left

    def note(self, text: str) -> None:
        """Adds an event, and saves."""
        self.events = [*self.events, {"time": utc_now(), "what": text}][-_MOST_EVENTS:]
        self.save()

    def save(self) -> None:
        facts = {
            "spec": _plain(self.spec),
            "cwd": self.cwd,
            "poll": self.poll,
            "state": dataclasses.asdict(self.state),
            "seen": self.seen,
            "made": self.made,
            "pid": self.pid,
            "host": self.host,
            "events": self.events,
        }
        write_atomic(self.path, json.dumps(facts, indent=1) + "\n")


def _plain(spec: RunSpec) -> dict[str, Any]:
    facts = dataclasses.asdict(spec) | {"topology": None}
    if spec.topology:
        one = dataclasses.replace(spec.topology, slices=1)
        facts["topology"] = [str(one), spec.topology.slices]
    return facts


def load(name: str) -> Record:
    """The record of a job. UserError where there is none, DataError where it cannot be read."""
    path = state_dir() / f"{name}.json"
    if not path.exists():
        known = names()
        raise UserError(
            f"no job {name!r} was launched from here ({state_dir()}).{did_you_mean(name, known)}"
            + (" `xtr launch status` lists them." if known else "")
        )
    try:
        facts = json.loads(path.read_text())
        spec = facts["spec"]
        spec["topology"] = parse(*spec["topology"]) if spec["topology"] else None
        spec["files"] = tuple(File(**file) for file in spec["files"])
        spec |= {field: tuple(spec[field]) for field in ("gin_files", "search_paths", "options")}
        state = facts["state"] | {"outcome": Outcome(facts["state"]["outcome"])}
        return Record(**facts | {"spec": RunSpec(**spec), "state": State(**state)})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the record of a job ({type(error).__name__}: {error}).") from error


def names() -> list[str]:
    """The jobs that were launched from here."""
    return sorted(path.stem for path in state_dir().glob("*.json"))


@contextlib.contextmanager
def held(record: Record) -> Iterator[None]:
    """Makes this process the only launcher of a job on this machine, as its record then says. UserError where another
    one is."""
    state_dir().mkdir(parents=True, exist_ok=True)
    with open(record.path.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{record.spec.name} is being watched by another `xtr launch` on this machine. `xtr launch logs "
                f"{record.spec.name}` shows its log, `xtr launch stop {record.spec.name}` ends it."
            ) from None
        record.pid, record.host = os.getpid(), socket.gethostname()
        record.save()
        yield


def watched(record: Record) -> bool:
    """Whether a launcher on this machine watches the job now."""
    path = record.path.with_suffix(".lock")
    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
