"""`xtr study`: plan, run, show and report one study."""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from xtr import config, rundir
from xtr.errors import Preempted, UserError
from xtr.study import jobs as planning
from xtr.study import runner
from xtr.study.graph import Cell
from xtr.study.jobs import Configure, Job
from xtr.study.spec import StudySpec

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _configurer(search_paths: Sequence[str]) -> Configure:
    def configure(entry: str, gin_files: Sequence[str], overrides: Mapping[str, object]):
        texts = [f"{name}={value!r}" for name, value in overrides.items()]
        loaded = config.load(gin_files, texts, search_paths, entry=entry)
        return config.build(entry), loaded.texts()

    return configure


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


def absolute(spec: StudySpec) -> StudySpec:
    """The study with its data and cache folders resolved, so that all its stages agree on them."""
    folders = {"data_dir": rundir.data_dir(spec.data_dir), "cache_dir": rundir.cache_dir(spec.cache_dir)}
    return dataclasses.replace(spec, **{name: str(Path(path).absolute()) for name, path in folders.items()})


def _prepare(spec: StudySpec, arguments: argparse.Namespace) -> tuple[list[Job], list[Cell]]:
    """Tokenises what the study needs (once for all of it) and plans the stages."""
    from xtr.data.cache import ensure_cached
    from xtr.parallel.distributed import first_alone

    gin, configure = GinFiles(arguments.search_paths), _configurer(arguments.search_paths)
    if nameless := [name for name in spec.models if not spec.vocabulary(name)]:
        raise UserError(f"study {spec.name}: no vocabulary_path for {', '.join(nameless)}.")
    found = {
        (model, form): first_alone(
            functools.partial(
                ensure_cached,
                names,
                task_modules=tuple(spec.task_modules),
                tfds_tasks=tuple(spec.tfds_tasks),
                vocabulary_path=spec.vocabulary(model),
                data_dir=spec.data_dir,
                cache_dir=spec.cache_dir,
                format=form,
            )
        )
        for (model, form), names in planning.mixtures(spec, configure, gin).items()
    }

    def fingerprints(model: str, form: str, mixture: str) -> list[str]:
        return [f"{task.rate:g} {Path(task.directory).name}" for task in found[model, form][mixture]]

    return planning.prepare(spec, configure, gin, fingerprints)


def run(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Runs what is not done, then reports."""
    from xtr.evaluate.engine import evaluate
    from xtr.parallel.distributed import is_first
    from xtr.train.loop import train

    spec = absolute(spec)
    jobs, cells = _prepare(spec, arguments)
    if is_first():
        for name, text in texts.items():
            rundir.write_atomic(Path(spec.study_dir) / name, text)
    outcome = runner.run_jobs(
        jobs, _configurer(arguments.search_paths), train, evaluate, (Preempted, UserError), spec.workers
    )
    if not is_first():
        return 0
    console.print(
        f"study {spec.name}: {outcome.ran} stages run, {outcome.reused} done before,"
        f" {len(outcome.failed)} failed, {outcome.seconds:.1f} s"
    )
    for name, why in outcome.failed.items():
        console.print(f"  failed: {name}: {why}", style="red", soft_wrap=True)
    _report(spec, jobs, cells, outcome.failed)
    return 1 if outcome.failed else 0


def status(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Prints each stage's state."""
    jobs, _ = _prepare(absolute(spec), arguments)
    facts = [
        {"stage": job.stage.name, "state": job.status, "address": job.address, "directory": str(job.directory)}
        for job in jobs
    ]
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    table = Table("stage", "state", "address")
    for fact in facts:
        table.add_row(fact["stage"], fact["state"], fact["address"])
    console.print(table)
    counts = {state: sum(f["state"] == state for f in facts) for state in ("done", "started", "failed", "waiting")}
    console.print(f"study {spec.name}: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    return 0


def report(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Writes the report from the stages that are done."""
    spec = absolute(spec)
    jobs, cells = _prepare(spec, arguments)
    failed = {job.stage.name: "failed; see its FAILED file" for job in jobs if job.status == "failed"}
    _report(spec, jobs, cells, failed)
    return 0


def _report(spec: StudySpec, jobs: Sequence[Job], cells: Sequence[Cell], failed: Mapping[str, str]) -> None:
    """Prints the transfer table and writes report.html, transfer.csv and the TensorBoard directory."""
    from xtr.study import collect as collecting
    from xtr.study import report as reporting
    from xtr.study.export import export_tensorboard

    found = collecting.collect(spec, jobs, cells)
    problems = [*found.missing, *(f"{name}: {why}" for name, why in failed.items())]
    provenance = {
        "title": f"Does English intermediate training help? Study {spec.name}",
        "notice": spec.note,
        "protocol": collecting.protocol(spec, jobs),
        "missing stages": problems or "none",
        **collecting.provenance(spec, jobs),
    }
    reporting.print_table(found.table, console)
    page = reporting.write_report(spec.study_dir, found.table, found.store.read(), provenance)
    board = export_tensorboard(spec.study_dir, found.table, found.store, provenance, found.read_predictions)
    console.print(f"report:      {page}\ntensorboard: {board}   (tensorboard --logdir {board})", soft_wrap=True)


ACTIONS: Mapping[str, Callable[[StudySpec, Mapping[str, str], argparse.Namespace], int]] = {
    "run": run,
    "status": status,
    "report": report,
}
