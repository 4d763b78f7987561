"""A study: models x intermediates x targets x seeds, and the stages that they come to."""

import dataclasses
from collections.abc import Mapping, Sequence

from xtr.errors import UserError, did_you_mean

KINDS = ("pretrain", "intermediate", "target", "evaluate")
NONE = "none"  # the intermediate that is no intermediate


@dataclasses.dataclass(frozen=True)
class StudySpec:
    """What a study's gin file says.

    Attributes:
      name: names the study in its report.
      study_dir: everything the study writes lies below it.
      models: model name -> gin file.
      intermediates: intermediate name -> gin files of its stage; 'none' (with no file) must be among them.
      targets: target name -> gin file, which sets `evaluate.*` and, where the target is trained, `train.*`.
      seeds: training seeds; a seed names one chain intermediate -> target.
      pretrain: gin files of a pretraining stage (after the model's own), run once a model; empty where models start
        from published weights.
      initial_checkpoints: model name -> published checkpoint, where there is no pretraining stage.
      overrides: macro or binding -> value, for every stage.
      stage_overrides: stage kind -> the same, for stages of that kind.
      overlaps: intermediate name -> targets whose training data it shares; flagged in the report.
      allow_contaminated: whether models may start from mT0 or BLOOMZ, which were trained on the targets; the report
        says so then.
      note: a sentence that the report must carry (for example that the models are toys).
      resamples: bootstrap resamples of every interval.
      workers: stages that `study run` runs at a time on this machine.
    """

    name: str
    study_dir: str
    models: Mapping[str, str]
    intermediates: Mapping[str, Sequence[str]]
    targets: Mapping[str, str]
    seeds: Sequence[int]
    vocabulary_path: str
    pretrain: Sequence[str] = ()
    initial_checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    overrides: Mapping[str, object] = dataclasses.field(default_factory=dict)
    stage_overrides: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    overlaps: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
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
        for kind in self.stage_overrides:
            if kind not in KINDS:
                hint = did_you_mean(kind, KINDS)
                raise UserError(f"study.stage_overrides has {kind!r}; stages are {', '.join(KINDS)}.{hint}")
        for name in (*self.models, *self.intermediates, *self.targets):
            if not name or set(name) & set("/. \t"):
                raise UserError(f"study: the name {name!r} may not hold '/', '.' or spaces.")


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


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the study to be: a model's evaluation for one intermediate, target and seed."""

    model: str
    intermediate: str
    target: str
    seed: int
    evaluation: Stage


def plan(spec: StudySpec, trained_targets: Mapping[str, bool]) -> tuple[list[Stage], list[Cell]]:
    """The stages in an order in which each follows its parent, each once, and the cells that they fill.

    Args:
      spec: the study.
      trained_targets: target name -> whether it has a training stage (retrieval is scored without one).
    """
    stages: dict[Stage, None] = {}
    cells: list[Cell] = []

    def add(**fields) -> Stage:
        stage = Stage(**fields)
        stages.setdefault(stage)
        return stage

    for model, model_gin in spec.models.items():
        root = None
        if spec.pretrain:
            root = add(kind="pretrain", model=model, gin_files=(model_gin, *spec.pretrain))
        for seed in spec.seeds:
            for intermediate, files in spec.intermediates.items():
                start = root
                if files:
                    start = add(
                        kind="intermediate",
                        model=model,
                        intermediate=intermediate,
                        seed=seed,
                        parent=root,
                        gin_files=(model_gin, "runs/intermediate.gin", *files),
                    )
                for target, target_gin in spec.targets.items():
                    end = start
                    names = {"model": model, "intermediate": intermediate, "target": target}
                    if trained_targets[target]:
                        files_of_target = (model_gin, "runs/finetune.gin", target_gin)
                        end = add(kind="target", **names, seed=seed, parent=start, gin_files=files_of_target)
                    # A checkpoint that no seed went into is evaluated once and counts for every seed.
                    evaluation_seed = seed if end is not None and end.trained_with_seed else 0
                    evaluation = add(
                        kind="evaluate",
                        **names,
                        seed=evaluation_seed,
                        parent=end,
                        gin_files=(model_gin, "runs/eval.gin", target_gin),
                    )
                    cells.append(Cell(model, intermediate, target, seed, evaluation))
    order = {kind: i for i, kind in enumerate(KINDS)}
    return sorted(stages, key=lambda stage: order[stage.kind]), cells
