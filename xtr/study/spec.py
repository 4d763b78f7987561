"""A study as its gin file says it: models x intermediates x targets x seeds, and the settings of their stages."""

import dataclasses
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xtr.errors import UserError, did_you_mean

KINDS = ("pretrain", "intermediate", "target", "evaluate")
NONE = "none"  # the intermediate that is no intermediate
SELECTIONS = ("last",)  # which checkpoint of a run is handed on and scored

Overrides = Mapping[str, object]  # macro or binding -> value


@dataclasses.dataclass(frozen=True)
class StudyModel:
    """One model of a study, where it differs from the others. In gin a mapping of these fields, or the gin file alone.

    Attributes:
      gin_file: the network.
      initial_checkpoint: the published weights that it starts from; None with `pretrain`, or from scratch.
      vocabulary_path: None for the study's.
      pretrain: gin files of its pretraining stage; None for the study's, () for none.
      recipes: a folder beside the study's own gin files of intermediates and targets whose files are taken in their
        place: with 'encoder', intermediate/encoder/mnli.gin for intermediate/mnli.gin. A target that is not trained
        needs no such file.
      intermediates: name -> gin files in the place of the study's; None: this model goes without it.
      targets: the same for targets.
      overrides, stage_overrides: as the study's, for this model; they win over the study's.
    """

    gin_file: str
    initial_checkpoint: str | None = None
    vocabulary_path: str | None = None
    pretrain: Sequence[str] | None = None
    recipes: str = ""
    intermediates: Mapping[str, Sequence[str] | None] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, str | Sequence[str] | None] = dataclasses.field(default_factory=dict)
    overrides: Overrides = dataclasses.field(default_factory=dict)
    stage_overrides: Mapping[str, Overrides] = dataclasses.field(default_factory=dict)

    def recipe(self, gin_file: str) -> str:
        """The file that this model's `recipes` has in the place of the study's; the same one without `recipes`."""
        folder, name = posixpath.split(gin_file)
        return posixpath.join(folder, self.recipes, name) if self.recipes else gin_file


