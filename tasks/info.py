"""What evaluation must know of a task beyond its SeqIO registration; it travels into the cache's `xtr_task.json`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskInfo:
    """Evaluation metadata of one task.

    kind: 'classification', 'multiple_choice', 'span_qa', 'tagging', 'retrieval', 'pairs', 'text', or 'text2text' for
      any other SeqIO task.
    language: code of the evaluated language ('' if unknown).
    group: name of the target whose languages are averaged, e.g. 'xnli'.
    predictor: how the format is answered: 'rank' (score the choices), 'generate', 'tag', 'span', 'embed', or 'none'.
    metrics: names of the metrics, as the evaluation knows them.
    label_names: the tags of a tagging task, in the order of their numbers.
    candidates: of retrieval, the task whose split 'candidates' is searched; '' where it is the task itself.
    languages: every language that the group should have; a mean over fewer says so.
    stage: what the study has it for: 'pretrain', 'intermediate' or 'target'; '' for a user's own.
    """

    kind: str
    language: str
    group: str
    predictor: str
    metrics: tuple[str, ...]
    label_names: tuple[str, ...] = ()
    candidates: str = ""
    languages: tuple[str, ...] = ()
    stage: str = ""


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
