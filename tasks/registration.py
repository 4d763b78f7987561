"""From a data set found on disk to a SeqIO task: source, rendering, tokens, EOS; and mixtures of such tasks."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import seqio

from xtr import storage
from xtr.errors import DataError, UserError, by_reason, did_you_mean

from . import benchmarks
from .datasets import Dataset, Found, Sources, catalogue, finders, task_name
from .datasets.archives import sources
from .datasets.builder import OfficialFilesSource
from .examples import KINDS
from .formats import FORMATS, Form, form_of, has_eos
from .info import TaskInfo, describe, forget
from .vocabularies import TOKENISING_CODE, seqio_vocabulary

# What every registered task's examples pass through besides its own reader and format.
_COMMON_CODE = (
    "benchmarks.py", "examples.py", "languages.py", "registration.py", "vocabularies.py", "datasets/__init__.py",
    "datasets/builder.py", "datasets/files.py", "formats/__init__.py", "formats/rendering.py",
)  # fmt: skip


@functools.cache
def _code(function: Callable) -> frozenset[Path]:
    """The file of a reader or a rendering, those of the functions that it takes from other modules, and so on through
    the modules of tasks."""
    todo, files = [inspect.getmodule(function)], {}
    while todo:
        module = todo.pop()
        if module.__name__ in files or module.__name__.partition(".")[0] != "xtr":
            continue
        files[module.__name__] = Path(inspect.getfile(module))
        if module.__name__.startswith("xtr.tasks."):
            todo += [inspect.getmodule(value) for value in vars(module).values() if inspect.isfunction(value)]
    return frozenset(files.values())


@dataclass(frozen=True)
class Settings:
    """Where official files are, where prepared data goes, the vocabulary (a file or a Hugging Face folder), the format
    that tasks are registered in, and the data sets that are read from TensorFlow Datasets' catalogue."""

    sources: Sources
    cache_dir: Path
    vocabulary_path: str
    format: str
    tfds_tasks: tuple[str, ...] = ()


def settings(tokenise: bool = True) -> Settings:
    """Returns the settings of XTR_DATA_DIR, XTR_CACHE_DIR (default ~/.cache/xtr), XTR_VOCABULARY_PATH, XTR_FORMAT
    (default 'text2text') and XTR_TFDS_TASKS (names with commas between them; default none).

    Args:
      tokenise: whether the vocabulary will be read; without it the last variable may be missing.

    Raises:
      UserError: a variable is missing, or names something that is not there.
    """
    data_dir = os.environ.get("XTR_DATA_DIR")
    if not data_dir:
        raise UserError("XTR_DATA_DIR is not set: set it to the folder that holds the official data files.")
    if not Path(data_dir).is_dir():
        raise UserError(f"XTR_DATA_DIR is {data_dir}, which is not a folder.")
    vocabulary_path = os.environ.get("XTR_VOCABULARY_PATH")
    if not vocabulary_path and not tokenise:
        vocabulary_path = ""
    elif not vocabulary_path:
        raise UserError("XTR_VOCABULARY_PATH is not set: set it to the model's vocabulary, a file or a folder.")
    elif not storage.exists(vocabulary_path):
        raise UserError(f"XTR_VOCABULARY_PATH is {vocabulary_path}, which is not there.")
    cache_dir = os.environ.get("XTR_CACHE_DIR") or Path.home() / ".cache" / "xtr"
    chosen = os.environ.get("XTR_FORMAT") or FORMATS[0]
    if chosen not in FORMATS:
        hint = did_you_mean(chosen, FORMATS)
        raise UserError(f"XTR_FORMAT is {chosen}; it must be one of {', '.join(FORMATS)}.{hint}")
    found, tfds_tasks = sources(Path(data_dir), Path(cache_dir)), catalogue.chosen(os.environ.get("XTR_TFDS_TASKS", ""))
    return Settings(found, Path(cache_dir), vocabulary_path, chosen, tfds_tasks)


@functools.cache
def vocabulary(path: str) -> seqio.Vocabulary:
    """Returns the vocabulary of a file or a Hugging Face folder; an empty one for no path (tasks are only listed)."""
    return seqio_vocabulary(path) if path else seqio.PassThroughVocabulary(0)


def output_features(names: Sequence[str] = ("inputs", "targets"), tokenise: bool = True) -> dict[str, seqio.Feature]:
    """Returns SeqIO output features over the vocabulary of XTR_VOCABULARY_PATH, EOS added to each but a causal prompt.

    For modules that register tasks of their own:

        seqio.TaskRegistry.add("my_task", source=..., preprocessors=[..., seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos], output_features=output_features())

    Args:
      tokenise: False where the tasks are only listed: without a variable there is an empty vocabulary then.
    """
    chosen = settings(tokenise)
    vocab = vocabulary(chosen.vocabulary_path)
    return {name: seqio.Feature(vocabulary=vocab, add_eos=has_eos(chosen.format, name)) for name in names}


