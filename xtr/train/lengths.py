"""TASK_FEATURE_LENGTHS = 'auto' of a training run: chosen once, kept in the run directory, the same when it goes on."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from xtr import rundir
from xtr.data.cached_task import CachedTask
from xtr.data.length_search import Examples, Flops, Measured
from xtr.data.lengths import AUTO, AutoLengths
from xtr.data.vocabulary import Vocabulary
from xtr.models.flops import BACKWARD, forward_flops
from xtr.models.interface import ModelConfig
from xtr.models.multitask import OneHead
from xtr.progress import say
from xtr.train.parts import Part, parts_of
from xtr.train.run import TrainRun

OPERATIVE = "operative_config.gin"
_SETTING = re.compile(rf"(?mi)^(\S*TASK_FEATURE_LENGTHS = )'{AUTO}'$")
_ANY = {"inputs": 512, "targets": 114}  # stand for lengths that are not known yet


def flops_of(model: ModelConfig, objective: str, choices: int = 1) -> Flops:
    """FLOPs of training on one row of (inputs, targets) tokens, forward and backward (`xtr.models.flops`).

    Args:
      model: the network; of several heads, the one of the tasks.
      objective: a name of `objectives.OBJECTIVES`.
      choices: texts of a row, for 'choose'.
    """
    model = model.alone if isinstance(model, OneHead) else model

    def flops(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        lengths = (inputs + targets,) if objective == "causal" else (inputs, targets)
        return (1 + BACKWARD) * forward_flops(model, objective, choices, *lengths)

    return flops


def choose(part: Part, auto: AutoLengths) -> Measured:
    """The lengths for what one head, or a model without any, is trained on. UserError where nothing tells them."""
    examples = Examples(part.data)
    return examples.choose(flops_of(part.model, part.objective, _choices(part)), auto, part.model.max_length)


def _choices(part: Part) -> int:
    return part.data.num_choices if part.objective == "choose" else 1


def settled(
    run: TrainRun, tasks: Sequence[CachedTask], vocabulary: Vocabulary, gin_texts: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, str]]:
    """The lengths of a run, those that 'auto' stands for where it says so, and the files of its directory.

    What 'auto' stands for is chosen when the run begins, said, and written: into lengths.json, by which the run goes
    on, and into operative_config.gin. Of several heads each has its own best lengths, and the longest are for all.

    Raises:
      UserError: nothing tells the lengths.
      DataError: the directory's own are unreadable.
    """
    files = dict(gin_texts)
    if run.task_feature_lengths != AUTO:
        return dict(run.task_feature_lengths), files
    if known := rundir.chosen_lengths(run.model_dir):
        say(f"TASK_FEATURE_LENGTHS = {AUTO!r} was {known} when the run began")
        return known, files
    any_lengths = _ANY | {"inputs": min(_ANY["inputs"], run.model.max_length or _ANY["inputs"])}
    endless = dataclasses.replace(run.mixing, epochs=None)  # how far the data reach follows from the lengths
    asked = dataclasses.replace(run, task_feature_lengths=any_lengths, mixing=endless)
    parts = parts_of(asked, tasks, vocabulary)
    # Beside other heads, one for plain text takes what they need.
    parts = {name: part for name, part in parts.items() if part.objective != "mlm"} or parts
    found, lengths = {name: choose(part, run.auto_lengths) for name, part in parts.items()}, {}
    for name, measured in found.items():
        say(_line(name, measured))
        lengths |= {n: max(length, lengths.get(n, 0)) for n, length in measured.lengths.items()}
    facts = {"lengths": lengths, "rule": dataclasses.asdict(run.auto_lengths)}
    facts["chosen for"] = {name: dataclasses.asdict(measured) for name, measured in found.items()}
    files[rundir.LENGTHS] = json.dumps(facts, indent=1) + "\n"
    if operative := files.get(OPERATIVE):
        files[OPERATIVE] = re.sub(_SETTING, lambda found: f"{found[1]}{lengths!r}", operative)
    return lengths, files


def _line(head: str, measured: Measured) -> str:
    density = ", ".join(f"{name} {share:.1%} full" for name, share in measured.density.items())
    cut = max(measured.cut.values())
    return (
        f"{f'{head}: ' if head else ''}TASK_FEATURE_LENGTHS = {AUTO!r} is {measured.lengths}: "
        f"{measured.examples_a_row:.2f} examples a row, {density}, {measured.flops:.3g} FLOPs an example; "
        f"of no task are more than {cut:.2%} of the examples cut"
    )
