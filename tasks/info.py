"""What evaluation must know of a task beyond its SeqIO registration; it travels into the cache's `xtr_task.json`."""

from collections.abc import Collection
from dataclasses import dataclass

from xtr.errors import UserError, did_you_mean

from . import examples

KINDS = (*examples.KINDS.values(), "text2text")
PREDICTORS = ("rank", "generate", "score", "tag", "span", "embed", "none")
UNDETERMINED = "und"  # ISO 639's code for a language that nobody told


@dataclass(frozen=True)
class TaskInfo:
    """Evaluation metadata of one task.

    kind: 'classification', 'multiple_choice', 'span_qa', 'tagging', 'retrieval', 'pairs', 'text', or 'text2text' for
      any other SeqIO task.
    language: code of the evaluated language ('und' if nobody told).
    group: name of the target whose languages are averaged, e.g. 'xnli'.
    predictor: how the format is answered: 'rank' (score the choices), 'generate', 'score' (the log-probability of the
      targets), 'tag', 'span', 'embed', or 'none'.
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
    """Sets the evaluation metadata of a task; a user's module may call it for its own tasks.

    Raises:
      UserError: an unknown kind or predictor.
    """
    for name, value, known in (("kind", info.kind, KINDS), ("predictor", info.predictor, PREDICTORS)):
        if value not in known:
            hint = did_you_mean(str(value), known)
            raise UserError(f"{task}: TaskInfo.{name} is {value!r}; it must be one of {', '.join(known)}.{hint}")
    _TASK_INFO[task] = info


def forget(task: str) -> None:
    """Removes the metadata of a task."""
    _TASK_INFO.pop(task, None)


def task_info(task: str, own_outputs: Collection[str] = ()) -> TaskInfo:
    """Returns a task's metadata.

    A SeqIO task that nobody described is scored by its own metrics; one without metrics generates text, judged by exact
    match.

    Args:
      own_outputs: what the task's own metrics are computed on (see `foreign.own_metrics`).
    """
    if known := _TASK_INFO.get(task):
        return known
    predictor = "score" if own_outputs and not any("prediction" in output for output in own_outputs) else "generate"
    metrics = () if own_outputs else ("accuracy",)
    return TaskInfo(kind="text2text", language=UNDETERMINED, group=task, predictor=predictor, metrics=metrics)
