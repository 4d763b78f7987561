"""The training run, top to bottom: directory, data, state, steps, end. A killed run goes on to the same bits."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from xtr import rundir
from xtr.checkpoints import load
from xtr.checkpoints.manager import CheckpointManager, steps_found
from xtr.checkpoints.resume import resume
from xtr.data.cache import ensure_cached
from xtr.data.lengths import AUTO
from xtr.data.pipeline import train_batches
from xtr.data.vocabulary import open_vocabulary
from xtr.errors import Preempted, UserError
from xtr.parallel import distributed, watchdog
from xtr.parallel.mesh import make_mesh
from xtr.parallel.sharding import batch_part, check_rows, global_batch
from xtr.progress import progress
from xtr.tensorboard import SummaryWriter
from xtr.train import schedules, telemetry
from xtr.train.lengths import settled
from xtr.train.objectives import OBJECTIVES
from xtr.train.parts import Part, batches_of, parts_of
from xtr.train.run import TrainRun
from xtr.train.step import TrainOptions, abstract_state, init_state, make_eval_step, make_train_step

VALIDATION = "validation"
DUE = "validation_due"  # a file of the run: the step whose validation a request to stop came before
LOG_PERIOD = 10  # steps whose metrics are fetched together, so that the device never waits for the host
# The released mT5 checkpoints carry second moments of a loss divided by batch x target length of pretraining
# (T5X docs/usage/finetune.md), so a run that goes on with those moments divides by the same number.
MT5_PRETRAINING_NORMALIZER = 1024 * 229


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a finished run's last checkpoint is and what it cost; `reused` when the run was done before."""

    checkpoint: str
    steps: int
    seconds: float
    reused: bool


def checkpoint_path(model_dir: str | os.PathLike, step: int) -> str:
    return str(Path(model_dir) / "checkpoints" / str(step))