class NestedMixture(seqio.Mixture):
    """A mixture whose rate functions may give the rates of mixtures in it too (SeqIO's take a task's only)."""

    def _get_submixture_rate(self, mix: seqio.Mixture) -> float:
        rate = self.rate_per_task_name[mix.name]
        return float(rate(mix) if callable(rate) else rate)


def no_form(kind: str, format: str) -> str:
    """Says that a format cannot show a kind of example."""
    return f"there is no {format!r} rendering of {kind}"


def register(dataset: Dataset, form: Form, settings: Settings, detail: str = "") -> seqio.Task:
    """Registers one data set as a SeqIO task under its own name.

    Args:
      form: how it is rendered, in the format of the settings.
      detail: what besides files and code decides the examples.
    """
    rendering = form.rendering
    functions = (*(split.read for split in dataset.splits.values()), rendering.function)
    own = {path for function in functions for path in _code(getattr(function, "func", function))}
    code = sorted({*own, Path(TOKENISING_CODE), *(Path(__file__).parent / name for name in _COMMON_CODE)})
    return seqio.TaskRegistry.add(
        dataset.name,
        source=OfficialFilesSource(dataset, str(settings.cache_dir), code, detail),
        preprocessors=rendering.preprocessors(dataset, settings.vocabulary_path),
        output_features={
            name: seqio.Feature(
                vocabulary=vocabulary(settings.vocabulary_path),
                add_eos=name not in rendering.without_eos and has_eos(settings.format, name),
            )
            for name in rendering.features
        },
    )


