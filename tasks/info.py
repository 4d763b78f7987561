"""What evaluation must know of a task beyond its SeqIO registration; it travels into the cache's `xtr_task.json`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskInfo:
    """Evaluation metadata of one task.

    kind: 'classification', 'span_qa', 'retrieval', 'text', or 'text2text' for any other SeqIO task.
    language: code of the evaluated language ('' if unknown).
    group: name of the target whose languages are averaged, e.g. 'xnli'.
    predictor: 'rank' (score the choices), 'generate', 'embed' or 'none'.
    metrics: names of the metrics, as the evaluation knows them.
    """

    kind: str
    language: str
    group: str
    predictor: str
    metrics: tuple[str, ...]


_TASK_INFO: dict[str, TaskInfo] = {}


def describe(task: str, info: TaskInfo) -> None:
    """Sets the evaluation metadata of a task; a user's module may call it for its own tasks."""
    _TASK_INFO[task] = info


def forget(task: str) -> None:
    """Removes the metadata of a task."""
    _TASK_INFO.pop(task, None)


def task_info(task: str) -> TaskInfo:
    """Returns a task's metadata; a SeqIO task that nobody described generates text, judged by exact match."""
    known = _TASK_INFO.get(task)
    return known or TaskInfo(kind="text2text", language="", group=task, predictor="generate", metrics=("accuracy",))