def train(run: TrainRun, gin_texts: Mapping[str, str] | None = None) -> TrainResult:
    """Runs (or goes on with, or recognises as done) one training run.

    Args:
      run: what to train.
      gin_texts: file name -> text of the configuration, kept in the run directory.

    Raises:
      UserError: a configuration that cannot work; raised before any computing.
      Preempted: after SIGTERM, once a checkpoint is saved.
    """
    session = rundir.Session(run.model_dir)
    # ------------------------------------------------------------------------------------------------------- directory
    # Of several processes the first reads and writes the directory, but for the arrays of checkpoints.
    identity = rundir.identity(run)
    distributed.check_same("their configuration", rundir.digest(identity))
    if distributed.from_first(lambda: rundir.is_done(run.model_dir, identity)):
        return TrainResult(checkpoint_path(run.model_dir, run.train_steps), run.train_steps, 0.0, reused=True)

    # ------------------------------------------------------------------------------------------------------------ data
    vocabulary = open_vocabulary(run.vocabulary_path, run.model.vocab_size, run.model.vocabulary_kind)
    cache_dir = rundir.cache_dir(run.cache_dir) if run.use_cached_tasks else str(Path(run.model_dir) / "cache")
    tasks = distributed.first_alone(
        lambda: ensure_cached(
            [run.mixture_or_task_name],
            task_modules=run.task_modules,
            tfds_tasks=run.tfds_tasks,
            vocabulary_path=run.vocabulary_path,
            data_dir=rundir.data_dir(run.data_dir),
            cache_dir=cache_dir,
            format=run.format,
            lengths=None if run.task_feature_lengths == AUTO else run.task_feature_lengths,
        )
    )[run.mixture_or_task_name]
    lengths, files = distributed.from_first(lambda: settled(run, tasks, vocabulary, gin_texts or {}))
    run = dataclasses.replace(run, task_feature_lengths=lengths)
    parts = parts_of(run, tasks, vocabulary)
    if run.eval_period and not any(part.of_split(VALIDATION) for part in parts.values()):
        raise UserError(
            f"EVAL_PERIOD is {run.eval_period}, but no task of {run.mixture_or_task_name} has a split {VALIDATION!r}."
        )
    mesh = make_mesh(run.mesh)
    check_rows(run.batch_size, mesh, run.num_microbatches)
    place = functools.partial(global_batch, mesh=mesh)
    batches = batches_of(parts, *batch_part(mesh), place=place)  # says what is wrong with the data
    distributed.check_same("their training data", json.dumps(batches.get_state()))

    # ----------------------------------------------------------------------------------------------------------- state
    # In this order: a checkpoint of this very run, else the initial checkpoint, else from scratch.
    specs = run.model.param_specs()
    saved = Path(run.model_dir) / "checkpoints"
    begun = distributed.from_first(lambda: bool(steps_found(saved)))
    origin, initial = None, None
    if run.initial_checkpoint_path:
        slots = abstract_state(specs, options_for(run, None), mesh, run.mesh.rules).opt_state
        open_initial = functools.partial(
            load.open_initial, run.initial_checkpoint_path, run.model, slots, allow_pickle=run.allow_pickle
        )
        initial = None if begun else open_initial()
        origin = initial.origin if initial else load.inspect(run.initial_checkpoint_path, run.model, slots)
    options = options_for(run, origin)
    distributed.check_shared(run.model_dir)
    distributed.from_first(lambda: rundir.create(run.model_dir, identity, files))
    resumed = resume(saved, abstract_state(specs, options, mesh, run.mesh.rules)) if begun else None
    checkpoints = CheckpointManager(saved, keep=run.checkpoint.keep)

    if resumed:
        step, state = resumed.step, resumed.state
        batches.set_state(resumed.extras["data"])
    else:
        step = 0
        state = init_state(specs, options, mesh, run.mesh.rules, jax.random.key(run.random_seed))
        if run.initial_checkpoint_path:
            state = load.initial_state(initial or open_initial(), state)

    if distributed.asked_to_stop():
        raise Preempted(f"before the next step; {run.model_dir} stays at step {step} of {run.train_steps}")

    # ----------------------------------------------------------------------------------------------------------- steps
    train_steps = {
        head: make_train_step(part.model, dataclasses.replace(options, objective=part.objective), mesh, run.mesh.rules)
        for head, part in parts.items()
    }
    key = jax.random.key(run.random_seed) if run.model.dropout_rate else None
    curves = Path(run.model_dir) / "tensorboard" / "train"
    writer = SummaryWriter(curves) if distributed.is_first() else None
    meter, profiler = telemetry.Meter(mesh.devices.flat), telemetry.Profiler(run.profile_steps, curves)
    pending: list[tuple[int, str, float, dict]] = []
    due_file = Path(run.model_dir) / DUE

    def flush(first: bool = False) -> str:
        """Fetches the metrics of the steps since the last flush, or of a program's first; returns a note for the
        progress line."""
        if not pending:
            return ""
        fetched = jax.device_get([metrics for *_, metrics in pending])
        for (at, head, rate, _), metrics in zip(pending, fetched, strict=True):
            scalars = per_token(metrics) | {"learning_rate": rate}
            write_scalars(writer, at, scalars, tag(head))
        over_vocabulary = all(OBJECTIVES[part.objective].over_vocabulary for part in parts.values())
        counted = "target_tokens" if over_vocabulary else "labels"
        weight = float(sum(m["weight"] for m in fetched))
        write_scalars(writer, pending[-1][0], meter.read({counted: weight}, first))
        pending.clear()
        return f"loss {scalars['loss']:.3f}"

    def validated() -> bool:
        """Validates this step and writes what is found; False where a request to stop came before the end."""
        found = validate(run, parts, state.params, mesh, step, watch)
        if found is None:
            return False
        for head, scalars in found.items():
            write_scalars(writer, step, scalars, tag("validation", head))
        if distributed.is_first():
            due_file.unlink(missing_ok=True)
        return True

    name = f"train {run.mixture_or_task_name}"
    compiled: set[str] = set()  # the heads whose first step is done
    with (
        progress(name, run.train_steps, step) as bar,
        watchdog.watch(run.model_dir, run.hang_timeout) as watch,
        contextlib.closing(profiler),
    ):
        owed = distributed.from_first(lambda: due_file.read_text().strip() if due_file.exists() else "")
        if run.eval_period and owed == str(step) and not validated():
            raise Preempted(f"before the validation of step {step}; {run.model_dir} stays there")
        while step < run.train_steps:
            watch.beat("waiting for its data", step)
            with meter.waiting():
                batch = next(batches)
            part, first = parts[batches.head], batches.head not in compiled
            if first:
                flush()
            watch.beat(watchdog.DEVICES, step, slow=first or profiler.active)
            rate = schedules.learning_rate(run.schedule, step)
            dropout_key = None if key is None else jax.random.fold_in(key, step)
            with profiler.step(step + 1):
                state, metrics = train_steps[batches.head](state, batch, dropout_key, np.float32(rate))
            step += 1
            profiler.after(step, metrics)
            meter.step(telemetry.batch_flops(part.model, part.objective, batch))
            pending.append((step, batches.head, rate, metrics))
            compiled.add(batches.head)
            last, stop = step == run.train_steps, watchdog.stop_behind(watch, step)
            evaluates = run.eval_period and (last or step % run.eval_period == 0)
            saves = last or stop or (run.checkpoint.period and step % run.checkpoint.period == 0)
            logs = first or evaluates or saves or step % LOG_PERIOD == 0
            bar.advance(note=flush(first) if logs else "")
            with meter.apart():
                # Who is asked to stop saves first: a machine that is taken away has seconds.
                due = evaluates and (stop or not validated())
                if due and distributed.is_first():
                    rundir.write_atomic(due_file, f"{step}\n")
                if saves or due:
                    watch.beat("saving a checkpoint", step, slow=True)
                    checkpoints.save(step, state, {"data": batches.get_state()})
                    if distributed.is_first():
                        session.keep()
            if due or (stop and not last):
                checkpoints.wait()
                raise Preempted(f"saved step {step} of {run.train_steps} in {run.model_dir}")
        watch.beat("saving the last checkpoint", step, slow=True)
        checkpoints.close()

    # ------------------------------------------------------------------------------------------------------------- end
    if distributed.from_first(checkpoints.latest_step) != run.train_steps:
        raise RuntimeError(f"the checkpoint of step {run.train_steps} in {run.model_dir} was not written")
    stats = batches.stats()
    batches.close()
    if writer:
        writer.close()
    summary = {"steps": step, "data": stats, "loss_normalizing_factor": options.loss_normalizing_factor}
    distributed.from_first(lambda: rundir.mark_done(run.model_dir, summary | session.summary()))
    return TrainResult(checkpoint_path(run.model_dir, step), step, session.seconds, reused=False)


