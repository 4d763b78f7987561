"""What the TPU compiler is told beyond its defaults, on which chips, and why.

Effects were measured by compiling ahead of time (libtpu 0.0.42), never on a chip: docs/scaling.md has the figures.
"""

import dataclasses

import jax

from xtr.errors import UserError, did_you_mean
from xtr.parallel import accelerators

DEFAULT, THOROUGH, NONE = "default", "thorough", "none"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of XLA's TPU compiler.

    Attributes:
      name, value: as XLA calls it.
      chips: accelerators it is for.
      slow: it makes compiling take several times as long: for long runs, by choice.
      reason: why it is set.
    """

    name: str
    value: bool | int
    chips: tuple[str, ...]
    reason: str
    slow: bool = False


_ASYNC = ("v4", "v5p", "v6e")
OPTIONS = (
    Option(
        "xla_enable_async_all_gather",
        True,
        _ASYNC,
        "Weights are gathered layer by layer: while one is on its way, another can be used. On v5e it is the default.",
    ),
    Option("xla_tpu_enable_async_collective_fusion", True, _ASYNC, "A gather goes on inside the products beside it."),
    Option("xla_tpu_enable_async_collective_fusion_fuse_all_gather", True, _ASYNC, "The same, for all-gathers."),
    Option(
        "xla_tpu_scoped_vmem_limit_kib",
        65_472,
        ("v5p",),
        "Fusions may use half of the vector memory: larger tiles, fewer passes over HBM.",
        slow=True,
    ),
)


def compiler_options(device: jax.Device, choice: str = DEFAULT) -> dict[str, bool | int]:
    """The options for programs of one device, as `jax.jit(compiler_options=...)` takes them; {} for other than TPUs.

    Args:
      choice: 'default', 'thorough' (those that compile slowly too) or 'none'.
    """
    check(choice)
    accelerator = accelerators.of_device(device)
    if accelerator is None or choice == NONE:
        return {}
    return {
        option.name: option.value
        for option in OPTIONS
        if accelerator.name in option.chips and (choice == THOROUGH or not option.slow)
    }


def check(choice: str) -> None:
    """UserError for what is no choice of options."""
    choices = (DEFAULT, THOROUGH, NONE)
    if choice not in choices:
        raise UserError(
            f"COMPILER_OPTIONS is {choice!r}; it must be one of {', '.join(choices)}."
            f"{did_you_mean(str(choice), choices)}"
        )
