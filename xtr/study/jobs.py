"""From a study's stages to the runs that they are, each with the content address that its directory goes by."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xtr import rundir
from xtr.data.formats import ENCODER
from xtr.errors import UserError
from xtr.study.contamination import refuse_contaminated
from xtr.study.graph import Cell, GinFiles, Stage, plan
from xtr.study.spec import StudySpec

FAILED = "FAILED"
UNKNOWN = "?"  # the address of a stage whose data is not here


class Configure(Protocol):
    """Turns a stage's gin into the run that it describes and the texts that its directory keeps; given by the command,
    since only that knows gin."""

    def __call__(
        self, entry: str, gin_files: Sequence[str], overrides: Mapping[str, object]
    ) -> tuple[Any, Mapping[str, str]]: ...


# (model, format, mixture) -> the fingerprints of its tokenised tasks; None where these are not here
Fingerprints = Callable[[str, str, str], Sequence[str] | None]


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage with its run and its place.

    Attributes:
      stage: which.
      run: `TrainRun` or `EvaluateRun`.
      overrides: what was given to gin beside the stage's files.
      data: fingerprints of what it reads; () where it is not here.
      address: the content address; `UNKNOWN` where the data of it or of a stage before it is not here.
      directory: where it runs.
    """

    stage: Stage
    run: Any
    overrides: Mapping[str, object]
    data: tuple[str, ...]
    address: str
    directory: Path

    @property
    def entry(self) -> str:
        """What gin builds for it."""
        return _places(self.stage)[0]

    @property
    def done(self) -> bool:
        return (self.directory / rundir.DONE).exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether the checkpoint that its children start from is there; `xtr study prune` may have taken it."""
        return (self.directory / "checkpoints" / str(self.run.train_steps)).is_dir()

    @property
    def failure(self) -> dict[str, str] | None:
        """Why it failed: 'error', 'traceback', 'host', 'time'; None where it did not."""
        try:
            return json.loads((self.directory / FAILED).read_text())
        except FileNotFoundError:
            return None

    @property
    def status(self) -> str:
        """'done', 'failed', 'started' or 'waiting', by the files of its directory."""
        if self.done:
            return "done"
        if (self.directory / FAILED).exists():
            return "failed"
        return "started" if (self.directory / rundir.IDENTITY).exists() else "waiting"


def _places(stage: Stage) -> tuple[str, str, str]:
    """(what gin builds for a stage, the macro of its directory, the macro of the checkpoint it starts from)."""
    if stage.kind == "evaluate":
        return "evaluate", "EVAL_OUTPUT_DIR", "CHECKPOINT_PATH"
    return "train", "MODEL_DIR", "INITIAL_CHECKPOINT_PATH"


def _fields(entry: str) -> tuple[str, str]:
    """The fields of a run that the macros of `_places` reach."""
    return ("eval_output_dir", "checkpoint_path") if entry == "evaluate" else ("model_dir", "initial_checkpoint_path")


def stage_overrides(spec: StudySpec, stage: Stage) -> dict[str, object]:
    """The overrides of one stage, in the order that `StudySpec` documents."""
    model = spec.models[stage.model]
    found = {
        "VOCABULARY_PATH": spec.vocabulary(stage.model),
        "DATA_DIR": spec.data_dir,
        "CACHE_DIR": spec.cache_dir,
        "TASK_MODULES": tuple(spec.task_modules),
        "TFDS_TASKS": tuple(spec.tfds_tasks),
        "RANDOM_SEED": stage.seed,
    }
    for common, of_stages in ((spec.overrides, spec.stage_overrides), (model.overrides, model.stage_overrides)):
        found |= common
        for selector in stage.selectors:
            found |= of_stages.get(selector, {})
    return found


class _Recipes:
    """Builds each stage's run. What stages differ in by seed and place alone is read by gin once."""

    def __init__(self, spec: StudySpec, configure: Configure):
        self.spec, self.configure = spec, configure
        self.built: dict[Any, tuple[Any, str]] = {}

    def run(self, stage: Stage) -> Any:
        """The run of a stage, without its places."""
        return dataclasses.replace(self._built(stage)[0], random_seed=self._overrides(stage)["RANDOM_SEED"])

    def text(self, stage: Stage) -> str:
        """All of that run but the seed: the same for stages that do the same."""
        return self._built(stage)[1]

    def _overrides(self, stage: Stage) -> dict[str, object]:
        _, place, source = _places(stage)
        return stage_overrides(self.spec, stage) | {place: ".", source: "."}

    def _built(self, stage: Stage) -> tuple[Any, str]:
        overrides, entry = self._overrides(stage), _places(stage)[0]
        key = (entry, stage.gin_files, repr(sorted((overrides | {"RANDOM_SEED": 0}).items())))
        if key not in self.built:
            try:
                run, _ = self.configure(entry, stage.gin_files, overrides)
            except UserError as error:
                raise UserError(f"stage {stage.name}: {error}") from error
            self.built[key] = run, repr(dataclasses.replace(run, random_seed=0))
        return self.built[key]


