"""From the command line of `xtr study` to the study's stages: gin, the data's fingerprints, the vocabularies."""

import argparse
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtr import config, rundir
from xtr.errors import UserError
from xtr.study import jobs as planning
from xtr.study import protocol
from xtr.study.graph import Cell
from xtr.study.jobs import Configure, Job
from xtr.study.spec import StudySpec


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A study with its stages.

    Attributes:
      spec: with its folders made absolute.
      jobs, cells: from `xtr.study.jobs.prepare`.
      configure: builds a stage's run.
      protocol: what protocol.json is compared with.
      absent: why data or vocabularies are not here, in words; () where all are.
    """

    spec: StudySpec
    jobs: Sequence[Job]
    cells: Sequence[Cell]
    configure: Configure
    protocol: Mapping[str, object]
    absent: tuple[str, ...] = ()


class GinFiles:
    """`graph.GinFiles` by the folders in which gin files are looked for."""

    def __init__(self, search_paths: Sequence[str] = ()):
        self.search_paths = search_paths
        self.sets = functools.cache(lambda gin_file, binding: config.sets(gin_file, binding, search_paths))

    def exists(self, gin_file: str) -> bool:
        try:
            config.find_gin_file(gin_file, self.search_paths)
        except UserError:
            return False
        return True


def configurer(search_paths: Sequence[str]) -> Configure:
    """Builds stages' runs by gin."""

    def configure(entry: str, gin_files: Sequence[str], overrides: Mapping[str, object]):
        texts = [f"{name}={value!r}" for name, value in overrides.items()]
        loaded = config.load(gin_files, texts, search_paths, entry=entry)
        return config.build(entry), loaded.texts()

    return configure


def absolute(spec: StudySpec, data_needed: bool = True) -> StudySpec:
    """The study with its data and cache folders resolved, so that all its stages agree on them."""
    folders = {"cache_dir": rundir.cache_dir(spec.cache_dir)}
    try:
        folders["data_dir"] = rundir.data_dir(spec.data_dir)
    except UserError:
        if data_needed:
            raise
    return dataclasses.replace(spec, **{name: str(Path(path).absolute()) for name, path in folders.items()})


def load(spec: StudySpec, arguments: argparse.Namespace, *, tokenise: bool) -> Loaded:
    """Plans the stages of a study.

    Args:
      tokenise: whether data that is not in the cache is tokenised now, once for all stages; else the addresses of
        stages that read it are not known.
    """
    from xtr.data.cache import Writer, ensure_cached
    from xtr.parallel.distributed import first_alone

    spec = absolute(spec, data_needed=tokenise)
    gin, configure = GinFiles(arguments.search_paths), configurer(arguments.search_paths)
    found, digests, absent = {}, {}, {}
    digest = functools.cache(_vocabulary_digest)
    for (model, form), names in planning.mixtures(spec, configure, gin).items():
        try:
            if not spec.vocabulary(model):
                raise UserError(f"no vocabulary_path for model {model}.")
            if (known := digest(spec.vocabulary(model))) is None:
                raise UserError(f"the vocabulary {spec.vocabulary(model)} cannot be read.")
            digests[model] = known
            if not spec.data_dir:
                rundir.data_dir(None)  # says what to do
            cached = functools.partial(
                ensure_cached,
                names,
                task_modules=tuple(spec.task_modules),
                tfds_tasks=tuple(spec.tfds_tasks),
                vocabulary_path=spec.vocabulary(model),
                data_dir=spec.data_dir,
                cache_dir=spec.cache_dir,
                format=form,
                writer=Writer() if tokenise else None,
            )
            found[model, form] = first_alone(cached)
        except UserError as error:
            if tokenise:
                raise UserError(f"study {spec.name}: {error}") from error
            found[model, form] = {}
            absent.setdefault(str(error))
        else:
            if missing := [name for name in names if name not in found[model, form]]:
                absent.setdefault(f"not tokenised for {model}: {', '.join(missing)}")

    def fingerprints(model: str, form: str, mixture: str) -> list[str] | None:
        tasks = found[model, form].get(mixture)
        return tasks and [f"{task.rate:g} {Path(task.directory).name}" for task in tasks]

    prepared, cells = planning.prepare(spec, configure, gin, fingerprints, look_inside=tokenise)
    data = {
        f"{model}.{task.name}": Path(task.directory).name
        for (model, _), mixtures in found.items()
        for tasks in mixtures.values()
        for task in tasks
    }
    return Loaded(spec, prepared, cells, configure, protocol.facts(spec, prepared, data, digests), tuple(absent))


def _vocabulary_digest(path: str) -> str | None:
    """The digest of a vocabulary's file; None where it cannot be read."""
    from xtr.data.vocabulary import vocabulary_file, vocabulary_sha256

    try:
        return vocabulary_sha256(vocabulary_file(path))[:16]
    except (OSError, UserError):
        return None
