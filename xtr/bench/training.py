"""`xtr bench train`: tokens a second of the whole training step, this package's beside transformers', in one run."""

import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import jax

from xtr.bench import steps
from xtr.errors import UserError
from xtr.models import flops
from xtr.models.mt5 import MT5Config
from xtr.parallel import accelerators
from xtr.progress import progress

CONTENDERS = ("xtr", "hugging_face")
_BATCHES = 4  # distinct ones, in turn


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
      model: the network; its dtype and its dropout rate are both contenders'.
      rows: of a batch, each full of packed examples.
      lengths: tokens of a row of the encoder and of the decoder.
      steps: timed ones of each contender between two turns.
      repeats: turns; the median of all timed steps counts.
      torch_compile: whether transformers' loss goes through `torch.compile`; None: where there is a CUDA device.
    """

    model: MT5Config
    rows: int = 8
    lengths: tuple[int, int] = (256, 64)
    steps: int = 1
    repeats: int = 5
    torch_compile: bool | None = None

    def __post_init__(self):
        for name, value in (
            ("batch", self.rows),
            ("lengths", min(self.lengths)),
            ("steps", self.steps),
            ("repeats", self.repeats),
        ):
            if value < 1:
                raise UserError(f"--{name} must be at least 1, not {value}.")
        if min(self.lengths) < 2:
            raise UserError(f"--lengths must be at least 2 tokens each, not {min(self.lengths)}.")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One contender's figures.

    Attributes:
      step_seconds: the median of the timed steps.
      spread: the slowest over the fastest timed step.
      tokens_per_second: input and target tokens over `step_seconds`.
      first_seconds: the first step, with all compilation, less the median.
      processor_seconds: of all threads, a step, the median; what else the machine does changes it less than the time
        (PyTorch's threads wait for each other busily, so hers grows too).
      peak_bytes: the most memory: of the process on a CPU, of the device elsewhere; None where nobody says.
      flops_per_second: the model's analytic FLOPs (`xtr.models.flops`) over `step_seconds`.
      mfu: that over the device's peak in bfloat16; None where no peak is known.
      first_loss, last_loss: means over target tokens, of the first and of the last step; weights are each one's own.
    """

    contender: str
    step_seconds: float
    spread: float
    tokens_per_second: float
    first_seconds: float
    processor_seconds: float
    peak_bytes: int | None
    flops_per_second: float
    mfu: float | None
    first_loss: float
    last_loss: float


def measure(bench: Bench) -> tuple[list[Measured], dict[str, str]]:
    """The figures of each contender, and why one is missing.

    On a CPU the contenders take turns, so that what else the machine does meets both alike. An accelerator is theirs
    alone and may not hold both: there one runs after the other.
    """
    runs: dict[str, _Run] = {}
    skipped: dict[str, str] = {}
    with progress("measure training", len(CONTENDERS) * (bench.repeats + 1)) as bar, contextlib.ExitStack() as stack:

        def race(*workers: _Worker) -> None:
            for turn in range(bench.repeats + 1):
                for worker in workers:
                    if worker.who in skipped:
                        continue
                    try:
                        runs[worker.who] = worker.run(bench.steps if turn else 1)
                    except UserError as error:
                        skipped[worker.who] = str(error)
                    bar.advance()
            for worker in workers:
                worker.close()

        ours = stack.enter_context(_Worker(bench, "xtr"))
        platform = ours.facts()["platform"]
        theirs = _Worker(bench, "hugging_face", "cuda" if platform == "gpu" else "cpu")
        if platform == "cpu":
            race(ours, stack.enter_context(theirs))
        else:
            race(ours)
            race(stack.enter_context(theirs))
    peak = ours.facts()["peak_flops"]
    return [_figures(bench, who, run, peak) for who, run in runs.items() if who not in skipped], skipped


@dataclasses.dataclass
class _Run:
    """All steps of a contender so far, the first of them its compilation too, and its memory."""

    seconds: list[float]
    processor_seconds: list[float]
    losses: list[float]
    peak_bytes: int | None


def _figures(bench: Bench, who: str, run: _Run, peak_flops: float | None) -> Measured:
    seconds = statistics.median(run.seconds[1:])
    needed = flops.training_flops(bench.model, "seq2seq", bench.rows, *bench.lengths)
    return Measured(
        contender=who,
        step_seconds=seconds,
        spread=max(run.seconds[1:]) / min(run.seconds[1:]),
        tokens_per_second=bench.rows * sum(bench.lengths) / seconds,
        first_seconds=max(run.seconds[0] - seconds, 0.0),
        processor_seconds=statistics.median(run.processor_seconds[1:]),
        peak_bytes=run.peak_bytes,
        flops_per_second=needed / seconds,
        mfu=None if peak_flops is None else needed / seconds / peak_flops,
        first_loss=run.losses[0],
        last_loss=run.losses[-1],
    )


class _Worker:
    """A contender in a process of its own. Use as a context manager."""

    def __init__(self, bench: Bench, who: str, device: str = "cpu"):
        self.who, self.device = who, device
        self._run = _Run([], [], [], None)
        self._facts: dict[str, Any] | None = None
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, bench, who, device), daemon=True)
        self._start = (self._process, other)

    def __enter__(self) -> "_Worker":
        process, other = self._start
        process.start()
        other.close()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, which gives its memory back."""
        self._connection.close()
        self._process.join()

    def facts(self) -> dict[str, Any]:
        """What the process says of its device, once the contender stands ready."""
        if self._facts is None:
            self._facts = self._receive()
        return self._facts

    def run(self, count: int) -> _Run:
        """Does `count` steps more; all so far.

        Raises:
          UserError: it cannot be built here, or its process ended, as one that is out of memory does.
        """
        self.facts()
        self._connection.send(count)
        timed, self._run.peak_bytes = self._receive()
        for seconds, processor_seconds, loss in timed:
            self._run.seconds.append(seconds)
            self._run.processor_seconds.append(processor_seconds)
            self._run.losses.append(loss)
        return self._run

    def _receive(self) -> Any:
        try:
            message = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise UserError(f"its process ended with code {code} (-9: the machine was out of memory).") from None
        if isinstance(message, UserError):
            raise message
        return message


def _serve(connection: Connection, bench: Bench, who: str, device: str) -> None:
    """What a worker's process does: builds its contender, then as many steps as it is asked for."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # memory is measured
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    batches = steps.packed_batches(_BATCHES, bench.rows, *bench.lengths, bench.model.vocab_size)
    try:
        if who == "xtr":
            stepper = steps.xtr_stepper(bench.model, batches)
            chip = accelerators.of_device(jax.devices()[0])
            facts = {"platform": jax.devices()[0].platform, "peak_flops": chip and chip.peak_flops}
        else:
            compiled = device == "cuda" if bench.torch_compile is None else bench.torch_compile
            stepper = steps.hugging_face_stepper(bench.model, batches, device, compiled)
            facts = {}
    except UserError as error:
        connection.send(error)
        return
    connection.send(facts)
    done = 0
    with contextlib.suppress(EOFError):
        while True:
            timed = []
            for _ in range(connection.recv()):
                started, busy = time.perf_counter(), time.process_time()
                loss = stepper.step(done)
                timed.append((time.perf_counter() - started, time.process_time() - busy, loss))
                done += 1
            connection.send((timed, stepper.peak_bytes()))
