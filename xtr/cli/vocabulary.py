"""`xtr data vocabulary`: a small vocabulary of a family's kind, trained on the text of tasks."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtr import rundir
from xtr.cli import options
from xtr.errors import UserError

_KINDS = {"mt5": "t5", "umt5": "t5", "xlmr": "xlmr", "bloom": "bpe"}
_NO_TEXT = ("id", "label", "tags", "gold", "kind", "group")  # fields of examples that hold none
_MOST = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr data vocabulary`."""
    parser.add_argument("names", nargs="+", metavar="TASK_OR_MIXTURE", help="whose text it is trained on: text.udhr")
    parser.add_argument("--family", required=True, choices=sorted(_KINDS), help="whose kind of vocabulary")
    parser.add_argument("--size", type=int, required=True, metavar="N", help="most pieces")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="for the file, under Hugging Face's name")
    parser.add_argument("--split", default="", help="default: train, or the first split of a task that has no train")
    parser.add_argument("--examples", type=int, default=_MOST, metavar="N", help="most examples of a task")
    options.add_data_dir(parser)
    options.add_tasks(parser)


def vocabulary(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    for name in ("size", "examples"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}; it must be at least 1.")
    options.set_environment(arguments)
    from xtr.data.cache import as_names
    from xtr.data.vocabulary import read_vocabulary
    from xtr.data.vocabulary_training import FILES, train
    from xtr.tasks.samples import samples

    kind = _KINDS[arguments.family]
    texts: dict[str, None] = {}  # each once: tasks share their contexts
    for name in arguments.names:
        for task in samples(name, arguments.examples, arguments.split, as_names(arguments.task_modules)):
            for example in task["examples"]:
                texts |= dict.fromkeys(_texts(example["raw"]))
    path = Path(arguments.output_dir) / FILES[kind]
    rundir.write_atomic(path, train(kind, texts, arguments.size))
    print(f"{read_vocabulary(path, kind).size} pieces from {len(texts):,} texts: {path}")
    return 0


def _texts(raw: Mapping[str, Any]) -> Iterator[str]:
    for name, value in raw.items():
        if name in _NO_TEXT:
            continue
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif name == "tokens":
            yield " ".join(value)
        else:
            many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            yield from (text for text in many if isinstance(text, str) and text.strip())