def mixtures(spec: StudySpec, configure: Configure, gin: GinFiles) -> dict[tuple[str, str], list[str]]:
    """(model, format) -> the mixtures and tasks that its stages read, so that all can be tokenised in one go."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    recipes = _Recipes(spec, configure)
    for stage in plan(spec, gin)[0]:
        run = recipes.run(stage)
        wanted = names.setdefault((stage.model, run.format), {})
        wanted.setdefault(run.mixture_or_task_name)
        if stage.kind == "evaluate" and run.dev_task_name:
            wanted.setdefault(run.dev_task_name)
    return {place: list(those) for place, those in names.items()}


def prepare(
    spec: StudySpec, configure: Configure, gin: GinFiles, fingerprints: Fingerprints, look_inside: bool = True
) -> tuple[list[Job], list[Cell]]:
    """Plans a study and gives every stage its content address.

    A stage's address is a digest of what it computes: its operative settings, its data's fingerprints, its parent's
    address. So an intermediate checkpoint is shared by all targets, and a changed setting changes all that follows.
    Targets that are trained alike (XQuAD and MLQA on SQuAD) share that training, too, under the first one's name.

    Args:
      spec: the study.
      configure: builds a stage's run.
      gin: what gin files there are, and what they set.
      fingerprints: of the data of each mixture. Where these are not here, the address of a stage and of those after
        it is not known.
      look_inside: whether the initial checkpoints are read to see that none was trained on the targets; else their
        paths alone are looked at.
    """
    refuse_contaminated(spec.initial_checkpoints(), spec.allow_contaminated, look_inside)
    recipes = _Recipes(spec, configure)
    stages, cells = _shared(*plan(spec, gin), recipes)
    jobs: dict[Stage, Job] = {}
    for stage in stages:
        jobs[stage] = _job(spec, stage, jobs, recipes, fingerprints)
    return list(jobs.values()), cells


def _shared(stages: Sequence[Stage], cells: Sequence[Cell], recipes: _Recipes) -> tuple[list[Stage], list[Cell]]:
    """The stages and cells with one training stage in the place of several that differ in name alone."""
    first: dict[Any, Stage] = {}
    kept: dict[Stage, Stage] = {}
    for stage in stages:
        now = dataclasses.replace(stage, parent=stage.parent and kept[stage.parent])
        alike = (stage.kind, stage.model, stage.seed, now.parent, recipes.text(stage))
        kept[stage] = first.setdefault(stage.name if stage.kind == "evaluate" else alike, now)
    return list(first.values()), [dataclasses.replace(cell, evaluation=kept[cell.evaluation]) for cell in cells]


def _job(
    spec: StudySpec, stage: Stage, jobs: Mapping[Stage, Job], recipes: _Recipes, fingerprints: Fingerprints
) -> Job:
    parent = jobs[stage.parent] if stage.parent else None
    if parent:
        checkpoint = str(parent.directory / "checkpoints" / str(parent.run.train_steps))
    else:
        checkpoint = spec.models[stage.model].initial_checkpoint
    entry, place, source = _places(stage)
    if entry == "evaluate" and not checkpoint:
        raise UserError(
            f"stage {stage.name} scores a model that nothing trained: give model {stage.model} an initial_checkpoint "
            "or a pretrain stage."
        )
    place_field, source_field = _fields(entry)
    run, more = recipes.run(stage), {}
    if entry == "evaluate":
        more = {
            "stage": stage.parent.kind if stage.parent else "pretrained",
            "intermediate": stage.intermediate,
            "model_name": stage.model,
            "counts_encoder": spec.models[stage.model].recipes == ENCODER,
        }
    run = dataclasses.replace(run, **{source_field: checkpoint, place_field: "."}, **more)
    read = [name for name in (run.mixture_or_task_name, getattr(run, "dev_task_name", None)) if name]
    found = [fingerprints(stage.model, run.format, name) for name in read]
    data = None if None in found else tuple(fingerprint for those in found for fingerprint in those)
    address = UNKNOWN
    if data is not None and (parent is None or parent.address != UNKNOWN):
        facts = rundir.identity(run, data=list(data), parent=parent.address if parent else checkpoint)
        for name in ("initial_checkpoint_path", "checkpoint_path", "vocabulary_path"):
            facts.pop(name, None)  # said by the parent's address and by the data's fingerprints
        address = rundir.digest(facts)
    directory = Path(spec.study_dir) / "stages" / f"{stage.name}-{address}"
    if entry == "evaluate":
        more["run_id"] = directory.name
    run = dataclasses.replace(run, **{place_field: str(directory)}, **more)
    overrides = stage_overrides(spec, stage) | {source: checkpoint, place: str(directory)}
    overrides |= {f"{entry}.{name}": value for name, value in more.items()}
    return Job(stage, run, overrides, data or (), address, directory)


def gin_texts(job: Job, configure: Configure) -> Mapping[str, str]:
    """What a job's directory keeps of its configuration. Gin is one for the process: call it from one thread.

    Raises:
      RuntimeError: gin describes another run than the job's (a setting that `Recipes` took for the seed or a place).
    """
    run, texts = configure(job.entry, job.stage.gin_files, job.overrides)
    if run != job.run:
        changes = rundir.difference(rundir.plain(job.run), rundir.plain(run))
        raise RuntimeError(f"stage {job.stage.name}: planned and configured runs differ: {'; '.join(changes[:8])}")
    return texts


def by_name(jobs: Iterable[Job]) -> dict[str, Job]:
    """Stage name -> job."""
    return {job.stage.name: job for job in jobs}
