"""What a cached task was made from: hashes of source files, code and vocabulary, computed without TensorFlow.

The cache writer records these in `xtr_task.json`; a reader compares them with the files of today, so that a cache is
used only as long as nothing it was made from has changed.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xtr.errors import UserError

# Code inside the tasks package is recorded relative to it: the same cache serves a checkout and an installed wheel.
_PACKAGE = "xtr.tasks"
_PREFIX = _PACKAGE + "/"


def sha256_file(path: str | os.PathLike) -> str:
    """Returns the hex SHA-256 of a file's bytes. Raises UserError when the file cannot be read."""
    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UserError(f"{path}: cannot read the file ({e.strerror}).") from e


def source_record(path: str | os.PathLike) -> dict:
    """Returns {"path" (absolute), "size" (bytes), "mtime_ns", "sha256"} of one source file."""
    path = Path(path).absolute()
    sha256 = sha256_file(path)
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def source_unchanged(record: Mapping) -> bool:
    """True when a recorded file still holds the same bytes. Size and time settle it where they can, else the hash."""
    try:
        stat = os.stat(record["path"])
    except OSError:
        return False
    if stat.st_size != record["size"]:
        return False
    return stat.st_mtime_ns == record["mtime_ns"] or sha256_file(record["path"]) == record["sha256"]


def tasks_root() -> Path:
    """Returns the folder of the tasks package without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The package {_PACKAGE} is not installed; install xtr (pip install -e . in a checkout).")
    return Path(next(iter(spec.submodule_search_locations)))


def code_names(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Returns sorted recorded names of code files: 'xtr.tasks/...' inside the package, absolute paths elsewhere."""
    root = tasks_root().resolve()
    names = []
    for path in {Path(p).resolve() for p in paths}:
        names.append(_PREFIX + path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))
    return sorted(names)


def code_sha256(names: Sequence[str]) -> str:
    """Returns one hash over the named code files (names as `code_names` gives them); a file gone hashes as absent."""
    digest = hashlib.sha256()
    root = tasks_root()
    for name in names:
        path = root / name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else Path(name)
        label = name if name.startswith(_PREFIX) else path.name
        digest.update(f"{label}\0{sha256_file(path) if path.is_file() else 'absent'}\n".encode())
    return digest.hexdigest()


def task_fingerprint(
    task: str, info: Mapping, sources: Sequence[Mapping], code: str, vocabulary: str, form: str
) -> str:
    """Returns the hex fingerprint that names a task's cache directory.

    `info` is the task's evaluation metadata (JSON values), `sources` its source records (names and bytes count, not
    folders or times), `code` and `vocabulary` are SHA-256 hex digests, `form` the format that examples are rendered in.
    """
    content = {
        "task": task,
        "info": info,
        "sources": sorted((Path(s["path"]).name, s["sha256"]) for s in sources),
        "code": code,
        "vocabulary": vocabulary,
        "format": form,
        "layout": 1,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cache_directory(cache_dir: str | os.PathLike, task: str, fingerprint: str) -> Path:
    """Returns `<cache_dir>/<task>-<first 12 hex digits of the fingerprint>`."""
    return Path(cache_dir) / f"{task}-{fingerprint[:12]}"
