"""Metrics that a SeqIO task brings itself, computed by a process with TensorFlow (`xtr.tasks.own_metrics`)."""

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xtr import rundir, storage
from xtr.data.cache import as_names, child_environment
from xtr.data.cached_task import CachedTask
from xtr.errors import UserError
from xtr.evaluate.methods import GENERATE, SCORE, Asked, Method, inputs_of, target_tokens
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.run import EvaluateRun

_PROGRAM = "xtr.tasks.own_metrics"
_log = logging.getLogger(__name__)


def outputs(info: Mapping) -> tuple[str, ...]:
    """Names of SeqIO's model outputs that the own metrics of a task of these facts read; none where it has none."""
    return tuple(info.get("own_metrics", {}).get("outputs", ()))


def predict(
    predictor: Predictor,
    needed: Sequence[str],
    examples: Sequence[Mapping],
    said: Sequence,
    method: Method,
    asked: Asked,
) -> list[dict]:
    """What a task's own metrics read, an entry an example: `tokens` and their `log_prob`, and the target's `score`.

    Args:
      needed: the names of `outputs`.
      said: what the task's method said of the examples: used where it is that, else it is predicted now.
    """
    inputs = inputs_of(predictor, examples, asked.length)
    entries: list[dict] = [{} for _ in examples]
    if {"prediction", "prediction_with_aux"} & set(needed):
        found = said if method is GENERATE else GENERATE.predict(predictor, examples, asked, _no_progress)
        for entry, (tokens, log_prob) in zip(entries, found, strict=True):
            entry |= {"tokens": np.asarray(tokens).tolist(), "log_prob": float(log_prob)}
    if "score" in needed:
        found = said if method is SCORE else predictor.score(inputs, target_tokens(examples, asked.run), _no_progress)
        for entry, score in zip(entries, found, strict=True):
            entry["score"] = float(score)
    return entries


def _no_progress(done: int) -> None:
    """Examples that were counted when they were predicted first."""


def _arrays(entries: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """What `predict` gave, as arrays."""
    arrays: dict[str, np.ndarray] = {}
    if "tokens" in entries[0]:
        arrays["predictions"] = np.array([entry["tokens"] for entry in entries], np.int32)
        arrays["prediction_scores"] = np.array([entry["log_prob"] for entry in entries], np.float32)
    if "score" in entries[0]:
        arrays["scores"] = np.array([entry["score"] for entry in entries], np.float32)
    return arrays


def _tokens(examples: Sequence[Mapping], features: Sequence[str], lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """`tokens/<feature>` of all examples behind each other, cut at `lengths`, and `sizes/<feature>` [N], how many of
    each."""
    arrays = {}
    for name in features:
        cut = [np.asarray(example.get(name, ())).reshape(-1)[: lengths.get(name)] for example in examples]
        arrays |= {f"tokens/{name}": np.concatenate(cut), f"sizes/{name}": np.array([len(tokens) for tokens in cut])}
    return arrays


class OwnMetrics:
    """Computes the own metrics of the tasks of one evaluation. A context manager: the process ends with it.

    Attributes:
      skipped: results that are no numbers, as 'task, split: metric' -> why.
    """

    def __init__(self, run: EvaluateRun):
        self._run = run
        self._process: subprocess.Popen | None = None
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> "OwnMetrics":
        return self

    def __exit__(self, *_) -> None:
        if self._process:
            self._process.stdin.close()
            self._process.terminate()
            self._process.wait()
            self._process.stdout.close()

    def values(
        self, task: CachedTask, split: str, examples: Sequence[Mapping], entries: Sequence[Mapping]
    ) -> dict[str, float]:
        """The values of a task's own metrics, under the names that they give themselves.

        Args:
          examples: the first ones of the split, as they were predicted.
          entries: what `predict` gave, an entry an example.

        Raises:
          UserError: a metric raised an exception.
          RuntimeError: the process crashed; its messages stand on standard error.
        """
        lengths = self._run.task_feature_lengths
        with tempfile.TemporaryDirectory(prefix="xtr-metrics-") as folder:
            arrays = Path(folder) / "arrays.npz"
            np.savez(arrays, **_tokens(examples, task.info["features"], lengths or {}), **_arrays(entries))
            lengths = dict(lengths) if lengths else None
            if self._process is None:
                self._start()
            answer = self._ask({"task": task.name, "split": split, "lengths": lengths, "arrays": str(arrays)})
        for metric, why in answer["skipped"].items():
            self.skipped[f"{task.name}, {split}: {metric}"] = why
            _log.warning("%s, %s: the metric %s is not in the results: %s", task.name, split, metric, why)
        return answer["values"]

    def _start(self) -> None:
        run = self._run
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._ask(
            {
                "task_modules": as_names(run.task_modules),
                "data_dir": rundir.data_dir(run.data_dir),
                "cache_dir": rundir.cache_dir(run.cache_dir),
                "vocabulary_path": storage.absolute(run.vocabulary_path),
                "format": run.format,
                "tfds_tasks": as_names(run.tfds_tasks),
            }
        )

    def _ask(self, request: Mapping) -> dict:
        with contextlib.suppress(BrokenPipeError):  # It has ended, as the missing answer shows.
            print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(
                f"The process of the tasks' own metrics ended with code {code}; its messages stand above."
            )
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer
