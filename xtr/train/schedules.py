"""Learning-rate schedules in T5X's language: factors joined by '*', evaluated on the host as floats."""

import dataclasses
import math

from xtr.errors import UserError, did_you_mean

FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
    "linear_to_zero",
)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A schedule as in T5X's `create_learning_rate_scheduler`, and one factor more; the rate at step s is the product
    of its factors.

    With t = max(0, s - step_offset) and w = warmup_steps the factors are
      constant                base_learning_rate
      linear_warmup           min(1, t / w)
      linear_decay            base_learning_rate * min(t / w, 1 + decay_factor * (w - t)); takes the place of the two
      above
      rsqrt_decay             1 / sqrt(max(t, w))
      rsqrt_normalized_decay  sqrt(w / max(t, w))
      decay_every             decay_factor ^ floor(t / steps_per_decay)
      cosine_decay            (1 + cos(pi * frac(max(0, t - w) / steps_per_cycle))) / 2
      linear_to_zero          min(1, (total_steps - t) / (total_steps - w)), not below 0: not T5X's, but how BERT and
      its kin are fine-tuned, behind a linear_warmup
    and the product is at least `min_learning_rate`.

    Raises:
      UserError: an unknown factor, a count below 1, or a total_steps that is missing or not above warmup_steps.
    """

    factors: str = "constant"
    base_learning_rate: float = 1e-3
    warmup_steps: int = 1000
    decay_factor: float = 0.5
    steps_per_decay: int = 20000
    steps_per_cycle: int = 100000
    step_offset: int = 0
    min_learning_rate: float = 1e-8
    total_steps: int | None = None

    def __post_init__(self):
        for name in self.factor_names:
            if name not in FACTORS:
                raise UserError(
                    f"Unknown learning-rate factor {name!r} in {self.factors!r}.{did_you_mean(name, FACTORS)}"
                )
        for name in ("warmup_steps", "steps_per_decay", "steps_per_cycle"):
            if getattr(self, name) < 1:
                raise UserError(f"ScheduleConfig.{name} must be at least 1, not {getattr(self, name)!r}.")
        total = self.total_steps
        if "linear_to_zero" in self.factor_names and (total is None or total <= self.warmup_steps):
            raise UserError(
                f"The learning rate falls linearly to zero at ScheduleConfig.total_steps, which is {total!r}: it must "
                f"be above warmup_steps, {self.warmup_steps}. Set WARMUP_STEPS to a tenth of TRAIN_STEPS or so."
            )

    @property
    def factor_names(self) -> tuple[str, ...]:
        """The factors, in order."""
        return tuple(name.strip() for name in self.factors.split("*"))


def learning_rate(config: ScheduleConfig, step: int) -> float:
    """The learning rate of the step that follows `step` finished steps. Source: T5X,
    `utils.create_learning_rate_scheduler`."""
    c = config
    t, w = max(0, step - c.step_offset), c.warmup_steps
    rate = 1.0
    for name in c.factor_names:
        if name == "constant":
            rate *= c.base_learning_rate
        elif name == "linear_warmup":
            rate *= min(1.0, t / w)
        elif name == "linear_decay":
            rate *= c.base_learning_rate * min(t / w, 1.0 + c.decay_factor * (w - t))
        elif name == "rsqrt_decay":
            rate /= math.sqrt(max(t, w))
        elif name == "rsqrt_normalized_decay":
            rate *= math.sqrt(w / max(t, w))
        elif name == "decay_every":
            rate *= c.decay_factor ** (t // c.steps_per_decay)
        elif name == "linear_to_zero":
            rate *= min(1.0, max(0.0, (c.total_steps - t) / (c.total_steps - w)))
        else:
            progress = max(0.0, (t - w) / c.steps_per_cycle)
            rate *= 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0)))
    return max(rate, c.min_learning_rate)
