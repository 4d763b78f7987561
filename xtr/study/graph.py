"""The stages that a study comes to, as a graph in which each follows its parent, and the cells that they fill."""

import dataclasses
from typing import Protocol

from xtr.errors import UserError
from xtr.study.spec import KINDS, NONE, StudySpec, stage_name

RUN_FILES = {"intermediate": "runs/intermediate.gin", "target": "runs/finetune.gin", "evaluate": "runs/eval.gin"}


class GinFiles(Protocol):
    """What a plan asks about gin files; given by the command, since only that knows gin."""

    def exists(self, gin_file: str) -> bool:
        """Whether there is such a file where gin files are looked for."""

    def sets(self, gin_file: str, binding: str) -> bool:
        """Whether a file, with what it includes, sets a binding."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One node of a study's graph.

    Attributes:
      kind: 'pretrain', 'intermediate', 'target' or 'evaluate'.
      model, intermediate, target: names from the study ('none' or '' where they do not apply).
      seed: training seed (for an evaluation, the seed of the checkpoint).
      parent: the stage whose checkpoint this one starts from, or None.
      gin_files: configuration of the stage, in order.
    """

    kind: str
    model: str
    intermediate: str = NONE
    target: str = ""
    seed: int = 0
    parent: "Stage | None" = None
    gin_files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        parts = [self.kind, self.model]
        if self.kind != "pretrain":
            parts.append(self.intermediate)
        if self.target:
            parts.append(self.target)
        if self.trained_with_seed:
            parts.append(f"seed{self.seed}")
        return ".".join(parts)

    @property
    def trained_with_seed(self) -> bool:
        """Whether a training seed of the study went into this stage (a pretrained checkpoint is one for all seeds)."""
        if self.kind in ("intermediate", "target"):
            return True
        return self.kind == "evaluate" and self.parent is not None and self.parent.trained_with_seed

    @property
    def selectors(self) -> tuple[str, ...]:
        """What names this stage in `stage_overrides`, from the general to the particular."""
        name = self.intermediate if self.kind == "intermediate" else self.target
        return (self.kind, f"{self.kind}.{name}") if name else (self.kind,)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the study to be: a model's evaluation for one intermediate, target and seed."""

    model: str
    intermediate: str
    target: str
    seed: int
    evaluation: Stage


def plan(spec: StudySpec, gin: GinFiles) -> tuple[list[Stage], list[Cell]]:
    """The stages in an order in which each follows its parent, each once, and the cells that they fill.

    Raises:
      UserError: a gin file that is missing or lacks what its stage needs; two different stages of one name.
    """
    stages: dict[Stage, Stage] = {}
    cells: list[Cell] = []

    def add(**fields) -> Stage:
        stage = Stage(**fields)
        return stages.setdefault(stage, stage)

    for model, said in spec.models.items():
        recipes = {target: _target_stages(spec, model, target, gin) for target in spec.targets}
        root = None
        if files := spec.pretraining(model):
            root = add(kind="pretrain", model=model, gin_files=(said.gin_file, *files))
        for seed in spec.seeds:
            for intermediate in spec.intermediates:
                start, files = root, spec.intermediate_files(model, intermediate)
                if files is None:
                    continue
                if files:
                    start = add(
                        kind="intermediate", model=model, intermediate=intermediate, seed=seed, parent=root,
                        gin_files=(said.gin_file, RUN_FILES["intermediate"], *files),
                    )  # fmt: skip
                for target, recipe in recipes.items():
                    if recipe is None:
                        continue
                    end = start
                    names = {"model": model, "intermediate": intermediate}
                    for name, file in recipe.trained:
                        end = add(
                            kind="target", **names, target=name, seed=seed, parent=end,
                            gin_files=(said.gin_file, RUN_FILES["target"], file),
                        )  # fmt: skip
                    # A checkpoint that no seed went into is evaluated once and counts for every seed.
                    evaluation = add(
                        kind="evaluate", **names, target=target, parent=end,
                        seed=seed if end is not None and end.trained_with_seed else 0,
                        gin_files=(said.gin_file, RUN_FILES["evaluate"], recipe.scored),
                    )  # fmt: skip
                    cells.append(Cell(model, intermediate, target, seed, evaluation))
    names: dict[str, Stage] = {}
    for stage in stages:
        if names.setdefault(stage.name, stage) != stage:
            raise UserError(
                f"study: two different stages are named {stage.name}: with {' '.join(names[stage.name].gin_files)} "
                f"and with {' '.join(stage.gin_files)}. Rename a target, or let both use one gin file."
            )
    order = {kind: i for i, kind in enumerate(KINDS)}
    return sorted(stages, key=lambda stage: order[stage.kind]), cells


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """A target of a model: the (name, gin file) of each training stage, and the gin file of its evaluation."""

    trained: tuple[tuple[str, str], ...]
    scored: str


def _target_stages(spec: StudySpec, model: str, target: str, gin: GinFiles) -> _Recipe | None:
    files = spec.target_files(model, target)
    if not files:
        return None
    where = f"target {target} of model {model}"
    chosen = [wanted if gin.exists(wanted) else fallback for wanted, fallback in files]
    trained = [gin.sets(file, "train.mixture_or_task_name") for file in chosen]
    for file, (wanted, _), trains in zip(chosen, files, trained, strict=True):
        if trains and file != wanted:
            raise UserError(
                f"{where}: there is no {wanted}, and {file} is not of the recipes {spec.models[model].recipes!r} that "
                "this model takes. Write that file, or name one in the model's targets."
            )
    if not all(trained[:-1]):
        raise UserError(
            f"{where}: {chosen[trained.index(False)]} sets no train.mixture_or_task_name, but another stage "
            "follows it: only the last of several files may be without training."
        )
    if not gin.sets(chosen[-1], "evaluate.mixture_or_task_name"):
        raise UserError(f"{where}: {chosen[-1]} does not set evaluate.mixture_or_task_name.")
    names = [*(stage_name(file) for file in chosen[:-1]), target]
    return _Recipe(tuple((n, f) for n, f, trains in zip(names, chosen, trained, strict=True) if trains), chosen[-1])
