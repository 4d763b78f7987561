"""Rows as CSV and Parquet, and as LaTeX tables for a paper."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xtr import rundir
from xtr.evaluate.metrics.benchmark import OVERALL
from xtr.export import summary
from xtr.export.source import Results


def write_csv(results: Results, path: str | os.PathLike) -> Path:
    """All rows, numbers with all their digits."""
    return _written(path, results.table().to_csv(index=False))


def write_parquet(results: Results, path: str | os.PathLike) -> Path:
    """All rows, with the types of `ResultRow`."""
    return _written(path, results.table().to_parquet(index=False))


def write_latex(results: Results, path: str | os.PathLike, digits: int = 1) -> Path:
    """Tables for \\input in a document that uses booktabs: the benchmarks' averages over all systems, and of each
    system languages x targets."""
    rows = summary.with_systems(results.rows)
    values = summary.scores(summary.final(rows))
    tables = ["% Needs \\usepackage{booktabs}."]
    if not values.empty:
        tables += _benchmarks(values, digits)
        tables += [_languages(system, own, rows, digits) for system, own in values.groupby("system", sort=False)]
    return _written(path, "\n\n".join(tables) + "\n")


def _written(path: str | os.PathLike, data: str | bytes) -> Path:
    rundir.write_atomic(path, data)
    return Path(path)


_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "\n": " ", "·": r"$\cdot$", "†": r"$\dagger$", "‡": r"$\ddagger$", "−": "--",
    "–": "--", "→": r"$\to$", "±": r"$\pm$",
}  # fmt: skip


def escape(text: object) -> str:
    """A text as LaTeX shows it."""
    return str(text).translate(str.maketrans(_ESCAPES))


def _benchmarks(values: pd.DataFrame, digits: int) -> list[str]:
    """One table a benchmark: systems x tasks, groups and averages; the best of several systems is bold."""
    found, tables = summary.over_seeds(summary.benchmarks(values)), []
    for benchmark, own in found.groupby("benchmark", sort=False):
        systems = list(dict.fromkeys(own["system"]))
        cells = {(line.system, line.name): line.value for line in own.itertuples(index=False)}
        names = list(dict.fromkeys(own["name"]))
        best = {name: max(value for (_, n), value in cells.items() if n == name) for name in names}
        lines = []
        for name in names:
            line = [escape(name)]
            for system in systems:
                value = cells.get((system, name))
                bold = value is not None and len(systems) > 1 and value == best[name]
                line.append(_number(value, digits, bold))
            lines.append(line)
        caption = f"{benchmark.replace('_', '-').upper()}: tasks, groups and averages" + _seeds(own)
        header = ["", *(escape(system) for system in systems)]
        rules = [n for n, name in enumerate(names) if name == OVERALL]
        tables.append(table(caption, f"tab:{_label(benchmark)}", header, lines, rules))
    return tables


def _languages(system: summary.System, values: pd.DataFrame, rows: pd.DataFrame, digits: int) -> str:
    """Languages x targets of one system, with the means below."""
    cells = summary.over_seeds(values).set_index(["language", "target"])["value"]
    targets, languages = list(dict.fromkeys(values["target"])), sorted(set(values["language"]))
    lines = [
        [escape(language), *(_number(cells.get((language, target)), digits) for target in targets)]
        for language in sorted(languages, key=lambda language: (language != summary.ENGLISH, language))
    ]
    due = summary.expected(rows)
    of_means = summary.means(values, ["target", "seed"])
    for kind, name in _KINDS.items():
        own = of_means[of_means["kind"] == kind].groupby("target")
        found, counts = own["value"].mean(), own["languages"].min()
        if kind == summary.MEAN:
            marks = {target: "$^\\ddagger$" * int(counts[target] < due[target]) for target in found.index}
        lines.append(
            [
                escape(name),
                *(_number(found.get(target), digits) + marks.get(target, "") * (target in found) for target in targets),
            ]
        )
    caption = f"{escape(system)}: score by language (per cent){_seeds(summary.over_seeds(values))}"
    caption += "; zero-shot: all languages but English; gap: English minus zero-shot"
    if any(marks.values()):
        caption += "; $\\ddagger$: not all languages"
    label = "-".join(map(_label, system.names))
    header, small = ["", *map(escape, targets)], len(languages) > 30 or len(targets) > 6
    return table(caption, f"tab:languages-{label}", header, lines, [len(languages)], small)


_KINDS = {summary.MEAN: "mean", summary.ZERO_SHOT: "zero-shot", summary.GAP: "gap"}


def _label(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


def _seeds(values: pd.DataFrame) -> str:
    counts = sorted(set(values["seeds"]))
    return (
        "" if counts == [1] else f", mean of {'--'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} seeds"
    )


def _number(value: float | None, digits: int, bold: bool = False) -> str:
    if value is None or pd.isna(value):
        return "--"
    text = f"{value:.{digits}f}"
    return f"\\textbf{{{text}}}" if bold else text


def table(
    caption: str,
    label: str,
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    rules: Sequence[int],
    small: bool = False,
    fit: bool = False,
) -> str:
    """A floating table; all texts are LaTeX.

    Args:
      rules: numbers of the lines that a rule stands above.
      small: in small type.
      fit: shrunk to the width of the line where it is wider (needs graphicx).
    """
    body = []
    for number, line in enumerate(lines):
        body += ["\\midrule"] * (number in rules and number > 0)
        row = " & ".join(line) + r" \\"
        body.append("{}" * row.startswith(("[", "*")) + row)  # else taken for an argument of the \\ before
    shrink = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            *["\\scriptsize", "\\setlength{\\tabcolsep}{3pt}"] * small,
            f"\\caption{{{caption}.}}",
            f"\\label{{{label}}}",
            *[shrink] * fit,
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            "\\toprule",
            " & ".join(header) + r" \\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}" + "}" * fit,
            "\\end{table}",
        ]
    )
