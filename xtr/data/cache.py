"""Finds the cached tasks behind names of tasks and mixtures, and has the missing ones written.

What a name stands for (its tasks and rates) is only known to the code that registers it, which needs TensorFlow. So the
cache writer, a process of its own, answers once, and the answer is kept in `<cache_dir>/index/` together with what it
rests on: the code, the vocabulary, the names of the data files. As long as these are unchanged, and each task's source
files are, nothing here starts TensorFlow.
"""

import functools
import hashlib
import importlib.machinery
import json
import logging
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from xtr import preemption, rundir, storage
from xtr.data import fingerprint, vocabulary_kinds
from xtr.data.cache_shards import damaged, mark_damaged
from xtr.data.cached_task import CachedTask, Examples, eval_examples
from xtr.data.vocabulary import vocabulary_file, vocabulary_sha256
from xtr.errors import DataError, Preempted, UserError, by_reason
from xtr.progress import progress

__all__ = ["CachedTask", "Examples", "Writer", "ensure_cached", "eval_examples", "verify"]

_WRITER = "xtr.data.cache_writer"
_ASK_SECONDS = 0.5  # between two questions whether to stop
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Writer:
    """How the cache writer works; what it writes does not depend on it.

    Attributes:
      num_workers: processes that write shards; None for one on each core.
      export_dir: where the tasks are also written as SeqIO itself caches them, for SeqIO and T5X; '' for nowhere.
      beam: options of the Apache Beam pipeline that does so ('--runner=DirectRunner'); the cache is made from what it
        wrote then. '' for without Beam.
    """

    num_workers: int | None = None
    export_dir: str = ""
    beam: str = ""


@dataclass(frozen=True)
class _Request:
    """What decides the answer, besides the files themselves."""

    task_modules: tuple[str, ...]
    vocabulary_path: str
    vocabulary_sha256: str
    data_dir: str
    cache_dir: Path
    format: str
    tfds_tasks: tuple[str, ...] = ()
    lengths: Mapping[str, int] | None = None
    seqio_cache_dirs: tuple[str, ...] = ()

    def entry_path(self, name: str) -> Path:
        what = [name, self.task_modules, self.vocabulary_sha256, self.data_dir, self.format, self.tfds_tasks]
        what = json.dumps([*what, self.seqio_cache_dirs])
        key = hashlib.sha256(what.encode()).hexdigest()[:12]
        return self.cache_dir / "index" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{key}.json"


def ensure_cached(
    names: Sequence[str],
    *,
    task_modules: Sequence[str] = (),
    vocabulary_path: str | os.PathLike,
    data_dir: str | os.PathLike,
    cache_dir: str | os.PathLike,
    format: str = "text2text",
    tfds_tasks: Sequence[str] = (),
    lengths: Mapping[str, int] | None = None,
    seqio_cache_dirs: Sequence[str] | None = None,
    writer: Writer | None = Writer(),
) -> dict[str, list[CachedTask]]:
    """Returns the cached tasks of each name, writing what is missing or out of date.

    Args:
      names: SeqIO names of tasks and mixtures.
      task_modules: modules that register tasks besides xtr's own.
      vocabulary_path: the vocabulary's file, or a Hugging Face folder that holds it.
      data_dir: folder of the official data files.
      cache_dir: where the cache lies; made when it is not there.
      format: what examples are rendered for (see `xtr.data.formats`).
      tfds_tasks: data sets that are read from TensorFlow Datasets' catalogue instead of official files.
      lengths: tokens of each feature, for the tasks whose preprocessors ask for `sequence_length`; others do not depend
        on it.
      seqio_cache_dirs: where SeqIO's own cached tasks are looked for: one that is there is taken from there instead of
        being tokenised. None for those of the variable XTR_SEQIO_CACHE_DIRS (names with commas between them).
      writer: how the writer works, where it has to. None: nothing is written, and what is missing or out of date is
        left out.

    Returns:
      For each name its tasks, each with its rate in it (1.0 for a task asked for by itself).

    Raises:
      UserError: an unknown name, missing data files, or another of the user's mistakes that the writer found.
      DataError: a source file that cannot be understood.
      RuntimeError: the writer crashed; its messages stand on standard error.
    """
    cache_dir = Path(cache_dir).absolute()
    if not os.path.isdir(data_dir):
        raise UserError(f"The data directory {os.fspath(data_dir)} does not exist.")
    vocabulary_path = vocabulary_file(vocabulary_path)
    request = _Request(
        as_names(task_modules),
        storage.absolute(vocabulary_path),
        vocabulary_sha256(vocabulary_path),
        os.path.abspath(data_dir),
        cache_dir,
        format,
        as_names(tfds_tasks),
        dict(lengths) if lengths else None,
        tuple(os.path.abspath(path) for path in as_names(_seqio_cache_dirs(seqio_cache_dirs))),
    )
    names = list(dict.fromkeys(names))
    listing = _listing(request)
    found = {name: None if writer and writer.export_dir else _from_index(request, name, listing) for name in names}
    if writer is None:
        return {name: tasks for name, tasks in found.items() if tasks is not None}
    if missing := [name for name, tasks in found.items() if tasks is None]:
        try:
            (cache_dir / "index").mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"Cannot make the cache directory {cache_dir}: {e.strerror}.") from e
        # Two processes may come here at once: the writer waits for the other's lock and finds the work done, and
        # both answers are put into the index by a rename.
        found.update(_write(request, missing, listing, writer))
    return found


