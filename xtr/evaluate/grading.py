"""From prediction records alone to the values of a task's metrics: no model, no data."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from xtr.data.formats import UNANSWERABLE
from xtr.errors import DataError
from xtr.evaluate.metrics import METRICS, forms, squad2
from xtr.evaluate.ranking import Ranking, ranked
from xtr.evaluate.span_answers import null_difference

ENGLISH_DEV = "dev"  # a threshold that is the best one on the English development set


@dataclasses.dataclass(frozen=True)
class Grading:
    """What grading decides beside the model's predictions.

    Attributes:
      null_threshold: by how much the score of no answer must exceed that of the best span.
      ranking: by which scores one of several choices is taken.
    """

    null_threshold: float = 0.0
    ranking: Ranking = Ranking()


def may_lack_answers(info: Mapping) -> bool:
    """Whether a task's questions may have no answer."""
    return any(name.startswith("squad2") for name in info["metrics"])


def best_null_threshold(records: Sequence[Mapping]) -> float:
    """The difference between the scores of no answer and of the best span that gives the highest F1 on these examples;
    where that is to answer none of them, the greatest number below all differences.

    Raises:
      DataError: there are no examples.
    """
    golds = [record["gold"] for record in records]
    spans = [record["span"] for record in records]
    contributions_N = squad2.f1(spans, golds)[1]
    differences_N = np.array([null_difference(record) for record in records])
    answered_N = np.array([bool(span) for span in spans])
    answerable_N = np.array(list(map(bool, golds)))
    _, threshold = squad2.best_threshold(contributions_N, answerable_N, answered_N, differences_N)
    return threshold if np.isfinite(threshold) else float(np.nextafter(differences_N.min(), -np.inf))


def _labels(records: Sequence[dict], grading: Grading) -> tuple[list, list]:
    predicted = []
    for record in records:
        predicted.append(int(np.argmax(ranked(record, grading.ranking))))
        record["prediction"] = record["choices"][predicted[-1]]
    return predicted, [record["label"] for record in records]


def _spans(records: Sequence[dict], grading: Grading, may_lack: bool) -> tuple[list, list]:
    for record in records:
        none = may_lack and null_difference(record) > grading.null_threshold
        record["prediction"] = "" if none else record["span"]
    return [record["prediction"] for record in records], [record["gold"] for record in records]


def grade(records: Sequence[dict], info: Mapping, grading: Grading = Grading()) -> dict[str, float]:
    """Completes the records and returns the values of the task's metrics.

    Args:
      records: of all of the examples; `prediction` and `contributions` are set.
      info: the task's `metrics`, `language` and the rest of its facts.

    Raises:
      DataError: a record lacks what its kind of task is graded by.
    """
    no_answer = UNANSWERABLE
    try:
        if records and "scores" in records[0] and "choices" in records[0]:
            predictions, golds = _labels(records, grading)
        elif records and "span" in records[0]:
            predictions, golds = _spans(records, grading, may_lack_answers(info))
            no_answer = ""  # of a head it is no text
        else:
            predictions, golds = ([record[side] for record in records] for side in ("prediction", "gold"))
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"predictions of {info.get('task')}: a record lacks {error}") from error
    for record in records:
        record["contributions"] = {}
    facts = {
        "language": info["language"],
        "no_answer": no_answer,
        "ids": [record["id"] for record in records],
    }
    found = {}
    for metric in info["metrics"]:
        found |= METRICS[metric].values(predictions, golds, **facts)
    for name, flags in forms.contributions(records).items():
        found[name] = float(flags.mean()), flags
    for name, (_, contributions) in found.items():
        for record, contribution in zip(records, contributions.tolist(), strict=True):
            record["contributions"][name] = contribution
    return {name: value for name, (value, _) in found.items()}
