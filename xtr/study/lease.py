"""Leases: which of several runners works at a stage, by files alone, so that no stage is done by two at once.

A lease of a place is a folder with a number below it, `<place>/<n>`; the greatest number counts. To take one is to make
the folder with the next number, which one alone can do: making a folder is atomic on local disks, on NFS, and in
buckets mounted by Cloud Storage FUSE, where neither an exclusive open of a file nor a rename is. Numbers are never
used again, so that an old listing of the folder leads to a number that is taken, not to a second holder.

A holder writes `holder.json` anew every `HEARTBEAT` seconds. The lease is over when it is given back (`released`), when
the holder's process is known to be dead (on the same machine), or when `holder.json` was not written for `EXPIRY`
seconds, by the clock that stamps the files of that folder and not by the host's. Of a mounted bucket that clock is the
writer's: hosts' clocks may differ by a fraction of EXPIRY there. Caches of a mount's metadata must be shorter too.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from xtr import preemption, rundir
from xtr.errors import Preempted

LEASES = "leases"  # the folder of a study's leases
HEARTBEAT = 15.0
EXPIRY = 180.0
_HOLDER, _RELEASED = "holder.json", "released"


class LeaseLost(Exception):
    """Another runner took the lease over, because this one did not write its heartbeat in time."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
      runner: a name that no other runner has.
      host, pid: for a reader.
      machine: the same in all processes that see each other's numbers.
      born: when the process started, in the kernel's ticks; '' where the system does not say.
      since: when the lease was taken, in UTC.
      doing: what the work said last, such as 'step 120'.
    """

    runner: str
    host: str
    pid: int
    machine: str
    born: str
    since: str = ""
    doing: str = ""


@dataclasses.dataclass(frozen=True)
class Held:
    """A lease as others see it: its number, its holder (None before the first heartbeat), the age of its last
    heartbeat in seconds, and whether it still counts."""

    number: int
    holder: Holder | None
    age: float
    alive: bool


def this_runner() -> Holder:
    """This process as a holder, under a name of its own."""
    return Holder(uuid.uuid4().hex[:12], socket.gethostname(), os.getpid(), _machine(), _born(os.getpid()))


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_dead(holder: Holder) -> bool:
    """Whether the holder is a process of this machine that is no more. False where nobody can tell from here."""
    if holder.machine != _machine():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(holder.born) and _born(holder.pid) != holder.born  # another process has the number now


def clock(folder: Path) -> float:
    """The time by which files of a folder are stamped, in seconds."""
    probe = folder / f".clock-{uuid.uuid4().hex[:12]}"
    probe.write_bytes(b"\n")
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _newest(place: Path) -> int:
    """The number that counts; 0 for none."""
    try:
        return max((int(name) for name in os.listdir(place) if name.isdecimal()), default=0)
    except FileNotFoundError:
        return 0


def look(place: str | os.PathLike, expiry: float = EXPIRY) -> Held | None:
    """The lease of a place, whether it still counts or not; None where nobody holds one."""
    return _held(Path(place), _newest(Path(place)), expiry)


def _held(place: Path, number: int, expiry: float) -> Held | None:
    folder = place / str(number)
    if not number or (folder / _RELEASED).exists():
        return None
    try:
        holder, file = Holder(**json.loads((folder / _HOLDER).read_text())), folder / _HOLDER
    except (FileNotFoundError, ValueError, TypeError):  # the holder has not come to writing it, or never will
        holder, file = None, folder
    try:
        age = max(0.0, clock(place) - file.stat().st_mtime)
    except FileNotFoundError:  # rewritten right now, or pruned
        age = 0.0
    return Held(number, holder, age, age < expiry and not (holder and _is_dead(holder)))


class Lease:
    """A lease that this process holds; taken by `acquire`."""

    def __init__(self, place: Path, number: int, holder: Holder):
        self.place, self.number, self.holder = place, number, holder
        self.folder = place / str(number)
        self._writing = threading.Lock()

    def beat(self, doing: str = "") -> None:
        """Says that the holder lives, and what it is doing.

        Raises:
          LeaseLost: another has taken the lease over.
        """
        self.check()
        with self._writing:
            self.holder = dataclasses.replace(self.holder, doing=doing)
            rundir.write_atomic(self.folder / _HOLDER, json.dumps(dataclasses.asdict(self.holder)) + "\n")

    def check(self) -> None:
        """Raises LeaseLost unless this process holds the lease still."""
        if (newest := _newest(self.place)) != self.number:
            raise LeaseLost(f"{self.folder} was taken over ({newest} counts now): its heartbeat was late")

    def release(self) -> None:
        """Gives the lease back; another can have it at once."""
        if self.folder.is_dir():  # else pruned
            rundir.write_atomic(self.folder / _RELEASED, "")


def acquire(place: str | os.PathLike, holder: Holder, expiry: float = EXPIRY) -> Lease | None:
    """Takes the lease of a place; None where another holds it. What the lease guards may have been done meanwhile: look
    after taking it."""
    place = Path(place)
    judged = _newest(place)  # read once: a lease that comes later has the number that is tried for here
    held = _held(place, judged, expiry)
    if held and held.alive:
        return None
    place.mkdir(parents=True, exist_ok=True)
    try:
        (place / str(judged + 1)).mkdir()
    except FileExistsError:  # another was quicker
        return None
    lease = Lease(place, judged + 1, dataclasses.replace(holder, since=rundir.utc_now()))
    lease.beat()
    return lease


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A lease that a heart keeps alive: what the work under it does, and who is told that the lease is lost."""

    lease: Lease
    doing: Callable[[], str]
    lost: Callable[[LeaseLost], None]


class Heart:
    """The thread that keeps a runner's leases alive. A context manager; leases are added and removed by `keeping`."""

    def __init__(self, period: float = HEARTBEAT):
        self.period = period
        self._kept: list[_Kept] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="xtr-leases", daemon=True)

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def keeping(
        self,
        lease: Lease,
        doing: Callable[[], str] = lambda: "",
        lost: Callable[[LeaseLost], None] = lambda error: None,
    ) -> Iterator[None]:
        """Keeps a lease alive while inside, and gives it back behind.

        Args:
          doing: says what the work does.
          lost: is told, from the heart's thread, that another took the lease over: at each beat, until the work ends.
        """
        kept = _Kept(lease, doing, lost)
        with self._lock:
            self._kept.append(kept)
        try:
            yield
        finally:
            with self._lock:
                self._kept.remove(kept)
            lease.release()

    def _beat(self) -> None:
        while not self._stop.wait(self.period):
            with self._lock:
                now = list(self._kept)
            for kept in now:
                try:
                    kept.lease.beat(kept.doing())
                except LeaseLost as error:
                    with self._lock:  # the work may have ended meanwhile, and its place be another's
                        if kept in self._kept:
                            kept.lost(error)
                except OSError:  # a file system that fails now may work again
                    pass


@contextlib.contextmanager
def alone(place: str | os.PathLike, doing: str) -> Iterator[None]:
    """Holds the lease of a place while inside; waits for whoever has it.

    Args:
      doing: what is done inside, as in 'another runner is ...'.

    Raises:
      Preempted: asked to stop while another had the lease.
    """
    me = this_runner()
    while (ours := acquire(place, me)) is None:
        if preemption.wait(0.5):
            raise Preempted(f"another runner is {doing}")
    with Heart() as heart, heart.keeping(ours, lambda: doing):
        yield
