"""What is registered and what cannot be had, as plain facts for a table."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xtr.errors import UserError, did_you_mean

from . import register_all, task_info
from .info import KINDS, TaskInfo
from .modules import import_task_module, import_tensorflow

UNKNOWN = {"", "und"}  # languages
STAGES = ("pretrain", "intermediate", "target")


@dataclass(frozen=True)
class Only:
    """Which tasks are wanted; '' takes any.

    kind, language, stage: as in `TaskInfo`. target: the group of tasks whose languages are averaged, `TaskInfo.group`.
    """

    kind: str = ""
    language: str = ""
    stage: str = ""
    target: str = ""

    def takes(self, info: TaskInfo) -> bool:
        """Whether a task is wanted."""
        pairs = ((self.kind, info.kind), (self.language, info.language), (self.stage, info.stage))
        return all(not wanted or wanted == found for wanted, found in (*pairs, (self.target, info.group)))


def listing(what: str, task_modules: Sequence[str] = (), only: Only = Only()) -> tuple[list[dict], dict[str, str]]:
    """The registered 'tasks', the 'mixtures' of any wanted task, or the 'languages' of wanted tasks, a dict each; and
    what cannot be had: name -> why.

    Reads XTR_DATA_DIR, XTR_FORMAT and XTR_TFDS_TASKS; the user's modules are imported first to register their own.

    Raises:
      UserError: nothing there is of the wanted kind, language, stage or target; it says which there are.
    """
    import_tensorflow()
    import seqio

    catalog = register_all(tokenise=False)
    for name in task_modules:
        import_task_module(name, catalog.absent)
    infos = {name: task_info(name) for name in sorted(seqio.TaskRegistry.names())}
    _check(only, infos.values(), catalog.languages)
    wanted = {name: info for name, info in sorted(infos.items(), key=_place) if only.takes(info)}
    absent = {name: why for name, why in catalog.absent.items() if _may_be(only, name, infos.values(), catalog)}
    if what == "languages":
        absent = {name: why for name, why in absent.items() if _target_and_language(name, catalog.languages)[1]}
        return _languages(wanted.values(), absent, catalog.languages), absent
    if what == "tasks":
        return [_task(name, info, seqio.TaskRegistry.get(name).splits) for name, info in wanted.items()], absent
    mixtures = {name: seqio.MixtureRegistry.get(name) for name in sorted(seqio.MixtureRegistry.names())}
    chosen = {name: m for name, m in mixtures.items() if any(task.name in wanted for task in m.tasks)}
    return [_mixture(name, m, infos, catalog.left_out.get(name, {})) for name, m in chosen.items()], absent


def _place(item: tuple[str, TaskInfo]) -> tuple:
    """Stages one after the other, the user's own tasks last."""
    name, info = item
    return STAGES.index(info.stage) if info.stage in STAGES else len(STAGES), info.group, name


def _check(only: Only, infos: Iterable[TaskInfo], due: Mapping[str, Sequence[str]]) -> None:
    infos = list(infos)
    known = {
        "kind": {*KINDS, *(info.kind for info in infos)},
        "language": {*(info.language for info in infos), *(code for codes in due.values() for code in codes)},
        "stage": {*STAGES, *(info.stage for info in infos)},
        "target": {*due, *(info.group for info in infos)},
    }
    for field, values in known.items():
        value = getattr(only, field)
        if value and value not in values:
            there = ", ".join(sorted(values - {""}))
            raise UserError(f"there is no {field} {value!r}.{did_you_mean(value, values)} There are: {there}.")


def _target_and_language(name: str, due: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """('xnli', 'sw') of 'xnli.sw'; the language is '' where the name ends in none."""
    target, _, language = name.rpartition(".")
    codes = {code for codes in due.values() for code in codes}
    return (target, language) if target and language in codes else (name, "")


def _may_be(only: Only, name: str, infos: Iterable[TaskInfo], catalog) -> bool:
    """Whether an absent name may be a wanted task: what is not known of it keeps nothing out, but for its language."""
    target, language = _target_and_language(name, catalog.languages)
    like = next((info for info in infos if info.group == target), None)
    stage = like.stage if like else "target" if target in catalog.languages else only.stage
    kind = like.kind if like else only.kind
    return only.takes(TaskInfo(kind, language, target, "", (), stage=stage))


def _task(name: str, info: TaskInfo, splits: Sequence[str]) -> dict:
    return {
        "task": name,
        "kind": info.kind,
        "language": info.language,
        "stage": info.stage,
        "target": info.group,
        "scored by": info.predictor,
        "metrics": list(info.metrics),
        "splits": list(splits),
    }


def _mixture(name: str, mixture, infos: Mapping[str, TaskInfo], left_out: Mapping[str, str]) -> dict:
    own = [infos[task.name] for task in mixture.tasks]
    return {
        "mixture": name,
        "members": list(mixture.rate_per_task_name),
        "rates": _rates(mixture.rate_per_task_name),
        "kinds": sorted({info.kind for info in own}),
        "languages": sorted({info.language for info in own} - UNKNOWN),
        "left out": dict(left_out),
    }


def _rates(rates: Mapping[str, float | Callable]) -> str:
    """How members are mixed: 'equal', 'by min(examples, 131,072)^(1/2)', or a rate for each."""
    words = {name: _rate(rate) for name, rate in rates.items()}
    if len(set(words.values())) > 1:
        return ", ".join(f"{name} {rate}" for name, rate in words.items())
    return next(iter(words.values())) if any(map(callable, rates.values())) else "equal"


def _rate(rate: float | Callable) -> str:
    if not callable(rate):
        return f"{rate:g}"
    from .registration import examples_rate

    function = rate.func if isinstance(rate, functools.partial) else rate
    if function is not examples_rate:
        return f"by {getattr(function, '__name__', type(function).__name__)}"
    options = rate.keywords if isinstance(rate, functools.partial) else {}
    cap, temperature = options.get("cap"), options.get("temperature", 1.0)
    size = f"min(examples, {cap:,})" if cap else "examples"
    return f"by {size}" + ("" if temperature == 1 else f"^(1/{temperature:g})")


def _languages(wanted: Iterable[TaskInfo], absent: Mapping[str, str], due: Mapping[str, Sequence[str]]) -> list[dict]:
    """A row a language: the targets that have it, those that should, and those that lack it with the reason why."""
    found: dict[str, set[str]] = {}
    for info in wanted:
        if info.language not in UNKNOWN:
            found.setdefault(info.language, set()).add(info.group)
    lacking: dict[str, dict[str, str]] = {}
    for name, why in absent.items():
        target, language = _target_and_language(name, due)
        lacking.setdefault(language, {})[target] = why
    rows = []
    for language in sorted({*found, *lacking}):
        here, not_here = found.get(language, set()), dict(sorted(lacking.get(language, {}).items()))
        should = [target for target, codes in due.items() if language in codes and target in {*here, *not_here}]
        rows.append(
            {
                "language": language,
                "found": sorted(here),
                "due": sorted(should),
                "absent": dict(sorted(not_here.items())),
            }
        )
    return rows
