"""How well a run uses its machine: seconds a step, throughput, waiting for data, MFU, memory; and profiles of steps."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from xtr.errors import UserError
from xtr.models.flops import training_flops
from xtr.models.interface import ModelConfig
from xtr.models.multitask import OneHead
from xtr.parallel import accelerators


def batch_flops(model: ModelConfig, objective: str, batch: Mapping[str, jax.Array]) -> float:
    """The model's analytic FLOPs (`xtr.models.flops`) of a training step on a global batch, by its shapes.

    Args:
      model: whose network the step trains; of several heads, the one of the batch.
      objective: a name of `objectives.OBJECTIVES`.
    """
    if isinstance(model, OneHead):
        model = model.alone
    if objective == "causal":
        return training_flops(model, objective, *batch["decoder_input_tokens"].shape)
    *rows, inputs = batch["encoder_input_tokens"].shape
    other = {"seq2seq": "decoder_target_tokens", "contrastive": "target_input_tokens"}.get(objective)
    targets = 0 if other is None else batch[other].shape[-1]
    # Rows of 'choose' are the choices of each.
    return training_flops(model, objective, math.prod(rows), inputs, targets)


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Peak FLOP/s in bfloat16 of all devices together; None where that of one is not known."""
    peaks = [(chip := accelerators.of_device(device)) and chip.peak_flops for device in devices]
    return None if None in peaks else sum(peaks)


def memory_high_water(devices: Sequence[jax.Device]) -> tuple[int, int | None] | None:
    """(most bytes so far, bytes that there are or None) of the fullest of this process's devices.

    None where the devices do not say, as CPUs.
    """
    stats = [device.memory_stats() or {} for device in devices]
    known = [(s["peak_bytes_in_use"], s.get("bytes_limit")) for s in stats if "peak_bytes_in_use" in s]
    return max(known, key=lambda pair: pair[0], default=None)


class Meter:
    """Counts what steps take, from one reading to the next. Times are this process's, amounts the whole batch's.

    Args:
      devices: of the mesh, those of other processes too.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        self._peak = peak_flops(devices)
        self._local = [device for device in devices if device.process_index == jax.process_index()]
        self._restart()

    def _restart(self) -> None:
        self._steps, self._flops, self._waited, self._apart = 0, 0.0, 0.0, 0.0
        self._since = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Around what is no part of the steps: an evaluation, a checkpoint. Read first, so that none is under way."""
        started = time.monotonic()
        yield
        self._apart += time.monotonic() - started

    def step(self, flops: float) -> None:
        """Counts one step of so many FLOPs."""
        self._steps += 1
        self._flops += flops

    def read(self, amounts: Mapping[str, float], first: bool = False) -> dict[str, float]:
        """The scalars of the steps since the last reading, which are all done; the next ones begin now.

        Args:
          amounts: name -> how much of it the steps took; it is given as '<name>_per_second'.
          first: whether these are the first step of a program, whose time is its compilation's.

        Returns:
          Tag -> value, under 'timing/': '<name>_per_second', 'seconds_per_step', 'data_wait_share' and, where the
          devices' peak is known, 'mfu'; 'first_step_seconds' alone in the place of these where `first`. Under
          'memory/', where the devices tell: 'high_water_gib' and 'high_water_share'.
        """
        seconds = max(time.monotonic() - self._since - self._apart, 1e-9)
        if first:
            scalars = {"timing/first_step_seconds": seconds}
        else:
            scalars = {f"timing/{name}_per_second": amount / seconds for name, amount in amounts.items()}
            scalars["timing/data_wait_share"] = self._waited / seconds
            if self._steps:
                scalars["timing/seconds_per_step"] = seconds / self._steps
            if self._peak is not None:
                scalars["timing/mfu"] = self._flops / seconds / self._peak
        if (memory := memory_high_water(self._local)) is not None:
            used, limit = memory
            scalars["memory/high_water_gib"] = used / 2**30
            if limit:
                scalars["memory/high_water_share"] = used / limit
        self._restart()
        return scalars


def check_profile_steps(value: Any) -> tuple[int, int] | None:
    """PROFILE_STEPS as (first, last), both profiled, counted from 1 as curves are: of None, (10, 15) or '10:15'.

    Raises:
      UserError: anything else.
    """
    if value is None or value == ():
        return None
    steps = value
    if isinstance(value, str):
        steps = tuple(int(part) if part.strip().isdigit() else part for part in value.split(":"))
    whole = isinstance(steps, tuple | list) and all(isinstance(n, int) and not isinstance(n, bool) for n in steps)
    if not whole or len(steps) != 2 or not 1 <= steps[0] <= steps[1]:
        raise UserError(
            f"PROFILE_STEPS is {value!r}; it must be the first and the last step to profile, counted from 1, like "
            "(10, 15) or '10:15', or None."
        )
    return steps[0], steps[1]


class Profiler:
    """Writes a trace of some steps, for TensorBoard's profile plugin and, its trace.json.gz, for ui.perfetto.dev.

    Args:
      steps: the first and the last, or None.
      logdir: the folder of one TensorBoard run; traces go to plugins/profile/<time> below it, a file a host.
    """

    def __init__(self, steps: tuple[int, int] | None, logdir: str | os.PathLike):
        self._steps = steps
        self._logdir = os.fspath(logdir)
        self.active = False  # whether a trace is being taken

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the call of step `number`."""
        if self._steps and self._steps[0] <= number <= self._steps[1] and not self.active:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # calls of Python would crowd out the devices' events
            jax.profiler.start_trace(self._logdir, profiler_options=options)
            self.active = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, result: Any) -> None:
        """Behind step `number`; of the last one, `result` is waited for."""
        if self.active and number >= self._steps[1]:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what there is of a trace that has not ended."""
        if self.active:
            jax.profiler.stop_trace()
            self.active = False
