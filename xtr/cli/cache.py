"""`xtr cache`: tokenising tasks before they are used, checking what is there, and writing it as SeqIO caches tasks."""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from xtr.cli import options
from xtr.errors import UserError

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr cache`."""
    parser.add_argument("names", nargs="+", metavar="TASK_OR_MIXTURE")
    options.add_lengths(parser, "TASK_FEATURE_LENGTHS, for tasks of your own whose preprocessors ask for lengths")
    options.add_data_dir(parser)
    options.add_cache_dir(parser)
    options.add_tasks(parser)
    options.add_vocabulary(parser)
    parser.add_argument(
        "--num_workers", type=int, metavar="N", help="processes that write (default: a core each); all write the same"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read every byte and compare checksums; what is damaged is written again"
    )
    parser.add_argument(
        "--seqio_cache_dirs", metavar="DIR,DIR",
        help="SeqIO's cached tasks, taken from there instead of tokenised (default: $XTR_SEQIO_CACHE_DIRS)",
    )  # fmt: skip
    parser.add_argument(
        "--seqio_dir", default="", metavar="DIR", help="write the tasks there too as SeqIO and T5X read cached tasks"
    )
    parser.add_argument(
        "--beam", default="", metavar="OPTION,OPTION",
        help="have Apache Beam write --seqio_dir, with these options of its pipeline: --beam=--runner=DirectRunner",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for scripts")


def cache(arguments: argparse.Namespace) -> int:
    """Writes what is missing and shows what there is."""
    from xtr.data.cache import Writer, as_names, verify

    if arguments.num_workers is not None and arguments.num_workers < 1:
        raise UserError(f"--num_workers is {arguments.num_workers}; it must be at least 1.")
    if arguments.beam and not arguments.seqio_dir:
        raise UserError("--beam writes SeqIO's own cache: say where with --seqio_dir.")

    def find(writer: Writer):
        return options.cached_tasks(
            arguments,
            arguments.format,
            lengths=options.lengths(arguments.lengths) or None,
            seqio_cache_dirs=None if arguments.seqio_cache_dirs is None else as_names(arguments.seqio_cache_dirs),
            writer=writer,
        )

    found = find(Writer(arguments.num_workers, arguments.seqio_dir, arguments.beam))
    tasks = {task.name: task for tasks in found.values() for task in tasks}
    mended = verify(tasks.values()) if arguments.verify else {}
    if mended:
        find(Writer(arguments.num_workers))
    facts = [
        {"task": task.name, "examples": {s: task.num_examples(s) for s in task.splits}, "directory": task.directory}
        | ({"mended": {path.name: why for path, why in mended.get(name, {}).items()}} if arguments.verify else {})
        for name, task in tasks.items()
    ]
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    table = Table("task", "examples", "directory", *(["shards"] if arguments.verify else []))
    for fact in facts:
        examples = ", ".join(f"{s} {n:,}" for s, n in fact["examples"].items())
        shards = [f"{len(fact['mended'])} mended" if fact["mended"] else "whole"] if arguments.verify else []
        table.add_row(fact["task"], examples, fact["directory"], *shards)
    console.print(table)
    return 0
