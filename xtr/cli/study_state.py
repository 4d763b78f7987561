"""`xtr study status`, `retry` and `prune`: what the stages of a study are, from the files that runners leave."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from xtr import preemption
from xtr.cli import tables
from xtr.cli.study_arguments import WATCH_SECONDS
from xtr.cli.study_load import Loaded, load
from xtr.errors import Preempted
from xtr.study import state as states
from xtr.study.spec import StudySpec


def status(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Prints each stage's state, once or until all is done."""
    study = load(spec, arguments, tokenise=False)
    while True:
        found = states.states(study.jobs)
        left = states.remaining(found)
        if arguments.json:
            facts = {"study": study.spec.name, "counts": _counts(found), "remaining": vars(left)}
            print(json.dumps(facts | {"stages": [each.to_json() for each in found]}, indent=1), flush=True)
        else:
            _print(study, found, left, arguments.all)
        if not arguments.watch or all(each.state in ("done", "failed", "blocked", "unknown") for each in found):
            return 0
        if preemption.wait(WATCH_SECONDS):
            raise Preempted("stopped watching; the study goes on")
        if not arguments.json:
            print("\033[H\033[2J" if sys.stdout.isatty() else "", end="\n", flush=True)


def _counts(found: Sequence[states.StageState]) -> dict[str, int]:
    return {name: sum(each.state == name for each in found) for name in states.STATES}


def _print(study: Loaded, found: Sequence[states.StageState], left: states.Remaining, everything: bool) -> None:
    shown = [each for each in found if everything or each.state in ("running", "failed")]
    if shown:
        tables.print_table(
            [
                {
                    "stage": each.job.stage.name,
                    "state": each.state,
                    "steps": f"{each.steps:,} of {each.of:,}" if each.of else "",
                    "by": each.who,
                    "since": each.since,
                    "doing": each.doing,
                    "why": each.why,
                    "address": each.job.address,
                }
                for each in shown
            ]
        )
        print()
    counts = _counts(found)
    said = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    print(f"study {study.spec.name}: {len(found)} stages: {said}")
    if open_ := len(found) - counts["done"] - counts["failed"] - counts["blocked"]:
        line = f"left: {open_} stages, {span(left.stage_seconds)} one after the other, "
        line += f"{span(left.seconds)} at {left.at_a_time} at a time, by the stages that are done"
        print(
            line + (f"; {left.unmeasured} of them unlike any that is done, and not counted" if left.unmeasured else "")
        )
    for why in study.absent:
        print(f"unknown: {why}", file=sys.stderr)
    sys.stdout.flush()


def span(seconds: float) -> str:
    """A length of time for a reader."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def retry(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Clears failures; the next `xtr study run`, or one that is running, begins those stages again."""
    study = load(spec, arguments, tokenise=False)
    cleared = states.retry(study.jobs, arguments.stages)
    for name in cleared:
        print(f"cleared: {name}")
    print(f"{len(cleared)} failures cleared: `xtr study run` begins these stages again.")
    return 0


def prune(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Lists what the study no longer needs; deletes it with --yes."""
    from xtr.study import prune as pruning

    study = load(spec, arguments, tokenise=False)
    out, kept = pruning.removable(study.spec.study_dir, study.jobs, arguments.checkpoints)
    rows = [{"MB": round(item.size / 1e6, 1), "path": str(item.path), "why": item.why} for item in out]
    if rows:
        tables.print_table(rows)
    for item in kept:
        print(f"stays: {item.path}: {item.why}")
    total = f"{len(out)} paths, {sum(item.size for item in out) / 1e6:,.1f} MB"
    if not arguments.yes:
        print(f"{total}. Nothing was deleted: --yes deletes them.")
        return 0
    pruning.remove(out)
    print(f"{total} deleted.")
    return 0
