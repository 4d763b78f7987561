"""The run directory: what a run was told, where it ran, and whether it is done. Every write is atomic."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xtr.errors import DataError, UserError

DONE = "DONE"
IDENTITY = "run.json"
SESSIONS = "sessions.json"
LENGTHS = "lengths.json"  # those that TASK_FEATURE_LENGTHS = 'auto' stood for, where it did
# Fields that say where a run's files lie or how fast it goes, not what it computes.
PLACE_FIELDS = frozenset(
    {
        "model_dir",
        "eval_output_dir",
        "cache_dir",
        "data_dir",
        "checkpoint",
        "use_cached_tasks",
        "hang_timeout",
        "examples_per_shard",
        "log_samples",
        "index_dir",
        "search_block_bytes",
        "compiler_options",
        "profile_steps",
    }
)


def data_dir(value: str | None) -> str:
    """The folder of the official files: `value`, else $XTR_DATA_DIR. UserError where neither is set."""
    found = value or os.environ.get("XTR_DATA_DIR")
    if not found:
        raise UserError("no data folder: set XTR_DATA_DIR, --gin.DATA_DIR or --data_dir to the official files.")
    return found


def cache_dir(value: str | None) -> str:
    """The folder of tokenised tasks: `value`, else $XTR_CACHE_DIR, else ~/.cache/xtr."""
    return value or os.environ.get("XTR_CACHE_DIR") or str(Path.home() / ".cache" / "xtr")


def manual_dirs() -> list[str]:
    """TFDS's folders of files downloaded by hand, $TFDS_DATA_DIR's before the home folder's: those that there are."""
    homes = (os.environ.get("TFDS_DATA_DIR"), str(Path.home() / "tensorflow_datasets"))
    folders = [os.path.join(os.path.abspath(home), "downloads", "manual") for home in homes if home]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def write_atomic(path: str | os.PathLike, data: str | bytes) -> None:
    """Writes a file so that a reader sees all of it or none of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as out:
        out.write(data.encode() if isinstance(data, str) else data)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)  # mkstemp makes files private
    os.replace(name, path)


def plain(value: Any) -> Any:
    """A dataclass (or nest of containers) as plain JSON values, field order kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def identity(run: Any, **more: Any) -> dict[str, Any]:
    """What a run computes, as JSON: its fields without those that only say where and how fast, plus `more`."""
    facts = {k: v for k, v in plain(run).items() if k not in PLACE_FIELDS}
    return {**facts, **plain(more)}


def digest(facts: Mapping[str, Any]) -> str:
    """The content address of an identity: 16 hexadecimal digits of its canonical JSON's SHA-256."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two identities differ, as 'name: old -> new'."""
    out = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += difference(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return out


def utc_now() -> str:
    """The time, as files of runs hold it: '2026-01-31T12:00:00Z'."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@functools.cache  # a process runs the code that it began with
def git_revision() -> str | None:
    """The revision of the source checkout that xtr runs from, with '+' where it holds uncommitted changes."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*args):
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=False
        ).stdout.strip()

    revision = git("rev-parse", "--short=12", "HEAD")
    return revision + ("+" if git("status", "--porcelain", "--untracked-files=no") else "") if revision else None


def environment() -> dict[str, Any]:
    """Versions, devices and the code revision of this process."""
    import jax

    packages = ("xtr", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "seqio", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "git_revision": git_revision(),
        "command": sys.argv,
        "devices": {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()},
        "started": utc_now(),
    }


def is_done(directory: str | os.PathLike, facts: Mapping[str, Any]) -> bool:
    """Whether a run directory holds this very run, finished. Writes nothing.

    Raises:
      UserError: the directory holds a run with another identity; the message lists the differences.
    """
    directory = Path(directory)
    known = directory / IDENTITY
    if not known.exists():
        return False
    changes = difference(json.loads(known.read_text()), json.loads(json.dumps(facts)))
    if changes:
        raise UserError(
            f"{directory} holds another run; choose a new folder (MODEL_DIR, EVAL_OUTPUT_DIR) or set these back: "
            + "; ".join(changes[:8])
        )
    return (directory / DONE).exists()


def create(directory: str | os.PathLike, facts: Mapping[str, Any], gin_texts: Mapping[str, str]) -> None:
    """Makes a run directory, unless it is there already. Called once all of the user's mistakes are found: a command
    that is refused leaves nothing behind."""
    directory = Path(directory)
    known = directory / IDENTITY
    if known.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in gin_texts.items():
        write_atomic(directory / name, text)
    write_atomic(directory / "environment.json", json.dumps(environment(), indent=2) + "\n")
    write_atomic(known, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def chosen_lengths(directory: str | os.PathLike) -> dict[str, int] | None:
    """The TASK_FEATURE_LENGTHS that a run chose for itself; None where it did not. DataError where unreadable."""
    path = Path(directory) / LENGTHS
    if not path.exists():
        return None
    try:
        return {str(name): int(length) for name, length in json.loads(path.read_text())["lengths"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the lengths of a run ({type(error).__name__}: {error}).") from error


class Session:
    """One start of a run: what it takes is added to what earlier starts took, so that an interruption hides nothing.

    Of a start that is killed the time since its last `keep` is lost, as its work mostly is. The first process alone
    writes.
    """

    def __init__(self, directory: str | os.PathLike):
        self._path = Path(directory) / SESSIONS
        self._began, self._started = utc_now(), time.monotonic()

    @property
    def seconds(self) -> float:
        """Of this start so far."""
        return time.monotonic() - self._started

    @functools.cached_property
    def _earlier(self) -> list[dict[str, Any]]:
        return json.loads(self._path.read_text()) if self._path.exists() else []

    def keep(self) -> list[dict[str, Any]]:
        """Writes down what this start took so far; returns all starts: when they began, their seconds and devices."""
        import jax

        own = {"began": self._began, "seconds": round(self.seconds, 3), "devices": jax.device_count()}
        starts = [*self._earlier, own]
        write_atomic(self._path, json.dumps(starts, indent=1) + "\n")
        return starts

    def summary(self) -> dict[str, float]:
        """For `mark_done`: seconds of all starts, the same times their devices, and how many starts there were."""
        starts = self.keep()
        return {
            "seconds": round(sum(start["seconds"] for start in starts), 3),
            "device_seconds": round(sum(start["seconds"] * start["devices"] for start in starts), 3),
            "starts": len(starts),
        }


_guards: dict[str, Callable[[], None]] = {}  # directory -> what is asked before its work is kept


@contextlib.contextmanager
def guarded(directory: str | os.PathLike, check: Callable[[], None]) -> Iterator[None]:
    """While inside, `check` is asked before a checkpoint is saved in the directory and before it is marked as done.
    What it raises comes in the place of that."""
    key = os.path.abspath(directory)
    _guards[key] = check
    try:
        yield
    finally:
        del _guards[key]


def ask_guard(directory: str | os.PathLike) -> None:
    """Raises what the guard of the directory raises; nothing where it has none."""
    if check := _guards.get(os.path.abspath(directory)):
        check()


def mark_done(directory: str | os.PathLike, summary: Mapping[str, Any]) -> None:
    """Writes DONE, with the summary in it. Raises what the guard of the directory raises."""
    ask_guard(directory)
    write_atomic(Path(directory) / DONE, json.dumps(summary, indent=1) + "\n")


def done_summary(directory: str | os.PathLike) -> dict[str, Any] | None:
    path = Path(directory) / DONE
    return json.loads(path.read_text()) if path.exists() else None
