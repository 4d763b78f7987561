"""Results as one HTML page: nothing is fetched, tables sort on a click, every number has all its digits behind it."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from xtr import rundir
from xtr.evaluate.metrics.benchmark import OVERALL
from xtr.export import page, summary
from xtr.export.samples import samples
from xtr.export.source import Results, place_of
from xtr.export.summary import ENGLISH, GAP, KINDS, MEAN, NONE, System

_SORT = """
for (const table of document.querySelectorAll('table')) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], first = [...body.rows];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.title = 'sort';
    const key = row => {
      const cell = row.cells[column];
      return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent;
    };
    const sort = () => {
      const state = head.getAttribute('aria-sort');
      const next = state === 'descending' ? 'ascending' : state === 'ascending' ? 'none' : 'descending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      if (next !== 'none') head.setAttribute('aria-sort', next);
      const rows = [...first], sign = next === 'descending' ? -1 : 1;
      if (next !== 'none') rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (typeof x !== typeof y) return typeof x === 'number' ? -1 : 1;
        return sign * (typeof x === 'number' ? x - y : x.localeCompare(y));
      });
      body.append(...rows);
    };
    head.onclick = sort;
    head.onkeydown = event => { if (event.key === 'Enter') sort(); };
  });
}
"""


def write_html(results: Results, path: str | os.PathLike, title: str = "Results", count: int = 5) -> Path:
    """Writes the page.

    Args:
      count: sample predictions a target and language.
    """
    rows = summary.with_systems(results.rows)
    final = summary.final(rows)
    values = summary.scores(final)
    systems = list(dict.fromkeys(rows["system"]))
    body = [
        f"<header><h1>{page.text(title)}</h1>{_origin(results, systems, final)}</header>",
        *_benchmarks(values),
        *_means(values, rows),
        *_transfer(values),
        *_languages(values, systems),
        *_metrics(final),
        *_samples(results, final, count),
        *(
            page.folded("Configuration", name, f"<pre>{page.text(text)}</pre>")
            for name, text in results.configurations().items()
        ),
    ]
    rundir.write_atomic(path, page.page(title, body, _SORT))
    return Path(path)


def _origin(results: Results, systems: Sequence[System], final: pd.DataFrame) -> str:
    languages = final["language"].nunique()
    counts = [
        _count(len(systems), "system"),
        _count(final["target"].nunique(), "target"),
        _count(languages, "language"),
        _count(final["seed"].nunique(), "seed"),
        _count(len(results.rows), "row"),
    ]
    folders = "".join(f"<br>{page.text(directory)}" for directory in results.directories)
    return f'<p class="quiet">{", ".join(counts)}{folders}</p>'


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _cell(value: float | None, share: float | None = None, sign: str = "", mark: str = "") -> str:
    """A number to one digit, with all of them behind it.

    Args:
      share: how much colour it has, -1 to 1.
      sign: '+' to show the sign of positive numbers too.
    """
    if value is None or pd.isna(value):
        return '<td class="none">–</td>'
    text = f"{value:{sign}z.1f}{mark}"
    if share is None:
        return f'<td data-value="{float(value)!r}">{text}</td>'
    color = "var(--up)" if share >= 0 else "var(--down)"
    style = f"background:color-mix(in srgb, {color} {62 * min(1.0, abs(share)):.0f}%, transparent)"
    return f'<td class="heat" data-value="{float(value)!r}" style="{style}">{text}</td>'


def _grid(corner: str, names: Mapping, columns: Mapping, cell: Callable) -> str:
    """A table of cells.

    Args:
      names, columns: key -> heading.
      cell: (name, column) -> HTML.
    """
    header = [page.text(corner), *(page.text(heading) for heading in columns.values())]
    return page.table(header, [[page.text(h), *(cell(n, c) for c in columns)] for n, h in names.items()])


def _by(values: pd.DataFrame, *keys: str) -> dict[tuple, float]:
    return dict(zip(values[list(keys)].itertuples(index=False, name=None), values["value"], strict=True))


def _titles(systems: Sequence[System]) -> dict[System, str]:
    """Systems -> headings; the model is left out where all have one."""
    alone = len({system.model for system in systems}) == 1
    return {system: " · ".join(system.names[1:]) if alone and len(systems) > 1 else str(system) for system in systems}


def _benchmarks(values: pd.DataFrame) -> list[str]:
    found, sections = summary.over_seeds(summary.benchmarks(values)), []
    for benchmark, own in found.groupby("benchmark", sort=False):
        cells = _by(own, "name", "system")
        tasks = [name for name in dict.fromkeys(own["name"]) if name in summary.LANGUAGES[benchmark]]
        means = [name for name in dict.fromkeys(own["name"]) if name not in tasks]
        names = {name: name.replace("_", " ") for name in (*means, *tasks)}
        systems = _titles(list(dict.fromkeys(own["system"])))
        grid = _grid("", names, systems, lambda *key, c=cells: _cell(c.get(key), _share(c.get(key))))
        note = "Per cent. A mean is there if all of its tasks are, a task if all of its languages are."
        if benchmark == "xtreme_r" and OVERALL in means:
            note += " Overall: the mean of ten tasks, LAReQA among them, which the official script cannot score."
        sections.append(page.section(benchmark.replace("_", "-").upper(), grid, note))
    return [f'<div class="pair">{"".join(sections)}</div>'] if sections else []


def _share(value: float | None) -> float | None:
    return None if value is None else value / 100


def _means(values: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Targets x systems for each kind of mean, or targets x kinds of one system."""
    means = summary.means(values, ["system", "target", "seed"])
    due, counts = summary.expected(rows), means.groupby(["system", "target", "kind"])["languages"].min()
    short = {key for key, n in counts.items() if key[2] == MEAN and n < due[key[1]]}
    cells = _by(summary.over_seeds(means), "system", "target", "kind")
    systems = _titles(list(dict.fromkeys(means["system"])))
    targets = {target: target for target in dict.fromkeys(means["target"])}
    note = "Per cent; the gap in points: English minus the mean of the others."
    note += " ‡ not all of the target's languages." * bool(short)

    def cell(*key):
        value = cells.get(key)
        share = None if value is None else (-value if key[2] == GAP else value) / 100
        return _cell(value, share, mark="‡" * (key in short))

    if not cells:
        return []
    if len(systems) == 1:
        (system,) = systems
        grid = _grid("target", targets, KINDS, lambda target, kind: cell(system, target, kind))
        return [page.section("Means", grid, note)]
    sections = []
    for kind, name in KINDS.items():
        grid = _grid("target", targets, systems, lambda target, system, kind=kind: cell(system, target, kind))
        sections.append(page.section(f"{name[0].upper()}{name[1:]}", grid, note))
    return [f'<div class="pair">{"".join(sections)}</div>'] if len(systems) < 6 else sections


