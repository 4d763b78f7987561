"""Runs a study's stages, each once; goes on where it was; a failed stage keeps its reason and the rest goes on."""

import concurrent.futures
import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xtr import rundir
from xtr.errors import UserError
from xtr.parallel import watchdog
from xtr.parallel.distributed import from_first
from xtr.progress import progress
from xtr.study.contamination import refuse_contaminated
from xtr.study.spec import Cell, Stage, StudySpec, plan

FAILED = "FAILED"


class Configure(Protocol):
    """Turns a stage's gin into the run that it describes; given by the command, since only that knows gin."""

    def __call__(
        self, entry: str, gin_files: Sequence[str], overrides: Mapping[str, object]
    ) -> tuple[Any, Mapping[str, str]]: ...


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage ready to run: its run, its place, and whether it is done."""

    stage: Stage
    run: Any
    gin_texts: Mapping[str, str]
    address: str
    directory: Path

    @property
    def status(self) -> str:
        if (self.directory / rundir.DONE).exists():
            return "done"
        if (self.directory / FAILED).exists():
            return "failed"
        return "started" if (self.directory / rundir.IDENTITY).exists() else "waiting"


def _places(stage: Stage) -> tuple[str, str, str]:
    """(what gin builds for a stage, the macro of its directory, the macro of the checkpoint it starts from)."""
    if stage.kind == "evaluate":
        return "evaluate", "EVAL_OUTPUT_DIR", "CHECKPOINT_PATH"
    return "train", "MODEL_DIR", "INITIAL_CHECKPOINT_PATH"


def prepare(
    spec: StudySpec,
    configure: Configure,
    trained: Mapping[str, bool],
    fingerprints: Callable[[str, str], Sequence[str]],
) -> tuple[list[Job], list[Cell]]:
    """Plans a study and gives every stage its content address.

    A stage's address is a digest of what it computes: its operative settings, its data's fingerprints, its parent's
    address. So an intermediate checkpoint is shared by all targets, and a changed setting changes all that follows.

    Args:
      spec: the study.
      configure: builds a stage's run.
      trained: target -> whether it has a training stage.
      fingerprints: (format, mixture name) -> fingerprints of its tokenised tasks.
    """
    refuse_contaminated(spec.initial_checkpoints, spec.allow_contaminated)
    stages, cells = plan(spec, trained)
    jobs: dict[Stage, Job] = {}
    for stage in stages:
        jobs[stage] = _job(spec, stage, jobs, configure, fingerprints)
    return list(jobs.values()), cells


def mixtures(spec: StudySpec, configure: Configure, trained: Mapping[str, bool]) -> dict[str, list[str]]:
    """format -> the mixtures and tasks that a study's stages read in it, so that all can be tokenised in one go."""
    names: dict[str, dict[str, None]] = {}
    seen = set()
    for stage in plan(spec, trained)[0]:
        if (stage.kind, stage.gin_files) in seen:
            continue
        seen.add((stage.kind, stage.gin_files))
        entry, place, source = _places(stage)
        run, _ = configure(entry, stage.gin_files, stage_overrides(spec, stage) | {place: ".", source: "."})
        names.setdefault(run.format, {}).setdefault(run.mixture_or_task_name)
        if entry == "evaluate" and run.dev_task_name:
            names[run.format].setdefault(run.dev_task_name)
    return {form: list(those) for form, those in names.items()}


def stage_overrides(spec: StudySpec, stage: Stage) -> dict[str, object]:
    """The overrides of one stage; those of its kind win over those for all."""
    common = {
        "VOCABULARY_PATH": spec.vocabulary_path,
        "DATA_DIR": spec.data_dir,
        "CACHE_DIR": spec.cache_dir,
        "TASK_MODULES": tuple(spec.task_modules),
        "TFDS_TASKS": tuple(spec.tfds_tasks),
        "RANDOM_SEED": stage.seed,
    }
    return common | dict(spec.overrides) | dict(spec.stage_overrides.get(stage.kind, {}))


