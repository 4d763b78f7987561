"""Computes tasks' own SeqIO metrics as SeqIO's Evaluator does: `python -m xtr.tasks.own_metrics`.

A process of its own, because evaluation imports no TensorFlow. It reads one JSON object a line from standard input and
answers each by one line on standard output, until its input ends.

First line:  {"task_modules", "data_dir", "cache_dir", "vocabulary_path", "format", "tfds_tasks"}; its answer is {}.
Other lines: {"task", "split", "lengths": {feature: tokens} or null, "arrays": an .npz file with `tokens/<feature>`, the
              tokens of all N examples behind each other, and `sizes/<feature>` [N], how many of each; and what the
              metrics need of `predictions` [N, T], `prediction_scores` [N] and `scores` [N]}.
Answers:     {"values": {metric: number}, "skipped": {metric: why}}, or {"error": a user's mistake}.
"""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from xtr.errors import UserError

from .modules import import_task_module, import_tensorflow, place_of, set_environment


def main() -> int:
    """Answers requests; returns the exit code."""
    # What libraries and the user's code print goes to standard error: the answers are for a program.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    files: list[Path] | None = None
    for line in sys.stdin:
        try:
            if files is None:
                files, answer = _start(json.loads(line)), {}
            else:
                answer = _answer(json.loads(line), files)
        except UserError as e:
            answer = {"error": str(e)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def _start(request: Mapping) -> list[Path]:
    """Registers xtr's tasks and the user's; returns the user's files."""
    set_environment(request)
    import_tensorflow()
    from . import register_all

    absent = register_all().absent
    return [file for name in request["task_modules"] for file in import_task_module(name, absent)]


def _answer(request: Mapping, files: list[Path]) -> dict:
    import seqio

    task = seqio.TaskRegistry.get(request["task"])
    with np.load(request["arrays"]) as arrays:
        arrays = dict(arrays)
    examples = _examples(task, request["split"], request["lengths"], arrays)
    values, skipped = compute(task, examples, arrays, files)
    return {"values": values, "skipped": skipped}


def _examples(task, split: str, lengths: Mapping[str, int] | None, predicted: Mapping[str, np.ndarray]) -> list[dict]:
    """The first examples of a split, as SeqIO gives them to metrics.

    Raises:
      UserError: they are not those that were predicted.
    """
    import tensorflow_datasets as tfds

    from . import foreign

    sizes = {name.partition("/")[2]: array for name, array in predicted.items() if name.startswith("sizes/")}
    count = len(next(iter(sizes.values())))
    examples = list(tfds.as_numpy(foreign.task_dataset(task, split, lengths, trim=True).take(count)))
    for name, sizes_N in sizes.items():
        tokens = np.split(predicted[f"tokens/{name}"], np.cumsum(sizes_N)[:-1])
        for number, (example, expected) in enumerate(zip(examples, tokens, strict=False)):
            if not np.array_equal(np.ravel(example.get(name, ())), expected):
                raise UserError(
                    f"Task {task.name}: '{name}' of example {number} of {split!r} is another than when it was cached, "
                    "so the task's own metrics cannot be computed: it draws by chance in a way that no seed reaches."
                )
    if len(examples) < count:
        raise UserError(f"Task {task.name}: {split!r} has {len(examples)} examples; it had {count} when cached.")
    return examples


def compute(
    task, examples: Sequence[Mapping], arrays: Mapping[str, np.ndarray], files: Sequence[Path] = ()
) -> tuple[dict[str, float], dict[str, str]]:
    """The values of a task's own metrics, as `seqio.Evaluator` computes them of the same model outputs.

    Args:
      task: a SeqIO task.
      examples: the task's examples as NumPy values.
      arrays: `predictions`, int [N, T] tokens; `prediction_scores` [N], their log-probabilities; `scores` [N], those of
        the targets.
      files: the user's own, where an error is looked for first.

    Returns:
      The numbers, and why each other result is none.

    Raises:
      UserError: a metric raised an exception, or two have one name.
    """
    import seqio
    from seqio.metrics import CollectingMetric, ModelOutputType

    functions = [seqio.utils.function_name(function) for function in task.metric_fns]
    objects = [getattr(m, "__name__", type(m).__name__) for m in task.metric_objs]
    names = objects[: len(objects) - len(functions)] + functions
    values: dict[str, float] = {}
    skipped: dict[str, str] = {}
    targets: list = []
    for name, metric in zip(names, task.metric_objs, strict=True):
        if metric.model_output_type == ModelOutputType.SCORE_WITH_INTERMEDIATES:
            skipped[name] = "it reads what a network computes on its way, which is not kept"
            continue
        output = {
            ModelOutputType.PREDICTION: lambda: arrays["predictions"],
            ModelOutputType.SCORE: lambda: arrays["scores"],
            ModelOutputType.PREDICTION_WITH_AUX: lambda: (
                arrays["predictions"], {"scores": arrays["prediction_scores"]},
            ),
        }[metric.model_output_type]()  # fmt: skip
        try:
            instance = metric.from_model_output(examples, output, task.output_features, "targets")
            if isinstance(instance, CollectingMetric):
                found, seen = instance.actual_compute(examples, task.output_features, "targets", targets)
                targets = seen["targets"]
            else:
                found = instance.compute()
        except Exception as e:
            raise UserError(
                f"Task {task.name}: its metric {name} failed at {place_of(e, files)}: {type(e).__name__}: {e}"
            ) from e
        for key, value in _results(name, found):
            if key in values or key in skipped:
                raise UserError(f"Task {task.name}: two of its metrics are called {key!r}.")
            number = _number(value)
            if isinstance(number, float):
                values[key] = number
            else:
                skipped[key] = number
    return values, skipped


def _results(name: str, found: object) -> Iterator[tuple[str, object]]:
    """A metric's named results, those of nested tables under 'outer/inner'; a bare value has the metric's own name."""
    if not isinstance(found, Mapping):
        yield name, found
        return
    for key, value in found.items():
        for inner, result in _results("", value) if isinstance(value, Mapping) else [("", value)]:
            yield f"{key}/{inner}".rstrip("/"), result


def _number(value: object) -> float | str:
    """A result as a number, or why it is none."""
    import seqio

    if isinstance(value, seqio.metrics.Scalar):
        value = value.value
    if isinstance(value, seqio.metrics.MetricValue):
        return f"a {type(value).__name__} is no number"
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return f"a {type(value).__name__} is no number"
    if array.size != 1 or isinstance(value, str | bytes):
        return f"a {type(value).__name__} is no number"
    return float(array.reshape(())) if math.isfinite(array.reshape(())) else f"it is {float(array.reshape(()))}"


if __name__ == "__main__":
    sys.exit(main())
