"""Compiled programs, each made once in a process of its own and kept under the digest of all that shapes it."""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xtr import rundir
from xtr.errors import UserError
from xtr.parallel.topology import ENVIRONMENT, Topology, compile_only_devices, has_compiler
from xtr.plan.compile import Compiled, Memory
from xtr.plan.run import PlanRun
from xtr.train.loop import options_for

_FOLDER = "plans"
_FORMAT = 1
# What each program's text is made of, below the package.
_SOURCES = {
    "train": ("models", "parallel", "train", "plan/batches.py", "plan/compile.py"),
    "score": ("models", "parallel", "train", "plan/batches.py", "plan/compile.py"),
    "decode": ("models", "parallel", "evaluate/continuous.py", "evaluate/decoding.py", "plan/compile.py"),
}
_FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS", "TPU_LIBRARY_PATH")  # what else the compiler goes by
_TAIL = 12  # lines of a compiler's last words


def facts(run: PlanRun, topology: Topology, program: str) -> dict[str, Any]:
    """All that shapes a program: the run's own settings of it, the topology, versions, flags and the source."""
    train, kind = run.train, program.partition("_")[0]
    chosen = {
        "format": _FORMAT,
        "program": program,
        "topology": str(topology),
        "model": repr(train.model),
        "mesh": dataclasses.asdict(train.mesh),
        "lengths": dict(train.task_feature_lengths),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "libtpu")},
        "flags": {name: os.environ.get(name, "") for name in _FLAGS},
        "source": source_digest(_SOURCES[kind]),
    }
    if kind == "decode":
        return chosen | {"tokens_per_batch": run.tokens_per_batch, "decode_length": run.decode_length}
    chosen |= {"batch_size": train.batch_size, "objective": train.loss}
    if kind == "train":
        chosen["options"] = repr(options_for(train, None))
    return chosen


def version(name: str) -> str:
    """The version of an installed distribution; '' where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def source_digest(places: Iterable[str]) -> str:
    """The SHA-256 of the source files at places below the package, files or folders."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for place in places:
        found = root / place
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Store:
    """The compiled programs below a cache directory."""

    def __init__(self, cache_dir: str | None = None):
        self.directory = Path(rundir.cache_dir(cache_dir)) / _FOLDER

    def find(self, run: PlanRun, topology: Topology, program: str) -> Compiled | None:
        """A program that was compiled before; None for none."""
        return _read(self.path(run, topology, program))

    def compiled(self, run: PlanRun, topology: Topology, program: str) -> Compiled:
        """A program as it was kept, or compiled now, and kept."""
        path = self.path(run, topology, program)  # once: the source may change while the compiler works
        found = _read(path)
        if found is None:
            found = compile_apart(run, topology, program)
            text = json.dumps(dataclasses.asdict(found)).encode()
            rundir.write_atomic(path, gzip.compress(text, 6))
        return found

    def path(self, run: PlanRun, topology: Topology, program: str) -> Path:
        """Where a program is kept."""
        return self.directory / f"{rundir.digest(facts(run, topology, program))}.json.gz"


def _read(path: Path) -> Compiled | None:
    try:
        kept = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, ValueError, EOFError):  # a damaged file is as good as none
        return None
    memory, reached = kept["memory"], {name: tuple(sizes) for name, sizes in kept["extents"].items()}
    return Compiled(**kept | {"memory": memory and Memory(**memory), "extents": reached})


def compile_apart(run: PlanRun, topology: Topology, program: str) -> Compiled:
    """`compile_program` in a process of its own: the compiler's noise, its memory and its crashes stay there.

    Raises:
      UserError: as `compile_program`; or the compiler crashed, with its last words.
    """
    if not has_compiler():
        compile_only_devices(topology)  # says what is missing
    environment = os.environ | ENVIRONMENT | {"JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        with open(Path(folder) / "log", "w+b") as log:
            done = subprocess.run(
                [sys.executable, "-m", "xtr.plan.worker", str(answer)], input=pickle.dumps((run, topology, program)),
                stdout=log, stderr=log, env=environment, check=False,
            )  # fmt: skip
            if answer.exists():
                result = pickle.loads(answer.read_bytes())
                if isinstance(result, Exception):
                    raise result
                return result
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()[-_TAIL:]
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"left with {done.returncode}"
    raise UserError(f"the compiler of {program} for {topology} {how}. Its last words:\n" + "\n".join(words))
