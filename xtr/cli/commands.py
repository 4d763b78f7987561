"""What each subcommand does with its parsed arguments. Every function returns the exit code."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from xtr import config, rundir
from xtr.cli.convert import convert
from xtr.cli.data import data
from xtr.errors import UserError

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def load(arguments: argparse.Namespace, entry: str) -> tuple[object, dict[str, str]]:
    """Loads and builds the run that a command line describes."""
    loaded = config.load(arguments.gin_file, arguments.overrides, arguments.search_paths, entry=entry)
    built = config.build(entry)
    return built, loaded.texts()


# ---------------------------------------------------------------------------------------------------- runs


def train(arguments: argparse.Namespace) -> int:
    run, texts = load(arguments, "train")
    from xtr.train.loop import train as run_training

    result = run_training(run, texts)
    state = "was done already" if result.reused else f"done in {result.seconds:.1f} s"
    console.print(f"{result.steps} steps {state}; checkpoint: {result.checkpoint}", soft_wrap=True)
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    run, texts = load(arguments, "evaluate")
    from xtr.evaluate.engine import evaluate as run_evaluation

    rows = run_evaluation(run, texts)
    table = Table("target", "language", "split", "metric", "value", "n")
    for row in rows:
        table.add_row(row.target, row.language, row.split, row.metric, f"{row.value:.2f}", str(row.n))
    console.print(table)
    console.print(f"rows and predictions: {run.eval_output_dir}", soft_wrap=True)
    return 0


def infer(arguments: argparse.Namespace) -> int:
    run, _ = load(arguments, "infer")
    from xtr.evaluate.engine import infer as run_inference

    count = run_inference(run)
    console.print(f"{count} answers in {run.output_file}", soft_wrap=True)
    return 0


# ---------------------------------------------------------------------------------------------------- config


def _entry(loaded_files: Iterable[str], search_paths) -> str:
    """Which command a set of gin files is for: the one whose required place it names."""
    places = {"study.study_dir": "study", "infer.input_file": "infer", "train.model_dir": "train"}
    for binding, entry in places.items():
        if any(config.sets(name, binding, search_paths) for name in loaded_files):
            return entry
    return "evaluate"


def show_config(arguments: argparse.Namespace) -> int:
    if not arguments.gin_file:
        raise UserError("xtr config needs at least one --gin_file. `xtr list gin` shows the shipped ones.")
    entry = _entry(arguments.gin_file, arguments.search_paths)
    loaded = config.load(arguments.gin_file, arguments.overrides, arguments.search_paths, entry=entry, required=False)
    bindings = loaded.effective.values()
    if arguments.json:
        facts = [{"name": b.name, "value": b.source, "where": b.where} for b in bindings]
        print(json.dumps(facts, indent=1))
        return 0
    width = max(len(f"{b.name} = {b.source}") for b in bindings)
    for b in bindings:
        print(f"{f'{b.name} = {b.source}':<{min(width, 88)}}  # {b.where}")
    return 0


# ---------------------------------------------------------------------------------------------------- lists


def list_what(arguments: argparse.Namespace) -> int:
    if arguments.what == "gin":
        facts = [{"file": name} for name in config.shipped_gin_files()]
    elif arguments.what == "models":
        facts = _models()
    else:
        facts = _registered(arguments)
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    if not facts:
        raise UserError(f"no {arguments.what} found: set XTR_DATA_DIR or --data_dir to the official files.")
    table = Table(*facts[0])
    for fact in facts:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in fact.values()))
    console.print(table)
    return 0


def _models() -> list[dict]:
    from xtr import coverage
    from xtr.models import spec

    facts = []
    for name in config.shipped_gin_files():
        if not name.startswith("models/") or name.endswith("/common.gin"):
            continue
        model = config.build_model([name])
        parameters = spec.count(model.param_specs())
        size, decoder_layers = Path(name).stem, getattr(model, "num_decoder_layers", 0)
        pretrained = size != "micro"
        covered = f"{len(coverage.covered(model.family))} of {len(coverage.XTREME_R_LANGUAGES)}"
        facts.append(
            {
                "model": name.removeprefix("models/").removesuffix(".gin"),
                "family": model.family,
                "size": size,
                "parameters": parameters,
                "f32": f"{4 * parameters / 2**30:.2f} GiB",
                "bf16": f"{2 * parameters / 2**30:.2f} GiB",
                "width": model.width,
                "layers": f"{model.num_layers}+{decoder_layers}" if decoder_layers else model.num_layers,
                "XTREME-R languages": covered if pretrained else "not pretrained",
                "lacking": " ".join(coverage.lacking(model.family)) if pretrained else "",
            }
        )
    return sorted(facts, key=lambda fact: (fact["family"], fact["parameters"]))


def _modules(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _registered(arguments: argparse.Namespace) -> list[dict]:
    if arguments.data_dir:
        os.environ["XTR_DATA_DIR"] = str(Path(arguments.data_dir).absolute())
    from xtr.tasks.listing import listing

    facts, absent = listing(arguments.what, _modules(arguments.task_modules))
    for name, why in absent.items():
        print(f"not there: {name}: {why}", file=sys.stderr)
    return facts


def cache(arguments: argparse.Namespace) -> int:
    from xtr.data.cache import ensure_cached

    found = ensure_cached(
        arguments.names,
        task_modules=_modules(arguments.task_modules),
        tfds_tasks=_modules(arguments.tfds_tasks),
        vocabulary_path=arguments.vocabulary_path,
        data_dir=rundir.data_dir(arguments.data_dir),
        cache_dir=rundir.cache_dir(arguments.cache_dir),
        format=arguments.format,
    )
    tasks = {task.name: task for tasks in found.values() for task in tasks}
    facts = [
        {"task": task.name, "examples": {s: task.num_examples(s) for s in task.splits}, "directory": task.directory}
        for task in tasks.values()
    ]
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    table = Table("task", "examples", "directory")
    for fact in facts:
        table.add_row(fact["task"], ", ".join(f"{s} {n:,}" for s, n in fact["examples"].items()), fact["directory"])
    console.print(table)
    return 0


def study(arguments: argparse.Namespace) -> int:
    from xtr.cli import study as study_command

    spec, texts = load(arguments, "study")
    return study_command.ACTIONS[arguments.action](spec, texts, arguments)


def demo(arguments: argparse.Namespace) -> int:
    from xtr.cli import study as study_command
    from xtr.demo.write import write_world

    output = Path(arguments.output_dir)
    world = write_world(output / "world", seed=arguments.seed)
    console.print(
        f"world: {', '.join(world.languages)} in {world.directory}"
        + (" (found)" if world.reused else f" (written in {world.seconds:.1f} s)"),
        soft_wrap=True,
    )
    arguments.gin_file = ["studies/demo.gin"]
    arguments.search_paths = []
    arguments.overrides = [
        f"STUDY_DIR={str(output / 'study')!r}",
        f"DATA_DIR={str(world.directory)!r}",
        f"CACHE_DIR={str(output / 'cache')!r}",
        f"VOCABULARY_PATH={str(world.vocabulary_path)!r}",
        f"VOCAB_SIZE={-(-world.vocabulary_size // 128) * 128}",
    ]
    spec, texts = load(arguments, "study")
    return study_command.run(spec, texts, arguments)


COMMANDS = {
    "train": train,
    "eval": evaluate,
    "infer": infer,
    "config": show_config,
    "list": list_what,
    "data": data,
    "cache": cache,
    "convert": convert,
    "study": study,
    "demo": demo,
}
