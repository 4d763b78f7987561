"""`xtr study`: plan, run, watch and report one study."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from xtr import rundir
from xtr.cli import study_launch, study_state
from xtr.cli.study_load import Loaded, load
from xtr.errors import UserError
from xtr.study import lease, protocol, runner
from xtr.study.spec import StudySpec

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def run(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Runs what is not done, then reports; with --stage these stages alone, without a report.

    Raises:
      UserError: with --stage, one of these failed, now or earlier: to start the command again is in vain.
    """
    from xtr.evaluate.engine import evaluate
    from xtr.parallel.distributed import from_first, is_first
    from xtr.train.loop import train

    if (getattr(arguments, "workers", None) or 1) < 1:
        raise UserError(f"--workers is {arguments.workers}; it must be at least 1.")
    study = load(spec, arguments, tokenise=True)
    only, workers = getattr(arguments, "stage", []), getattr(arguments, "workers", None)  # `xtr demo` has neither
    names = set(from_first(lambda: [job.stage.name for job in runner.chosen(study.jobs, only)])) if only else None
    jobs = [job for job in study.jobs if job.stage.name in names] if only else study.jobs

    def begin() -> None:
        protocol.settle(study.spec.study_dir, study.protocol)
        for name, text in texts.items():
            rundir.write_atomic(Path(study.spec.study_dir) / name, text)

    from_first(begin)
    try:
        outcome = runner.run_jobs(
            jobs, study.configure, train, evaluate, workers or study.spec.workers, plan=study.jobs
        )
    except runner.StageFailed as error:
        if only:
            raise UserError(f"stage {error} (`xtr study retry` clears it)") from error
        raise
    if not is_first():
        return 0
    others = f" {outcome.elsewhere} by other runners," if outcome.elsewhere else ""
    console.print(
        f"study {study.spec.name}: {outcome.ran} stages run, {outcome.reused} done before,{others}"
        f" {len(outcome.failed)} failed, {outcome.seconds:.1f} s"
    )
    for name, why in outcome.failed.items():
        console.print(f"  failed: {name}: {why}", style="red", soft_wrap=True, markup=False)
    if only and outcome.failed:
        raise UserError(f"{', '.join(outcome.failed)} failed (`xtr study retry` clears that)")
    if not only and any(job.entry == "evaluate" and job.done for job in jobs):
        write_report(study)
    return 1 if outcome.failed else 0


def report(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Writes the report from the stages that are done."""
    write_report(load(spec, arguments, tokenise=True))
    return 0


def write_report(study: Loaded) -> None:
    """Prints the transfer table and writes the report's folder and the TensorBoard directory."""
    from xtr.study import collect as collecting
    from xtr.study import report as reporting
    from xtr.study.export import export_tensorboard
    from xtr.study.scaling import scalings
    from xtr.study.spent import spent

    spec, jobs = study.spec, study.jobs
    with lease.alone(Path(spec.study_dir) / lease.LEASES / "report", "writing the report"):
        found = collecting.collect(spec, jobs, study.cells)
        problems = [*found.missing, *collecting.failures(jobs)]
        provenance = {
            "title": f"Does English intermediate training help? Study {spec.name}",
            "notice": spec.note,
            "protocol": collecting.protocol(spec, jobs),
            "missing stages": problems or "none",
            **collecting.provenance(spec, jobs),
        }
        answers = scalings(found.table)
        reporting.print_table(found.table, console, answers)
        rows = found.store.read()
        page = reporting.write_report(spec.study_dir, found.table, rows, provenance, answers, spent(jobs))
        read = found.read_predictions
        board = export_tensorboard(spec.study_dir, found.table, found.store, provenance, read, answers=answers)
    console.print(f"report:      {page}\ntensorboard: {board}   (tensorboard --logdir {board})", soft_wrap=True)


ACTIONS: Mapping[str, Callable[[StudySpec, Mapping[str, str], argparse.Namespace], int]] = {
    "run": run,
    "launch": study_launch.run,
    "report": report,
    "status": study_state.status,
    "retry": study_state.retry,
    "prune": study_state.prune,
}
