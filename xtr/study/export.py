"""A finished study for TensorBoard.

    <logdir>/                                          answer, tables, samples, heat maps, texts, page layouts
    <logdir>/<model>/                                  scores and gains with their intervals
    <logdir>/<model>/<intermediate>/<target>/seed<n>/  a session of the HParams table; seeds share one line

Languages are tags, not runs: TensorBoard grows slow from a few hundred runs. Everything is made from the transfer table
and the result rows, so exporting again replaces what was exported before.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from xtr.errors import DataError
from xtr.evaluate.results import ResultStore, is_mean
from xtr.study import plots
from xtr.study.transfer import ENGLISH, NONE, POOLED, ZERO_SHOT, Cell, Model, TransferTable
from xtr.study.words import answer, marks
from xtr.tensorboard import SummaryWriter, markdown_table

_SUFFIX = ".study"
_SCORE, _ENGLISH, _GAIN = "score/zero-shot", "score/English", "gain/zero-shot"


def export_tensorboard(
    study_dir: str | os.PathLike,
    table: TransferTable,
    store: ResultStore,
    provenance: Mapping[str, str | Sequence[str]],
    read_predictions: Callable[[str, str, str, str], Sequence[Mapping]] | None = None,
    samples: int = 5,
) -> Path:
    """Writes the study into `<study_dir>/tensorboard`, replacing an earlier export.

    Args:
      study_dir: the study's directory; its operative_config.gin is shown where there is one.
      table: from `transfer.build`.
      store: holds the rows that the table was built from.
      provenance: as for `report.write_report`; shown as one text.
      read_predictions: gives the records of (run_id, target, language, split); by default those of `store`. Places
        without predictions show no samples.
      samples: sample predictions a target and language; the same examples for every system.

    Returns:
      What `tensorboard --logdir` is to be pointed at.
    """
    logdir = Path(study_dir) / "tensorboard"
    for old in logdir.glob(f"**/events.out.tfevents.*{_SUFFIX}"):
        old.unlink()
    rows = store.read()
    # Means over languages are made of what is shown here.
    rows = rows[rows["target"].isin(table.targets) & ~rows["language"].map(is_mean)]
    with SummaryWriter(logdir, _SUFFIX) as writer:
        writer.hparams_config(
            {
                "model": [model.name for model in table.models],
                "family": [model.family for model in table.models],
                "parameters": None,
                "intermediate": list(table.intermediates),
                "target": list(table.targets),
            },
            {_SCORE: "score, zero-shot", _ENGLISH: "score, English", _GAIN: "gain, zero-shot"},
        )
        writer.layout(_layout(table))
        writer.text("answer", "\n\n".join(answer(table)))
        if table.problems:
            writer.text("missing", "\n".join(f"* {problem}" for problem in table.problems))
        writer.text("provenance", _provenance(provenance))
        config = Path(study_dir) / "operative_config.gin"
        if config.exists():
            writer.text("operative config", "".join(f"    {line}\n" for line in config.read_text().split("\n")))
        for model in table.models:
            writer.text(f"transfer table/{model.name}", _markdown(table, model))
            if len(table.intermediates) > 1:
                writer.image(f"zero-shot gains/{model.name}", plots.to_png(plots.gain_heat_map(table, model)))
        for tag, text in _samples(table, rows, read_predictions or store.read_predictions, samples):
            writer.text(tag, text)
    for model in table.models:
        with SummaryWriter(logdir / model.name, _SUFFIX) as writer:
            for cell in table.cells:
                if cell.model == model:
                    _cell(writer, cell)
        mine = rows[(rows["model"] == model.name) & (rows["family"] == model.family)]
        for keys, group in mine.groupby(["intermediate", "target", "seed"], sort=False):
            _session(logdir, table, model, mine, *keys, group)
    return logdir


def _provenance(provenance: Mapping[str, str | Sequence[str]]) -> str:
    lines = [(name, text if isinstance(text, str) else "; ".join(text)) for name, text in provenance.items()]
    return markdown_table(["", ""], [line for line in lines if line[1]])


def _layout(table: TransferTable) -> dict[str, dict[str, list[str]]]:
    targets = {t: [f"{t}/({'|'.join(table.metrics[t])})/.*"] for t in table.targets}
    gains = {name: [f"transfer/{name}/gain/.*"] for name in (*table.targets, *table.averages())}
    return {"scores by language": targets, "gains by intermediate": gains}


def _cell(writer: SummaryWriter, cell: Cell) -> None:
    """Zero-shot cells as transfer/<target>/{score,gain}[_low|_high]/<intermediate>."""
    if cell.view != ZERO_SHOT:
        return
    for name, number in (("score", cell.score), ("gain", cell.gain)):
        if number is not None:
            for suffix, value in (("", number.value), ("_low", number.low), ("_high", number.high)):
                writer.scalar(f"transfer/{cell.target}/{name}{suffix}/{cell.intermediate}", value, 0)


def _session(logdir, table, model: Model, rows, intermediate: str, target: str, seed: int, group) -> None:
    """One seed of one setting: its hyperparameters and every metric of every language."""
    group = group[group["step"] == group["step"].max()]
    own = _main_split(group)
    step = int(own["step"].iloc[0])
    with SummaryWriter(logdir / model.name / intermediate / target / f"seed{seed}", _SUFFIX) as writer:
        hparams = {"model": model.name, "family": model.family, "parameters": model.parameters}
        hparams |= {"intermediate": intermediate, "target": target}
        writer.hparams(hparams, trial_id=f"{model.family}.{model.name}.{intermediate}.{target}")
        for row in group.itertuples():
            place = target if row.split == own["split"].iloc[0] else f"{target}-{row.split}"
            writer.scalar(f"{place}/{row.metric}/{row.language}", row.value, step)
        for metric, of_metric in own[own["language"] != ENGLISH].groupby("metric", sort=False):
            writer.scalar(f"{target}/{metric}/average", of_metric["value"].mean(), step)
        own = own[own["metric"].isin(table.metrics[target])]
        before = rows[(rows["intermediate"] == NONE) & (rows["target"] == target) & (rows["seed"] == seed)]
        before = before[before["metric"].isin(table.metrics[target]) & before["language"].isin(list(own["language"]))]
        values = {_SCORE: _mean(own, english=False), _ENGLISH: _mean(own, english=True)}
        if intermediate != NONE and set(own["language"]) == set(before["language"]):
            base = _mean(_main_split(before[before["step"] == before["step"].max()]), english=False)
            values[_GAIN] = None if base is None or values[_SCORE] is None else values[_SCORE] - base
        for tag, value in values.items():
            if value is not None:
                writer.scalar(tag, value, step)


def _main_split(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the test split where there is one."""
    return rows[rows["split"] == "test"] if "test" in set(rows["split"]) else rows


