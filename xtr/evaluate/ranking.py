"""Rank classification: which choices are scored together, and by which scores one of several is taken.

Axes: N rows, C choices, T target length.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xtr.errors import DataError, UserError, did_you_mean
from xtr.evaluate.batching import bucket_of

_ROW_TOKENS = 1024  # choices of a row have no more together: attention takes the square of that
_Choice = tuple[int, ...]  # tokens
_Row = tuple[int, list[_Choice]]  # the number of an input, and choices of it
NORMALISE = ("none", "tokens", "characters", "bytes")


@dataclasses.dataclass(frozen=True)
class Ranking:
    """By which scores one of several choices is taken; they are made of what records hold (`ranked`).

    Attributes:
      normalise: what a choice's log-probability is divided by. 'none'; 'tokens', its EOS among them, as it is in the
        sum (t5's `normalize_by_target_length`); 'characters', code points of its text (`acc_norm` of EleutherAI's
        lm-evaluation-harness, whatever its paper says of bytes); 'bytes' of its UTF-8 (the harness's `acc_bytes`).
      calibrate: None, or an input that says nothing: the log-probability of the choice after it is subtracted before
        any division. With '' that is the harness's `acc_mutual_info`; with a text that leads up to answers the
        domain-conditional PMI of arXiv 2104.08315; with the task's own input with 'N/A' in its fields ('xnli: premise:
        N/A hypothesis: N/A') the argmax of arXiv 2102.09690's contextual calibration.

    Raises:
      UserError: an unknown normalisation, or an input that is no text.
    """

    normalise: str = "none"
    calibrate: str | None = None

    def __post_init__(self):
        if self.normalise not in NORMALISE:
            raise UserError(
                f"Ranking.normalise (RANK_NORMALISE) must be one of {', '.join(NORMALISE)}, not {self.normalise!r}."
                + did_you_mean(str(self.normalise), NORMALISE)
            )
        if self.calibrate is not None and not isinstance(self.calibrate, str):
            raise UserError(
                f"Ranking.calibrate (RANK_CALIBRATE) must be a text, '' or 'N/A' say, or None for no calibration, not "
                f"{self.calibrate!r}."
            )


def ranked(record: Mapping, ranking: Ranking) -> np.ndarray:
    """The scores of a record's choices by which the first of the best is taken, float64 [C]; no model is asked.

    Args:
      record: `id`; `choices`, the texts; `scores`, their log-probabilities. What the models that read a choice as text
        have besides: `tokens`, how many each has; `priors`, of each input that says nothing the choices'
        log-probabilities after it. A head's scores are neither divided nor calibrated: it reads no choice.

    Raises:
      UserError: the predictions were made without the log-probabilities that the calibration subtracts.
      DataError: a choice without text is to be divided by its length.
    """
    score_C = np.asarray(record["scores"], np.float64)
    if "tokens" not in record:
        return score_C
    if ranking.calibrate is not None:
        priors = record.get("priors", {})
        if ranking.calibrate not in priors:
            known = ", ".join(map(repr, priors)) or "none"
            raise UserError(
                f"These predictions hold no log-probabilities of choices after {ranking.calibrate!r} (they hold: "
                f"{known}): evaluate again with RANK_CALIBRATE set so, or grade without it."
            )
        score_C = score_C - np.asarray(priors[ranking.calibrate], np.float64)
    if ranking.normalise == "none":
        return score_C
    texts = record["choices"]
    sizes = {
        "tokens": record["tokens"],
        "characters": [len(text) for text in texts],
        "bytes": [len(text.encode()) for text in texts],
    }[ranking.normalise]
    if not all(sizes):
        raise DataError(f"example {record['id']}: choice {list(sizes).index(0)} has no {ranking.normalise}")
    return score_C / np.asarray(sizes, np.float64)


class ChoiceRows(NamedTuple):
    """Rows of an input and its choices that are scored in batches of one number and one length of choices.

    Attributes:
      examples: of each row, the number of its input.
      choices: of each row, the choices' tokens.
      tokens_NCT: the same, int32, padded.
      continuations: by how much fewer rows a batch must have than one of inputs alone.
    """

    examples: list[int]
    choices: list[list[_Choice]]
    tokens_NCT: np.ndarray
    continuations: int


def choice_rows(
    inputs: Sequence[Sequence[int]],
    choices: Sequence[Sequence[_Choice]],
    *,
    buckets: Sequence[int],
    tokens_per_batch: int,
    pad_id: int,
    causal: bool,
) -> list[ChoiceRows]:
    """Divides inputs and their choices, any number of any lengths, for batches of a bounded number of shapes.

    Numbers and lengths of choices are rounded up: lengths to powers of two, numbers to these and to three quarters of
    them. Rows that do not fill a batch go with those of longer choices. Of an input, equal choices are scored once, and
    all in an order of their own, so that their scores do not depend, to the bit, on the order in which they are given.
    An input whose choices have more than 1,024 tokens together stands in several rows.

    Args:
      inputs: tokens of each.
      choices: of each input the tokens of its choices; one without tokens is left out.
      buckets, tokens_per_batch: as in `batching`; the choices of a batch have no more tokens than that either, as far
        as one row allows.
      causal: whether choices are read side by side, each by a row of its own.
    """
    by_number: dict[int, dict[int, list[_Row]]] = {}
    for example, own in enumerate(choices):
        for row in _rows(own):
            by_length = by_number.setdefault(_number(len(row)), {})
            by_length.setdefault(_length(len(row[-1])), []).append((example, row))
    bucket_N = [bucket_of(len(tokens), buckets) for tokens in inputs]
    groups = []
    for number, by_length in sorted(by_number.items()):

        def tokens(length: int, rows: list[_Row], number: int = number) -> int:
            return sum(bucket_N[example] + number * length for example, _ in rows)

        for length, rows in _joined(by_length, tokens, tokens_per_batch):
            by_size: dict[int, list[_Row]] = {}
            for example, row in rows:
                fewer = _length(max(-(-number * length // bucket_N[example]), number if causal else 1))
                by_size.setdefault(fewer, []).append((example, row))
            for fewer, own in _joined(by_size, lambda _, own, length=length: tokens(length, own), tokens_per_batch):
                groups.append(_padded(sorted(own), (number, length), pad_id, fewer))
    return groups


def _joined(
    rows: Mapping[int, list[_Row]], size: Callable[[int, list[_Row]], int], least: int
) -> Iterator[tuple[int, list[_Row]]]:
    """Rows by rising size class; those of too few go with the next class."""
    waiting: list[_Row] = []
    for key in sorted(rows):
        waiting = waiting + rows[key]
        if size(key, waiting) >= least or key == max(rows):
            yield key, waiting
            waiting = []


def _rows(choices: Sequence[_Choice]) -> list[list[_Choice]]:
    """Distinct choices by rising length, in rows of no more than `_ROW_TOKENS` once they are as long as the longest."""
    rows: list[list[_Choice]] = []
    for choice in sorted(set(choices) - {()}, key=lambda choice: (len(choice), choice)):
        if not rows or (len(rows[-1]) + 1) * len(choice) > _ROW_TOKENS:
            rows.append([])
        rows[-1].append(choice)
    return rows


def _padded(rows: Sequence[_Row], shape: tuple[int, int], pad_id: int, continuations: int) -> ChoiceRows:
    tokens_NCT = np.full((len(rows), *shape), pad_id, np.int32)
    for n, (_, row) in enumerate(rows):
        for c, choice in enumerate(row):
            tokens_NCT[n, c, : len(choice)] = choice
    return ChoiceRows([example for example, _ in rows], [row for _, row in rows], tokens_NCT, continuations)


def _length(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


def _number(choices: int) -> int:
    power = _length(choices)
    return power * 3 // 4 if power >= 4 and choices <= power * 3 // 4 else power
