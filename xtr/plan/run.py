"""What `xtr plan` plans: a training run, and what evaluation adds to it."""

import dataclasses

from xtr.errors import UserError
from xtr.train.run import TrainRun


@dataclasses.dataclass(frozen=True)
class PlanRun:
    """A training run and the evaluation of its model, on a slice of TPUs that need not be here.

    Attributes:
      train: the run; nothing of its data, paths or vocabulary is read.
      tokens_per_batch: tokens of inputs and outputs that decoding holds at once, over all devices.
      max_decode_length: output tokens of a sequence; None: the run's 'targets'.
      price_per_chip_hour: what a chip costs an hour, in any currency; None: costs are counted in chip-hours alone.
    """

    train: TrainRun
    tokens_per_batch: int = 16_384
    max_decode_length: int | None = None
    price_per_chip_hour: float | None = None

    def __post_init__(self):
        if isinstance(self.train.task_feature_lengths, str):
            raise UserError(
                f"TASK_FEATURE_LENGTHS is {self.train.task_feature_lengths!r}, but a plan has no data to choose "
                "lengths by: `xtr data stats MIXTURE --auto MODEL` tells them; give them here."
            )
        for name in ("tokens_per_batch", "max_decode_length"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"{name.upper()} is {value!r}; it must be a positive whole number.")
        if self.price_per_chip_hour is not None and not self.price_per_chip_hour >= 0:
            raise UserError(f"PRICE_PER_CHIP_HOUR is {self.price_per_chip_hour!r}; it must not be negative.")

    @property
    def decode_length(self) -> int:
        """Output tokens of a sequence."""
        return self.max_decode_length or self.train.task_feature_lengths.get("targets", 64)