def options_for(run: TrainRun, origin: load.Origin | None) -> TrainOptions:
    """The options of every step but its objective, with what follows from the initial checkpoint's origin unless the
    configuration sets it.

    A released T5X checkpoint brings second moments that hardly move any more: the loss must keep the scale they were
    made with, and the optimizer's step goes on counting from the checkpoint's. (Under a head the loss is another, a sum
    over texts in the place of tokens: that scale means nothing there.)
    """
    optimizer, normalizer = run.optimizer, run.loss_normalizing_factor
    if normalizer == "auto":
        kept = origin and origin.has_slots and run.loss == "seq2seq"
        normalizer = MT5_PRETRAINING_NORMALIZER if kept else "NUM_REAL_TARGET_TOKENS"
    if origin and origin.has_slots and optimizer.step_offset == 0:
        optimizer = dataclasses.replace(optimizer, step_offset=-origin.step)
    return TrainOptions(
        z_loss=run.z_loss,
        label_smoothing=run.label_smoothing,
        loss_normalizing_factor=normalizer,
        microbatches=run.num_microbatches,
        optimizer=optimizer,
        compiler_options=run.compiler_options,
    )


def write_scalars(writer: SummaryWriter | None, step: int, scalars: Mapping[str, float], prefix: str = "") -> None:
    """Adds one point to each curve; a host that is not the first has no writer and writes nothing."""
    if writer:
        for name, value in scalars.items():
            writer.scalar(prefix + name, value, step)


def tag(*names: str) -> str:
    """The beginning of a curve's name: 'a/b/' of the names that are not empty."""
    return "".join(f"{name}/" for name in names if name)


def per_token(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sums of a step as means over its target tokens (T5X's names where it has them)."""
    weight = max(float(metrics["weight"]), 1.0)
    out = {name: float(metrics[name]) / weight for name in ("loss", "z_loss", "accuracy") if name in metrics}
    rest = {name: float(value) for name, value in metrics.items() if name in ("grad_norm", "skipped_updates", "weight")}
    return out | rest


def validate(
    run: TrainRun, parts: Mapping[str, Part], params, mesh, step: int, watch: watchdog.Watch
) -> dict[str, dict[str, float]] | None:
    """Teacher-forced loss and accuracy of each head, on the first `eval_steps` batches of the validation splits that
    there are; None where all processes were asked to stop before the end."""
    found, batch_number = {}, itertools.count(1)
    for head, part in parts.items():
        if (data := part.of_split(VALIDATION)) is None:
            continue
        evaluate_step = make_eval_step(part.model, mesh, run.mesh.rules, part.objective)
        sums: dict[str, float] = {}
        for _, batch in zip(range(run.eval_steps), train_batches(data, *batch_part(mesh)), strict=False):
            if watchdog.stop_behind(watch, step, next(batch_number)):
                return None
            watch.beat("in validation", step, slow=True)
            metrics = jax.device_get(evaluate_step(params, global_batch(batch, mesh)))
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        found[head] = per_token(sums) if sums else {}
    return found
