"""Results for TensorBoard.

    <logdir>/                                             tables, samples, heat maps, configuration, page layouts
    <logdir>/<model>/<intermediate>/<target>/seed<n>/     a session of the HParams table; seeds share one line
    <logdir>/<model>/<intermediate>/benchmarks/seed<n>/   averages of XTREME-R and XTREME

Languages are tags, not runs: TensorBoard grows slow from a few hundred runs. Points stand at the rows' steps, but for
the scores of single layers, which stand at their layers.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from xtr.evaluate.results import is_mean
from xtr.export import figures, summary
from xtr.export.samples import samples
from xtr.export.source import Results, place_of, read
from xtr.export.summary import ENGLISH, GAP, MEAN, NONE, SHARES, ZERO_SHOT, System
from xtr.tensorboard import SummaryWriter, markdown_table

SUFFIX = ".export"
SCORE, SCORE_ENGLISH, SCORE_MEAN, GAIN = "score/zero-shot", "score/English", "score/mean", "gain/zero-shot"
METRICS = {SCORE_MEAN: "mean", SCORE: "zero-shot", SCORE_ENGLISH: "English", GAIN: "gain, zero-shot"}
_LAYER = "/layer_"


def write_evaluation(directory: str | os.PathLike) -> Path:
    """Writes an evaluation's results into its folder `tensorboard`; returns that folder."""
    return write(read([directory]), Path(directory) / "tensorboard")


def write(results: Results, logdir: str | os.PathLike, count: int = 5) -> Path:
    """Writes results for TensorBoard, replacing an earlier export.

    Args:
      logdir: what `tensorboard --logdir` is to be pointed at.
      count: sample predictions a target and language.

    Returns:
      `logdir`.
    """
    logdir = Path(logdir)
    remove(logdir, SUFFIX)
    rows = summary.with_systems(results.rows)
    with SummaryWriter(logdir, SUFFIX) as writer:
        overview(writer, rows, lambda row: results.predictions(int(row["directory"]), place_of(row)), count)
        values = summary.scores(summary.final(rows))
        writer.text("means over languages", _means(values))
        if benchmarks := _benchmarks(values):
            writer.text("benchmarks", benchmarks)
        for name, png in _heat_maps(values):
            writer.image(name, png)
        origins(writer, results.directories)
    sessions(logdir, rows, SUFFIX)
    return logdir


