"""The setting TASK_FEATURE_LENGTHS = 'auto': how lengths of rows are to be chosen, by `xtr.data.length_search`."""

import dataclasses

from xtr.errors import UserError

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class AutoLengths:
    """How TASK_FEATURE_LENGTHS = 'auto' chooses.

    Attributes:
      kept: share of each task's examples whose inputs (and of whose targets) must not be cut.
      multiples: lengths are multiples of these: inputs of packed rows (128: a TPU's lanes), and targets and inputs of
        rows with one example (16: a TPU's bfloat16 sublanes; enough for a GPU's matrix units too). They do not depend
        on the machine, so that a configuration means the same data everywhere.
      most: the longest row that is tried, where no example needs a longer one.
    """

    kept: float = 0.99
    multiples: tuple[int, int] = (128, 16)
    most: int = 2048

    def __post_init__(self):
        if not 0 < self.kept <= 1:
            raise UserError(f"lengths.AutoLengths.kept is {self.kept!r}; it must be a share above 0, 1 at the most.")
        object.__setattr__(self, "multiples", tuple(self.multiples))
        if len(self.multiples) != 2 or not all(isinstance(n, int) and n > 0 for n in (*self.multiples, self.most)):
            raise UserError(
                f"lengths.AutoLengths.multiples {self.multiples} and most {self.most} must be positive whole numbers, "
                "multiples like (128, 16)."
            )
