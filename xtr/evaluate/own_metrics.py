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
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.run import EvaluateRun

_PROGRAM = "xtr.tasks.own_metrics"
_log = logging.getLogger(__name__)


def needed(task: CachedTask) -> tuple[str, ...]:
    """Names of SeqIO's model outputs that a task's own metrics read; none where it has no such metrics."""
    return tuple(task.info.get("own_metrics", {}).get("outputs", ()))


def scored(
    predictor: Predictor, inputs: Sequence[np.ndarray], examples: Sequence[Mapping], run: EvaluateRun, advance
) -> list[dict]:
    """A record an example: the log-probability of its target, which is its `prediction` and its `score`."""
    scores_N = predictor.score(inputs, _targets(examples, run), advance)
    return [
        {
            "id": example["meta"].get("id", str(number)),
            "prediction": float(score),
            "gold": predictor.vocabulary.decode(example["targets"].tolist()),
            "score": float(score),
            "contributions": {},
        }
        for number, (example, score) in enumerate(zip(examples, scores_N, strict=True))
    ]


def model_outputs(
    predictor: Predictor,
    needed: Sequence[str],
    inputs: Sequence[np.ndarray],
    examples: Sequence[Mapping],
    records: Sequence[Mapping],
    run: EvaluateRun,
) -> dict[str, np.ndarray]:
    """The arrays that `OwnMetrics.values` takes: from the records where these have them, else predicted now."""
    arrays: dict[str, np.ndarray] = {}
    if {"prediction", "prediction_with_aux"} & set(needed):
        best = [(record["tokens"], record["log_prob"]) for record in records if "tokens" in record]
        if not best:
            found = predictor.generate_tokens(inputs, run.max_decode_length, run.decoding, _no_progress)
            best = [sequences[0] for sequences in found]
        arrays["predictions"] = np.stack([tokens for tokens, _ in best])
        arrays["prediction_scores"] = np.array([log_prob for _, log_prob in best], np.float32)
    if "score" in needed:
        scores = [record["score"] for record in records if "score" in record]
        found = scores or predictor.score(inputs, _targets(examples, run), _no_progress)
        arrays["scores"] = np.asarray(found, np.float32)
    return arrays


def _targets(examples: Sequence[Mapping], run: EvaluateRun) -> list[np.ndarray]:
    length = (run.task_feature_lengths or {}).get("targets")
    return [example["targets"][:length] for example in examples]


def _no_progress(done: int) -> None:
    """Examples that were counted when they were predicted first."""


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
        self, task: CachedTask, split: str, examples: Sequence[Mapping], outputs: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """The values of a task's own metrics, under the names that they give themselves.

        Args:
          examples: the first ones of the split, as they were predicted.
          outputs: what `needed` asks for, an entry an example: `predictions`, int [N, T] tokens; `prediction_scores`
            [N], their log-probabilities; `scores` [N], those of the targets.

        Raises:
          UserError: a metric raised an exception.
          RuntimeError: the process crashed; its messages stand on standard error.
        """
        lengths = self._run.task_feature_lengths
        with tempfile.TemporaryDirectory(prefix="xtr-metrics-") as folder:
            arrays = Path(folder) / "arrays.npz"
            np.savez(arrays, **_tokens(examples, task.info["features"], lengths or {}), **outputs)
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
