"""`xtr eval`: a checkpoint in every language of a target, or saved predictions graded again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xtr import config
from xtr.errors import UserError

_COLUMNS = (("target", 18), ("language", 12), ("split", 11), ("metric", 24), ("value", 8), ("n", 8))
_LONGEST_SAMPLE = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr eval`, beside those of gin."""
    parser.add_argument("--tasks", metavar="NAME,NAME", help="these tasks or mixtures instead of the gin file's")
    parser.add_argument("--languages", metavar="CODE,CODE", help="only these; short for --gin.LANGUAGES")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N examples of each split, as a trial")
    parser.add_argument(
        "--log_samples",
        type=int,
        nargs="?",
        const=5,
        metavar="N",
        help="print N examples of each language with input, prediction and gold (default: 5)",
    )
    parser.add_argument(
        "--from_predictions",
        metavar="DIR",
        help="grade the predictions of that EVAL_OUTPUT_DIR again, without a model; its gin is taken unless given",
    )


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """What the command's own options say, as gin overrides."""
    given = [
        ("evaluate.mixture_or_task_name", arguments.tasks),
        ("LANGUAGES", arguments.languages),
        ("LIMIT", arguments.limit),
        ("LOG_SAMPLES", arguments.log_samples),
    ]
    if arguments.from_predictions:
        named = [text.partition("=")[0].strip() for text in arguments.overrides]
        given += [] if "EVAL_OUTPUT_DIR" in named else [("EVAL_OUTPUT_DIR", str(Path(arguments.from_predictions)))]
    return [f"{name}={value!r}" for name, value in given if value is not None]


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    saved = arguments.from_predictions
    if arguments.log_samples is not None and arguments.log_samples < 1:
        raise UserError(f"--log_samples is {arguments.log_samples}; it must be at least 1.")
    files, overrides = arguments.gin_file, [*_overrides(arguments), *arguments.overrides]
    if saved and not (Path(saved) / "predictions").is_dir():
        raise UserError(f"{saved} holds no predictions: give the EVAL_OUTPUT_DIR of an evaluation.")
    if saved and not files:
        files = [str(Path(saved) / "config.gin")]
    loaded = config.load(files, overrides, arguments.search_paths, entry="evaluate")
    run, texts = config.build("evaluate"), loaded.texts()
    from xtr.evaluate import engine
    from xtr.export.tensorboard import write_evaluation
    from xtr.parallel.distributed import is_first
    from xtr.progress import say

    say(_line([name for name, _ in _COLUMNS]))
    say("  ".join("-" * width for _, width in _COLUMNS))

    def on_rows(rows: Sequence) -> None:
        for row in rows:
            if not _is_detail(row.metric):
                say(_line([row.target, row.language, row.split, row.metric, f"{row.value:.2f}", f"{row.n:,}"]))

    rows = engine.regrade(run, saved, texts, on_rows) if saved else engine.evaluate(run, texts, on_rows)
    if not is_first():
        return 0
    board = write_evaluation(run.eval_output_dir)
    if arguments.log_samples:
        _print_samples(run.eval_output_dir, arguments.log_samples)
    if details := sum(_is_detail(row.metric) for row in rows):
        say(f"{details} rows of layers and of single tests are in results.parquet alone.")
    say(f"rows and predictions: {run.eval_output_dir}; tensorboard --logdir {board}")
    return 0


def _is_detail(metric: str) -> bool:
    return "/layer_" in metric or metric.count("/") > 1


def _line(cells: Sequence[str]) -> str:
    right = {"value", "n"}
    cells = [
        cell.rjust(width) if name in right else cell.ljust(width)
        for cell, (name, width) in zip(cells, _COLUMNS, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _print_samples(directory: str, count: int) -> None:
    from xtr.evaluate.results import ResultStore

    store = ResultStore(directory)
    for place in store.places():
        records = [record for record in store.read_predictions(*place) if "input" in record][:count]
        for record in records:
            print(f"\n{place.target}, {place.language}, {place.split}: {record['id']}")
            for field in ("input", "prediction", "raw_prediction", "gold"):
                if field in record:
                    text = str(record[field]).replace("\n", "\\n")
                    if len(text) > _LONGEST_SAMPLE:
                        text = f"{text[:_LONGEST_SAMPLE]} ... ({len(text)} characters)"
                    print(f"  {field:<14} {text}")
    sys.stdout.flush()
