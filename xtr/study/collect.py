"""From the finished evaluations of a study to its rows, its chance levels and its transfer table."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from xtr import rundir
from xtr.errors import UserError
from xtr.evaluate.results import ContributionKey, ResultRow, ResultStore, is_mean
from xtr.evaluate.run import EvaluateRun
from xtr.study import transfer
from xtr.study.contamination import refuse_contaminated
from xtr.study.graph import Cell, Stage
from xtr.study.jobs import Job
from xtr.study.overlaps import data_set, not_zero_shot, overlaps
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
    given = {cell.target for cell in cells}
    languages: dict[str, set[str]] = {target: set() for target in spec.targets if target in given}
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
        languages[cell.target].update(*summary["languages"].values())
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
        expected_languages={target: sorted(found) for target, found in languages.items()},
        chance=chance,
        overlaps=shared_data(spec, jobs),
        resamples=spec.resamples,
        development=pd.DataFrame([dataclasses.asdict(row) for row in dev_rows]) if dev_rows else None,
        planned=planned(cells),
        notes=notes(spec, jobs),
    )
    return Collected(store, table, tuple(missing), directories)


def planned(cells: Sequence[Cell]) -> dict[str, list[tuple[str, str]]]:
    """Model -> the (intermediate, target) pairs that the study gives it, in order."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for cell in cells:
        found.setdefault(cell.model, {}).setdefault((cell.intermediate, cell.target))
    return {model: list(pairs) for model, pairs in found.items()}


def trained_on(jobs: Sequence[Job]) -> tuple[dict[str, dict[str, None]], dict[str, dict[str, None]]]:
    """(intermediate -> the tasks that its stages train on, target -> the tasks that its stages train on and score), of
    all models together, in order."""
    of_stage = {job.stage: _tasks(job) for job in jobs}
    intermediates: dict[str, dict[str, None]] = {}
    targets: dict[str, dict[str, None]] = {}
    for scored in (stage for stage in of_stage if stage.kind == "evaluate"):
        stage: Stage | None = scored
        while stage is not None:
            if stage.kind == "intermediate":
                intermediates.setdefault(scored.intermediate, {}).update(dict.fromkeys(of_stage[stage]))
            elif stage.kind in ("target", "evaluate"):
                targets.setdefault(scored.target, {}).update(dict.fromkeys(of_stage[stage]))
            stage = stage.parent
    return intermediates, targets


def _tasks(job: Job) -> list[str]:
    """The tasks that a stage reads, by its data's fingerprints: '1 mnli-0ce13817685a' is one of them."""
    names = [fingerprint.rpartition(" ")[2].rpartition("-")[0] for fingerprint in job.data]
    return names or [job.run.mixture_or_task_name]


def shared_data(spec: StudySpec, jobs: Sequence[Job]) -> Mapping[str, Collection[str]]:
    """Intermediate -> the targets that it shares data with: as the study says, or by what its stages read."""
    return overlaps(*trained_on(jobs)) if spec.overlaps is None else spec.overlaps


def notes(spec: StudySpec, jobs: Sequence[Job]) -> list[str]:
    """What must be said of intermediate tasks that are not in English alone, one sentence each."""
    return not_zero_shot(trained_on(jobs)[0], shared_data(spec, jobs))


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
        *notes(spec, jobs),
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
    return [*lines, *_retrieval(jobs)]


_SEARCHES = {
    "tatoeba": "English queries among foreign candidates, the nearest by cosine, accuracy",
    "bucc2018": "pairs mined among foreign and English sentences by ratio margin over 4 neighbours, F1, the threshold"
    " chosen on the development pairs",
    "lareqa": "questions among the sentences of all languages together, ranked by cosine, mAP@20",
    "mewslix": "mentions among the entities of all languages together, ranked by cosine, mAP@20",
}
_POOLINGS = {"mean": "the mean over tokens", "first": "the first token", "last": "the last token"}


def _retrieval(jobs: Sequence[Job]) -> list[str]:
    """How each retrieval target is searched, and what of each model it reads; a line a target."""
    found: dict[str, tuple[str, dict[str, dict[str, None]]]] = {}
    for job in jobs:
        data = job.stage.kind == "evaluate" and data_set(job.run.mixture_or_task_name)
        if data in _SEARCHES:
            readings = found.setdefault(job.stage.target, (_SEARCHES[data], {}))[1]
            readings.setdefault(_reading(job.run), {}).setdefault(job.stage.model)
    lines = []
    for target, (how, readings) in found.items():
        read = "; ".join(f"{', '.join(models)}: {reading}" for reading, models in readings.items())
        lines.append(f"Retrieval, {target}: {how}. Read of {read}.")
    return lines


def _reading(run: EvaluateRun) -> str:
    """What of a model retrieval reads."""
    if "contrastive" in run.model.objectives:
        pooler = ", a dense layer and tanh" * run.model.pooler
        return f"the dual encoder's own vector ({_POOLINGS[run.model.pooling]}{pooler})"
    layers = run.model.num_layers
    layer = run.embedding_layer % (layers + 1)
    return f"{_POOLINGS[run.embedding_pooling]} of layer {layer} of {layers}"


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
        vocabularies = {model: f"SHA-256 {digest}" for model, digest in kept["vocabularies"].items()}
        facts["vocabularies read"] = "\n".join(_alike(vocabularies))
        facts["data read"] = "\n".join(_fingerprints(kept["data"]))
    summaries = [s for job in jobs if (s := rundir.done_summary(job.directory))]
    facts["compute"] = f"{len(summaries)} stages, {sum(s['seconds'] for s in summaries):.0f} s"
    vocabularies = {model: spec.vocabulary(model) for model in spec.models}
    names = {model: Path(path).name for model, path in vocabularies.items() if path}
    facts["vocabulary"] = ", ".join(sorted(set(names.values())))
    cut = sum(s.get("truncated", 0) for s in summaries)
    facts["evaluation inputs cut to length"] = str(cut)
    return facts


def _alike(values: Mapping[str, str]) -> list[str]:
    """'mt5-small, mt5-base: value', a line for each value of several models."""
    models: dict[str, list[str]] = {}
    for model, value in values.items():
        models.setdefault(value, []).append(model)
    return [f"{', '.join(names)}: {value}" for value, names in models.items()]


def _fingerprints(data: Mapping[str, str]) -> list[str]:
    """The tokenised tasks of a study with their fingerprints, a line a task, with the models where these differ.

    Args:
      data: '<model>.<task>' -> '<task>-<fingerprint>', of protocol.json.
    """
    tasks: dict[str, dict[str, str]] = {}
    for place, folder in data.items():
        model, _, task = place.partition(".")
        tasks.setdefault(task, {})[model] = folder.rpartition("-")[2]
    return [
        f"{task}  {next(iter(of_model.values())) if len(set(of_model.values())) == 1 else '; '.join(_alike(of_model))}"
        for task, of_model in sorted(tasks.items())
    ]
