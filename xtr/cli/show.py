"""`xtr show`: a task's first examples as they are read, as the model's strings, and as its tokens."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from xtr.cli import options, tables
from xtr.errors import UserError

_MOST_CHARACTERS, _MOST_PIECES = 600, 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr show`."""
    parser.add_argument("name", metavar="TASK_OR_MIXTURE")
    parser.add_argument("--n", type=int, metavar="N", help="examples of a task (default: 3; of each in a mixture 1)")
    parser.add_argument("--split", default="", help="default: train, or the first split of a task that has no train")
    options.add_data_dir(parser)
    options.add_tasks(parser)
    options.add_vocabulary(parser)
    parser.add_argument("--json", action="store_true", help="for scripts; nothing is shortened")


def show(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if arguments.n is not None and arguments.n < 1:
        raise UserError(f"--n is {arguments.n}; it must be at least 1.")
    options.set_environment(arguments)
    from xtr.data.cache import as_names
    from xtr.tasks.samples import samples

    found = samples(arguments.name, arguments.n, arguments.split, as_names(arguments.task_modules))
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for task in found:
            _show_task(task, arguments.format)
    sys.stdout.flush()
    if not all(task["tokenised"] for task in found):
        print("To see the tokens, give the model's vocabulary: --vocabulary_path FILE_OR_FOLDER", file=sys.stderr)
    return 0


def _show_task(task: dict, format: str) -> None:
    what = ", ".join(filter(None, (task["kind"], task["language"], f"scored by {task['scored by']}")))
    _line(f"{task['task']} ({what}), split {task['split']}, format {format}", "bold")
    for number, example in enumerate(task["examples"]):
        _line(f"\nexample {number}", "bold")
        _section("raw", [(name, _short(value)) for name, value in example["raw"].items()])
        if not example["made"] and task["tokenised"]:
            _line("  the preprocessors make no example of it", "italic")
        for i, made in enumerate(example["made"]):
            if len(example["made"]) > 1:
                _line(f"  becomes example {i + 1} of {len(example['made'])}", "italic")
            _show_made(made)
    _line("")


def _show_made(made: dict) -> None:
    _section(
        "strings", [(name, _choices(v) if name == "choices" else _short(v)) for name, v in made["strings"].items()]
    )
    tokens = []
    for name, sequence in made["tokens"].items():
        count, pieces = len(sequence["ids"]), sequence["pieces"]
        more = f" ... and {count - _MOST_PIECES:,} more" if count > _MOST_PIECES else ""
        tokens += [
            (f"{name}: {count:,}", " ".join(pieces[:_MOST_PIECES]) + more),
            (f"{name} decoded", _short(sequence["text"])),
        ]
    _section("tokens", tokens)
    more = []
    if "label" in made:
        more.append(("label", " = ".join(map(str, made["label"]))))
    if "answer" in made:
        more += _answer(made["answer"])
    more += [(name, _short(made["others"][name])) for name in ("gold", "group") if name in made["others"]]
    _section("gold", more)
    if words := made.get("words"):
        _line("  words", "italic")
        rows = [(f"    {tables.plain(w['word'])}", " ".join(w["pieces"]), w["tag"]) for w in words]
        tables.print_lines([("    word", "sub-tokens", "tag"), *rows])


def _answer(answer: dict) -> list[tuple[str, str]]:
    if not answer["tokens"]:
        return [("answer", "none: the context does not answer the question")]
    first, last = answer["tokens"]
    return [
        ("answer's tokens", f"{first} to {last} of inputs: {' '.join(answer['pieces'])}"),
        ("they cover", _short(answer["covers"])),
        ("gold answer", _short(answer["gold"])),
    ]


def _choices(choices: Sequence[str]) -> str:
    return " | ".join(map(str, choices))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} ... and {len(text) - _MOST_CHARACTERS:,} characters more"


def _section(title: str, fields: Sequence[tuple[str, str]]) -> None:
    if fields:
        _line(f"  {title}", "italic")
        tables.print_fields(fields, indent=4)


def _line(text: str, style: str = "") -> None:
    if sys.stdout.isatty():
        tables.console.print(Text(text, style=style))
    else:
        print(text)
