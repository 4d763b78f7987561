"""The `xtr` command. Each subcommand imports what it needs when it runs, so that help and errors come at once."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence

from xtr.cli import (
    bench,
    cache,
    convert,
    data,
    doctor,
    evaluation,
    export,
    launch,
    options,
    plan,
    show,
    study_arguments,
)
from xtr.errors import Preempted, UserError, did_you_mean

EXIT_DONE, EXIT_CRASHED, EXIT_USAGE, EXIT_PREEMPTED = 0, 1, 2, 42
GIN_PREFIX = "--gin."
_COMPUTING = ("train", "eval", "infer", "study")  # commands that several processes run together
_WORKING = (*_COMPUTING, "launch")  # commands that are not done when nobody reads what they say


class _Parser(argparse.ArgumentParser):
    """Says what was wrong in one message and leaves with 2, as every user's mistake does."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message):
        raise UserError(f"{message}.{self._nearest(message)} `{self.prog} --help` shows how.")

    def _nearest(self, message: str) -> str:
        """Which choice or option is called nearly like the one that argparse's message refuses."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            return did_you_mean(choice[1], re.findall(r"[^', ]+", choice[2]))
        unknown = re.search(r"unrecognized arguments: (--[^ =]+)", message)
        return did_you_mean(unknown[1], self._options()) if unknown else ""

    def _options(self) -> set[str]:
        """The options of this parser and of the commands below it, which give it what they do not know."""
        options = {option for option in self._option_string_actions if option.startswith("--")}
        below = (action.choices.values() for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return options.union(*(parser._options() for parsers in below for parser in parsers))


def _gin_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="gin file; may be repeated, later ones win"
    )
    parser.add_argument(
        "--gin_search_paths", default="", metavar="DIR,DIR", help="folders in which gin files are looked for first"
    )
    parser.add_argument(
        "--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'", help="same as --gin.NAME=VALUE"
    )
    parser.epilog = "--gin.NAME=VALUE overrides a macro or binding; a bare string needs no quotes."


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xtr", description=__doc__.split(".")[0] + ": does intermediate training help when models grow?"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    demo = commands.add_parser("demo", help="the whole study on a generated world, in a few minutes on a laptop")
    demo.add_argument("--output_dir", default="runs/demo", help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0, help="seed of the generated world")

    lists = commands.add_parser("list", help="what there is: tasks, mixtures, languages, models, gin files")
    lists.add_argument("what", choices=("tasks", "mixtures", "languages", "models", "gin"))
    for name, text in (
        ("kind", "classification, span_qa, tagging, ..."),
        ("language", "a code such as sw"),
        ("stage", "pretrain, intermediate or target"),
        ("target", "xnli, xquad, ..."),
    ):
        lists.add_argument(f"--{name}", default="", help=f"only tasks of this {name}: {text}")
    lists.add_argument("--json", action="store_true", help="for scripts")
    options.add_data_dir(lists)
    options.add_tasks(lists)

    show.add_arguments(commands.add_parser("show", help="a task's first examples: as read, as strings, as tokens"))

    config = commands.add_parser("config", help="print a configuration, each value with its file and line")
    config.add_argument("--json", action="store_true", help="for scripts")
    _gin_arguments(config)

    data.add_arguments(commands.add_parser("data", help="get the official files, and check them"), _Parser)

    cache.add_arguments(commands.add_parser("cache", help="tokenise tasks or mixtures now instead of on first use"))

    for name, text in (
        ("train", "pretrain, intermediate-train or fine-tune"),
        ("eval", "score a checkpoint in every language of a target"),
        ("infer", "generate for a text file"),
    ):
        command = commands.add_parser(name, help=text)
        _gin_arguments(command)
        if name == "eval":
            evaluation.add_arguments(command)

    convert_command = commands.add_parser("convert", help="write a checkpoint as Hugging Face's or T5X's")
    convert.add_arguments(convert_command)
    _gin_arguments(convert_command)

    export.add_arguments(commands.add_parser("export", help="results as TensorBoard, tables, a page or a submission"))

    plan_command = commands.add_parser("plan", help="memory, time and cost of a run on a TPU slice, without one")
    plan.add_arguments(plan_command)
    _gin_arguments(plan_command)

    bench.add_arguments(commands.add_parser("bench", help="how fast this is here, beside others"), _Parser)

    launch.add_arguments(
        commands.add_parser("launch", help="one of these on Cloud TPUs: create, watch, resume, delete"), _Parser,
        _gin_arguments,
    )  # fmt: skip

    doctor.add_arguments(commands.add_parser("doctor", help="what is wrong with this machine, and how to mend it"))

    study = commands.add_parser("study", help="models x intermediates x targets x seeds -> transfer table and report")
    actions = study.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    study_arguments.add(actions, _gin_arguments)
    return parser


def split_gin(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes the `--gin.NAME=VALUE` arguments out of a command line: (the rest, NAME=VALUE texts)."""
    rest, overrides = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith(GIN_PREFIX):
            rest.append(argument)
            continue
        text = argument[len(GIN_PREFIX) :]
        overrides.append(text if "=" in text else f"{text}={next(arguments, '')}")
    return rest, overrides


