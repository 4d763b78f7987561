"""What heads answer: one of several texts, tags of words, spans of a context.

Whatever the rows that examples are read in: a choice is a row, a long sentence several pieces, a long context several
windows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.choices import cut_texts
from xtr.data.labelled import HEADS, OBJECTIVE_OF_KIND, check_labels
from xtr.data.multitask import tasks_of_heads
from xtr.data.spans import Window, Windowing, windows_of
from xtr.data.tagged import check_tags
from xtr.data.tagging import Frame, align, tags_of_words
from xtr.data.vocabulary import Vocabulary
from xtr.errors import UserError
from xtr.evaluate.methods import Asked, Method, chosen
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.run import EvaluateRun
from xtr.models.interface import ModelConfig
from xtr.models.multitask import WithHeads

_NAMES = {"classify": "classification", "choose": "multiple-choice", "tag": "tagging", "span": "span"}


PREDICTORS = ("rank", "tag", "span")  # what a head may answer


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


def _choice_scores(predictor: Predictor, examples, asked: Asked, advance) -> list[np.ndarray]:
    """Of each example's choices the log-probabilities: the softmax of their texts' logits."""
    texts = [cut_texts(example, asked.length) for example in examples]
    rows = [text for own in texts for text in own]
    logits_N = predictor.choose([r[:, 0] for r in rows], [r[:, 1] for r in rows], _counted(advance, texts))
    return [own - np.logaddexp.reduce(own) for own in _split(logits_N.astype(np.float64), texts)]


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


def _spans(predictor: Predictor, examples, asked: Asked, advance) -> list[tuple["Span | None", float]]:
    """The likeliest span of all windows of a context, and the lowest score of no answer."""
    run = asked.run
    windowing = Windowing(asked.length, run.doc_stride, run.max_query_length)
    windows = [windows_of(windowing, predictor.vocabulary, e["question"], e["inputs"]) for e in examples]
    rows = [window.tokens for own in windows for window in own]
    found = predictor.span([r[:, 0] for r in rows], [r[:, 1] for r in rows], _counted(advance, windows))
    return [
        (
            best_span(own, scores, run.n_best, run.max_answer_length),
            min(float(scores_S2[0].sum()) for scores_S2 in scores),
        )
        for own, scores in zip(windows, _split(found, windows), strict=True)
    ]


def _spanned(vocabulary: Vocabulary, example: Mapping, said, asked: Asked) -> dict:
    best, null = said
    context, text = example["meta"]["context"], ""
    if best is not None:
        text = context[example["starts"][best.first] : example["ends"][best.last]]
    return {
        "gold": example["meta"]["answers"],
        "span": text,
        "log_prob": None if best is None else best.log_prob,
        "null_log_prob": null,
    }


SPAN = Method(_spans, _spanned)


class Span(NamedTuple):
    """The first and the last context token of an answer, and the sum of its ends' log-probabilities."""

    first: int
    last: int
    log_prob: float


def best_span(
    windows: Sequence[Window], scores: Sequence[np.ndarray], n_best: int, max_answer_length: int
) -> Span | None:
    """The likeliest span of context tokens in any of an example's windows, the earliest of equals.

    As in BERT's SQuAD, a span is made of the `n_best` likeliest starts and ends of its window and has no more than
    `max_answer_length` tokens; only the tokens of the context count among them. None where no start has an end.

    Args:
      scores: of each window the log-probabilities of starting and of ending at its tokens, [S, 2]; S may be longer.
    """
    best = None
    for window, scores_S2 in zip(windows, scores, strict=True):
        own_n2 = scores_S2[window.offset : window.offset + window.end - window.start].astype(np.float64)
        # A stable sort, so that of equals the earlier ones stay.
        first_k, last_k = np.sort(np.argsort(-own_n2, axis=0, kind="stable")[:n_best], axis=0).T
        size_kk = last_k - first_k[:, None] + 1
        sum_kk = own_n2[first_k, 0][:, None] + own_n2[last_k, 1]
        sum_kk = np.where((size_kk >= 1) & (size_kk <= max_answer_length), sum_kk, -np.inf)
        if not np.isfinite(sum_kk).any():
            continue
        a, b = np.unravel_index(sum_kk.argmax(), sum_kk.shape)
        if best is None or sum_kk[a, b] > best.log_prob:
            best = Span(int(first_k[a]) + window.start, int(last_k[b]) + window.start, float(sum_kk[a, b]))
    return best


def _split(rows: Sequence, groups: Sequence[Sequence]) -> list[Sequence]:
    """What belongs to each group of rows that were predicted one behind the other."""
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [rows[end - len(group) : end] for end, group in zip(ends, groups, strict=True)]


def _counted(advance: Callable[[int], None], groups: Sequence[Sequence]) -> Callable[[int], None]:
    """`advance` for rows, where progress counts examples."""
    rows, done = sum(map(len, groups)), 0

    def by_rows(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        advance(done * len(groups) // rows - before * len(groups) // rows)

    return by_rows
