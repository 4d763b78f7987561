"""Mixing rates, the order in which a mixture draws from its tasks, and the order of the examples in a task.

The orders are pure functions of the rates and seeds: any place of the stream is found without going through what comes
before it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.errors import UserError, did_you_mean

# What follows when a task of a mixture has been read as often as it may be: the data end (as SeqIO's), or the
# others go on without it, at their own rates, until all have been read.
EXHAUSTED = ("stop", "drop")
# Blocks after which the number of examples drawn from each task is exact to one example.
_PERIOD = 1024
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def proportional(sizes: Sequence[int], maximum: float | None = None) -> np.ndarray:
    """Rates proportional to the tasks' numbers of examples, each number capped at `maximum`: float64 [tasks]."""
    return temperature(sizes, 1.0, maximum)


def equal(sizes: Sequence[int]) -> np.ndarray:
    """The same rate for every task: float64 [tasks]."""
    return np.ones(len(sizes))


def temperature(sizes: Sequence[int], t: float, maximum: float | None = None) -> np.ndarray:
    """Rates min(size, maximum) ** (1 / t), as T5 and SeqIO's mixing_rate_num_examples: float64 [tasks].

    Args:
      sizes: examples of each task.
      t: 1 is proportional mixing; large values come near equal mixing.
      maximum: the artificial limit on a task's size (T5's K); None for no limit.
    """
    if not t > 0:
        raise UserError(f"The mixing temperature is {t}; it must be greater than 0.")
    if maximum is not None and not maximum > 0:
        raise UserError(f"The mixing limit is {maximum}; it must be greater than 0.")
    capped = np.minimum(np.asarray(sizes, np.float64), np.inf if maximum is None else maximum)
    return capped ** (1.0 / t)


def explicit(names: Sequence[str], rates: Mapping[str, float]) -> np.ndarray:
    """Rates given by name, in the order of `names`: float64 [tasks].

    Raises:
      UserError: a task without a rate, or a rate for a task that is not there.
    """
    for name in rates:
        if name not in names:
            raise UserError(f"There is a mixing rate for {name!r}, which is no task here.{did_you_mean(name, names)}")
    if missing := [name for name in names if name not in rates]:
        raise UserError(f"No mixing rate for {', '.join(missing)}.")
    return np.array([rates[name] for name in names], np.float64)


def check_exhaustion(epochs: int | None, exhausted: str) -> None:
    """Raises a UserError where these are not a number of epochs (None: no end) and one of `EXHAUSTED`."""
    if epochs is not None and (not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1):
        raise UserError(f"epochs is {epochs!r}; it must be a whole number, at least 1, or None to repeat for ever.")
    if exhausted not in EXHAUSTED:
        raise UserError(
            f"exhausted is {exhausted!r}: when a task has been read as often as it may be, the data can 'stop', or "
            f"'drop' it and go on with the others.{did_you_mean(str(exhausted), EXHAUSTED)}"
        )


