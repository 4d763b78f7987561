"""`xtr data stats`: counts and lengths of tasks, what TASK_FEATURE_LENGTHS cut off, and how full rows become."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from xtr import config, rundir
from xtr.cli import auto_lengths, options, tables
from xtr.data.formats import ENCODER
from xtr.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr data stats`."""
    parser.add_argument("names", nargs="+", metavar="TASK_OR_MIXTURE")
    options.add_lengths(parser, "default: those of the shipped gin file of each task in that format")
    options.add_data_dir(parser)
    options.add_cache_dir(parser)
    options.add_tasks(parser, several_formats=True)
    options.add_vocabulary(parser)
    parser.add_argument(
        "--auto", nargs="+", metavar="MODEL", default=[],
        help="mt5/small, ...: the lengths that TASK_FEATURE_LENGTHS = 'auto' stands for, and the FLOPs that they save",
    )  # fmt: skip
    parser.add_argument("--kept", type=float, default=0.99, help="of --auto: LENGTHS_KEPT (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for scripts")


def stats(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code. UserError where no format of any task could be had."""
    if arguments.auto:
        return auto_lengths.show(arguments)
    lengths = options.lengths(arguments.lengths, ("inputs", "targets"))
    options.vocabulary_path(arguments)  # a missing one is said before anything else
    cache_dir = rundir.cache_dir(arguments.cache_dir)
    print(f"tasks that are not in the cache {cache_dir} yet are tokenised first", file=sys.stderr)
    found, failed = [], {}
    for format in arguments.format:
        try:
            cached = options.cached_tasks(arguments, format)
        except UserError as error:
            failed[format] = str(error)
            continue
        found += [_of_name(name, tasks, format, lengths) for name, tasks in cached.items()]
    if not found:
        raise UserError("; ".join(dict.fromkeys(failed.values())))
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for facts in found:
            _print(facts)
    sys.stdout.flush()
    for format, why in failed.items():
        print(f"not there in the format {format}: {why}", file=sys.stderr)
    return 0


def default_lengths(name: str, group: str, kind: str, format: str) -> tuple[dict[str, int], str]:
    """TASK_FEATURE_LENGTHS that the shipped gin files give a task, and the file that says so; ({}, '') for none.

    Args:
      name: the mixture or task that is trained on.
    """
    shipped = set(config.shipped_gin_files())
    if format == ENCODER and kind != "retrieval":
        from xtr.data.labelled import HEADS

        files = [f"targets/encoder/{group}.gin", *(head.file for head in HEADS.values() if head.kind == kind)]
    else:
        files = [f"{folder}/{n}.gin" for n in (name, group) for folder in ("intermediate", "targets")]
    for file in (file for file in files if file in shipped):
        around = ["models/mt5/micro.gin", "runs/finetune.gin"]
        loaded = config.load([*around, file], (), (), entry="train", required=False)
        binding = loaded.effective.get("TASK_FEATURE_LENGTHS")
        if binding and isinstance(binding.value, Mapping):
            return dict(binding.value), binding.where
    return {}, ""


def _of_name(name: str, tasks: Sequence, format: str, lengths: Mapping[str, int]) -> dict:
    from xtr.data.statistics import mixture_packing, statistics

    rows, own = [], []
    for task in tasks:
        chosen, where = (
            (lengths, "--lengths") if lengths else default_lengths(name, task.info["group"], task.info["kind"], format)
        )
        rows.append(statistics(task, chosen) | {"lengths from": where})
        own.append(dict(chosen))
    same = own[0] if all(chosen == own[0] for chosen in own) else {}
    return {"name": name, "format": format, "tasks": rows, "mixture": mixture_packing(tasks, same)}


def _print(facts: dict) -> None:
    tasks = facts["tasks"]
    print(f"{facts['name']}, format {facts['format']}: tokens of examples, EOS and special tokens as in the cache")
    tables.print_table([row for task in tasks for row in _length_rows(task)])
    if any(own.get("rows", own["examples"]) != own["examples"] for task in tasks for own in task["splits"].values()):
        print("pieces: the windows or chunks that long examples become, each an example to train on")
    trained = [_packing_row(task["task"], task["objective"], task["packing"]) for task in tasks if "packing" in task]
    if facts["mixture"]:
        trained.append(_packing_row(f"{facts['name']} (mixed)", "", facts["mixture"]))
    if trained:
        print("\nexpected rows of the split train")
        tables.print_table(trained)
    print()
    for (lengths, where), names in _lengths_of(tasks).items():
        said = f"{lengths} ({where})" if lengths else "none known: give --lengths to see cuts and rows"
        print(f"feature lengths of {names}: {said}")
    for task in tasks:
        for split, own in task["splits"].items():
            if "why" in own:
                print(f"{task['task']}, {split}: cuts are not known: {own['why']}")
    print()


def _length_rows(task: dict) -> list[dict]:
    rows = []
    for split, own in task["splits"].items():
        cuts = own.get("truncated", {})
        pieces = own.get("rows") if own.get("rows") != own["examples"] else None
        for feature, numbers in own["tokens"].items():
            row = {"task": task["task"], "language": task["language"], "split": split, "examples": own["examples"]}
            row |= {"pieces": pieces, "feature": feature}
            rows.append(row | numbers | {"cut": _percent(cuts.get(feature))})
    return rows


def _packing_row(name: str, objective: str, packing: dict) -> dict:
    slots, density = packing.get("slots", {}), packing.get("density", {})
    each = packing.get("examples_a_row")
    return {
        "task": name,
        "objective": objective,
        "tokens a row": " + ".join(str(n) for n in slots.values()),
        "examples a row": "" if each is None else f"{each:.2f}",
        "inputs filled": _percent(density.get("inputs")),
        "targets filled": _percent(density.get("targets")),
        "rows needed at least": _percent(packing.get("least_rows")),
        "not possible": packing.get("why", ""),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _lengths_of(tasks: Sequence[dict]) -> dict[tuple[str, str], str]:
    """(lengths, where they are from) -> the tasks that have them."""
    found: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        lengths = ", ".join(f"{name} {n}" for name, n in task["lengths"].items())
        found.setdefault((lengths, task["lengths from"]), []).append(task["task"])
    return {key: ", ".join(names) if len(names) <= 3 else f"{len(names)} tasks" for key, names in found.items()}
