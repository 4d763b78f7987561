"""`xtr study plan`: the stages of a study, what is done and what remains, and what that costs."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence

from xtr import config
from xtr.cli import tables
from xtr.cli.study_load import Loaded, load
from xtr.errors import UserError
from xtr.progress import progress
from xtr.study.spec import KINDS, StudySpec
from xtr.study.state import STATES, StageState, states

_VOCAB_SIZE = 250_112  # mT5's; what VOCAB_SIZE counts as where a plan is not told it


def load_spec(arguments: argparse.Namespace) -> tuple[StudySpec, dict[str, object]]:
    """The study, and what was assumed: a plan goes without what a run must be told."""
    given = (arguments.gin_file, arguments.overrides, arguments.search_paths)
    shown = config.load(*given, entry="study", required=False)
    unset = [b.name for b in shown.effective.values() if not b.arg and b.source == "%gin.REQUIRED"]
    assumed = {name: _VOCAB_SIZE if name == "VOCAB_SIZE" else f"<{name}>" for name in unset}
    config.load(*given, entry="study", assumed=assumed)
    return config.build("study"), assumed


def plan(spec: StudySpec, assumed: Mapping[str, object], arguments: argparse.Namespace) -> int:
    """Prints the graph and its costs; returns the exit code."""
    if not 0 < arguments.mfu <= 1:
        raise UserError(f"--mfu is {arguments.mfu}; it must be a share of the peak, above 0 and at most 1.")
    if arguments.price is not None and not arguments.price >= 0:
        raise UserError(f"--price is {arguments.price}; it must not be negative.")
    from xtr.parallel.topology import parse
    from xtr.plan.store import Store
    from xtr.study import costs as costing

    topology = parse(arguments.topology, arguments.slices)
    study = load(spec, arguments, tokenise=False)
    store = Store(study.spec.cache_dir) if arguments.compile else None
    trained = {costing.step_key(job) for job in study.jobs if job.entry == "train"} if store else ()
    with progress(f"compile for {topology}", len(trained)) as bar:
        costs = costing.stage_costs(
            study.jobs, topology, arguments.mfu, store, on_compiled=lambda name: bar.advance(note=name)
        )
    found = states(study.jobs)
    left = [cost for cost, state in zip(costs, found, strict=True) if state.state != "done"]
    totals = {
        "stages": len(found),
        "states": {name: n for name in STATES if (n := sum(state.state == name for state in found))},
        "steps": sum(state.of for state in found),
        "chip_hours": costing.total_hours(costs),
        "chip_hours_left": costing.total_hours(left),
        "not_counted": len(costs) - len(costing.known(costs)),
        "hours_one_at_a_time": costing.total_hours(left) / topology.chips,
        "hours_all_at_once": costing.longest_chain(left) / topology.chips,
        "price": None if arguments.price is None else costing.total_hours(costs) * arguments.price,
        "price_left": None if arguments.price is None else costing.total_hours(left) * arguments.price,
    }
    share = f"{arguments.mfu:.0%} of the peak"
    training = "the bounds of the compiled step, which no chip beats" if store else f"model FLOPs at {share}"
    basis = (
        f"{topology}: {topology.chips} chips a stage. Training by {training}; "
        f"evaluation by FLOPs of the published test sets at {share}, generated tokens at "
        f"{arguments.mfu * costing.GENERATION_SHARE:.0%}. An estimate: compiling, reading and idle chips are not in it."
    )
    if arguments.json:
        stages = [_fact(cost, state) for cost, state in zip(costs, found, strict=True)]
        facts = {"study": study.spec.name, "topology": str(topology), "basis": basis, "assumed": dict(assumed)}
        print(json.dumps(facts | {"totals": totals, "absent": list(study.absent), "stages": stages}, indent=1))
        return 0
    if arguments.by == "stage":
        rows = [_row(cost, state) for cost, state in zip(costs, found, strict=True)]
    else:
        rows = _groups(costs, found, arguments.by)
    tables.print_table(rows)
    _print_totals(study, totals, basis, topology.chips, assumed)
    for note in dict.fromkeys(f"{cost.job.stage.kind} {_what(cost.job)}: {cost.note}" for cost in costs if cost.note):
        print(f"note: {note}")
    sys.stdout.flush()
    for why in study.absent:
        print(f"not here: {why}", file=sys.stderr)
    return 0


def _what(job) -> str:
    stage = job.stage
    return f"{stage.model} {stage.intermediate if stage.kind == 'intermediate' else stage.target}".strip()


def _short(hours: float) -> str:
    """Three digits, of great numbers all before the point."""
    if not math.isfinite(hours):
        return "?" if math.isnan(hours) else "does not fit"
    return f"{hours:,.0f}" if hours >= 100 else f"{float(f'{hours:.3g}'):g}"


def _fact(cost, state: StageState) -> dict[str, object]:
    stage = cost.job.stage
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "model": stage.model,
        "intermediate": stage.intermediate,
        "target": stage.target,
        "seed": stage.seed,
        "parent": stage.parent and stage.parent.name,
        "gin_files": list(stage.gin_files),
        "address": cost.job.address,
        "directory": str(cost.job.directory),
        "state": state.state,
        "steps": state.of,
        "flops": cost.flops if math.isfinite(cost.flops) else None,
        "chip_hours": cost.chip_hours if math.isfinite(cost.chip_hours) else None,
        "how": cost.how,
        "note": cost.note,
    }


def _row(cost, state: StageState) -> dict[str, object]:
    stage = cost.job.stage
    return {
        "stage": stage.name,
        "after": stage.parent.name if stage.parent else "",
        "state": state.state,
        "steps": state.of or None,
        "chip-hours": _short(cost.chip_hours),
        "address": "unknown until its data is here" if state.state == "unknown" else cost.job.address,
    }


def _groups(costs: Sequence, found: Sequence[StageState], by: str) -> list[dict[str, object]]:
    """A row for each kind of stage and model, or of intermediate or target of it."""
    groups: dict[tuple[str, str], list[tuple]] = {}
    for cost, state in zip(costs, found, strict=True):
        what = _what(cost.job) if by == "recipe" else cost.job.stage.model
        groups.setdefault((cost.job.stage.kind, what), []).append((cost, state))
    rows = []
    for (kind, what), members in sorted(groups.items(), key=lambda item: KINDS.index(item[0][0])):
        done = sum(state.state == "done" for _, state in members)
        rows.append(
            {
                "kind": kind,
                by: what,
                "stages": len(members),
                "done": done,
                "left": len(members) - done,
                "steps": sum(state.of for _, state in members) or None,
                "chip-hours a stage": _range([cost.chip_hours for cost, _ in members]),
                "in all": _short(sum(cost.chip_hours for cost, _ in members)),
            }
        )
    return rows


def _range(hours: Sequence[float]) -> str:
    least, most = _short(min(hours)), _short(max(hours))
    return least if least == most or math.isnan(sum(hours)) else f"{least} to {most}"


def _print_totals(study: Loaded, totals: Mapping, basis: str, chips: int, assumed: Mapping[str, object]) -> None:
    said = ", ".join(f"{n:,} {name}" for name, n in totals["states"].items())
    print(f"\nstudy {study.spec.name}: {totals['stages']:,} stages ({said}), {totals['steps']:,} training steps")
    money = "" if totals["price"] is None else f" ({totals['price']:,.2f}; left {totals['price_left']:,.2f})"
    print(f"{totals['chip_hours']:,.1f} chip-hours in all, {totals['chip_hours_left']:,.1f} left{money}")
    print(
        f"left: {totals['hours_one_at_a_time']:,.1f} hours one stage at a time, "
        f"{totals['hours_all_at_once']:,.2f} hours with {chips} chips for each stage that is ready"
    )
    if totals["not_counted"]:
        print(f"{totals['not_counted']} stages are not counted: see the notes")
    print(basis)
    for name, value in assumed.items():
        print(f"assumed: {name} = {value!r}, since it is not set")
