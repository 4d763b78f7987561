"""Writes docs/scaling.md: what the large models take on slices of TPUs, by `xtr plan`'s own code.

    python -m xtr.cli.scaling docs/scaling.md            (make scaling)
    python -m xtr.cli.scaling docs/scaling.md --cached   what is compiled already, without compiling

Compiled programs are kept as `xtr plan` keeps them, so a run that was stopped goes on where it was.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from xtr import rundir
from xtr.cli.plan import load
from xtr.errors import UserError
from xtr.parallel.topology import parse
from xtr.plan.estimate import Estimate, analysis_of, cost, estimate
from xtr.plan.store import Store, version
from xtr.progress import progress

_GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
      model: a file of gin/models, without its ending.
      topology, slices: where.
      batch: rows of a step.
      lengths: tokens of each feature of a row.
      overrides: what else differs from what is shipped, as gin on the command line.
      runs: gin files after the model's.
      program: of `compile.PROGRAMS`' values.
      prototype: GiB of all buffers of a plain JAX prototype of the same step; None where there was none.
    """

    model: str
    topology: str
    batch: int
    slices: int = 1
    lengths: str = "{'inputs': 1024, 'targets': 256}"
    overrides: tuple[str, ...] = ()
    runs: tuple[str, ...] = ("runs/finetune.gin",)
    program: str = "train"
    prototype: float | None = None

    @property
    def gin_files(self) -> list[str]:
        """The gin files, in order."""
        return [f"models/{self.model}.gin", *self.runs]

    @property
    def all_overrides(self) -> list[str]:
        """The overrides, the batch among them."""
        return [f"BATCH_SIZE={self.batch}", f"TASK_FEATURE_LENGTHS={self.lengths}", *self.overrides]

    @property
    def command(self) -> str:
        """The command line that prints all of it."""
        parts = ["xtr plan", *(f"--gin_file={name}" for name in self.gin_files)]
        parts += [f'--gin.{text}' if " " not in text else f'--gin.{text.replace("=", "=" + chr(34), 1)}"'
                  for text in self.all_overrides]  # fmt: skip
        parts += [f"--topology={self.topology}"] + ([f"--slices={self.slices}"] if self.slices > 1 else [])
        return " ".join([*parts, f"--programs {self.program.partition('_')[0]}"])


_MLM = {"runs": ("runs/mlm.gin", "runs/adamw.gin"), "lengths": "{'inputs': 512}"}
_DECODE = ("TOKENS_PER_BATCH=163840", "PARAMS_DTYPE=bfloat16")
_TENSOR = ("partitioning.MeshConfig.fsdp=1", "partitioning.MeshConfig.tensor=-1")

CASES = (
    Case("mt5/xxl", "v5p:2x2x1", 16, prototype=33.7),
    Case("mt5/xxl", "v4:2x2x2", 16, prototype=18.7),
    Case("mt5/xxl", "v5e:4x4", 16, prototype=11.7),
    Case("mt5/xxl", "v6e:2x4", 16, prototype=18.8),
    Case("mt5/xxl", "v4:2x4x4", 128, prototype=9.8),
    Case("mt5/xxl", "v5p:2x4x4", 128, prototype=9.0),
    Case("mt5/xxl", "v6e:8x8", 128),
    Case("mt5/xxl", "v5e:16x16", 256, prototype=4.8),
    Case("mt5/xxl", "v5e:16x16", 512, slices=2),
    Case("mt5/xl", "v5e:2x4", 16),
    Case("bloom/176b", "v5p:4x8x8", 256, lengths="{'inputs': 1792, 'targets': 256}"),
    Case("xlmr/xxl", "v5e:8x8", 256, **_MLM),
    Case("mt5/xxl", "v5e:4x4", 16, program="decode_step", overrides=_DECODE),
    Case("mt5/xxl", "v5e:4x4", 16, program="decode_refill", overrides=_DECODE),
    Case("mt5/xxl", "v5e:4x4", 16, program="decode_step", overrides=(*_DECODE, *_TENSOR)),
    # What the choices are worth: the compiler's options, what the backward pass computes anew, the parameters' dtype.
    Case("mt5/xxl", "v5p:2x4x4", 128, overrides=("COMPILER_OPTIONS=none",)),
    Case("mt5/xxl", "v5p:2x4x4", 128, overrides=("COMPILER_OPTIONS=thorough",)),
    Case("mt5/xxl", "v5p:2x4x4", 128, overrides=("COMPILER_OPTIONS=thorough", "REMAT=minimal")),
    Case("mt5/xxl", "v4:2x4x4", 128, overrides=("COMPILER_OPTIONS=none",)),
    Case("mt5/xxl", "v6e:2x4", 16, overrides=("COMPILER_OPTIONS=none",)),
    Case("mt5/xxl", "v5e:4x4", 16, overrides=("PARAMS_DTYPE=bfloat16",)),
)

