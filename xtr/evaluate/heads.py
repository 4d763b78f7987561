"""What heads answer: one of several texts, tags of words, spans of a context.

Whatever the rows that examples are read in: a choice is a row, a long sentence several pieces, a long context several
windows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.choices import cut_texts
from xtr.data.labelled import HEADS, OBJECTIVE_OF_KIND, check_labels
from xtr.data.multitask import tasks_of_heads
from xtr.data.spans import Windowing, windows_of
from xtr.data.tagged import check_tags
from xtr.data.tagging import Frame, align, tags_of_words
from xtr.data.vocabulary import Vocabulary
from xtr.errors import UserError
from xtr.evaluate.grading import may_lack_answers
from xtr.evaluate.methods import Asked, Method, chosen
from xtr.evaluate.predictor import Predictor, counted
from xtr.evaluate.run import EvaluateRun
from xtr.evaluate.span_answers import Answers, find_answers
from xtr.models.interface import ModelConfig
from xtr.models.multitask import WithHeads

_NAMES = {"classify": "classification", "choose": "multiple-choice", "tag": "tagging", "span": "span"}


PREDICTORS = ("rank", "tag", "span")  # what a head may answer
_RECORDED = 5  # answers of a span head that a record holds


def for_task(model: ModelConfig, task: CachedTask, split: str) -> ModelConfig:
    """The model as it answers a task: of several heads by the task's own. UserError where none of them is."""
    if not isinstance(model, WithHeads) or task.info["predictor"] not in PREDICTORS:
        return model
    (name,) = tasks_of_heads([dataclasses.replace(task, rate=1.0)], split, model.head_for)
    return model.on(name)


def check_head(model: ModelConfig, task: CachedTask, split: str) -> None:
    """Raises UserError where a model lacks the head that a task is answered by, or its number of labels."""
    objective = OBJECTIVE_OF_KIND[task.info["kind"]]
    if objective not in model.objectives:
        raise UserError(
            f"{task.name} needs a {_NAMES[objective]} head, which this {model.family} lacks: give "
            f"{HEADS[objective].file} after the target's file, and the checkpoint of a run that was trained with it."
        )
    if objective == "classify":
        check_labels(task, split, model.num_labels)
    if objective == "tag":
        check_tags(task, split, model.num_labels)


def is_cut(predictor: Predictor, example: Mapping, run: EvaluateRun, length: int) -> bool:
    """Whether the rows of an example for a head, of `length` tokens, lack some of its tokens."""
    objectives = predictor.config.objectives
    if "choose" in objectives:
        return bool(max(example["choice_lengths"]) > length)
    if "tag" in objectives:
        return bool(max(example["word_lengths"], default=0) > Frame(predictor.vocabulary, length).room)
    if "span" in objectives:
        return len(example["question"]) > run.max_query_length
    return len(example["inputs"]) > length


def _choice_scores(predictor: Predictor, examples, asked: Asked, advance) -> list[dict]:
    """Of each example's choices the log-probabilities: the softmax of their texts' logits."""
    texts = [cut_texts(example, asked.length) for example in examples]
    rows = [text for own in texts for text in own]
    logits_N = predictor.choose([r[:, 0] for r in rows], [r[:, 1] for r in rows], _counted(advance, texts))
    return [{"scores": own - np.logaddexp.reduce(own)} for own in _split(logits_N.astype(np.float64), texts)]


CHOOSE = Method(_choice_scores, chosen)


def _word_tags(predictor: Predictor, examples, asked: Asked, advance) -> list[list[int]]:
    """The tag of each word, where the model reads it."""
    pieces = [
        align(
            predictor.vocabulary, example["inputs"], example["word_lengths"], causal=predictor.config.causal,
            max_length=asked.length,
        )
        for example in examples
    ]  # fmt: skip
    found = predictor.tag([piece.tokens for own in pieces for piece in own], _counted(advance, pieces))
    return [list(tags_of_words(own, tags)) for own, tags in zip(pieces, _split(found, pieces), strict=True)]


def _tagged(vocabulary: Vocabulary, example: Mapping, tags: Sequence[int], asked: Asked) -> dict:
    names = asked.info.get("label_names") or tuple(map(str, range(asked.run.model.num_labels)))
    return {"prediction": [names[t] for t in tags], "gold": [names[t] for t in example["tags"]]}


TAG = Method(_word_tags, _tagged)


def _spans(predictor: Predictor, examples, asked: Asked, advance) -> list[Answers]:
    """The best answers of all windows of each context."""
    run = asked.run
    windowing = Windowing(asked.length, run.doc_stride, run.max_query_length)
    windows = [windows_of(windowing, predictor.vocabulary, e["question"], e["inputs"]) for e in examples]
    rows = [window.tokens for own in windows for window in own]
    found = predictor.span([r[:, 0] for r in rows], [r[:, 1] for r in rows], _counted(advance, windows))
    return [
        find_answers(
            own,
            logits,
            example["meta"]["context"],
            example["starts"],
            example["ends"],
            n_best=run.n_best,
            max_answer_length=run.max_answer_length,
            may_lack=may_lack_answers(asked.info),
        )
        for example, own, logits in zip(examples, windows, _split(found, windows), strict=True)
    ]


def _spanned(vocabulary: Vocabulary, example: Mapping, said: Answers, asked: Asked) -> dict:
    record = said.record()
    return {"gold": example["meta"]["answers"], **record, "n_best": record["n_best"][:_RECORDED]}


SPAN = Method(_spans, _spanned)


def _split(rows: Sequence, groups: Sequence[Sequence]) -> list[Sequence]:
    """What belongs to each group of rows that were predicted one behind the other."""
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [rows[end - len(group) : end] for end, group in zip(ends, groups, strict=True)]


def _counted(advance: Callable[[int], None], groups: Sequence[Sequence]) -> Callable[[int], None]:
    """`advance` for the rows of groups, of which each is an example."""
    return counted(advance, sum(map(len, groups)), len(groups))
