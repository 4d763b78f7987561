"""`xtr study simulate`: what the study's statistics do on made-up data with a known truth."""

import argparse
import contextlib
import functools
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from rich.console import Console
from rich.table import Table

from xtr.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr study simulate`."""
    parser.add_argument("--table", choices=("coverage", "familywise", "verdicts"), required=True, help="which table")
    parser.add_argument(
        "--studies", type=int, metavar="N", help="made-up studies a line (coverage 2000, familywise 1000, verdicts 200)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10], metavar="S", help="default: 3 5 10")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up studies (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="lines at a time (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for scripts")


def simulate(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from xtr.progress import progress
    from xtr.study import calibration

    studies = calibration.STUDIES[arguments.table] if arguments.studies is None else arguments.studies
    for name, value in (("--studies", studies), ("--workers", arguments.workers)):
        if value < 1:
            raise UserError(f"{name} {value}: it must be a positive whole number.")
    settings = calibration.settings(arguments.table, arguments.seeds)
    measure = functools.partial(_measure, studies=studies, seed=arguments.seed)
    lines = []
    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(progress(f"simulate {arguments.table}", len(settings)))
        found = map(measure, settings)
        if arguments.workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")))
            found = pool.map(measure, settings)
        for line in found:
            lines.append(line)
            reporter.advance()
    if arguments.json:
        print(json.dumps(lines, indent=1))
        return 0
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*map(_text, line.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def _measure(setting, studies: int, seed: int) -> dict:
    return setting.measure(studies, seed)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
