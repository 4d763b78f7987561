"""Answers of a span head: the best spans of all windows of a context, and the score of giving none.

The rules are those by which XTREME makes its predictions for XQuAD, MLQA and TyDiQA with mBERT and XLM-R: transformers'
`compute_predictions_logits` (data/metrics/squad_metrics.py), called by google-research/xtreme third_party/run_squad.py;
they are BERT's run_squad.py. They compare raw logits across windows, not probabilities within one. Where they go back
from word pieces to words and may then answer with more than the span, the answer here is the span's own characters;
and where no span is possible they answer "empty", here nothing is.

Letters: n tokens of one row, T tokens of a context.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xtr.data.spans import Window


class Answer(NamedTuple):
    """One of the best answers.

    Attributes:
      text: characters of the context; '' for no answer.
      start_logit, end_logit: of its first and its last token.
      probability: softmax of the sums of both logits over the best answers.
    """

    text: str
    start_logit: float
    end_logit: float
    probability: float

    @property
    def logit(self) -> float:
        """The sum by which answers are compared."""
        return self.start_logit + self.end_logit


class Answers(NamedTuple):
    """What a span head says of an example.

    Attributes:
      best: the best answers, the best first, each text once; no answer among them only where there may be none.
      null_logit: the score of no answer: the least sum of the logits of the first token of a window.
    """

    best: list[Answer]
    null_logit: float

    @property
    def span(self) -> Answer | None:
        """The best answer that is a span; None where no span is possible."""
        return next((answer for answer in self.best if answer.text), None)

    def record(self) -> dict:
        """The fields of a prediction record: `span`, its `span_logit` (None where there is no span), `null_logit` and
        `n_best`."""
        span = self.span
        return {
            "span": span.text if span else "",
            "span_logit": span.logit if span else None,
            "null_logit": self.null_logit,
            "n_best": [answer._asdict() for answer in self.best],
        }


def null_difference(record: Mapping) -> float:
    """By how much no answer scores more than the best span, which a threshold is set on; infinite where there is no
    span. Of the fields of `Answers.record`."""
    return float("inf") if record["span_logit"] is None else record["null_logit"] - record["span_logit"]


def find_answers(
    windows: Sequence[Window],
    logits: Sequence[np.ndarray],
    context: str,
    starts: Sequence[int],
    ends: Sequence[int],
    *,
    n_best: int = 20,
    max_answer_length: int = 30,
    may_lack: bool = False,
) -> Answers:
    """The best answers of all windows.

    A window's spans go from one of its `n_best` likeliest starts to one of its `n_best` likeliest ends (of all tokens
    of the row; those of the question fall out only then) and have no more than `max_answer_length` tokens; their first
    token has its greatest context in that window. They are ranked by the sums of their logits; of equal ones those of
    earlier windows, likelier starts and earlier tokens come first.

    Args:
      windows: all windows of the example.
      logits: of each window, of starting and of ending at its tokens, [S, 2]; padding may follow.
      context: the text.
      starts, ends: where its tokens begin and end, in code points.
      n_best: as many answers are kept at most, and no answer, where it is not one of these.
      may_lack: whether no answer is an answer.
    """
    rows = [np.asarray(own[: len(window.tokens)], np.float64) for window, own in zip(windows, logits, strict=True)]
    null_n2 = min((own[0] for own in rows), key=lambda both: both.sum())
    found: dict[str, tuple[float, float]] = {}
    for first, last, start_logit, end_logit in _spans(windows, rows, n_best, max_answer_length, null_n2, may_lack):
        if len(found) == n_best:
            break
        text = "" if first is None else context[starts[first] : ends[last]]
        if text or first is None:
            found.setdefault(text, (start_logit, end_logit))
    if may_lack:
        found.setdefault("", (float(null_n2[0]), float(null_n2[1])))
    sums = np.array([start + end for start, end in found.values()])
    shares = np.exp(sums - np.logaddexp.reduce(sums)) if found else sums
    best = [Answer(text, *both, share) for (text, both), share in zip(found.items(), shares.tolist(), strict=True)]
    return Answers(best, float(null_n2.sum()))


def _spans(windows, rows, n_best: int, max_answer_length: int, null_n2: np.ndarray, may_lack: bool):
    """(first and last token of the context, logits of both) of all spans, by rank; None twice is no answer."""
    found = []
    for window, own, greatest in zip(windows, rows, in_greatest_context(windows), strict=True):
        # A stable sort, so that of equal logits the earlier ones stay.
        first_k, last_k = np.argsort(-own, axis=0, kind="stable")[:n_best].T - window.offset
        size = window.end - window.start
        first_k = first_k[(first_k >= 0) & (first_k < size)]
        first_k = first_k[greatest[first_k]]
        last_k = last_k[(last_k >= 0) & (last_k < size)]
        length_kk = last_k - first_k[:, None] + 1
        a, b = np.nonzero((length_kk >= 1) & (length_kk <= max_answer_length))
        first_m, last_m = first_k[a], last_k[b]
        logit_m2 = np.stack([own[first_m + window.offset, 0], own[last_m + window.offset, 1]], axis=1)
        found.append((first_m + window.start, last_m + window.start, logit_m2))
    first_M, last_M, logit_M2 = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(-logit_M2.sum(axis=1), kind="stable").tolist()
    null = bool(may_lack)
    for m in order:
        # Officially no answer is appended to the spans before they are sorted: of equal ones it comes last.
        if null and logit_M2[m].sum() < null_n2.sum():
            null = False
            yield None, None, float(null_n2[0]), float(null_n2[1])
        yield int(first_M[m]), int(last_M[m]), float(logit_M2[m, 0]), float(logit_M2[m, 1])
    if null:
        yield None, None, float(null_n2[0]), float(null_n2[1])


def in_greatest_context(windows: Sequence[Window]) -> list[np.ndarray]:
    """Of each window, which of its context tokens have no greater context in another: bool [end - start] each.

    A token's context in a window is the lesser of the numbers of tokens before and behind it there; by a hundredth of
    its length the longer window counts more, and of equal ones the first.
    """
    context_WT = np.full((len(windows), max(window.end for window in windows)), -np.inf)
    for own_T, (_, start, end, _) in zip(context_WT, windows, strict=True):
        place = np.arange(end - start)
        own_T[start:end] = np.minimum(place, place[::-1]) + 0.01 * (end - start)
    winner_T = context_WT.argmax(axis=0)
    return [winner_T[window.start : window.end] == w for w, window in enumerate(windows)]