def _job(spec: StudySpec, stage: Stage, jobs: Mapping[Stage, Job], configure: Configure, fingerprints) -> Job:
    parent = jobs[stage.parent] if stage.parent else None
    if parent:
        checkpoint = str(parent.directory / "checkpoints" / str(parent.run.train_steps))
    else:
        checkpoint = spec.initial_checkpoints.get(stage.model)
    entry, place, source = _places(stage)
    overrides = stage_overrides(spec, stage) | {source: checkpoint, place: "."}
    if entry == "evaluate":
        overrides |= {
            "evaluate.stage": stage.parent.kind if stage.parent else "pretrained",
            "evaluate.intermediate": stage.intermediate,
            "evaluate.model_name": stage.model,
        }
    run, _ = configure(entry, stage.gin_files, overrides)
    data = list(fingerprints(run.format, run.mixture_or_task_name))
    facts = rundir.identity(run, data=data, parent=parent.address if parent else checkpoint)
    for name in ("initial_checkpoint_path", "checkpoint_path", "vocabulary_path"):
        facts.pop(name, None)  # said by the parent's address and by the data's fingerprints
    address = rundir.digest(facts)
    directory = Path(spec.study_dir) / "stages" / f"{stage.name}-{address}"
    overrides[place] = str(directory)
    if entry == "evaluate":
        overrides["evaluate.run_id"] = directory.name
    run, texts = configure(entry, stage.gin_files, overrides)
    return Job(stage, run, texts, address, directory)


@dataclasses.dataclass
class Outcome:
    """What a pass over the stages came to."""

    ran: int = 0
    reused: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def run_jobs(
    jobs: Sequence[Job],
    train: Callable,
    evaluate: Callable,
    stop_on: tuple[type[BaseException], ...],
    workers: int = 1,
) -> Outcome:
    """Runs every job that is not done, each after its parent.

    Args:
      jobs: from `prepare`, in order.
      train, evaluate: run one stage: f(run, gin_texts).
      stop_on: exceptions that end the whole pass (preemption) instead of marking one stage as failed.
      workers: stages run at a time, in threads: small models leave cores idle, and what is compiled is shared. One
        where several processes run the study together, and there an error ends the pass.
    """
    started = time.monotonic()
    outcome = Outcome()
    several = watchdog.processes() > 1
    if several:
        # All processes must come to the same stages in the same order; and after an error in one alone, none can go on.
        workers, stop_on = 1, (BaseException,)
    finished = set(from_first(lambda: [job.stage for job in jobs if job.status == "done"]))
    outcome.reused = len(finished)
    failed: set[Stage] = set()
    waiting = [job for job in jobs if job.stage not in finished]
    running: dict[concurrent.futures.Future, Job] = {}

    def run(job: Job) -> None:
        from_first(lambda: (job.directory / FAILED).unlink(missing_ok=True))
        (evaluate if job.stage.kind == "evaluate" else train)(job.run, job.gin_texts)

    def settle(job: Job, error: BaseException | None) -> None:
        if error is None:
            finished.add(job.stage)
            outcome.ran += 1
        elif isinstance(error, stop_on):
            raise error
        else:  # one stage's failure must not stop the others; it is kept and reported
            failed.add(job.stage)
            outcome.failed[job.stage.name] = f"{type(error).__name__}: {error}"
            detail = {"error": str(error), "traceback": "".join(traceback.format_exception(error))}
            rundir.write_atomic(job.directory / FAILED, json.dumps(detail, indent=1) + "\n")

    with (
        progress("study stages", len(jobs), len(finished)) as bar,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        while waiting or running:
            for job in [job for job in waiting if job.stage.parent in failed]:
                waiting.remove(job)
                failed.add(job.stage)
                outcome.failed[job.stage.name] = f"its parent {job.stage.parent.name} failed"
                bar.advance(note=job.stage.name)
            ready = [job for job in waiting if job.stage.parent is None or job.stage.parent in finished]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[pool.submit(run, job)] = job
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                settle(job, future.exception())
                bar.advance(note=job.stage.name)
    outcome.seconds = time.monotonic() - started
    return outcome


def trained_targets(spec: StudySpec, sets: Callable[[str, str], bool]) -> dict[str, bool]:
    """target -> whether its gin file names training data; `sets(gin_file, binding)` looks into a gin file."""
    missing = [name for name, path in spec.targets.items() if not sets(path, "evaluate.mixture_or_task_name")]
    if missing:
        raise UserError(f"the gin file of {', '.join(missing)} does not set evaluate.mixture_or_task_name.")
    return {name: sets(path, "train.mixture_or_task_name") for name, path in spec.targets.items()}