@dataclass(frozen=True)
class Mixing:
    """How a run mixes the members of its mixture, which are tasks and mixtures in it; a mixture keeps its inner rates.

    Attributes:
      rates: 'registered' (as the mixture was registered), 'proportional', 'temperature', 'equal', or a rate for each
        member by name.
      temperature: of 'temperature'; 1 is proportional.
      limit: the most examples that a member counts as, for 'proportional' and 'temperature'; None for no limit.
      language_alpha: of plain text: the share of it that the rates give is divided by languages as their numbers of
        documents to this power (`by_language`); None: as the text is registered (0.3).
      epochs: how often each task is read; None: for ever, a task that runs out begins its next epoch, shuffled anew.
      exhausted: what a task does that has been read `epochs` times: one of `EXHAUSTED`.
    """

    rates: str | Mapping[str, float] = "registered"
    temperature: float = 2.0
    limit: int | None = 2**17
    language_alpha: float | None = None
    epochs: int | None = None
    exhausted: str = EXHAUSTED[0]

    def __post_init__(self):
        check_exhaustion(self.epochs, self.exhausted)
        if self.language_alpha is not None and not 0 <= self.language_alpha <= 1:
            raise UserError(
                f"mixing.Mixing.language_alpha is {self.language_alpha!r}; it must be a number from 0 (all languages "
                "alike) to 1 (in proportion to their documents)."
            )
        known = ("registered", "proportional", "temperature", "equal")
        if not isinstance(self.rates, Mapping) and self.rates not in known:
            raise UserError(
                f"mixing.Mixing.rates is {self.rates!r}; it must be one of {', '.join(known)}, or a rate for each "
                f"member like {{'mnli': 2, 'squad_v1': 1}}.{did_you_mean(str(self.rates), known)}"
            )

    def of(self, tasks: Sequence[CachedTask], split: str) -> tuple[CachedTask, ...]:
        """The tasks of a mixture with the rates that this mixing gives them."""
        mixed = self._of_members(tasks, split)
        return mixed if self.language_alpha is None else by_language(mixed, split, self.language_alpha)

    def _of_members(self, tasks: Sequence[CachedTask], split: str) -> tuple[CachedTask, ...]:
        if self.rates == "registered":
            return tuple(tasks)
        sizes: dict[str, int] = {}
        for task in tasks:
            for member, share in task.components.items():
                sizes[member] = sizes.get(member, 0) + (task.num_examples(split) if share > 0 else 0)
        names, counts = list(sizes), list(sizes.values())
        if isinstance(self.rates, Mapping):
            rates = explicit(names, self.rates)
        elif self.rates == "equal":
            rates = equal(counts)
        else:
            rates = temperature(counts, self.temperature if self.rates == "temperature" else 1.0, self.limit)
        rate_of = dict(zip(names, rates.tolist(), strict=True))
        return tuple(
            replace(task, rate=sum(rate_of[member] * share for member, share in task.components.items()))
            for task in tasks
        )


def by_language(tasks: Sequence[CachedTask], split: str, alpha: float) -> tuple[CachedTask, ...]:
    """Tasks whose plain text is sampled by language: p(l) ~ n_l ** alpha, n_l the documents of language l.

    mT5's and XLM-R's rule (arXiv 2010.11934, section 3.2; 1911.02116, section 3.1), both with alpha 0.3: 1 is in
    proportion, 0 takes all languages alike. Inside a language its corpora are drawn in proportion to their documents.
    The text together keeps its rate, and all other tasks theirs.
    """
    texts = [task for task in tasks if task.info.get("kind") == "text" and task.rate > 0]
    documents: dict[str, int] = {}
    for task in texts:
        documents[task.info["language"]] = documents.get(task.info["language"], 0) + task.num_examples(split)
    weights = {language: float(n) ** alpha for language, n in documents.items() if n}
    total, rate = sum(weights.values()), sum(task.rate for task in texts)

    def sampled(task: CachedTask) -> CachedTask:
        if task not in texts or not task.num_examples(split):
            return task
        language = task.info["language"]
        own = task.num_examples(split) / documents[language]
        return replace(task, rate=rate * weights[language] / total * own)

    return tuple(map(sampled, tasks))


def normalized(rates: Sequence[float], names: Sequence[str]) -> np.ndarray:
    """Rates divided by their sum: float64 [tasks].

    Raises:
      UserError: a rate is negative or not finite, or all are 0.
    """
    rates = np.asarray(rates, np.float64)
    for name, rate in zip(names, rates, strict=True):
        if not np.isfinite(rate) or rate < 0:
            raise UserError(f"The mixing rate of {name} is {rate}; it must be a finite number, 0 or more.")
    if not rates.sum() > 0:
        raise UserError(f"The mixing rates of {', '.join(names) or 'no tasks'} sum to 0: nothing would be drawn.")
    return rates / rates.sum()


