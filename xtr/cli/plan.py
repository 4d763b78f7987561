"""`xtr plan`: what a training run takes on a slice of TPUs that is not here, by the real compiler."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from xtr import config
from xtr.cli import tables
from xtr.errors import UserError
from xtr.progress import progress

_PLAN, _RUN = "runs/plan.gin", "runs/finetune.gin"
_LENGTHS = {"inputs": 1024, "targets": 256}
_STEPS = 1000
GiB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr plan`, beside those of gin."""
    parser.add_argument(
        "--topology", required=True, metavar="KIND:SHAPE", help="a slice: v5e:16x16, v5p:2x2x1, v5litepod-256, v5p-64"
    )
    parser.add_argument("--slices", type=int, default=1, help="equal slices, joined by the data centre's network")
    parser.add_argument(
        "--programs", nargs="+", choices=("train", "score", "decode"), default=(), help="default: all that it can do"
    )
    parser.add_argument("--explain", action="store_true", help="every collective, and the costliest operations")
    parser.add_argument("--search", action="store_true", help="try meshes, microbatches and remat of the training step")
    parser.add_argument("--budget", type=int, default=8, metavar="N", help="of --search: compilations (%(default)s)")
    parser.add_argument("--cache_dir", help="where compiled programs are kept: $XTR_CACHE_DIR or ~/.cache/xtr")
    parser.add_argument("--json", action="store_true", help="for scripts")


def load(gin_files: Sequence[str], overrides: Sequence[str], search_paths: Sequence[str] = ()):
    """The `PlanRun` that gin files describe; nothing of its data, paths or vocabulary needs to be set."""
    if not any(config.sets(name, "MODEL", search_paths) for name in gin_files):
        raise UserError("xtr plan needs a model: --gin_file=models/mt5/xxl.gin or one like it; `xtr list models`.")
    model = config.build_model(gin_files, _for_model(overrides), search_paths)
    runs = [name for name in gin_files if config.sets(name, "train.model", search_paths)]
    inputs = min(_LENGTHS["inputs"], model.max_length or _LENGTHS["inputs"])
    assumed = {
        "MODEL_DIR": "",
        "MIXTURE_OR_TASK_NAME": "",
        "VOCABULARY_PATH": "",
        "VOCAB_SIZE": model.vocab_size,
        "TASK_FEATURE_LENGTHS": _LENGTHS | {"inputs": inputs},
        "TRAIN_STEPS": _STEPS,
    }
    files = [_PLAN, *([] if runs else [_RUN]), *gin_files]
    config.load(files, overrides, search_paths, entry="plan", assumed=assumed)
    return config.build("plan")


def _for_model(overrides: Sequence[str]) -> list[str]:
    """The overrides that a model alone may read."""
    return [text for text in overrides if text.partition("=")[0].strip() in ("MODEL", "VOCAB_SIZE")]


