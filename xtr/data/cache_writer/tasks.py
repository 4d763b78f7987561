"""One request: the names that it asks for, the tasks behind them, and what is still to be written of these."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from xtr.data import fingerprint
from xtr.data.cache_writer import seqio_cache
from xtr.data.cache_writer.pool import default_workers, run_units
from xtr.data.cache_writer.registered import register
from xtr.data.cache_writer.seqio_examples import cached_files, limits
from xtr.data.cache_writer.splits import OfficialSplit, SeqioSplit, Split
from xtr.data.cache_writer.task_directory import TaskDirectory
from xtr.data.vocabulary import vocabulary_file, vocabulary_sha256
from xtr.errors import UserError
from xtr.progress import note, progress

# Below this many bytes of source files worker processes, which import TensorFlow, take longer to start than they save.
_WORTH_A_PROCESS = 1 << 25


class Writer:
    """One request: the registered names, and what is written so far."""

    def __init__(self, request: Mapping, cache_dir: Path):
        self.request, self.cache_dir = dict(request), cache_dir
        self.names = list(dict.fromkeys(request["names"]))
        registered = register(request, anew=True)
        self.catalog, self.module_files = registered.catalog, registered.module_files
        import xtr.tasks

        path = vocabulary_file(os.environ["XTR_VOCABULARY_PATH"])
        self.seqio_vocabulary = xtr.tasks.output_features()["inputs"].vocabulary
        size = self.seqio_vocabulary.vocab_size
        self.vocabulary = {"path": path, "sha256": vocabulary_sha256(path), "size": size}
        self.lengths = request.get("lengths")
        self.reads_lengths = False

    def run(self) -> dict:
        """Writes what is missing; returns the response."""
        members = {name: self._resolve(name) for name in self.names}
        tasks = {task.name: task for provider in members.values() for task in provider.tasks}
        seqio_cache.export(self.request, list(tasks.values()), self.vocabulary)
        directories = {name: self._directory(task) for name, task in tasks.items()}
        while unfinished := [directory for directory in directories.values() if directory.unfinished]:
            self._write(unfinished)
        for name, directory in directories.items():
            directory.refresh()
            tasks[name]._cache_dir = str(directory.path)  # where SeqIO finds numbers of examples
            if hasattr(tasks[name].source, "counted"):
                tasks[name].source.counted.update(directory.examples)
        try:
            mixtures = {name: [[t.name, of.rate(t)] for t in of.tasks] for name, of in members.items()}
            for name, rates in mixtures.items():
                _check_rates(name, dict(rates))
            components = {name: _components(name) for name in self.names}
        finally:
            for task in tasks.values():
                task._cache_dir, task._stats = None, {}  # it is none of SeqIO's own
        return {
            "reads_lengths": self.reads_lengths,
            "mixtures": mixtures,
            "components": components,
            "tasks": {name: str(directory.path) for name, directory in directories.items()},
            "skipped": {name: self.catalog.left_out[name] for name in self.names if name in self.catalog.left_out},
        }

    def _write(self, directories: list[TaskDirectory]) -> None:
        names = ", ".join(self.names)
        if damaged := [line for directory in directories for line in directory.damage]:
            note("\n".join(damaged))
        else:
            note(
                f"Tokenising {names} ({len(directories)} task{'s' * (len(directories) > 1)}), once: the next run finds "
                f"it in {self.cache_dir}"
            )
        by_name = {directory.name: directory for directory in directories}
        small = sum(directory.source_bytes for directory in directories) < _WORTH_A_PROCESS
        num_workers = 1 if small else self.request.get("num_workers") or default_workers()
        with progress("tokenising tasks", len(directories)) as bar:

            def commit(directory: TaskDirectory) -> None:
                if directory.unfinished and directory.whole:
                    directory.commit()
                    bar.advance(note=directory.name)

            def units() -> Iterator:
                for directory in directories:
                    yield from directory.units()
                    commit(directory)  # all of it may have been finished by an earlier writer

            try:
                for place, facts in run_units(units(), num_workers):
                    by_name[place.task].add(place, facts)
                    bar.advance(0, note=f"{place.task} {place.split}")
                    commit(by_name[place.task])
            except UserError:  # what they are made from will have to change
                for directory in directories:
                    directory.discard()
                raise

    def _resolve(self, name: str) -> "_Members":
        """Returns the tasks of a mixture or task."""
        import seqio

        provider = self.catalog.provider(name)
        if isinstance(provider, seqio.Mixture):
            return _Members(list(provider.tasks), functools.partial(_rate, provider))
        return _Members([provider], lambda task: 1.0)

    def _directory(self, task) -> TaskDirectory:
        """What a task is made from, and where it lies by that."""
        import xtr.tasks
        from xtr.tasks import foreign

        ours = task.name in self.catalog.tasks
        cached, files = seqio_cache.find(self.request, task, self.vocabulary)
        own_metrics = foreign.own_metrics(task)
        description = dataclasses.asdict(xtr.tasks.task_info(task.name, own_metrics["outputs"]))
        if detail := getattr(task.source, "detail", ""):
            description["read_as"] = detail
        lengths = None
        if not ours and foreign.reads_lengths(task):
            self.reads_lengths, lengths = True, self.lengths
            description["lengths"] = lengths
        if cached:
            description["cached_by_seqio"] = True
        code = [*getattr(task.source, "code", ()), *(() if ours else self.module_files)]
        code = fingerprint.code_names(code)
        record = {
            "task": task.name,
            **description,
            "vocabulary": self.vocabulary,
            "format": os.environ["XTR_FORMAT"],
            "features": list(task.output_features),
            "sources": [fingerprint.source_record(path) for path in files],
            "code": code,
            "code_sha256": fingerprint.code_sha256(code),
            "data_dir": os.environ["XTR_DATA_DIR"],
            "own_metrics": own_metrics,
        }
        digest = fingerprint.task_fingerprint(
            task.name,
            description,
            record["sources"],
            record["code_sha256"],
            self.vocabulary["sha256"],
            record["format"],
        )
        splits = functools.partial(self._splits, task, ours, cached, lengths, record)
        return TaskDirectory(self.cache_dir, record, digest, splits)

    def _splits(self, task, ours: bool, cached: str, lengths, record: Mapping, work: Path) -> dict[str, Split]:
        """How each split of a task that is to be written is read."""
        from xtr.tasks import foreign
        from xtr.tasks.datasets.builder import OfficialFilesSource
        from xtr.tasks.formats.rendering import Steps

        if not ours:
            foreign.check_vocabulary(task, self.seqio_vocabulary, self.vocabulary["path"])
        steps, features = task._preprocessor_constructor_args, task.output_features
        common = {"task": task.name, "work": work, "limits": limits(features)}
        record["vocab_sizes"] = {name: limit.size for name, limit in common["limits"].items()}
        rendered = isinstance(steps, Steps) and isinstance(task.source, OfficialFilesSource) and not cached
        if rendered and all(feature.vocabulary == self.seqio_vocabulary for feature in features.values()):
            eos = frozenset(name for name, feature in features.items() if feature.add_eos)
            settings = (task.source.dataset, steps.rendering, eos, self.vocabulary["path"])
            return {split: OfficialSplit(split, **common, settings=settings) for split in task.splits}
        size = sum(source["size"] for source in record["sources"])
        return {
            split: SeqioSplit(
                split, **common, request=self.request, lengths=lengths, cached=cached,
                shards=len(cached_files(cached, split) if cached else task.source.list_shards(split)), size=size,
                examples_in=None if cached else task.source.num_input_examples(split),
                expected=seqio_cache.examples(cached, split) if cached else None,
            )
            for split in task.splits
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Members:
    """The tasks that a requested name stands for, and `rate(task)`."""

    tasks: list
    rate: object


def _rate(mixture, task) -> float:
    try:
        return float(mixture.get_rate(task))
    except UserError:
        raise
    except Exception as e:
        raise UserError(
            f"Mixture {mixture.name}: the rate of {task.name} cannot be computed: {type(e).__name__}: {e}"
        ) from e


def _check_rates(mixture: str, rates: Mapping[str, float]) -> None:
    for task, rate in rates.items():
        if not 0 <= rate < float("inf"):
            raise UserError(f"Mixture {mixture}: the rate of {task} is {rate}; it must be a number, 0 or more.")
    if not any(rates.values()):
        raise UserError(f"Mixture {mixture}: the rates of its tasks ({', '.join(rates)}) sum to 0: it draws nothing.")


def _components(name: str) -> dict[str, dict[str, float]]:
    """Task -> the members of a mixture that draw it, each with the task's share of its draws; {} for a task."""
    import seqio

    if name not in seqio.MixtureRegistry.names():
        return {}
    mixture = seqio.MixtureRegistry.get(name)
    inner = {member.name: member for member in mixture._sub_mixtures}  # they need not be registered
    components: dict[str, dict[str, float]] = {}
    for member in mixture.rate_per_task_name:
        if member not in inner:
            components.setdefault(member, {})[member] = 1.0
            continue
        rates = {task.name: _rate(inner[member], task) for task in inner[member].tasks}
        total = sum(rates.values())
        for task, rate in rates.items():
            components.setdefault(task, {})[member] = rate / total if total else 0.0
    return components
