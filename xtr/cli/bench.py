"""`xtr bench`: how fast training and evaluation are here, beside Hugging Face; the input, beside SeqIO; retrieval."""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator

from xtr import rundir
from xtr.cli import options, tables
from xtr.data.formats import FORMATS
from xtr.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, parser_class: type[argparse.ArgumentParser]) -> None:
    """Adds the actions of `xtr bench`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=parser_class)
    evaluation = actions.add_parser("eval", help="examples a second, against Hugging Face and fixed batches")
    evaluation.add_argument("--model", choices=("micro", "small"), default="micro", help="mT5's shape, in float32")
    evaluation.add_argument("--tasks", nargs="+", metavar="TASK", help="xquad, xnli, udpos (default: all there are)")
    evaluation.add_argument(
        "--languages", nargs="+", default=(), metavar="CODE", help="default: see docs/performance.md"
    )
    for name, value, text in (
        ("examples", 256, "of each task"),
        ("repeats", 3, "timed runs of each contender, in turns; the median counts"),
        ("rows", 32, "of the other contenders' batches"),
        ("tokens_per_batch", 16_384, "of the engine"),
    ):
        evaluation.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: %(default)s)")
    evaluation.add_argument("--seed", type=int, default=0, help="of the weights")
    evaluation.add_argument(
        "--own_argmax", action="store_true", help="fixed batches take tokens by the engine's argmax, not as T5X does"
    )
    options.add_data_dir(evaluation)
    options.add_cache_dir(evaluation)
    options.add_vocabulary(evaluation)
    evaluation.add_argument("--json", action="store_true", help="for scripts")

    training = actions.add_parser("train", help="tokens a second of the training step, against Hugging Face")
    training.add_argument(
        "--model", choices=("micro", "small", "base", "large", "xl"), default="small", help="mT5's size"
    )
    training.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of products")
    training.add_argument("--batch", type=int, default=8, help="packed rows (default: %(default)s)")
    training.add_argument(
        "--lengths", type=int, nargs=2, default=(256, 64), metavar=("INPUTS", "TARGETS"), help="default: 256 64"
    )
    training.add_argument("--dropout_rate", type=float, default=0.0, help="of both (default: %(default)s)")
    training.add_argument("--steps", type=int, default=1, help="of each contender a turn (default: %(default)s)")
    training.add_argument("--repeats", type=int, default=5, help="turns; the median counts (default: %(default)s)")
    training.add_argument(
        "--torch_compile",
        action=argparse.BooleanOptionalAction,
        help="compile transformers' loss (default: where there is a CUDA device)",
    )
    training.add_argument(
        "--parts", action="store_true", help="instead: where this package's step spends its time, part by part"
    )
    training.add_argument("--json", action="store_true", help="for scripts")

    feed = actions.add_parser("input", help="packed tokens a second from the cache, against SeqIO's own pipeline")
    feed.add_argument(
        "name", nargs="?", metavar="TASK_OR_MIXTURE", default="all_available", help="default: %(default)s"
    )
    options.add_lengths(feed, "of a row (default: inputs=512,targets=114)")
    feed.add_argument("--batch", type=int, default=128, help="rows of a batch (default: %(default)s)")
    feed.add_argument(
        "--repeats", type=int, default=3, help="runs of each, in turns; the median counts (default: %(default)s)"
    )
    feed.add_argument(
        "--batches", type=int, help="of a run (default: the whole epoch, so that both read the same examples)"
    )
    feed.add_argument("--uncached", action="store_true", help="measure SeqIO without its cache too, once")
    feed.add_argument("--seed", type=int, default=0, help="of the shuffles")
    feed.add_argument(
        "--task_modules", default="", metavar="MODULE,FILE.py", help="modules that register your own tasks"
    )
    options.add_data_dir(feed)
    options.add_cache_dir(feed)
    options.add_vocabulary(feed)
    feed.add_argument("--json", action="store_true", help="for scripts")

    retrieval = actions.add_parser("retrieval", help="an exact search among many candidates: seconds and memory")
    for name, value, text in (
        ("queries", 1_000, "how many"),
        ("candidates", 100_000, "how many"),
        ("dim", 1024, "numbers of a vector"),
        ("k", 20, "how many are found for a query"),
        ("block_bytes", 2**30, "memory that the search takes"),
        ("seed", 0, "of the vectors"),
    ):
        retrieval.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: %(default)s)")
    retrieval.add_argument("--directory", help="keep the index here (default: a folder that is deleted)")
    retrieval.add_argument("--json", action="store_true", help="for scripts")


def bench(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    actions = {"eval": _evaluation, "train": _training, "input": _input, "retrieval": _retrieval}
    return actions[arguments.action](arguments)


def _training(arguments: argparse.Namespace) -> int:
    from xtr import config
    from xtr.bench.training import Bench, measure

    model = config.build_model([f"models/mt5/{arguments.model}.gin"])
    bench = Bench(
        model=dataclasses.replace(model, dtype=arguments.dtype, dropout_rate=arguments.dropout_rate),
        rows=arguments.batch,
        lengths=tuple(arguments.lengths),
        steps=arguments.steps,
        repeats=arguments.repeats,
        torch_compile=arguments.torch_compile,
    )
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}"
    shape = f"batch {bench.rows} x {bench.lengths[0]}/{bench.lengths[1]}"
    if arguments.parts:
        from xtr.bench import parts

        taken = parts.measure(bench.model, bench.rows, bench.lengths, bench.repeats)
        if arguments.json:
            print(json.dumps([dataclasses.asdict(part) for part in taken], indent=1))
            return 0
        print(f"mT5-{arguments.model}, {arguments.dtype}, {shape}, no dropout; {machine}")
        tables.print_table([_part_row(part, taken[0]) for part in taken])
        return 0
    found, skipped = measure(bench)
    if arguments.json:
        facts = {"model": arguments.model, "machine": machine, **dataclasses.asdict(bench)}
        print(
            json.dumps(facts | {"contenders": [dataclasses.asdict(own) for own in found], "skipped": skipped}, indent=1)
        )
        return 0
    dropout = f"dropout {arguments.dropout_rate}"
    print(f"mT5-{arguments.model}, {arguments.dtype}, {shape}, {dropout}, Adafactor; {machine}")
    if found:
        tables.print_table([_training_row(own, found[0]) for own in found])
    for who, why in skipped.items():
        print(f"{who}: skipped: {why}", file=sys.stderr)
    return 0


def _training_row(own, first) -> dict:
    return {
        "contender": own.contender.replace("_", " "),
        "tokens/s": f"{own.tokens_per_second:,.0f}",
        f"{first.contender} is faster by": "" if own is first else f"{own.step_seconds / first.step_seconds:.2f}",
        "step, s": f"{own.step_seconds:.3g}",
        "slowest/fastest": f"{own.spread:.2f}",
        "processor s": f"{own.processor_seconds:.3g}",
        "first step longer by, s": f"{own.first_seconds:.1f}",
        "TFLOP/s": f"{own.flops_per_second / 1e12:.3g}",
        "MFU": "" if own.mfu is None else f"{own.mfu:.1%}",
        "peak memory, GiB": "" if own.peak_bytes is None else f"{own.peak_bytes / 2**30:.2f}",
    }


def _part_row(part, product) -> dict:
    """A row of the table of parts; `product` is the one that says how fast a large product is."""
    return {
        "part": part.name,
        "step, s": f"{part.seconds:.2f}",
        "processor s": f"{part.processor_seconds:.2f}",
        "products, GFLOP": f"{part.gflop:.0f}",
        "these as one large product, processor s": f"{part.gflop / product.gflop * product.processor_seconds:.2f}",
    }


def _input(arguments: argparse.Namespace) -> int:
    from xtr.bench.input import Bench, measure

    lengths = options.lengths(arguments.lengths, ("inputs", "targets")) or {"inputs": 512, "targets": 114}
    with _data(arguments) as (data_dir, vocabulary_path):
        cache = {
            "task_modules": [name for name in arguments.task_modules.split(",") if name],
            "vocabulary_path": vocabulary_path,
            "data_dir": data_dir,
            "cache_dir": rundir.cache_dir(arguments.cache_dir),
            "format": FORMATS[0],
        }
        bench = Bench(
            name=arguments.name,
            cache=cache,
            lengths=lengths,
            batch=arguments.batch,
            repeats=arguments.repeats,
            uncached=arguments.uncached,
            most=arguments.batches,
            seed=arguments.seed,
        )
        found = measure(bench)
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}"
    if arguments.json:
        facts = {"name": bench.name, "machine": machine, "lengths": dict(lengths), "batch": bench.batch}
        print(json.dumps(facts | {"contenders": [dataclasses.asdict(own) for own in found]}, indent=1))
        return 0
    shape = f"batch {bench.batch} x {lengths['inputs']}/{lengths['targets']}"
    print(f"{bench.name}, {shape}, {found[0].examples:,} examples; {machine}")
    tables.print_table([_input_row(own, found[0]) for own in found])
    return 0


def _input_row(own, first) -> dict:
    memory = [value / 2**20 for value in own.resident_bytes]
    speed, start = first.encoder_tokens_per_second, first.cold_start_seconds
    return {
        "contender": own.contender,
        "encoder tokens/s": f"{own.encoder_tokens_per_second:,.0f}",
        "xtr is faster by": "" if own is first else f"{speed / own.encoder_tokens_per_second:.1f}",
        "examples/s": f"{own.examples_per_second:,.0f}",
        "processor s a million": f"{own.processor_seconds:.2f}",
        "fastest/slowest": f"{own.spread:.2f}",
        "first batch after, s": f"{own.cold_start_seconds:.1f}",
        "xtr takes": "" if own is first else f"{start / own.cold_start_seconds:.2f}",
        "density": f"{own.encoder_density:.3f} / {own.decoder_density:.3f}",
        "examples": f"{own.examples:,}",
        "memory, MiB": f"{memory[0]:,.0f} to {memory[-1]:,.0f}" if memory else "",
    }


@contextlib.contextmanager
def _data(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The folder of official files and the vocabulary; without the former the demo's generated ones, for as long."""
    if data_dir := arguments.data_dir or os.environ.get("XTR_DATA_DIR"):
        yield data_dir, options.vocabulary_path(arguments)
        return
    from xtr.demo.write import write_world

    print("no official files (--data_dir, XTR_DATA_DIR): measured on the demo's generated ones", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(os.path.join(folder, "world"))
        yield str(world.directory), str(world.vocabulary_path)


def _retrieval(arguments: argparse.Namespace) -> int:
    from xtr.bench.retrieval import measure

    names = ("queries", "candidates", "dim", "k", "block_bytes", "seed")
    if wrong := [name for name in names[:-1] if getattr(arguments, name) < 1]:
        raise UserError(f"--{wrong[0]} is {getattr(arguments, wrong[0])}; it must be at least 1.")
    given = {name: getattr(arguments, name) for name in names[2:]}
    found = dataclasses.asdict(measure(arguments.queries, arguments.candidates, **given, directory=arguments.directory))
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name:<{width}}  {value:,.2f}" if isinstance(value, float) else f"{name:<{width}}  {value:,}")
    return 0