def run(argv: Sequence[str]) -> int:
    """Parses and runs one command; returns its exit code. Raises UserError for a user's mistake."""
    rest, overrides = split_gin(argv)
    parser = build_parser()
    known = parser._subparsers._group_actions[0].choices
    if rest and not rest[0].startswith("-") and rest[0] not in known:
        raise UserError(f"there is no command {rest[0]!r}.{did_you_mean(rest[0], known)} `xtr --help` lists them.")
    arguments = parser.parse_args(rest)
    if arguments.command is None:
        parser.print_help()
        return EXIT_DONE
    if hasattr(arguments, "gin_bindings"):
        arguments.overrides = [*arguments.gin_bindings, *overrides]
        arguments.search_paths = [path for path in arguments.gin_search_paths.split(",") if path]
    elif overrides:
        raise UserError(f"`xtr {arguments.command}` takes no gin overrides (--gin.{overrides[0].partition('=')[0]}).")
    if arguments.command in _COMPUTING:
        from xtr.parallel import distributed

        distributed.initialize()  # before JAX is asked for anything, and before SIGTERM is ours: JAX takes it then
    from xtr import preemption
    from xtr.cli import commands

    with preemption.watch():
        code = commands.COMMANDS[arguments.command](arguments)
    if arguments.command in _COMPUTING:
        distributed.wait("the end")  # the first process may have files left to write
    return code


def main() -> None:
    """Entry point: exit codes 0 done, 1 crash, 2 wrong use or config, 42 preempted after a save."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        code = run(sys.argv[1:])
    except UserError as error:
        print(f"xtr: {error}", file=sys.stderr)
        code = EXIT_USAGE
        _tell_others(code, str(error))
    except KeyboardInterrupt:
        print("xtr: interrupted; run the same command again to go on", file=sys.stderr)
        code = 130
        _tell_others(code, "interrupted")
    except BrokenPipeError:  # the reader of our output has gone, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_DONE
        if " ".join(sys.argv[1:2]) in _WORKING:
            code = EXIT_CRASHED
            _tell_others(code, "who read the output has gone")
    except Preempted as error:
        print(f"xtr: preempted: {error}", file=sys.stderr)
        code = EXIT_PREEMPTED
    except Exception as error:
        _tell_others(EXIT_CRASHED, f"{type(error).__name__}: {error}", traceback.format_exc())
        traceback.print_exc()
        code = EXIT_CRASHED
    sys.exit(code)


def _tell_others(code: int, message: str, details: str = "") -> None:
    """Ends the other processes of a run, which would wait for this one; where there are any, this one too."""
    if watchdog := sys.modules.get("xtr.parallel.watchdog"):
        watchdog.leave(code, message, details)


if __name__ == "__main__":
    main()