def plan(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if arguments.budget < 1:
        raise UserError(f"--budget is {arguments.budget}; it must be at least 1.")
    if arguments.search and arguments.programs not in ((), ["train"]):
        raise UserError("--search tries settings of the training step: leave out --programs.")
    run = load(arguments.gin_file, arguments.overrides, arguments.search_paths)
    from xtr.parallel.topology import parse
    from xtr.plan.store import Store

    topology, store = parse(arguments.topology, arguments.slices), Store(arguments.cache_dir)
    return (_search if arguments.search else _plan)(run, topology, store, arguments)


def _plan(run, topology, store, arguments: argparse.Namespace) -> int:
    from xtr.plan import explain
    from xtr.plan.compile import programs_of
    from xtr.plan.estimate import analysis_of, cost, estimate

    programs, found, explained = programs_of(tuple(arguments.programs), run), [], {}
    with progress(f"compile for {topology}", len(programs)) as bar:
        for program in programs:
            compiled = store.compiled(run, topology, program)
            analysis = analysis_of(compiled, topology) if compiled.memory else None
            found.append(estimate(run, topology, compiled, analysis))
            if arguments.explain and analysis:
                explained[program] = {
                    "collectives": explain.collectives(analysis, compiled, topology),
                    "operations": explain.operations(analysis, topology),
                }
            bar.advance(note=program)
    total = cost(run, topology, found)
    if arguments.json:
        facts = {"topology": str(topology), "chips": topology.chips, "hosts": topology.hosts, "gcloud": topology.gcloud}
        facts |= {"programs": [e.to_json() for e in found], "cost": total and dataclasses.asdict(total)}
        print(json.dumps(facts | ({"explain": explained} if arguments.explain else {}), indent=1))
        return 0
    print(_heading(run, topology, found[0]))
    for rows in (_memory_rows(found), _time_rows(found)):
        if rows:
            print()
            tables.print_table(rows)
    for e in found:
        if not e.fits:
            print(f"\n{e.program} does not fit: {e.missing / GiB:.2f} GiB of one device's memory are missing.")
        if e.assumed_loops:
            loops = "a loop" if e.assumed_loops == 1 else f"{e.assumed_loops} loops"
            print(f"\n{e.program}: {loops} of which the program does not say how often they run count once.")
    if total:
        print(f"\n{_cost_line(run, topology, total)}")
    for program, parts in explained.items():
        for title, rows in parts.items():
            print(f"\n{program}: {'collectives' if title == 'collectives' else 'costliest operations'}")
            tables.print_table(rows) if rows else print("  none")
    return 0


def _heading(run, topology, first) -> str:
    from xtr.models import spec

    train = run.train
    sizes = " x ".join(f"{name} {size}" for name, size in first.mesh.items())
    lengths = "/".join(str(length) for length in train.task_feature_lengths.values())
    parameters = spec.count(train.model.param_specs())
    return (
        f"{train.model.family}, {parameters:,} parameters, on {topology} ({topology.gcloud}; {topology.chips} chips, "
        f"{topology.hosts} hosts)\nmesh {sizes}, batch {train.batch_size} x {lengths} tokens, "
        f"{train.num_microbatches} microbatches, {train.loss}. Bytes, FLOPs and times are of one device."
    )


def _short(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def _memory_rows(found) -> list[dict]:
    return [
        {
            "program": e.program,
            "peak GiB": _short(e.memory.peak / GiB),
            "of GiB": _short(e.memory.usable / GiB),
            "buffers": _short(e.memory.buffers / GiB),
            "parameters": _short(e.memory.parameters / GiB),
            "optimizer": _short(e.memory.optimizer / GiB),
            "activations": _short(e.memory.activations / GiB),
            "code": _short(e.memory.code / GiB),
            "TFLOP": _short(e.hardware_flops / 1e12),
            "model's": _short(e.model_flops / 1e12),
            "remat": f"{e.rematerialised / max(e.hardware_flops, 1):.0%}",
            "HBM GB": _short(e.hbm_bytes / 1e9),
            "ICI GB": _short(e.ici_bytes / 1e9),
            "DCN GB": _short(e.dcn_bytes / 1e9),
        }
        for e in found
        if e.fits
    ]


def _time_rows(found) -> list[dict]:
    return [
        {
            "program": e.program,
            "at least ms": _short(e.step_seconds * 1e3),
            "bound by": e.seconds.bound,
            "compute": _short(e.seconds.compute * 1e3),
            "HBM": _short(e.seconds.hbm * 1e3),
            "ICI": _short(e.seconds.ici * 1e3),
            "DCN": _short(e.seconds.dcn * 1e3),
            "compiler": _short(e.seconds.compiler * 1e3),
            "kernels": _short(e.seconds.kernels * 1e3),
            "no overlap": _short(e.seconds.serial * 1e3),
            "MFU at most": f"{e.mfu_bound:.1%}",
            "tokens/s": round(e.tokens_per_second),
            "compiled in s": round(e.compile_seconds, 1),
        }
        for e in found
        if e.fits
    ]


def _cost_line(run, topology, total) -> str:
    line = f"{run.train.train_steps:,} steps take at least {total.hours:.2f} hours, {total.chip_hours:,.1f} chip-hours"
    if total.money is not None:
        line += f": {total.money:,.2f} at {run.price_per_chip_hour:g} a chip-hour"
    return f"{line}. Without overlap {total.serial_chip_hours:,.1f} chip-hours."


def _search(run, topology, store, arguments: argparse.Namespace) -> int:
    from xtr.plan.search import search

    with progress(f"search for {topology}", arguments.budget) as bar:
        found = search(run, topology, store, arguments.budget, on_tried=lambda name: bar.advance(note=name))
    best = found.best
    if arguments.json:
        facts = {"topology": str(topology), "tried": [row.to_json() for row in found.tried]}
        facts |= {"left_out": found.left_out, "best": best and best.candidate.gin_lines()}
        print(json.dumps(facts, indent=1))
        return 0
    tables.print_table([row.facts() for row in found.tried])
    print(f"\n{found.left_out} settings were not compiled: by arithmetic slower, too large, or beyond --budget.")
    if best is None:
        print("None of those tried fits: try more chips, a greater --budget, or a smaller BATCH_SIZE.")
        return 0
    print("\nThe best:")
    print("\n".join(best.candidate.gin_lines()))
    return 0
