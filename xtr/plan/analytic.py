"""What runs take by arithmetic alone, nothing compiled: model FLOPs of a training step and of an evaluation."""

import dataclasses
import math
from collections.abc import Mapping

from xtr.evaluate.run import EvaluateRun
from xtr.models.flops import encoding_flops, forward_flops, training_flops
from xtr.models.heads import WithHead
from xtr.models.multitask import MULTITASK
from xtr.plan.batches import CHOICES, shapes
from xtr.train.run import TrainRun

AUTO_LENGTHS = {"inputs": 512, "targets": 128}  # what 'auto' counts as; the data decide
RANK, GENERATE, EMBED = "rank", "generate", "embed"


def with_lengths(run: TrainRun) -> TrainRun:
    """A run with lengths in numbers, also where its own are 'auto'."""
    if not isinstance(run.task_feature_lengths, str):
        return run
    text = run.loss in ("seq2seq", "causal", "contrastive")
    most = run.model.max_length or AUTO_LENGTHS["inputs"]
    lengths = {"inputs": min(AUTO_LENGTHS["inputs"], most)} | ({"targets": AUTO_LENGTHS["targets"]} if text else {})
    return dataclasses.replace(run, task_feature_lengths=lengths)


def step_flops(run: TrainRun) -> float:
    """Model FLOPs of one training step, over all devices. Of a model with several heads the mean over its heads, as if
    each had as many batches."""
    run = with_lengths(run)
    if run.objective == MULTITASK:
        heads = [run.model.head(name) for name in run.model.names]
        lengths = run.task_feature_lengths["inputs"]
        rows = [run.batch_size * (CHOICES if head.objectives[0] == "choose" else 1) for head in heads]
        each = [training_flops(head, head.objectives[0], n, lengths) for head, n in zip(heads, rows, strict=True)]
        return sum(each) / len(each)
    sizes = shapes(run)
    if run.loss == "causal":
        return training_flops(run.model, run.loss, *sizes["decoder_input_tokens"])
    *rows, inputs = sizes["encoder_input_tokens"]
    other = {"seq2seq": "decoder_target_tokens", "contrastive": "target_input_tokens"}.get(run.loss)
    return training_flops(run.model, run.loss, math.prod(rows), inputs, sizes[other][-1] if other else 0)


@dataclasses.dataclass(frozen=True)
class TestSet:
    """The size of a target's test data in all its languages.

    Attributes:
      examples: texts, pairs or questions; of retrieval queries and candidates.
      languages: how many there are.
      inputs, outputs: tokens of an example of medium length.
      how: 'rank' (of `choices` texts), 'generate' or 'embed'.
    """

    __test__ = False  # not pytest's

    examples: int
    languages: int
    inputs: int
    outputs: int = 0
    how: str = RANK
    choices: int = 1


def evaluation_flops(run: EvaluateRun, size: TestSet) -> Mapping[str, float]:
    """Model FLOPs of an evaluation: {'forward': of whole texts at once, 'generate': of one token after the other}."""
    languages = size.languages if run.languages is None else min(len(run.languages), size.languages)
    examples = size.examples * languages / size.languages
    if run.limit:
        examples = min(examples, run.limit * languages * (2 if size.how == EMBED else 1))
    inputs, model = min(size.inputs, run.model.max_length or size.inputs), run.model
    if isinstance(model, WithHead) and model.kind != "embed" and size.how != EMBED:
        rows = examples * (size.choices if model.kind == "choose" else 1)
        return {"forward": forward_flops(model, model.objectives[0], rows, inputs), "generate": 0.0}
    if size.how == EMBED or not model.objectives or model.objectives[0] not in ("seq2seq", "causal"):
        return {"forward": encoding_flops(model, examples, inputs), "generate": 0.0}
    causal = model.objectives[0] == "causal"

    def more(rows: float) -> float:
        """What the output tokens of so many rows add."""
        before, after = ((inputs, 0), (inputs + size.outputs, 0)) if causal else ((inputs, 0), (inputs, size.outputs))
        counts = (forward_flops(model, model.objectives[0], rows, *lengths) for lengths in (after, before))
        return next(counts) - next(counts)

    read = forward_flops(
        model, model.objectives[0], examples * (size.choices if causal and size.how == RANK else 1), inputs
    )
    if size.how == RANK:
        return {"forward": read + more(examples * size.choices), "generate": 0.0}
    return {"forward": read, "generate": more(examples)}