_HEAD = """# Scaling: what the large models take on TPU slices

Written by `make scaling`. No TPU was used: each row's program was compiled for the slice by the real TPU compiler
(libtpu {libtpu}, jax {jax}), and everything below is read from what it made.

* **GiB** is the peak memory of one device, of what programs can use: parameters and optimizer state, activations,
  gathered weights, gradients, and the program's code. **buffers** is the sum of all buffers, as if none took the place
  of another; the prototype's figure was summed so.
* **ms** is the least time of one execution: the longest of arithmetic at the chip's peak, main memory, ICI, DCN, and
  the compiler's own cycle estimates, as if all went on at once. **no overlap** adds the network to the rest. Neither
  was measured on hardware: they compare programs, and bound what a chip can do.
* **MFU at most** is the model's FLOPs (`xtr/models/flops.py`) over that time at the chip's peak; **FLOPs / model's**
  are the program's products without what is computed anew, over the model's.
* **gin** is what differs from what is shipped.
* **chip-hours** are for 1,000 steps, at least.
* **prototype** is a plain JAX prototype of the same step, where there was one.

"""


def rows_of(case: Case, store: Store, cached: bool) -> Estimate | None:
    """The estimate of a case; None where it is not compiled and must not be."""
    run, topology = load(case.gin_files, case.all_overrides), parse(case.topology, case.slices)
    compiled = store.find(run, topology, case.program) if cached else store.compiled(run, topology, case.program)
    if compiled is None:
        return None
    analysis = analysis_of(compiled, topology) if compiled.memory else None
    return estimate(run, topology, compiled, analysis)


def cells(case: Case, found: Estimate | None) -> list[str]:
    """A row of the table."""
    slice_ = parse(case.topology, case.slices)
    changed = ", ".join(text.rpartition(".")[2] for text in case.overrides if not text.startswith("TOKENS"))
    name = [case.model, case.program, str(slice_), str(slice_.chips), str(case.batch), changed]
    if found is None:
        return [*name, "not compiled yet", *[""] * (len(COLUMNS) - len(name) - 1)]
    prototype = "" if case.prototype is None else f"{case.prototype:.1f}"
    mesh = " x ".join(str(size) for size in found.mesh.values())
    if not found.fits:
        missing = f"does not fit: {found.missing / _GiB:.1f} missing"
        return [*name, mesh, missing, "", prototype, *[""] * (len(COLUMNS) - len(name) - 4)]
    total = cost(load(case.gin_files, case.all_overrides), slice_, [found])
    ratio = (found.hardware_flops - found.rematerialised) / found.model_flops
    return [
        *name,
        mesh,
        f"{found.memory.peak / _GiB:.1f} of {found.memory.usable / _GiB:.1f}",
        f"{found.memory.buffers / _GiB:.1f}",
        prototype,
        f"{ratio:.2f}",
        f"{found.step_seconds * 1e3:,.0f}" if found.step_seconds > 0.1 else f"{found.step_seconds * 1e3:.1f}",
        found.seconds.bound,
        f"{found.seconds.serial * 1e3:,.0f}" if found.step_seconds > 0.1 else f"{found.seconds.serial * 1e3:.1f}",
        f"{found.mfu_bound:.0%}",
        f"{found.tokens_per_second:,.0f}",
        f"{total.chip_hours:,.0f}" if total else "",
    ]


COLUMNS = (
    "model", "program", "slice", "chips", "batch", "gin", "mesh", "GiB", "buffers", "prototype", "FLOPs / model's",
    "ms", "bound by", "no overlap", "MFU at most", "tokens/s", "chip-hours",
)  # fmt: skip


def page(rows: Sequence[Sequence[str]], cases: Sequence[Case]) -> str:
    """The text of docs/scaling.md."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    commands = "\n".join(dict.fromkeys(case.command for case in cases))
    head = _HEAD.format(libtpu=version("libtpu"), jax=version("jax"))
    each = "Each row, to which `--explain` adds its collectives and its costliest operations:"
    return f"{head}{table}\n\n{each}\n\n```\n{commands}\n```\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles what is missing and writes the page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", help="docs/scaling.md")
    parser.add_argument("--cached", action="store_true", help="leave out what is not compiled")
    parser.add_argument("--only", default="", metavar="TEXT", help="compile rows whose command holds this text alone")
    parser.add_argument("--cache_dir", help="where compiled programs are kept")
    arguments = parser.parse_args(argv)
    store, rows = Store(arguments.cache_dir), []
    with progress("scaling", len(CASES)) as bar:
        for case in CASES:
            found = rows_of(case, store, arguments.cached or arguments.only not in case.command)
            rows.append(cells(case, found))
            bar.advance(note=f"{case.model} on {case.topology}")
    rundir.write_atomic(arguments.output, page(rows, CASES))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"xtr: {error}")
