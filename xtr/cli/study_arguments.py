"""The actions of `xtr study` and their arguments."""

import argparse
from collections.abc import Callable

from xtr.cli import launch, study_simulate

WATCH_SECONDS = 5.0


def add(actions: argparse._SubParsersAction, gin_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds every action; `gin_arguments` adds those of gin."""

    def action(name: str, text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text)
        gin_arguments(parser)
        return parser

    _plan(action("plan", "the stages: what is done, what remains, what it costs"))

    run = action("run", "run what is not done yet, then report")
    run.add_argument(
        "--stage", action="append", default=[], metavar="NAME", help="only this stage; may be repeated. No report then"
    )
    run.add_argument("--workers", type=int, metavar="N", help="stages at a time on this machine (default: the study's)")

    handing = action("launch", "hand stages that are ready over to other machines, as jobs of `xtr launch`")
    launch.add_job(handing)
    handing.add_argument("--at_a_time", type=int, metavar="N", help="jobs at once (default: the study's workers)")

    status = action("status", "what is done, who runs what, what failed and why, how long the rest takes")
    status.add_argument("--watch", action="store_true", help=f"again every {WATCH_SECONDS:g} s until nothing is left")
    status.add_argument("--all", action="store_true", help="list each stage, those that are done or wait too")
    status.add_argument("--json", action="store_true", help="for scripts")

    retry = action("retry", "clear failures, so that the next run begins these stages again")
    retry.add_argument("stages", nargs="*", metavar="STAGE", help="default: all that failed")

    prune = action("prune", "list what is no longer needed, and delete it with --yes; never results")
    prune.add_argument(
        "--checkpoints", action="store_true", help="also checkpoints from which all stages that start are done"
    )
    prune.add_argument("--yes", action="store_true", help="delete; without it all is listed only")

    action("report", "write the report from the results at hand")

    simulate = actions.add_parser("simulate", help="made-up studies: how right intervals, tests and verdicts are")
    study_simulate.add_arguments(simulate)


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology", default="v5e:4x4", metavar="KIND:SHAPE", help="a slice that each stage runs on (%(default)s)"
    )
    parser.add_argument("--slices", type=int, default=1, help="equal slices, joined by the data centre's network")
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="SHARE", help="of the chips' peak that training reaches (%(default)s)"
    )
    parser.add_argument("--price", type=float, metavar="P", help="of a chip-hour, in any currency")
    parser.add_argument(
        "--compile", action="store_true",
        help="training by the compiler's bounds in the place of --mfu: one compilation a model, lengths and batch",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=("model", "recipe", "stage"), default="model",
        help="a line for each kind and model, each intermediate or target of a model, or each stage (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for scripts")