def overview(
    writer: SummaryWriter,
    rows: pd.DataFrame,
    read_predictions: Callable[[Mapping], Sequence[Mapping] | None],
    count: int,
    charts: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> None:
    """The columns of the HParams table, the Custom Scalars page, and sample predictions.

    Args:
      writer: of the log directory's top folder.
      rows: with the column `system`.
      read_predictions: the records behind a row; None where there are none.
      count: sample predictions a target and language.
      charts: further categories of charts.
    """
    settings = [_hparams(*pair) for pair in rows[["system", "target"]].drop_duplicates().itertuples(index=False)]
    columns = {name: [setting[name] for setting in settings] for name in settings[0]}
    writer.hparams_config(columns | {"parameters": None}, METRICS)
    writer.layout(layout(rows) | dict(charts or {}))
    for sample in samples(summary.final(rows), read_predictions, count):
        tag = f"samples/{sample.model}/{sample.target}/{sample.language}"
        writer.text(tag, markdown_table(sample.header, sample.lines))


def sessions(logdir: Path, rows: pd.DataFrame, suffix: str) -> None:
    """A run for each system, target and seed, and one for the benchmarks' averages of each system and seed.

    Args:
      rows: with the column `system`.
    """
    values = summary.scores(summary.final(rows))
    due, gains = summary.expected(rows), summary.gains(values)
    main = {target: summary.main_split(own)["split"].iloc[0] for target, own in rows.groupby("target")}
    for (system, target, seed), own in rows.groupby(["system", "target", "seed"], sort=False):
        with SummaryWriter(_run_folder(logdir, system, target, seed), suffix) as writer:
            writer.hparams(_hparams(system, target), trial_id=".".join([system.family, *system.names, target]))
            _session_scalars(writer, own, main[target], due[target])
            for tag, value in _session_scores(values, gains, system, target, seed).items():
                writer.scalar(tag, value, int(own["step"].max()))
    for (system, seed), own in summary.benchmarks(values).groupby(["system", "seed"], sort=False):
        step = rows[(rows["system"] == system) & (rows["seed"] == seed)]["step"].max()
        with SummaryWriter(_run_folder(logdir, system, "benchmarks", seed), suffix) as writer:
            for line in own.itertuples(index=False):
                writer.scalar(f"{line.benchmark}/{line.name.replace(' ', '_')}", line.value, int(step))


def remove(logdir: Path, suffix: str) -> None:
    """Deletes the event files of an earlier export, and the folders that held nothing else."""
    for old in list(logdir.glob(f"**/events.out.tfevents.*{suffix}")):
        old.unlink()
        for folder in old.parents:
            if folder == logdir or any(folder.iterdir()):
                break
            folder.rmdir()


def _run_folder(logdir: Path, system: System, target: str, seed: int) -> Path:
    """The folder of one run."""
    return logdir.joinpath(*(name.replace("/", "-") for name in system.names), target, f"seed{seed}")


def _hparams(system: System, target: str) -> dict[str, str | int]:
    own = {"model": system.model, "family": system.family, "parameters": system.parameters}
    return own | {"intermediate": " · ".join(system.names[1:]), "target": target}


def _session_scalars(writer: SummaryWriter, rows: pd.DataFrame, main: str, due: int) -> None:
    """Every metric of every language, as <target>/<metric>/<language>, and its means over languages.

    Args:
      rows: of one system, target and seed.
      main: the split whose rows need not name it.
      due: languages that the target has; a mean over fewer says so in its tag.
    """
    rows = rows[~rows["language"].map(is_mean)]
    rows = rows.assign(
        place=[t if s == main else f"{t}-{s}" for t, s in zip(rows["target"], rows["split"], strict=True)]
    )
    layers = rows["metric"].str.contains(_LAYER, regex=False)
    by_layer = rows[layers & (rows["step"] == rows["step"].max())]
    if not by_layer.empty:
        parts = by_layer["metric"].str.rsplit(_LAYER, n=1, expand=True)
        by_layer = by_layer.assign(metric=parts[0] + "_by_layer", step=parts[1].astype(int))
    rows = pd.concat([rows[~layers], by_layer])
    for row in rows.itertuples(index=False):
        writer.scalar(f"{row.place}/{row.metric}/{row.language}", row.value, int(row.step))
    for line in summary.means(rows, ["place", "metric", "step"]).itertuples(index=False):
        kind = line.kind
        if kind == MEAN and line.languages < due and line.place == rows["target"].iloc[0]:
            kind = f"{MEAN}_{line.languages}_of_{due}"
        writer.scalar(f"{line.place}/{line.metric}/{kind}", line.value, int(line.step))


def _session_scores(
    values: pd.DataFrame, gains: pd.DataFrame, system: System, target: str, seed: int
) -> dict[str, float]:
    """The columns of the HParams table, of one session."""

    def of(table: pd.DataFrame) -> pd.DataFrame:
        return table[(table["system"] == system) & (table["target"] == target) & (table["seed"] == seed)]

    own = of(values)
    english = own["language"] == ENGLISH
    found = {
        SCORE_MEAN: own["value"].mean(),
        SCORE: own[~english]["value"].mean(),
        SCORE_ENGLISH: own[english]["value"].mean(),
        GAIN: of(gains)["value"].mean(),
    }
    return {tag: float(value) for tag, value in found.items() if not pd.isna(value)}


def layout(rows: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """The Custom Scalars page: languages, averages, gaps, illegal outputs and layers target by target; benchmarks."""
    means = f"{MEAN}|{ZERO_SHOT}|{GAP}"
    categories: dict[str, dict[str, list[str]]] = {"languages": {}, "averages": {}, "gap to English": {}}
    shares, layers = {}, {}
    for target, own in rows.groupby("target", sort=False):
        found = [name for name in own["metric"].unique() if _LAYER not in name]
        metrics = summary.score_metrics(target, found) or tuple(name for name in found if name not in SHARES)
        place = f"{re.escape(target)}/({'|'.join(map(re.escape, metrics))})"
        categories["languages"][target] = [f"{place}/(?!{means})[^/]+$"]
        categories["averages"][target] = [f"{place}/({MEAN}|{ZERO_SHOT})"]
        if ENGLISH in set(own["language"]):
            categories["gap to English"][target] = [f"{place}/{GAP}$"]
        if set(found) & set(SHARES):
            shares[target] = [f"{re.escape(target)}/({'|'.join(SHARES)})/"]
        if own["metric"].str.contains(_LAYER, regex=False).any():
            layers[target] = [f"{re.escape(target)}/.*_by_layer/"]
    benchmarks = {benchmark.name: [f"{benchmark.name}/"] for benchmark in summary.BENCHMARKS}
    more = {"illegal form, wrong language (%)": shares, "layers": layers, "benchmarks": benchmarks}
    return {title: charts for title, charts in (categories | more).items() if charts}


def _means(values: pd.DataFrame) -> str:
    """The means over languages of every target and system."""
    means = summary.over_seeds(summary.means(values, ["system", "target", "seed"]))
    cells = {(m.system, m.target, m.kind): f"{m.value:.1f}" for m in means.itertuples(index=False)}
    pairs = [(t, s) for t in dict.fromkeys(means["target"]) for s in dict.fromkeys(means["system"])]
    lines = [
        [target, system, *(cells.get((system, target, kind), "–") for kind in summary.KINDS)]
        for target, system in pairs
        if (system, target, MEAN) in cells
    ]
    note = "Per cent, the gap in points. Means over seeds."
    return markdown_table(["target", "system", *summary.KINDS.values()], lines) + "\n\n" + note


def _benchmarks(values: pd.DataFrame) -> str:
    """The benchmarks' tasks and averages, of every system; empty where none is complete."""
    found = summary.over_seeds(summary.benchmarks(values))
    cells = {(b.benchmark, b.name, b.system): f"{b.value:.1f}" for b in found.itertuples(index=False)}
    systems = list(dict.fromkeys(found["system"]))
    names = dict.fromkeys((benchmark, name) for benchmark, name, _ in cells)
    lines = [[*name, *(cells.get((*name, system), "–") for system in systems)] for name in names]
    return markdown_table(["benchmark", "", *systems], lines) if lines else ""


def _heat_maps(values: pd.DataFrame):
    """(tag, PNG) of each model: the gains of its intermediate tasks, or else its scores in every language."""
    gains = summary.over_seeds(summary.gains(values))
    zero_shot = summary.over_seeds(summary.means(values, ["system", "target", "seed"]))
    zero_shot = zero_shot[zero_shot["kind"] == ZERO_SHOT]
    by_model: dict[str, list[System]] = {}
    for system in dict.fromkeys(values["system"]):
        by_model.setdefault(system.model, []).append(system)
    targets = list(dict.fromkeys(values["target"]))
    for model, systems in by_model.items():
        if len(systems) == 1:
            own = summary.over_seeds(values[values["system"] == systems[0]])
            cells = {(v.language, v.target): (v.value, f"{v.value:.1f}") for v in own.itertuples(index=False)}
            languages = sorted(set(own["language"]), key=lambda language: (language != ENGLISH, language))
            title = f"{systems[0]}\nscore by language (%)"
            figure = figures.heat_map(title, languages, targets, cells, centre=50.0, extent=50.0)
            yield f"scores by language/{model}", figures.to_png(figure)
            continue
        names = {system: " · ".join(system.names[1:]) for system in systems}
        own = gains[gains["system"].isin(systems)]
        title, how, centre = f"{model}: zero-shot gain\nover no intermediate task (points)", "+.1f", 0.0
        if own.empty:
            own = zero_shot[zero_shot["system"].isin(systems)]
            title, how, centre = f"{model}\nzero-shot score (%)", ".1f", 50.0
        cells = {(names[v.system], v.target): (v.value, format(v.value, how)) for v in own.itertuples(index=False)}
        lines = [name for system, name in names.items() if centre or system.intermediate != NONE]
        yield f"transfer/{model}", figures.to_png(figures.heat_map(title, lines, targets, cells, centre=centre))


def origins(writer: SummaryWriter, directories: Sequence[Path]) -> None:
    """Each directory's configuration and what it ran with, as texts."""
    several = len(directories) > 1
    for directory in directories:
        of = f"/{directory.name}" if several else ""
        if (config := directory / "operative_config.gin").exists():
            writer.text(f"operative config{of}", literal(config.read_bytes().decode()))
        if (environment := directory / "environment.json").exists():
            facts = json.loads(environment.read_bytes())
            lines = [[name, json.dumps(value, ensure_ascii=False)] for name, value in facts.items()]
            writer.text(f"environment{of}", markdown_table(["", ""], lines))


def literal(text: str) -> str:
    """Markdown that shows a text as it is."""
    return "".join(f"    {line}\n" for line in text.split("\n"))