@dataclass
class Catalog:
    """What is registered from the official files, and what cannot be had with the reason why.

    Attributes:
      tasks, mixtures: what is registered.
      absent: names of tasks and mixtures that could not be registered -> why.
      left_out: mixture -> the tasks that it goes without -> why.
    """

    settings: Settings
    tasks: dict[str, Dataset] = field(default_factory=dict)
    mixtures: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)

    @functools.cached_property
    def languages(self) -> Mapping[str, tuple[str, ...]]:
        """The languages that each target should have."""
        return benchmarks.languages(self.settings.sources)

    def find(self, name: str) -> Found:
        """Finds a data set (see `datasets.finders`) where the settings say that it is read from."""
        return finders.find(name, self.settings.sources, self.settings.tfds_tasks)

    def provider(self, name: str) -> seqio.Task | seqio.Mixture:
        """A registered task or mixture, a user's own too.

        Raises:
          UserError: there is none; it says why, or which name is nearest and what there is.
        """
        for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
            if name in registry.names():
                return registry.get(name)
        if why := self.absent.get(name) or self.absent.get(name.partition(".")[0]):
            raise UserError(f"{name} cannot be had: {why}.")
        known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
        singles = (task for task in self.tasks if task.rpartition(".")[0] not in self.mixtures)
        there = ", ".join(sorted({*self.mixtures, *singles})) or "nothing"
        raise UserError(
            f"No task or mixture is named {name!r}.{did_you_mean(name, known)} Below {os.environ['XTR_DATA_DIR']} are "
            f"files for: {there}. A task or mixture of your own is registered with SeqIO in a Python file or module "
            "that TASK_MODULES names; `xtr list` shows all names."
        )

    def add_task(
        self,
        dataset: Dataset,
        *,
        stage: str,
        group: str,
        metrics: Sequence[str] = (),
        style: str = "",
        languages: Sequence[str] | None = None,
    ) -> None:
        """Registers one data set as a SeqIO task under its own name, rendered in the format of the settings.

        Where the format has no rendering of its kind the task is absent, with that reason.

        Args:
          stage: 'pretrain', 'intermediate' or 'target'.
          group: the target whose languages are averaged.
          metrics: names of its metrics.
          style: a rendering of its own (see `formats.form_of`).
          languages: those that the group should have; None: those of the benchmark.

        Raises:
          DataError: there is one of this name already.
        """
        if other := self.tasks.get(dataset.name):
            first, second = (next(iter(d.splits.values())).files[0] for d in (other, dataset))
            raise DataError(f"{first} and {second} would both be the task {dataset.name}: rename or remove one.")
        kind = KINDS[dataset.example_type]
        form = form_of(dataset.example_type, self.settings.format, style)
        if form is None:
            self.absent[dataset.name] = no_form(style or kind, self.settings.format)
            return
        register(dataset, form, self.settings)
        if languages is None:
            languages = self.languages.get(group, ())
        describe(
            dataset.name,
            TaskInfo(
                kind, dataset.language, group, form.predictor, tuple(metrics), dataset.label_names, dataset.candidates,
                tuple(languages), stage,
            ),
        )  # fmt: skip
        self.tasks[dataset.name] = dataset

    def add_training(self, target: str, found: Found, metrics: Sequence[str] = (), *, style: str = "") -> None:
        """Registers data sets that a target is trained on."""
        self.absent.update(found.absent)
        for dataset in found.datasets:
            self.add_task(dataset, stage="target", group=target, metrics=metrics, style=style)

    def add_target(
        self, target: str, found: Found, metrics: Sequence[str], *, style: str = "", mixture: bool = True
    ) -> None:
        """Registers what was found of a target: a task a language, and the mixture `<target>` of all languages found.

        Every language that the target should have is registered or absent with the reason why. Candidates that all
        languages share are a task of their own, outside of the mixture.
        """
        self.absent.update(found.absent)
        for dataset in found.datasets:
            self.add_task(dataset, stage="target", group=target, metrics=metrics, style=style)
        shared = {dataset.candidates for dataset in found.datasets}
        here = [dataset.name for dataset in found.datasets if dataset.name not in shared]
        due = (task_name(f"{target}.{language}") for language in self.languages.get(target, ()))
        names = [name for name in dict.fromkeys((*here, *found.absent, *due)) if name not in shared]
        for name in names:
            if name not in here:
                self.absent.setdefault(name, found.looked_for)
        if mixture:
            self.add_mixture(target, names, some=True)

    def add_mixture(
        self,
        name: str,
        tasks: Iterable[str] | Mapping[str, float],
        rate: float | Callable[[seqio.Task | seqio.Mixture], float] = 1.0,
        *,
        some: bool = False,
    ) -> None:
        """Registers a mixture of registered tasks and mixtures. It is absent where their features differ.

        Args:
          tasks: their names, or a rate for each name.
          rate: the rate, or the rate function, of all that are only named.
          some: whether the mixture goes without what cannot be had, which `left_out` then says; else it is absent. One
            that nothing is left of is absent too, with the reasons why.
        """
        rates = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks, rate)
        tasks = list(rates)
        here = [task for task in tasks if task in self.tasks or task in self.mixtures]
        missing = {task: self.absent[task] for task in tasks if task not in here}
        if not missing and not tasks:
            return
        if (missing and not some) or not here:
            reasons = set(missing.values())
            one_for_all = len(missing) == len(tasks) and len(reasons) == 1
            self.absent[name] = reasons.pop() if one_for_all else by_reason(missing)
            return
        by_features: dict[tuple[str, ...], str] = {}
        for task in here:
            by_features.setdefault(tuple(seqio.get_mixture_or_task(task).output_features), task)
        if len(by_features) > 1:
            differ = "; ".join(f"{task} has {', '.join(features)}" for features, task in by_features.items())
            self.absent[name] = f"its tasks have different features in the {self.settings.format!r} format ({differ})"
            return
        seqio.MixtureRegistry.add(name, [(task, rates[task]) for task in here], mixture_cls=NestedMixture)
        self.mixtures.append(name)
        for member in here:
            missing = self.left_out.get(member, {}) | missing
        if missing:
            self.left_out[name] = missing

    def clear(self) -> None:
        """Takes everything out of SeqIO's registries again."""
        for name in self.mixtures:
            seqio.MixtureRegistry.remove(name)
        for name in self.tasks:
            seqio.TaskRegistry.remove(name)
            forget(name)
        self.__init__(self.settings)


def examples_rate(
    task: seqio.Task | seqio.Mixture, *, cap: int | None = None, temperature: float = 1.0, split: str = "train"
) -> float:
    """Returns min(examples of the split, cap) ** (1 / temperature): a member's rate, its options bound by partial.

    Temperature 1 mixes in proportion to size; larger values favour small tasks (Phang et al. 2020 mixed with
    temperature 2 and cap 2**17; multilingual-t5's alpha is 1 / temperature).
    """
    examples = task.num_input_examples(split)
    if examples is None:
        raise UserError(
            f"The number of '{split}' examples of {task.name} is unknown, so no rate follows from it: give the "
            "task's source num_input_examples, or the mixture a number as its rate."
        )
    return float(min(examples, cap or examples)) ** (1.0 / temperature)