def _transfer(values: pd.DataFrame) -> list[str]:
    """A heat map of gains for each model with intermediate tasks."""
    gains, sections = summary.over_seeds(summary.gains(values)), []
    if gains.empty:
        return []
    for model, own in gains.groupby(gains["system"].map(lambda system: system.model), sort=False):
        cells = _by(own, "system", "target")
        extent = max(2.0, *(abs(value) for value in cells.values()))
        systems = {system: " · ".join(system.names[1:]) for system in dict.fromkeys(own["system"])}

        def cell(system, target, cells=cells, extent=extent):
            value = cells.get((system, target))
            return _cell(value, None if value is None else value / extent, "+")

        grid = _grid("intermediate", systems, {t: t for t in dict.fromkeys(own["target"])}, cell)
        note = f"Points over {page.text(NONE)}; mean over all languages but English, of the same seeds and languages."
        sections.append(page.section(f"Zero-shot gains · {model}", grid, note))
    return sections


def _languages(values: pd.DataFrame, systems: Sequence[System]) -> list[str]:
    """Languages x targets of one system, or languages x systems of each target."""
    mean, sections = summary.over_seeds(values), []

    def ordered(own: pd.DataFrame) -> dict[str, str]:
        return {name: name for name in sorted(set(own["language"]), key=lambda name: (name != ENGLISH, name))}

    if len(systems) == 1:
        cells = _by(mean, "language", "target")
        targets = {target: target for target in dict.fromkeys(mean["target"])}
        grid = _grid("language", ordered(mean), targets, lambda *key: _cell(cells.get(key), _share(cells.get(key))))
        return [page.section("Languages", grid, "Per cent.")]
    for target, own in mean.groupby("target", sort=False):
        cells, titles = _by(own, "language", "system"), _titles(list(dict.fromkeys(own["system"])))
        grid = _grid(
            "language", ordered(own), titles, lambda *key, c=cells: _cell(c.get(key), _share(c.get(key)))
        )  # fmt: skip
        sections.append(page.folded(f"{target}: every language", _count(len(ordered(own)), "language"), grid))
    return sections


def _metrics(final: pd.DataFrame) -> list[str]:
    """Every metric of the last step, system by system."""
    sections = []
    for target, own in final.groupby("target", sort=False):
        mean = own.groupby(["system", "language", "metric"], sort=False)["value"].mean().reset_index()
        cells = _by(mean, "system", "language", "metric")
        pairs = dict.fromkeys(zip(mean["system"], mean["language"], strict=True))
        keys = {pair: " · ".join(map(str, pair)) for pair in pairs}
        metrics = {name: name.replace("_", " ") for name in dict.fromkeys(mean["metric"])}
        if len(metrics) == 1:
            continue  # that is the score
        grid = _grid("", keys, metrics, lambda key, name, c=cells: _cell(c.get((*key, name))))
        sections.append(page.folded(f"{target}: every metric", _count(len(metrics), "metric"), grid))
    return sections


def _samples(results: Results, final: pd.DataFrame, count: int) -> list[str]:
    """One card a model and target, with a table a language."""
    cards: dict[tuple[str, str], list[str]] = {}
    for sample in samples(final, lambda row: results.predictions(int(row["directory"]), place_of(row)), count):
        lines = [[page.text(line[0]), *(f"<td>{page.text(cell)}</td>" for cell in line[1:])] for line in sample.lines]
        grid = page.table([page.text(name) for name in sample.header], lines)
        content = f'<h3>{page.text(sample.language)}</h3><div class="samples">{grid}</div>'
        cards.setdefault((sample.model, sample.target), []).append(content)
    return [
        page.folded(f"{target}: samples · {model}", _count(len(parts), "language"), "".join(parts))
        for (model, target), parts in cards.items()
    ]
