"""A finished study as a report: one HTML page, Markdown, LaTeX tables, figures and a CSV file.

    STUDY_DIR/report/
      report.html                  self-contained: inline CSS and SVG, nothing fetched, no script
      report.md, languages-*.md    the same in Markdown
      transfer.csv                 every cell of the transfer table, all digits
      tables/*.tex                 the tables for a paper; tables/preview.tex shows all of them
      figures/*.png, *.svg         the figures, 200 dots an inch and as drawings

All are made from one document, so they hold the same numbers. The transfer table is printed by `print_table`.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xtr import rundir
from xtr.export.figures import to_png
from xtr.study import latex, markdown, page, plots
from xtr.study.document import drawings
from xtr.study.export import export_tensorboard
from xtr.study.scaling import Scaling, scalings
from xtr.study.sections import Provenance, document
from xtr.study.spent import Spent
from xtr.study.terminal import print_table
from xtr.study.transfer import TransferTable

__all__ = ["FOLDER", "Provenance", "export_tensorboard", "print_table", "write_report"]

FOLDER = "report"  # below the study's directory
_DPI = 200


def write_report(
    study_dir: str | os.PathLike,
    table: TransferTable,
    rows: pd.DataFrame,
    provenance: Provenance,
    answers: Sequence[Scaling] | None = None,
    spent: Sequence[Spent] = (),
) -> Path:
    """Writes the report below `study_dir`, in the place of an earlier one.

    Args:
      study_dir: the study's directory; made where needed.
      table: from `transfer.build`.
      rows: the rows it was built from; layers of retrieval, published numbers and all metrics are read from them.
      provenance: what to say of the study's origin, in order: name -> text, or lines of text. `title` is the page's
        title; `notice` is shown on top of everything (what a reader must know first, such as that data or models are
        generated); `protocol` (lines) is listed under "How it was measured"; `missing stages` (lines, or 'none') are
        the first of what is missing.
      answers: from `scaling.scalings`; computed where they are not given.
      spent: from `spent.spent`; without it no cost is shown.

    Returns:
      The path of the page, `report.html`.
    """
    folder = Path(study_dir) / FOLDER
    whole = document(table, rows, provenance, scalings(table) if answers is None else answers, spent)
    svgs: dict[str, str] = {}
    files: dict[str, str | bytes] = {}
    for drawing in drawings(whole):
        svg = plots.to_svg(drawing.figure)
        svgs[drawing.name] = plots.inline(svg, drawing.figure, drawing.text)
        files[f"figures/{drawing.name}.svg"] = plots.on_white(svg)
        drawing.figure.set_layout_engine("none")  # it is laid out now, which takes as long as drawing it
        files[f"figures/{drawing.name}.png"] = to_png(drawing.figure, _DPI)
    tables = latex.tables(whole)
    files |= {f"tables/{name}.tex": text for name, text in tables.items()}
    files["tables/preview.tex"] = latex.preview(list(tables))
    files |= markdown.markdown(whole, "figures")
    files["transfer.csv"] = table.to_frame().to_csv(index=False)
    files["report.html"] = page.html(whole, svgs)  # last, so that it is never newer than what it goes with
    for old in ("tables", "figures"):
        shutil.rmtree(folder / old, ignore_errors=True)
    for old in folder.glob("*.md"):
        old.unlink()
    for name, content in files.items():
        rundir.write_atomic(folder / name, content)
    return folder / "report.html"