def _mean(rows: pd.DataFrame, english: bool) -> float | None:
    """Mean over English, or over the other languages."""
    rows = rows[(rows["language"] == ENGLISH) == english]
    return None if rows.empty else float(rows["value"].mean())


def _markdown(table: TransferTable, model: Model) -> str:
    columns = [*table.targets, *table.averages()]
    names = [*table.intermediates, POOLED] if len(table.intermediates) > 2 else list(table.intermediates)

    def entry(cell: Cell | None) -> str:
        if cell is None:
            return "–"
        gain = f"; {cell.gain.text(signed=True)}{marks(cell)}" if cell.gain else ""
        return cell.score.text() + gain

    lines = [[name, *(entry(table.cell(model, name, column)) for column in columns)] for name in names]
    note = "Zero-shot score; gain over none. * differs from 0 after Holm's correction, † shared training data."
    return markdown_table(["intermediate", *columns], lines) + "\n\n" + note


def _samples(table: TransferTable, rows: pd.DataFrame, read_predictions, count: int):
    """(tag, Markdown) for each model, target and language: the same few examples, answered by every system."""
    keys = ["model", "target", "language"]
    for (model, target, language), group in _main_split(rows).groupby(keys, sort=False):
        chosen, columns = None, {}
        for intermediate in table.intermediates:
            of_one = group[group["intermediate"] == intermediate]
            if of_one.empty:
                continue
            row = of_one[of_one["seed"] == of_one["seed"].min()].iloc[-1]
            try:
                records = read_predictions(row["run_id"], target, language, row["split"])
            except DataError:
                continue  # the table's problems already name it
            by_id = {str(record["id"]): record for record in records}
            if chosen is None:
                chosen = {i: by_id[i]["gold"] for i in sorted(by_id)[:count]}
            columns[intermediate] = [by_id[i]["prediction"] if i in by_id else "–" for i in chosen]
        if chosen:
            lines = [
                [i, gold if isinstance(gold, str) else " / ".join(map(str, _listed(gold))), *answers]
                for (i, gold), *answers in zip(chosen.items(), *columns.values(), strict=True)
            ]
            yield f"samples/{model}/{target}/{language}", markdown_table(["id", "gold", *columns], lines)


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]