def shuffled(places: np.ndarray, size: int | np.ndarray, seed: int | np.ndarray) -> np.ndarray:
    """Where places of a pseudorandom order of range(size) lead to, without laying out the whole order.

    A Feistel network permutes the smallest power of 4 that holds `size`; a result outside of range(size) is sent
    through again until it falls inside (cycle walking; Black and Rogaway 2002, Ciphers with arbitrary finite domains).

    Args:
      places: int64 [n], each in range(size).
      size: length of the order, below 2**62; or of the order of each place, int64 [n].
      seed: 64 bits that select the order; or the order of each place, uint64 [n].

    Returns:
      int64 [n]; over all places each number of range(size) comes once.
    """
    out = np.asarray(places).astype(np.uint64)
    size = np.broadcast_to(np.asarray(size, np.uint64), out.shape)
    seed = np.broadcast_to(np.asarray(seed, np.uint64), out.shape)
    bits = np.frexp((size - np.uint64(1)).astype(np.float64))[1]
    half = np.maximum(2, (bits + 1) // 2).astype(np.uint64)
    keys = _mix(seed + np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] * _GOLDEN)

    def permute(x, half, keys):
        mask = (np.uint64(1) << half) - np.uint64(1)
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        return (left << half) | right

    out = permute(out, half, keys)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = permute(out[outside], half[outside], keys[:, outside])
        outside = outside[out[outside] >= size[outside]]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class BlockMixture:
    """Draws examples in blocks of equal size, each as near to the rates as whole numbers allow.

    In every block a task has its share rounded down or up; over 1024 blocks its number is its share to one example.

    Attributes:
      rates: positive rates, summing to 1.
      block: examples in a block.
      limits: the most examples of each task, at least 1; one that has been drawn so often is left out from the next
        block on, and the others share the blocks at their rates. The block in which it ends is smaller by what it
        lacks. None: no task ever ends.
    """

    rates: tuple[float, ...]
    block: int
    limits: tuple[int, ...] | None = None

    @property
    def num_blocks(self) -> int | None:
        """Blocks until every task has ended; None where none does."""
        return None if self.limits is None else self._phases[-1].first

    def drawn(self, blocks: int) -> np.ndarray:
        """Examples of each task in the first `blocks` blocks: int64 [tasks]."""
        if self.limits is None:
            return _drawn(self._cumulative, blocks)
        phase = self._phases[bisect_right(self._phases, blocks, key=lambda phase: phase.first) - 1]
        out = phase.before.copy()
        out[phase.left] += _drawn(phase.cumulative, blocks - phase.first)
        return np.minimum(out, self.limits)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return _cumulative(np.array(self.rates), self.block)

    @cached_property
    def _phases(self) -> list["_Phase"]:
        """From the end of one task to that of the next; the last phase has no tasks left."""
        limits, before, left, first = np.array(self.limits, np.int64), np.zeros(len(self.rates), np.int64), None, 0
        phases = []
        while (left := np.flatnonzero(before < limits)).size:
            rates = np.array(self.rates)[left]
            phase = _Phase(first, before, left, _cumulative(rates / rates.sum(), self.block))
            phases.append(phase)
            room = limits[left] - before[left]
            low, high = 0, int(room.sum()) * _PERIOD + 1  # in a period of blocks, every task is drawn at least once
            while low + 1 < high:  # after `low` blocks all have room, after `high` one has not
                middle = (low + high) // 2
                low, high = (middle, high) if (_drawn(phase.cumulative, middle) < room).all() else (low, middle)
            before = before.copy()
            before[left] += np.minimum(_drawn(phase.cumulative, high), room)
            first += high
        return [*phases, _Phase(first, before, left, np.zeros((_PERIOD + 1, 0), np.int64))]


@dataclass(frozen=True)
class _Phase:
    """Blocks from `first` on, with `before` examples of each task drawn by then and the tasks `left` in the mixture."""

    first: int
    before: np.ndarray
    left: np.ndarray
    cumulative: np.ndarray


def _cumulative(rates: np.ndarray, block: int) -> np.ndarray:
    """int64 [_PERIOD + 1, tasks]: examples of each task in the first k blocks of a period."""
    total = _PERIOD * block
    exact = rates * total
    seats = np.maximum(np.floor(exact).astype(np.int64), 1)
    # Largest remainder; a rate too small for one seat in the period takes its seat from the largest.
    while seats.sum() < total:
        seats[np.argmax(exact - seats)] += 1
    while seats.sum() > total:
        seats[np.argmax(seats)] -= 1
    # The seats above a task's whole number go out by systematic sampling, its phase running through a period in
    # bit-reversed order: each task gets 0 or 1 of them a block, evenly spread, and all of them in a period.
    whole, rest = np.divmod(seats, _PERIOD)
    edges = np.concatenate([[0], np.cumsum(rest)])
    bits = _PERIOD.bit_length() - 1
    phase = np.array([int(f"{k:0{bits}b}"[::-1], 2) for k in range(_PERIOD)])
    extra = np.diff((edges[None] + phase[:, None]) // _PERIOD, axis=1)
    return np.concatenate([np.zeros((1, len(seats)), np.int64), np.cumsum(whole + extra, axis=0)])


def _drawn(cumulative: np.ndarray, blocks: int) -> np.ndarray:
    periods, rest = divmod(blocks, _PERIOD)
    return periods * cumulative[-1] + cumulative[rest]
