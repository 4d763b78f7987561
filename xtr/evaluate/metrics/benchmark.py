"""From the scores of languages to those of tasks, groups and benchmarks: XTREME's and XTREME-R's averages.

Source: google-research/xtreme `evaluate.py`. A task's score is the unweighted mean over its languages, English included
where it is listed; question answering is the mean of exact match and F1. Groups and benchmarks are unweighted means of
tasks, and are there only if all their tasks are.

XTREME-R's ten-task mean is xtr's own: the official script asks for LAReQA but has neither languages nor a metric for
it, so it never prints an overall score. LAReQA's score is here the mean over the languages of the questions, as for
every other task; where each has as many questions, that is the pooled mAP@20.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xtr.errors import DataError, UserError, did_you_mean

# The metrics whose mean is a language's score.
SCORES: Mapping[str, tuple[str, ...]] = {
    "xnli": ("accuracy",),
    "pawsx": ("accuracy",),
    "xcopa": ("accuracy",),
    "udpos": ("span_f1",),
    "panx": ("span_f1",),
    "xquad": ("em", "f1"),
    "mlqa": ("mlqa_em", "mlqa_f1"),
    "tydiqa": ("em", "f1"),
    "tatoeba": ("accuracy",),
    "bucc2018": ("bucc_f1",),
    "mewslix": ("map@20",),
    "lareqa": ("map@20",),
}
RETRIEVAL = ("tatoeba", "bucc2018", "mewslix", "lareqa")
OVERALL, WITHOUT_RETRIEVAL, WITHOUT_LAREQA = "overall", "overall without retrieval", "overall without lareqa"


@dataclass(frozen=True)
class Benchmark:
    """A set of tasks and the names of the means over some of them.

    Attributes:
      name: 'xtreme' or 'xtreme_r'.
      tasks: all of them.
      groups: name -> tasks, as in the official script.
    """

    name: str
    tasks: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]

    def means(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The means that can be had of these tasks' scores: of all, of all without retrieval, of each group.

        Args:
          scores: task -> score in percent; other tasks than the benchmark's are left aside.
        """
        rest = tuple(task for task in self.tasks if task not in RETRIEVAL)
        wanted = {OVERALL: self.tasks, WITHOUT_RETRIEVAL: rest}
        if "lareqa" in self.tasks:
            wanted[WITHOUT_LAREQA] = tuple(task for task in self.tasks if task != "lareqa")
        return {
            name: sum(scores[task] for task in tasks) / len(tasks)
            for name, tasks in (wanted | dict(self.groups)).items()
            if all(task in scores for task in tasks)
        }


_QA = ("xquad", "mlqa", "tydiqa")
_TAGGING = ("udpos", "panx")
XTREME = Benchmark(
    "xtreme",
    ("pawsx", "xnli", "panx", "udpos", "bucc2018", "tatoeba", *_QA),
    {"classification": ("pawsx", "xnli"), "tagging": _TAGGING, "qa": _QA, "retrieval": ("bucc2018", "tatoeba")},
)
XTREME_R = Benchmark(
    "xtreme_r",
    ("xnli", "panx", "udpos", "tatoeba", "xcopa", "lareqa", "mewslix", *_QA),
    {
        "classification": ("xnli", "xcopa"),
        "tagging": _TAGGING,
        "qa": _QA,
        "retrieval": ("tatoeba", "mewslix"),
        "multi_choice": ("xcopa",),
    },
)


def language_score(task: str, values: Mapping[str, float]) -> float:
    """A language's score: the mean of those of its metrics that count for the task.

    Args:
      values: metric -> value in percent; more metrics than needed may be there.

    Raises:
      UserError: the task belongs to neither benchmark.
      DataError: a metric that counts is missing.
    """
    if task not in SCORES:
        raise UserError(f"{task} is no task of XTREME or XTREME-R.{did_you_mean(task, SCORES)}")
    if lacking := [name for name in SCORES[task] if name not in values]:
        raise DataError(f"the score of {task} needs {', '.join(lacking)}; there is {', '.join(values) or 'nothing'}")
    return sum(values[name] for name in SCORES[task]) / len(SCORES[task])


def task_score(task: str, values: Mapping[str, Mapping[str, float]], languages: Collection[str]) -> float:
    """A task's score: the unweighted mean over its languages.

    Args:
      values: language -> metric -> value in percent.
      languages: the languages that the task has; others are left aside.

    Raises:
      UserError: as `language_score`.
      DataError: a language or a metric is missing.
    """
    if not languages:
        raise DataError(f"{task} has no languages to average over")
    if lacking := [language for language in languages if language not in values]:
        raise DataError(f"the score of {task} needs results in {', '.join(lacking)}")
    return sum(language_score(task, values[language]) for language in languages) / len(languages)
