"""`xtr bench input`: packed encoder tokens a second from the cache, and the time to the first batch, beside SeqIO's.

Both read every example of the mixture's tasks once, shuffled, mixed in proportion to the tasks' sizes and packed, from
the same records. Each run is a fresh process; the contenders take turns.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtr.data.cache import child_environment, ensure_cached
from xtr.data.cached_task import CachedTask
from xtr.errors import UserError
from xtr.progress import progress

XTR, CACHED, UNCACHED = "xtr", "seqio, cached", "seqio, uncached"
_MODULES = {XTR: "xtr.bench.feed", CACHED: "xtr.bench.seqio_feed", UNCACHED: "xtr.bench.seqio_feed"}


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
      name: a mixture or task; its split 'train' is read.
      cache: what `ensure_cached` is told besides.
      lengths: slots of a row, {'inputs': S, 'targets': T}.
      batch: rows of a batch.
      repeats: runs of each contender; the median counts.
      uncached: whether SeqIO is measured without its cache too, once.
      most: batches of a run; None: the whole epoch. With a number contenders do not read the same examples.
      seed: of the shuffles.
    """

    name: str
    cache: Mapping[str, Any]
    lengths: Mapping[str, int]
    batch: int = 128
    repeats: int = 3
    uncached: bool = False
    most: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name in ("batch", "repeats", "most"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{'batches' if name == 'most' else name} is {value}; it must be at least 1.")
        if set(self.lengths) != {"inputs", "targets"}:
            raise UserError(f"--lengths is {dict(self.lengths)}; it must be like inputs=512,targets=114.")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A contender's figures: medians of its runs.

    Attributes:
      cold_start_seconds: from the start of a process, imports and all, to its first batch.
      encoder_tokens_per_second, examples_per_second: real tokens and examples of the batches behind the first.
      processor_seconds: of all threads, for a million encoder tokens; what else the machine does changes it less.
      spread: the fastest run's tokens a second over the slowest's.
      batches, rows, examples, encoder_tokens, decoder_tokens: of a run.
      encoder_density, decoder_density: tokens over the slots of the rows.
      resident_bytes: memory of a process at its first batch, after each quarter of its batches, and at the end.
      tensorflow: whether the process had imported it.
    """

    contender: str
    cold_start_seconds: float
    encoder_tokens_per_second: float
    examples_per_second: float
    processor_seconds: float
    spread: float
    batches: int
    rows: int
    examples: int
    encoder_tokens: int
    decoder_tokens: int
    encoder_density: float
    decoder_density: float
    resident_bytes: tuple[int, ...]
    tensorflow: bool


def measure(bench: Bench) -> list[Measured]:
    """The figures of each contender, this package's first.

    Raises:
      UserError: the mixture is not there, or has tasks without inputs and targets.
    """
    tasks = [task for task in ensure_cached([bench.name], **bench.cache)[bench.name] if task.rate > 0]
    for task in tasks:
        if task.info.get("kind") == "text":
            raise UserError(f"{task.name} is plain text; `xtr bench input` measures tasks with inputs and targets.")
    contenders = [XTR, CACHED, *([UNCACHED] if bench.uncached else [])]
    runs: dict[str, list[dict]] = {who: [] for who in contenders}
    total = 2 * (bench.repeats + 1) + 1 + bench.uncached
    with tempfile.TemporaryDirectory(prefix="xtr-bench-") as folder, progress("measure input", total) as bar:
        request = _request(bench, tasks, Path(folder))
        _run(_MODULES[CACHED], request | {"what": "copy"}, Path(folder))
        bar.advance()
        for turn in range(bench.repeats + 1):  # the first, of one batch, so that both find their files in memory
            for who in (XTR, CACHED):
                found = _run(_MODULES[who], request | {"what": "cached"} | ({} if turn else {"most": 1}), Path(folder))
                runs[who] += [found] if turn else []
                bar.advance(note=who)
        if bench.uncached:
            runs[UNCACHED].append(_run(_MODULES[UNCACHED], request | {"what": "uncached"}, Path(folder)))
            bar.advance(note=UNCACHED)
    return [_figures(who, found) for who, found in runs.items()]


def _request(bench: Bench, tasks: Sequence[CachedTask], folder: Path) -> dict[str, Any]:
    members = [
        {"name": task.name, "directory": task.directory, "examples": task.num_examples("train")} for task in tasks
    ]
    return {
        "name": bench.name,
        "cache": dict(bench.cache),
        "lengths": dict(bench.lengths),
        "batch": bench.batch,
        "most": bench.most,
        "seed": bench.seed,
        "tasks": members,
        "folder": str(folder / "seqio"),
        "vocabulary_size": tasks[0].info["vocabulary"]["size"],
    }


def _run(module: str, request: Mapping, folder: Path) -> dict[str, Any]:
    """What a fresh process answers, and how long it took to its first batch."""
    asked, answered = folder / "request.json", folder / "response.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    answered.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, str(asked), str(answered)]
    started = time.monotonic()
    done = subprocess.run(command, env=child_environment(), stderr=subprocess.PIPE, text=True)
    if done.returncode or not answered.exists():
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"{module} ended with code {done.returncode}; its messages stand above.")
    found = json.loads(answered.read_text(encoding="utf-8"))
    return found | {"cold_start_seconds": found["first"] - started} if "first" in found else found


def _figures(who: str, runs: Sequence[Mapping[str, Any]]) -> Measured:
    median = {
        name: statistics.median(value(run) for run in runs)
        for name, value in {
            "cold_start_seconds": lambda run: run["cold_start_seconds"],
            "encoder_tokens_per_second": _tokens_per_second,
            "examples_per_second": lambda run: run["timed_examples"] / max(run["seconds"], 1e-9),
            "processor_seconds": lambda run: run["processor_seconds"] / max(run["timed_encoder_tokens"], 1) * 1e6,
        }.items()
    }
    speeds, last = [_tokens_per_second(run) for run in runs], runs[-1]
    encoder_slots, decoder_slots = last["slots"]
    counts = {n: last[n] for n in ("batches", "rows", "examples", "encoder_tokens", "decoder_tokens", "tensorflow")}
    return Measured(
        contender=who,
        **median,
        **counts,
        spread=max(speeds) / max(min(speeds), 1e-9),
        encoder_density=last["encoder_tokens"] / (last["rows"] * encoder_slots),
        decoder_density=last["decoder_tokens"] / (last["rows"] * decoder_slots),
        resident_bytes=tuple(last["resident_bytes"]),
    )


def _tokens_per_second(run: Mapping[str, Any]) -> float:
    return run["timed_encoder_tokens"] / max(run["seconds"], 1e-9)
