"""Options that several commands share, and what their values mean."""

import argparse
import os
from collections.abc import Collection
from typing import Any

from xtr import rundir, storage
from xtr.data.formats import FORMATS
from xtr.errors import UserError


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir."""
    parser.add_argument("--data_dir", help="official files (default: $XTR_DATA_DIR)")


def add_cache_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --cache_dir."""
    parser.add_argument("--cache_dir", help="prepared data, tokenised tasks: $XTR_CACHE_DIR or ~/.cache/xtr")


def add_tasks(parser: argparse.ArgumentParser, *, several_formats: bool = False) -> None:
    """Adds what says which tasks there are: --format, --tfds_tasks and --task_modules."""
    default, several = ([FORMATS[0]], {"nargs": "+"}) if several_formats else (FORMATS[0], {})
    parser.add_argument(
        "--format", choices=FORMATS, default=default, **several,
        help=f"causal: for BLOOM; encoder: for XLM-R, mBERT and models with a head (default: {FORMATS[0]})",
    )  # fmt: skip
    parser.add_argument("--tfds_tasks", default="", metavar="NAME,NAME", help="data sets to read from TFDS, or: all")
    parser.add_argument(
        "--task_modules", default="", metavar="MODULE,FILE.py", help="modules that register your own tasks"
    )


def add_vocabulary(parser: argparse.ArgumentParser) -> None:
    """Adds --vocabulary_path."""
    parser.add_argument(
        "--vocabulary_path", "--vocabulary", metavar="PATH",
        help="vocabulary file, or a Hugging Face folder (default: $XTR_VOCABULARY_PATH)",
    )  # fmt: skip


def vocabulary_path(arguments: argparse.Namespace) -> str:
    """The vocabulary's place. UserError where nobody says it."""
    if path := arguments.vocabulary_path or os.environ.get("XTR_VOCABULARY_PATH"):
        return path
    raise UserError("there are no tokens without a vocabulary: give --vocabulary_path, or set XTR_VOCABULARY_PATH.")


def add_lengths(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds --lengths."""
    parser.add_argument(
        "--lengths", "--task_feature_lengths", default="", metavar="inputs=512,targets=114", help=help
    )  # fmt: skip


def lengths(text: str, known: Collection[str] = ()) -> dict[str, int]:
    """{'inputs': 512, 'targets': 114} of 'inputs=512,targets=114'; {} of ''.

    Args:
      known: the features that there are; none: any.

    Raises:
      UserError: anything else.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if not name or (known and name not in known) or not number.isdecimal() or int(number) < 1:
            raise UserError(f"--lengths has {part!r}; it must be like inputs=512,targets=114.")
        found[name] = int(number)
    return found


def cached_tasks(arguments: argparse.Namespace, format: str, **more: Any) -> dict[str, list[Any]]:
    """`cache.ensure_cached` of the names and options of a command, in a format.

    Raises:
      UserError, DataError: as it does, or no vocabulary is given.
    """
    from xtr.data.cache import ensure_cached

    return ensure_cached(
        arguments.names,
        task_modules=arguments.task_modules,
        tfds_tasks=arguments.tfds_tasks,
        vocabulary_path=vocabulary_path(arguments),
        data_dir=rundir.data_dir(arguments.data_dir),
        cache_dir=rundir.cache_dir(arguments.cache_dir),
        format=format,
        **more,
    )


def set_environment(arguments: argparse.Namespace) -> None:
    """Sets what `xtr.tasks.register_all` reads, as far as the options say it."""
    given = {
        "XTR_DATA_DIR": storage.absolute(arguments.data_dir) if arguments.data_dir else "",
        "XTR_FORMAT": arguments.format,
        "XTR_TFDS_TASKS": arguments.tfds_tasks,
    }
    if path := getattr(arguments, "vocabulary_path", None):
        given["XTR_VOCABULARY_PATH"] = storage.absolute(path)
    os.environ.update({name: value for name, value in given.items() if value})