@dataclasses.dataclass(frozen=True)
class StudySpec:
    """What a study's gin file says.

    A stage's settings are, later ones winning: its gin files (the model's, the run's, the intermediate's or target's),
    then the study's `overrides`, `stage_overrides` of the kind of stage ('target') and of the very stage
    ('target.xnli'), then the model's three in the same order.

    Attributes:
      name: names the study in its report.
      study_dir: everything the study writes lies below it.
      models: model name -> gin file, or a mapping of `StudyModel`'s fields.
      intermediates: intermediate name -> gin files of its stage; 'none' (with no file) must be among them.
      targets: target name -> gin file, which sets `evaluate.*` and, where the target is trained, `train.*`. Several
        files are stages one after another, of which the last is scored: XCOPA's ('targets/siqa.gin',
        'targets/xcopa.gin'); the others go by the names of their files.
      seeds: training seeds; a seed names one chain intermediate -> target.
      vocabulary_path: of the models that name none of their own.
      pretrain: gin files of a pretraining stage (after the model's own), run once a model; empty where models start
        from published weights.
      overrides: macro or binding -> value, for every stage.
      stage_overrides: kind of stage, or 'intermediate.<name>', 'target.<name>', 'evaluate.<target>' -> the same, for
        these stages.
      selection: which checkpoint of a run is handed on and scored: 'last', fixed beforehand.
      overlaps: intermediate name -> targets whose training data it shares; flagged in the report. None: those known.
      allow_contaminated: whether models may start from mT0 or BLOOMZ, which were trained on the targets; the report
        says so then.
      note: a sentence that the report must carry (for example that the models are toys).
      resamples: bootstrap resamples of every interval.
      workers: stages that `study run` runs at a time on this machine.
    """

    name: str
    study_dir: str
    models: Mapping[str, str | Mapping[str, Any] | StudyModel]
    intermediates: Mapping[str, Sequence[str]]
    targets: Mapping[str, str | Sequence[str]]
    seeds: Sequence[int]
    vocabulary_path: str | None = None
    pretrain: Sequence[str] = ()
    overrides: Overrides = dataclasses.field(default_factory=dict)
    stage_overrides: Mapping[str, Overrides] = dataclasses.field(default_factory=dict)
    selection: str = "last"
    overlaps: Mapping[str, Sequence[str]] | None = None
    allow_contaminated: bool = False
    note: str = ""
    resamples: int = 2000
    workers: int = 1
    task_modules: Sequence[str] = ()
    tfds_tasks: Sequence[str] = ()
    data_dir: str | None = None
    cache_dir: str | None = None

    def __post_init__(self):
        if NONE not in self.intermediates or self.intermediates[NONE]:
            raise UserError(f"study.intermediates needs {NONE!r} with no gin file: gains are measured against it.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"study.seeds {list(self.seeds)} must be one or more different numbers.")
        if self.selection not in SELECTIONS:
            raise UserError(f"study.selection is {self.selection!r}; it must be {', '.join(map(repr, SELECTIONS))}.")
        if not isinstance(self.workers, int) or self.workers < 1:
            raise UserError(f"study.workers is {self.workers!r}; it must be a positive whole number.")
        for name in (*self.models, *self.intermediates, *self.targets):
            if not name or set(name) & set("/. \t"):
                raise UserError(f"study: the name {name!r} may not hold '/', '.' or spaces.")
        models = {name: _study_model(name, said) for name, said in self.models.items()}
        object.__setattr__(self, "models", models)
        for field, known in (("intermediates", self.intermediates), ("targets", self.targets)):
            object.__setattr__(self, field, {name: _files(files) for name, files in known.items()})
            for name, model in models.items():
                _check_names(f"study.models[{name!r}].{field}", getattr(model, field), known)
        self._check_selectors("study.stage_overrides", self.stage_overrides)
        for name, model in models.items():
            self._check_selectors(f"study.models[{name!r}].stage_overrides", model.stage_overrides)
        if self.overlaps is not None:
            _check_names("study.overlaps", self.overlaps, self.intermediates)
            for name, targets in self.overlaps.items():
                _check_names(f"study.overlaps[{name!r}]", targets, self.targets)

    def _check_selectors(self, where: str, overrides: Mapping[str, Overrides]) -> None:
        known = {
            "intermediate": [name for name in self.intermediates if name != NONE],
            "target": [*self.targets, *self._first_targets()],
            "evaluate": list(self.targets),
        }
        selectors = [*KINDS, *(f"{kind}.{name}" for kind, names in known.items() for name in names)]
        _check_names(where, overrides, selectors)

    def _first_targets(self) -> list[str]:
        own = [_files(said) for model in self.models.values() for said in model.targets.values()]
        return [stage_name(file) for files in (*self.targets.values(), *own) for file in (files or ())[:-1]]

    def vocabulary(self, model: str) -> str | None:
        """The path of a model's vocabulary; None where nobody says it."""
        return self.models[model].vocabulary_path or self.vocabulary_path

    def pretraining(self, model: str) -> tuple[str, ...]:
        """The gin files of a model's pretraining stage; () for none."""
        own = self.models[model].pretrain
        return tuple(self.pretrain if own is None else own)

    def intermediate_files(self, model: str, name: str) -> tuple[str, ...] | None:
        """The gin files of an intermediate stage of a model; None where the model goes without it."""
        said = self.models[model]
        if name in said.intermediates:
            return _files(said.intermediates[name])
        return tuple(said.recipe(file) for file in self.intermediates[name])

    def target_files(self, model: str, name: str) -> tuple[tuple[str, str], ...] | None:
        """(the file that counts where there is one, the study's own) of each of a target's stages, the scored one last;
        None where the model goes without the target."""
        said = self.models[model]
        if name in said.targets:
            own = _files(said.targets[name])
            return own and tuple((file, file) for file in own)
        return tuple((said.recipe(file), file) for file in self.targets[name])

    def initial_checkpoints(self) -> dict[str, str]:
        """model name -> the published weights that it starts from."""
        return {name: model.initial_checkpoint for name, model in self.models.items() if model.initial_checkpoint}


def stage_name(gin_file: str) -> str:
    """The name of a stage that a gin file alone describes: targets/siqa.gin's is 'siqa'."""
    return posixpath.basename(gin_file).removesuffix(".gin")


def _files(said: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if said is None else (said,) if isinstance(said, str) else tuple(said)


def _study_model(name: str, said: str | Mapping[str, Any] | StudyModel) -> StudyModel:
    if isinstance(said, StudyModel):
        return said
    if isinstance(said, str):
        return StudyModel(gin_file=said)
    if not isinstance(said, Mapping) or "gin_file" not in said:
        raise UserError(f"study.models[{name!r}] is {said!r}; it must be a gin file, or a mapping with 'gin_file'.")
    _check_names(f"study.models[{name!r}]", said, [field.name for field in dataclasses.fields(StudyModel)])
    return StudyModel(**said)


def _check_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"{where} has {unknown[0]!r}, which is nothing of this study.{did_you_mean(unknown[0], known)}"
            f" Known: {', '.join(known)}."
        )
