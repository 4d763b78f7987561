"""Training data of a model with several heads: every batch is of one head's tasks.

Which head comes next follows the rates, as evenly as whole batches allow, and depends on nothing else. When a head's
tasks have been read as often as they may be, the data end, or the other heads go on (`TrainData.exhausted`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtr.data.cached_task import CachedTask
from xtr.data.labelled import OBJECTIVE_OF_KIND, num_labels
from xtr.data.mixing import BlockMixture, normalized
from xtr.data.pipeline import Place, TrainBatches, TrainData, num_batches, train_batches
from xtr.errors import UserError

# What a head is trained with on each kind of task. A dual encoder has no heads beside its own.
_OBJECTIVES = {kind: name for kind, name in OBJECTIVE_OF_KIND.items() if name != "contrastive"} | {"text": "mlm"}


def tasks_of_heads(
    tasks: Sequence[CachedTask], split: str, head_for: Callable[[str, int | None], str | None]
) -> dict[str, tuple[CachedTask, ...]]:
    """The drawn tasks of a mixture by the name of their head, in the order in which the heads are met.

    Args:
      split: has the examples that say how many labels a task has.
      head_for: (objective, number of labels or None) -> a head's name, or None where there is no such head.

    Raises:
      UserError: a task that no head is for.
    """
    found: dict[str, tuple[CachedTask, ...]] = {}
    for task in tasks:
        if task.rate <= 0:
            continue
        kind = task.info.get("kind", "")
        objective = _OBJECTIVES.get(kind)
        if objective is None:
            raise UserError(f"{task.name} is of the kind {kind!r}, which no head of several is for.")
        labels = num_labels(task, split, objective)
        head = head_for(objective, labels)
        if head is None:
            example = {task.name: objective if labels is None else (objective, labels)}
            raise UserError(f"The model has no head for {task.name}: add one like {example} to HEADS.")
        found[head] = (*found.get(head, ()), task)
    return found


class MultitaskBatches:
    """This host's batches of several `TrainData`, one of them a batch: an iterator with a state, as `TrainBatches`.

    Attributes:
      head: the head that the last delivered batch is for; '' before the first.
    """

    def __init__(
        self, parts: Mapping[str, TrainData], process_index: int = 0, process_count: int = 1, place: Place = dict
    ):
        self._order = _order(parts)
        self._parts: dict[str, TrainBatches] = {
            name: train_batches(data, process_index, process_count, place=place) for name, data in parts.items()
        }
        self._step = 0
        self.head = ""

    def __iter__(self) -> "MultitaskBatches":
        return self

    def __next__(self) -> Any:
        if self._step == self._order.num_blocks:
            raise StopIteration
        drawn = self._order.drawn(self._step + 1) - self._order.drawn(self._step)
        head = list(self._parts)[int(drawn.argmax())]
        batch = next(self._parts[head])
        self._step, self.head = self._step + 1, head
        return batch

    def get_state(self) -> dict:
        """The place behind the last delivered batch, as JSON; the same on every host."""
        return {"step": self._step, "heads": {name: part.get_state() for name, part in self._parts.items()}}

    def set_state(self, state: Mapping) -> None:
        """Goes to the place a state stands for.

        Raises:
          UserError: the state is of other data.
        """
        heads = state.get("heads", {})
        if set(heads) != set(self._parts):
            raise UserError(
                "The training data is not what it was when the checkpoint was written: batches were for the heads "
                f"{', '.join(heads) or 'of one head alone'}, now they are for {', '.join(self._parts)}."
            )
        for name, part in self._parts.items():
            part.set_state(heads[name])
        self._step = int(state["step"])

    def stats(self) -> dict:
        """Counts over the global batches delivered so far, by head (see `TrainBatches.stats`)."""
        return {name: part.stats() for name, part in self._parts.items()}

    def close(self) -> None:
        """Stops the prefetching threads."""
        for part in self._parts.values():
            part.close()


def _order(parts: Mapping[str, TrainData]) -> BlockMixture:
    """The order of the heads: blocks of one batch each."""
    rates = [sum(task.rate for task in data.tasks) for data in parts.values()]
    limits = None
    if all(data.epochs and data.exhausted == "drop" for data in parts.values()):
        limits = tuple(num_batches(data) for data in parts.values())
    return BlockMixture(tuple(normalized(rates, list(parts)).tolist()), 1, limits)


def check_enough(parts: Mapping[str, TrainData], batches: int) -> None:
    """Checks that training does not run out of data, before it begins.

    Args:
      parts: the data of each head; of a model with at most one head, one part without a name.
      batches: how many training takes.

    Raises:
      UserError: the data end before that.
    """
    order = _order(parts)
    if order.num_blocks is not None:
        if order.num_blocks < batches:
            raise _too_few(next(iter(parts.values())), batches, order.num_blocks, "")
        return
    for (name, data), wanted in zip(parts.items(), order.drawn(batches).tolist(), strict=True):
        count = num_batches(data, wanted)
        if count is not None and count < wanted:
            raise _too_few(data, wanted, count, f" for the head {name}" if name else "")


def _too_few(data: TrainData, wanted: int, count: int, whose: str) -> UserError:
    times = "once" if data.epochs == 1 else f"{data.epochs} times"
    which = "when the first task" if data.exhausted == "stop" else "when every task"
    return UserError(
        f"Training asks for {wanted} batches{whose}, but the data end after {count}, {which} has been read {times}. "
        "Take fewer TRAIN_STEPS or more MIXING_EPOCHS; None of these repeats for ever."
    )
