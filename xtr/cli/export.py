"""`xtr export`: results as TensorBoard files, tables, a page, or a submission."""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from xtr import rundir
from xtr.cli import options
from xtr.errors import UserError, by_reason

FORMS = {
    "tensorboard": "event files in the folder PATH, for `tensorboard --logdir PATH`",
    "csv": "all rows",
    "parquet": "all rows of all directories in one file",
    "latex": "tables for a paper (booktabs)",
    "html": "one page, nothing fetched",
    "xtreme": "predictions as XTREME's and XTREME-R's submissions have them, below the folder PATH",
}
_FOLDERS = ("tensorboard", "xtreme")
_VERSIONS = ("xtreme", "xtreme-r")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr export`."""
    parser.add_argument("form", choices=FORMS, help="; ".join(f"{name}: {text}" for name, text in FORMS.items()))
    parser.add_argument(
        "directories", nargs="+", metavar="DIR", help="EVAL_OUTPUT_DIR of an evaluation, or the directory of a study"
    )
    parser.add_argument("--output", required=True, metavar="PATH", help="the file or folder to write")
    parser.add_argument("--samples", type=int, default=5, metavar="N", help="examples a language (tensorboard, html)")
    parser.add_argument("--digits", type=int, default=1, metavar="N", help="digits after the point (latex)")
    parser.add_argument(
        "--benchmark", choices=_VERSIONS, help="only this one (xtreme); default: both, as far as they are complete"
    )
    options.add_data_dir(parser)
    parser.add_argument("--json", action="store_true", help="for scripts")


def export(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from xtr.export import source

    if arguments.samples < 0 or arguments.digits < 0:
        raise UserError("--samples and --digits are at least 0.")
    results, output = source.read(arguments.directories), Path(arguments.output)
    folder = arguments.form in _FOLDERS
    if output.exists() and output.is_dir() != folder:
        raise UserError(f"--output {output} is a {'file' if folder else 'folder'}; {arguments.form} needs the other.")
    if any(output.resolve().is_relative_to(path.resolve()) for path in source.results_files(arguments.directories)):
        raise UserError(f"--output {output} is what is read; name another file.")
    facts: dict = {"rows": len(results.rows)}
    if arguments.form == "xtreme":
        facts |= _xtreme(results, output, arguments)
    else:
        _write(arguments.form, results, output, arguments)
        facts["files"] = [str(output)]
    if arguments.json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    elif arguments.form == "xtreme":
        tasks = len(facts["tasks"])
        print(f"{len(facts['files'])} files of {tasks} task{'s' * (tasks != 1)} below {output}")
    else:
        print(f"{facts['rows']:,} rows: {output}")
    return 0


def _write(form: str, results, output: Path, arguments: argparse.Namespace) -> None:
    if form == "tensorboard":
        from xtr.export import tensorboard

        tensorboard.write(results, output, arguments.samples)
    elif form == "html":
        from xtr.export import webpage

        webpage.write_html(results, output, count=arguments.samples)
    else:
        from xtr.export import tables

        if form == "latex":
            tables.write_latex(results, output, arguments.digits)
        else:
            {"csv": tables.write_csv, "parquet": tables.write_parquet}[form](results, output)


def _xtreme(results, output: Path, arguments: argparse.Namespace) -> dict:
    from xtr.export import xtreme

    versions = [arguments.benchmark] if arguments.benchmark else list(_VERSIONS)
    order = functools.partial(_tatoeba_order, arguments.data_dir)
    submission = xtreme.write(results, output, versions, order)
    for name, why in submission.left_out.items():
        print(f"left out: {by_reason({name: why})}", file=sys.stderr)
    for note in submission.notes:
        print(f"note: {note}", file=sys.stderr)
    tasks = sorted({f"{path.parts[-4]}/{path.parent.name}" for path in submission.files})
    return {
        "files": [str(path) for path in submission.files],
        "tasks": tasks,
        "left_out": dict(submission.left_out),
        "notes": list(submission.notes),
    }


def _tatoeba_order(data_dir: str | None, language: str, count: int) -> Sequence[int] | None:
    """XTREME's order of Tatoeba's English queries: by their text, ties as LASER has them."""
    english = _english(data_dir).get(language)
    if english is None or len(english) != count:
        return None
    return sorted(range(count), key=lambda number: english[number])


@functools.cache
def _english(data_dir: str | None) -> dict[str, list[str]]:
    """Language -> the English sentences of its Tatoeba pairs, of the official files that there are."""
    try:
        folder = rundir.data_dir(data_dir)
    except UserError:
        return {}
    from xtr.tasks.datasets import Sources
    from xtr.tasks.datasets.files import read_lines
    from xtr.tasks.datasets.tatoeba import find_tatoeba

    return {
        dataset.language: [line.strip() for _, line in read_lines(dataset.splits["queries"].files[0])]
        for dataset in find_tatoeba(Sources((Path(folder),))).datasets
    }
