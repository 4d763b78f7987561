"""What each subcommand does with its parsed arguments. Every function returns the exit code."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from xtr import config
from xtr.cli import options, tables
from xtr.cli.bench import bench
from xtr.cli.cache import cache
from xtr.cli.convert import convert
from xtr.cli.data import data
from xtr.cli.doctor import doctor
from xtr.cli.evaluation import evaluate
from xtr.cli.export import export
from xtr.cli.launch import launch
from xtr.cli.plan import plan
from xtr.cli.show import show
from xtr.errors import UserError, by_reason
from xtr.progress import say

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
    say(f"{result.steps} steps {state}; checkpoint: {result.checkpoint}")
    return 0


def infer(arguments: argparse.Namespace) -> int:
    run, _ = load(arguments, "infer")
    from xtr.evaluate.infer import infer as run_inference

    count = run_inference(run)
    say(f"{count} answers in {run.output_file}")
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

_FILTERS = ("kind", "language", "stage", "target")


def list_what(arguments: argparse.Namespace) -> int:
    if arguments.what == "gin":
        facts, absent = [{"file": name} for name in config.shipped_gin_files()], {}
    elif arguments.what == "models":
        facts, absent = _models(), {}
    else:
        facts, absent = _registered(arguments)
    if arguments.json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    elif facts:
        tables.print_table([_short(fact) for fact in facts])
    sys.stdout.flush()
    for fact in facts:
        for names in _by_reason(fact.get("left out", {})):
            print(f"{fact['mixture']} goes without {names}", file=sys.stderr)
    said = {name for fact in facts for name in fact.get("left out", ())}
    for names in _by_reason({name: why for name, why in absent.items() if name not in said}):
        print(f"not there: {names}", file=sys.stderr)
    if not facts:
        filters = " ".join(f"--{name} {value}" for name in _FILTERS if (value := getattr(arguments, name)))
        where = f"for {filters}." if filters else ": set XTR_DATA_DIR or --data_dir to the official files."
        raise UserError(f"no {arguments.what} found{' ' if filters else ''}{where}")
    return 0


def _short(fact: dict) -> dict:
    """A row of the table: what is named after a mixture goes by the rest of its name."""
    if "mixture" not in fact:
        return fact
    prefix = f"{fact['mixture']}."
    members = fact["members"]
    if len(members) > 1 and all(name.startswith(prefix) for name in members):
        members = f"{prefix}* ({len(members)})"
    return fact | {"members": members, "left out": [name.removeprefix(prefix) for name in fact["left out"]]}


def _by_reason(why: dict[str, str]) -> list[str]:
    reasons = dict.fromkeys(why.values())
    return [by_reason({name: r for name, r in why.items() if r == reason}) for reason in reasons]


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


def _registered(arguments: argparse.Namespace) -> tuple[list[dict], dict[str, str]]:
    options.set_environment(arguments)
    from xtr.data.cache import as_names
    from xtr.tasks.listing import Only, listing

    only = Only(**{name: getattr(arguments, name) for name in _FILTERS})
    return listing(arguments.what, as_names(arguments.task_modules), only)


def study(arguments: argparse.Namespace) -> int:
    if arguments.action == "simulate":
        from xtr.cli import study_simulate

        return study_simulate.simulate(arguments)
    from xtr.cli import study as study_command

    if arguments.action == "plan":
        from xtr.cli import study_plan

        return study_plan.plan(*study_plan.load_spec(arguments), arguments)
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
    "bench": bench,
    "train": train,
    "eval": evaluate,
    "infer": infer,
    "config": show_config,
    "list": list_what,
    "show": show,
    "data": data,
    "cache": cache,
    "convert": convert,
    "export": export,
    "plan": plan,
    "launch": launch,
    "doctor": doctor,
    "study": study,
    "demo": demo,
}
