"""`xtr data`: getting the official files, checking them, and the statistics of what they hold."""

import argparse
import dataclasses
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from xtr import rundir
from xtr.cli import options, stats, vocabulary
from xtr.errors import UserError

MIRROR = "XTR_DATA_MIRROR"
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def add_arguments(parser: argparse.ArgumentParser, parser_class: type[argparse.ArgumentParser]) -> None:
    """Adds the actions of `xtr data` and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=parser_class)

    get = actions.add_parser("download", help="bring data sets into the data folder from where they are published")
    get.add_argument("names", nargs="+", metavar="NAME", help="data sets, or: all, intermediate, xtreme_r, xtreme")
    get.add_argument("--dry_run", action="store_true", help="only say what would be downloaded, and how much")
    get.add_argument(
        "--mirror", metavar="URL", help=f"take URL/<host>/<path> instead of https://<host>/<path> (default: ${MIRROR})"
    )
    check = actions.add_parser("verify", help="read and count every data set and compare with what is published")
    check.add_argument("names", nargs="*", metavar="NAME", help="data sets or groups as of download (default: all)")
    check.add_argument("--json", action="store_true", help="for scripts")
    options.add_cache_dir(check)
    lengths = actions.add_parser("stats", help="counts, lengths in tokens, what is cut off, how full rows become")
    stats.add_arguments(lengths)
    trained = actions.add_parser("vocabulary", help="train a small vocabulary, for a model from scratch")
    vocabulary.add_arguments(trained)
    for action in (get, check):
        options.add_data_dir(action)


def download(arguments: argparse.Namespace) -> int:
    """Downloads, or says what would be. UserError where something could not be had."""
    from xtr.tasks.datasets import distributions
    from xtr.tasks.datasets import download as downloads

    wanted = distributions.distributions(arguments.names)
    data_dir = Path(rundir.data_dir(arguments.data_dir))
    if arguments.dry_run:
        _show_plan(wanted, data_dir)
        return 0
    mirror = arguments.mirror or os.environ.get(MIRROR, "")
    done = downloads.download(wanted, data_dir, mirror=mirror)
    for name, what in done.items():
        console.print(f"{name}: {what}", soft_wrap=True)
    for record in downloads.records(data_dir):
        if not record["verified"]:
            path, sha256 = record["file"]["path"], record["found"]["sha256"]
            console.print(f"{path}: not verified against a published checksum; SHA-256 {sha256}", soft_wrap=True)
    return 0


def _show_plan(wanted, data_dir: Path) -> None:
    from xtr.tasks.datasets.download import state

    table = Table("data set", "files", "MB", "state", "from", "licence")
    left = unknown = 0
    for distribution in wanted:
        states = [state(file, data_dir) for file in distribution.files]
        sizes = [file.size for file in distribution.files]
        hosts = dict.fromkeys(file.url.split("/")[2] for file in distribution.files)
        table.add_row(
            distribution.name,
            str(len(sizes)),
            f"{sum(size or 0 for size in sizes) / 1e6:,.1f}" + (" + unknown" if None in sizes else ""),
            ", ".join(f"{n} {what}" for what, n in Counter(states).items()) or f"by hand: {distribution.note}",
            ", ".join(hosts),
            distribution.licence,
        )
        due = [size for size, what in zip(sizes, states, strict=True) if what in ("missing", "broken off")]
        left += sum(size or 0 for size in due)
        unknown += due.count(None)
    console.print(table)
    more = f", and {unknown} files of unknown size" if unknown else ""
    console.print(f"to download: {left / 1e6:,.1f} MB{more}, into {data_dir}", soft_wrap=True)


def verify(arguments: argparse.Namespace) -> int:
    """Shows what the data are. UserError where some cannot be read; damage that can be read is in the table."""
    from xtr.tasks.datasets.archives import sources
    from xtr.tasks.datasets.verify import verify as judge

    data_dir = Path(rundir.data_dir(arguments.data_dir))
    if not data_dir.is_dir():
        raise UserError(f"The data directory {data_dir} does not exist.")
    found = judge(arguments.names, sources(data_dir, Path(rundir.cache_dir(arguments.cache_dir))))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(verdict) for verdict in found], indent=1, ensure_ascii=False))
    else:
        _show_verdicts(found)
    unreadable = [verdict.why for verdict in found if verdict.verdict == "unreadable"]
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(found)} splits cannot be read: " + "; ".join(unreadable))
    return 0


def _row(verdict):
    """What a row of the table is of: a split, or all the missing languages of a data set that one reason is for."""
    if verdict.verdict != "missing" or verdict.split or not verdict.language:
        return verdict
    return verdict.dataset.removesuffix(f".{verdict.language}"), verdict.why


def _show_verdicts(found) -> None:
    table = Table("data set", "split", "rows", "examples", "published", "verdict", "why")
    for row, verdicts in itertools.groupby(found, key=_row):
        if isinstance(row, tuple):
            name, why = row
            languages = " ".join(verdict.language for verdict in verdicts)
            table.add_row(name, "", "", "", "", "missing", f"{languages}: {why}")
            continue
        numbers = ("" if n is None else f"{n:,}" for n in (row.rows, row.examples, row.published))
        dropped = ", ".join(f"{n:,} dropped: {what}" for what, n in (row.dropped or {}).items())
        table.add_row(row.dataset, row.split, *numbers, row.verdict, "; ".join(filter(None, (row.why, dropped))))
    console.print(table)
    console.print(", ".join(f"{n} {verdict}" for verdict, n in Counter(v.verdict for v in found).most_common()))


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "download": download,
    "verify": verify,
    "stats": stats.stats,
    "vocabulary": vocabulary.vocabulary,
}


def data(arguments: argparse.Namespace) -> int:
    """Runs one action of `xtr data`; returns the exit code."""
    return ACTIONS[arguments.action](arguments)
