"""What a run trains on: one objective and its data or, of a model with several heads, one for each head."""

import dataclasses
from collections.abc import Mapping, Sequence

from xtr.data.cached_task import CachedTask
from xtr.data.denoising import SpanCorruption
from xtr.data.multitask import MultitaskBatches, check_enough, tasks_of_heads
from xtr.data.pipeline import Place, TrainBatches, TrainData, train_batches
from xtr.data.vocabulary import Vocabulary
from xtr.models.interface import ModelConfig
from xtr.models.multitask import WithHeads
from xtr.train.run import TrainRun

TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Part:
    """One objective of a run.

    Attributes:
      model: the network that has it.
      objective: a name of `objectives.OBJECTIVES`.
      data: the tasks that are trained on with it.
    """

    model: ModelConfig
    objective: str
    data: TrainData

    def of_split(self, split: str) -> TrainData | None:
        """One epoch of another split of the tasks that have it; None where no task has it."""
        tasks = tuple(task for task in self.data.tasks if task.rate > 0 and split in task.splits)
        return dataclasses.replace(self.data, tasks=tasks, split=split, epochs=1, seed=0) if tasks else None


def parts_of(run: TrainRun, tasks: Sequence[CachedTask], vocabulary: Vocabulary) -> dict[str, Part]:
    """The parts of a run by the name of their head; one part without a name where the model has at most one head.

    Raises:
      UserError: the data cannot be used or end before the run does, or the model has no head for a task.
    """
    tasks = run.mixing.of(tasks, TRAIN)

    def data(model: ModelConfig, tasks: Sequence[CachedTask], objective: str) -> TrainData:
        return TrainData(
            tasks=tuple(tasks),
            lengths=tuple(run.task_feature_lengths.items()),
            batch_size=run.batch_size,
            seed=run.random_seed,
            pack=run.pack,
            objective=objective,
            epochs=run.mixing.epochs,
            exhausted=run.mixing.exhausted,
            corruption=SpanCorruption(run.noise_density, run.mean_span_length),
            vocabulary=vocabulary,
            pad_id=model.pad_id,
            num_labels=getattr(model, "num_labels", None),
            causal=model.causal,
            doc_stride=run.doc_stride,
            max_query_length=run.max_query_length,
        )

    if not isinstance(run.model, WithHeads):
        parts = {"": Part(run.model, run.loss, data(run.model, tasks, run.objective))}
        check_enough({"": parts[""].data}, run.train_steps)
        return parts
    parts = {}
    for name, own in tasks_of_heads(tasks, TRAIN, run.model.head_for).items():
        model = run.model.on(name)
        (objective,) = model.objectives
        parts[name] = Part(model, objective, data(model, own, objective))
    check_enough({name: part.data for name, part in parts.items()}, run.train_steps)
    return parts


def batches_of(
    parts: Mapping[str, Part], process_index: int, process_count: int, place: Place
) -> TrainBatches | MultitaskBatches:
    """This host's batches, each where `place` puts it; `head` says which part the last one is of."""
    if "" in parts:
        return train_batches(parts[""].data, process_index, process_count, place=place)
    return MultitaskBatches({name: part.data for name, part in parts.items()}, process_index, process_count, place)
