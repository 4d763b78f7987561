"""From the finished evaluations of a study to its rows, its chance levels and its transfer table."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xtr import rundir
from xtr.errors import UserError
from xtr.evaluate.results import ContributionKey, ResultRow, ResultStore, is_mean
from xtr.study import transfer
from xtr.study.contamination import refuse_contaminated
from xtr.study.graph import Cell, Stage
from xtr.study.jobs import Job
from xtr.study.protocol import check_signed
from xtr.study.protocol import read as read_protocol
from xtr.study.spec import StudySpec


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a study has found so far.

    Attributes:
      store: the study's own rows (`<study_dir>/results/results.parquet`).
      table: the transfer table.
      missing: cells without a result, in words.
      directories: run_id -> directory of the evaluation whose predictions it names.
    """

    store: ResultStore
    table: transfer.TransferTable
    missing: tuple[str, ...]
    directories: Mapping[str, Path]

    def read_predictions(self, run_id: str, target: str, language: str, split: str) -> list[dict]:
        """The records of one evaluation, task and split."""
        return ResultStore(self.directories[run_id]).read_predictions(run_id, target, language, split)


def collect(spec: StudySpec, jobs: Sequence[Job], cells: Sequence[Cell]) -> Collected:
    """Gathers the rows of every finished evaluation under the seeds that it stands for, and builds the table.

    Raises:
      UserError: no evaluation is finished yet, or one was made otherwise or on other data than the study says.
    """
    evaluations = {job.stage: job for job in jobs if job.stage.kind == "evaluate"}
    rows: list[ResultRow] = []
    test_rows: list[ResultRow] = []
    dev_rows: list[ResultRow] = []
    chance: dict[str, dict[str, float]] = {}
    languages: dict[str, set[str]] = {}
    directories: dict[str, Path] = {}
    missing = []
    for cell in cells:
        job = evaluations[cell.evaluation]
        summary = rundir.done_summary(job.directory)
        if summary is None:
            missing.append(f"{cell.model}, {cell.intermediate}, {cell.target}, seed {cell.seed}: {job.status}")
            continue
        check_signed(job)
        directories[job.run.run_id] = job.directory
        chance.setdefault(cell.target, {}).update(summary["chance"])
        languages.setdefault(cell.target, set()).update(*summary["languages"].values())
        for values in ResultStore(job.directory).read().to_dict("records"):
            rows.append(ResultRow(**(values | {"seed": cell.seed})))
            if rows[-1].split == job.run.split and not is_mean(rows[-1].language):
                test_rows.append(rows[-1])
            elif rows[-1].split == job.run.dev_split:
                dev_rows.append(rows[-1])
    if not rows:
        raise UserError(f"study {spec.name} has no finished evaluation yet: `xtr study run` first.")
    store = ResultStore(Path(spec.study_dir) / "results")
    store.replace(rows)  # an earlier plan's rows stay with their stages

    def contributions(key: ContributionKey) -> Mapping[str, float]:
        return ResultStore(directories[key.run_id]).contributions(key)

    table = transfer.build(
        pd.DataFrame([dataclasses.asdict(row) for row in test_rows]),
        contributions,
        expected_languages={target: sorted(languages[target]) for target in spec.targets if target in languages},
        chance=chance,
        overlaps=transfer.OVERLAPS if spec.overlaps is None else spec.overlaps,
        resamples=spec.resamples,
        development=pd.DataFrame([dataclasses.asdict(row) for row in dev_rows]) if dev_rows else None,
    )
    return Collected(store, table, tuple(missing), directories)


def failures(jobs: Sequence[Job]) -> list[str]:
    """The stages that failed, with the reason, and those that wait for one of them."""
    lost: dict[Stage, str] = {}
    for job in jobs:
        if job.done:
            continue
        if failure := job.failure:
            lost[job.stage] = f"{job.stage.name} failed on {failure['host']}: {failure['error']}"
        elif job.stage.parent in lost:
            lost[job.stage] = f"{job.stage.name}: its parent {job.stage.parent.name} failed"
    return list(lost.values())


def _words(lengths: Mapping[str, int] | str) -> str:
    return lengths if isinstance(lengths, str) else "/".join(map(str, lengths.values()))


def protocol(spec: StudySpec, jobs: Sequence[Job]) -> list[str]:
    """How the study measures, one line a fact."""
    lines = [
        *refuse_contaminated(spec.initial_checkpoints(), spec.allow_contaminated),
        "Zero-shot: every target is trained on English alone and scored in every language found.",
        f"The {spec.selection} checkpoint of each run is scored; English development data is scored beside it and "
        "chooses nothing.",
        f"Training seeds: {', '.join(map(str, spec.seeds))}. A checkpoint that no seed went into counts once.",
    ]
    for kind in ("pretrain", "intermediate", "target"):
        those = {job.run.mixture_or_task_name: job for job in jobs if job.stage.kind == kind}
        for name, job in those.items():
            run = job.run
            lengths = _words(rundir.chosen_lengths(job.directory) or run.task_feature_lengths)
            lines.append(
                f"{kind}: {name}, {run.train_steps:,} steps of {run.batch_size} packed rows of {lengths} tokens."
            )
    layers = {job.run.embedding_layer for job in jobs if job.stage.kind == "evaluate"}
    where = ", ".join("the last" if layer == -1 else str(layer) for layer in sorted(layers))
    lines.append(f"Retrieval: mean over tokens of encoder layer {where}, cosine, English queries, foreign candidates.")
    return lines


def provenance(spec: StudySpec, jobs: Sequence[Job]) -> dict[str, str]:
    """Where the numbers come from: code, packages, device, data, cost."""
    facts: dict[str, str] = {}
    for job in jobs:
        path = job.directory / "environment.json"
        if path.exists():
            found = json.loads(path.read_text())
            facts["code"] = (
                f"xtr {found['packages']['xtr']}, revision {found['git_revision'] or 'of an installed package'}"
            )
            facts["packages"] = ", ".join(f"{k} {v}" for k, v in found["packages"].items() if v and k != "xtr")
            facts["devices"] = f"{found['devices']['count']} x {found['devices']['kind']}, Python {found['python']}"
            facts["started"] = found["started"]
            break
    if kept := read_protocol(spec.study_dir):
        revisions = [f"{run['revision'] or 'installed'} (xtr {run['xtr']}, jax {run['jax']})" for run in kept["code"]]
        facts["code revisions of the study's runs"] = ", ".join(revisions)
    summaries = [s for job in jobs if (s := rundir.done_summary(job.directory))]
    facts["compute"] = f"{len(summaries)} stages, {sum(s['seconds'] for s in summaries):.0f} s"
    vocabularies = {model: spec.vocabulary(model) for model in spec.models}
    names = {model: Path(path).name for model, path in vocabularies.items() if path}
    facts["vocabulary"] = ", ".join(sorted(set(names.values())))
    cut = sum(s.get("truncated", 0) for s in summaries)
    facts["evaluation inputs cut to length"] = str(cut)
    return facts