def _seqio_cache_dirs(given: Sequence[str] | None) -> str | Sequence[str]:
    return os.environ.get("XTR_SEQIO_CACHE_DIRS", "") if given is None else given


def as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names as a tuple; a bare string, as a command line has it, may hold several with commas between them."""
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else tuple(names)


def _listing(request: _Request) -> str:
    """A hash of the names of the data files, TFDS's manual folders among them.

    Files of the cache itself, when it lies below, and what `xtr data download` keeps for itself do not count.
    """
    cache = str(request.cache_dir)
    names = []
    for root in (request.data_dir, *rundir.manual_dirs()):
        for folder, subfolders, files in os.walk(root):
            subfolders[:] = sorted(s for s in subfolders if s != ".downloads" and os.path.join(folder, s) != cache)
            names += [f"{root}\0{os.path.relpath(os.path.join(folder, f), root)}" for f in files]
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()


def _code(request: _Request) -> list[str]:
    """The code that decides what a name's tasks hold: the tasks package, the user's modules and the tokenisers."""
    files = [*fingerprint.tasks_root().rglob("*.py"), *filter(None, map(_module_file, request.task_modules))]
    files.append(vocabulary_kinds.__file__)
    return fingerprint.code_names(files)


def _module_file(name: str) -> str | None:
    """The file of a module, found without importing it; None when there is none (the writer says so)."""
    if name.endswith(".py"):
        return name
    path, spec, parts = [os.getcwd(), *sys.path], None, name.split(".")
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec.origin


def _from_index(request: _Request, name: str, listing: str) -> list[CachedTask] | None:
    """The tasks of a name as an earlier answer has it; None when there is none, or it no longer holds."""
    try:
        entry = json.loads(request.entry_path(name).read_text(encoding="utf-8"))
        if entry["listing"] != listing or entry["code_sha256"] != fingerprint.code_sha256(_code(request)):
            return None
        if entry["lengths"] not in (None, request.lengths or {}):
            return None
        tasks = [CachedTask.open(request.cache_dir / folder, rate, of) for _, rate, folder, of in entry["tasks"]]
        if not all(_valid(request, task) for task in tasks):
            return None
        _warn_skipped(name, entry["skipped"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return None
    return tasks


def _valid(request: _Request, task: CachedTask) -> bool:
    """True while nothing that a cached task was made from has changed."""
    info = task.info
    return (
        info["vocabulary"]["sha256"] == request.vocabulary_sha256
        and fingerprint.code_sha256(info["code"]) == info["code_sha256"]
        and all(fingerprint.source_unchanged(source) for source in info["sources"])
    )


def _write(request: _Request, names: Sequence[str], listing: str, writer: Writer) -> dict[str, list[CachedTask]]:
    """Runs the writer for `names` and keeps its answer."""
    response = _run_writer(
        {
            "names": list(names),
            "task_modules": list(request.task_modules),
            "vocabulary_path": request.vocabulary_path,
            "data_dir": request.data_dir,
            "cache_dir": str(request.cache_dir),
            "format": request.format,
            "tfds_tasks": list(request.tfds_tasks),
            "lengths": request.lengths,
            "seqio_cache_dirs": list(request.seqio_cache_dirs),
            **asdict(writer),
        }
    )
    found = {}
    for name in names:
        members = response["mixtures"].get(name, [[name, 1.0]])
        present = [(task, rate, response["tasks"][task]) for task, rate in members if task in response["tasks"]]
        components = response.get("components", {}).get(name, {})
        why = response["skipped"].get(name, {})
        if not present:
            raise UserError(f"{name}: none of its tasks could be cached. {by_reason(why)}".rstrip())
        tasks = [CachedTask.open(request.cache_dir / folder, rate, components.get(t)) for t, rate, folder in present]
        entry = {
            "name": name,
            "tasks": [
                [t.name, t.rate, os.path.relpath(t.directory, request.cache_dir), dict(t.components)] for t in tasks
            ],
            "skipped": why,
            # Other lengths may mean other tasks where one of them reads them; an empty table stands for none.
            "lengths": (request.lengths or {}) if response.get("reads_lengths") else None,
            "listing": listing,
            "code_sha256": fingerprint.code_sha256(_code(request)),
        }
        rundir.write_atomic(request.entry_path(name), json.dumps(entry, indent=1))
        _warn_skipped(name, why)
        found[name] = tasks
    return found


def verify(tasks: Iterable[CachedTask]) -> dict[str, dict[Path, str]]:
    """Reads every byte of cached tasks and compares its checksum with the one of when it was written.

    Returns:
      The damaged shards of each task, and what is wrong with them. The next `ensure_cached` writes these again.

    Raises:
      UserError: a shard is damaged, in a folder that cannot be written to.
    """
    found = {}
    tasks = list(tasks)
    with progress("checking shards", sum(len(shards) for task in tasks for shards in task.shards.values())) as bar:
        for task in tasks:
            wrong = damaged(task.directory, task.shards, wholly=True)
            for path, why in wrong.items():
                if not mark_damaged(path):
                    raise UserError(f"{task.name}: the shard {path} is damaged ({why}), and its folder is read-only.")
            bar.advance(sum(map(len, task.shards.values())), note=task.name)
            if wrong:
                found[task.name] = wrong
    return found


def _warn_skipped(name: str, skipped: dict[str, str]) -> None:
    if skipped:
        _warn_once(f"{name} goes without some of its tasks. {by_reason(skipped)}")


@functools.cache
def _warn_once(text: str) -> None:
    """A study asks for the same mixtures for each of its models."""
    _log.warning("%s", text)


def _run_writer(request: dict) -> dict:
    """Runs the cache writer; what it prints goes to standard error as it comes."""
    with tempfile.TemporaryDirectory(prefix="xtr-cache-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "response.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", _WRITER, str(asked), str(answered)]
        output = _Passed()
        process = subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            for chunk in _chunks(process.stdout):
                output.add(chunk)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            output.flush()
            raise
        response = json.loads(answered.read_text(encoding="utf-8")) if answered.exists() else None
    if code == 2:
        raise UserError(output.last.decode("utf-8", "replace").strip() or "The cache writer gave no reason.")
    output.flush()
    if code or response is None:
        raise RuntimeError(f"The cache writer ended with code {code}; its messages stand above.")
    return response


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """What comes out of a pipe until its end. Preempted once the run is asked to stop."""
    while True:
        if preemption.requested_anywhere():
            raise Preempted("the shards that are written stay; the same command goes on with the others")
        if select.select([stream], [], [], _ASK_SECONDS)[0]:
            if not (chunk := os.read(stream.fileno(), 65536)):
                return
            yield chunk


def child_environment() -> dict[str, str]:
    """For a process that may import TensorFlow: it says what matters itself, and leaves the accelerators alone."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


class _Passed:
    """Passes a process's output on to standard error, except for the last line so far, which may be its error."""

    def __init__(self):
        self.last = b""

    def add(self, chunk: bytes) -> None:
        text = self.last + chunk
        at = text.rstrip(b"\r\n").rfind(b"\n") + 1
        self._show(text[:at])
        self.last = text[at:]

    def flush(self) -> None:
        self._show(self.last)
        self.last = b""

    def _show(self, text: bytes) -> None:
        sys.stderr.write(text.decode("utf-8", "replace"))
        sys.stderr.flush()