def _evaluation(arguments: argparse.Namespace) -> int:
    from xtr.bench.evaluation import TASKS, Bench, measure

    if unknown := [name for name in arguments.tasks or () if name not in TASKS]:
        raise UserError(f"xtr bench eval measures {', '.join(TASKS)}; it knows no {', '.join(unknown)}.")
    names = ("model", "examples", "repeats", "rows", "tokens_per_batch", "seed", "languages", "own_argmax")
    given = {name: getattr(arguments, name) for name in names}
    data_dir = arguments.data_dir or os.environ.get("XTR_DATA_DIR")
    tasks = arguments.tasks or [name for name in TASKS if data_dir or name != "udpos"]
    with _data(arguments) as (directory, vocabulary_path):
        given |= {"data_dir": directory, "vocabulary_path": vocabulary_path}
        found = measure(Bench(**given, tasks=tasks, cache_dir=str(rundir.cache_dir(arguments.cache_dir))))
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}"
    if arguments.json:
        facts = {"model": arguments.model, "machine": machine, "rows": arguments.rows, "repeats": arguments.repeats}
        print(json.dumps(facts | {"tasks": [dataclasses.asdict(own) for own in found]}, indent=1))
        return 0
    print(f"mT5-{arguments.model}, float32, {machine}; examples a second, compilation apart")
    tables.print_table([fact for own in found for fact in _rows(own)])
    for own in found:
        for who, why in own.skipped.items():
            print(f"{own.task}, {who}: skipped: {why}", file=sys.stderr)
    return 0


def _rows(own) -> list[dict]:
    """A row of the table for each contender."""
    engine = own.per_second["engine"]
    return [
        {
            "task": own.task,
            "contender": who.replace("_", " "),
            "examples": own.examples,
            "input tokens": round(own.input_tokens),
            "output tokens": f"{own.output_tokens:.1f}" if own.output_tokens else "",
            "examples/s": f"{speed:.1f}",
            "engine is faster by": "" if who == "engine" else f"{engine / speed:.2f}",
            "same predictions": f"{own.same[who]:.1%}",
            "slowest/fastest": f"{own.spread[who]:.2f}",
            "first run longer by, s": f"{own.first_seconds[who]:.1f}",
        }
        for who, speed in own.per_second.items()
    ]
