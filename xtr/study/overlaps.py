"""Which intermediate tasks share data with which targets: their gains are not transfer between tasks.

What is compared are the tasks that stages read, as the cache names them: 'mnli', 'mnli.de', 'text.corpus.sw'. A mixture
is its members, so that every mixture with MNLI in it overlaps with XNLI, whatever it is called.
"""

from collections.abc import Collection, Iterable, Mapping

from xtr.study.panels import ENGLISH

_OF_SQUAD = ("xquad", "mlqa", "lareqa", "multichecklist")
# Data set -> targets that train on it or are made from it. Not Tatoeba, though benchmarks score it after SQuAD: nothing
# is trained for it here.
RELATED: Mapping[str, Collection[str]] = {
    "mnli": ("xnli",),
    "copa": ("xcopa",),
    "squad_v1": _OF_SQUAD,
    "squad_v2": _OF_SQUAD,  # its answerable questions are those of SQuAD 1.1
    "lareqa_squad": _OF_SQUAD,
}
_TEXT = "text"  # plain text, which is no task's data


def overlaps(
    intermediates: Mapping[str, Iterable[str]], targets: Mapping[str, Iterable[str]]
) -> dict[str, tuple[str, ...]]:
    """Intermediate -> the targets that it shares data with, in their order.

    Args:
      intermediates: name -> the tasks that its stage trains on.
      targets: name -> the tasks that its stages train on and score.
    """
    own = {target: {target, *map(data_set, tasks)} for target, tasks in targets.items()}
    found = {}
    for name, tasks in intermediates.items():
        data = {data_set(task) for task in tasks} - {_TEXT}
        known = data.union(*(RELATED.get(one, ()) for one in data))
        found[name] = tuple(target for target in targets if known & own[target])
    return found


def data_set(task: str) -> str:
    """The data set of a task: 'mnli' of 'mnli.de', too."""
    return task.partition(".")[0]


def foreign_languages(tasks: Iterable[str]) -> tuple[str, ...]:
    """The languages but English that tasks are in ('mnli.de'), plain text aside."""
    named = [task.partition(".")[::2] for task in tasks]
    return tuple(sorted({language for data, language in named if language and data != _TEXT} - {ENGLISH}))


def not_zero_shot(intermediates: Mapping[str, Iterable[str]], overlapping: Mapping[str, Iterable[str]]) -> list[str]:
    """A sentence for each intermediate that is trained on a target's data in other languages than English.

    Args:
      intermediates: as for `overlaps`.
      overlapping: from `overlaps`.
    """
    sentences = []
    for name, tasks in intermediates.items():
        languages, targets = ", ".join(foreign_languages(tasks)), ", ".join(overlapping.get(name, ()))
        if languages and targets:
            sentences.append(
                f"{name} is trained in {languages}, on data of {targets}: after it these languages are not zero-shot"
                " there."
            )
        elif languages:
            sentences.append(f"{name} is trained in {languages}, not on English alone.")
    return sentences
