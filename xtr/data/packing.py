"""Packing encoder-decoder examples into rows of fixed length.

A row holds whole examples, one behind the other, on both sides at once: the n-th example of a row is segment n of the
encoder side and of the decoder side, also where one of its sides is empty. Lengths are counted from the sequences
themselves, never from a token's value, so a token id 0 inside a sequence is an ordinary token.

The binding side of some examples is the one that they fill more of: the side whose tokens, divided by its slots, are
more. No packing has fewer rows than that quotient, so the density of the binding side says how good a packing is.

Letters: N examples, R rows, S and T slots of the encoder and decoder side.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xtr.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]

VERSION = 2  # of the rule by which examples get their rows: another one makes another stream of rows
# Best fit is enough where its rows are at most this many times those that any packing needs, or where the other side is
# less than this share of the binding one.
_CLOSE, _ONE_SIDED = 1.01, 0.2


class _Side(NamedTuple):
    """One side of the examples: int64 [N] lengths, and a row's slots."""

    lengths: np.ndarray
    slots: int

    @property
    def demand(self) -> float:
        """Rows that its tokens fill."""
        return int(self.lengths.sum()) / self.slots


def pack(
    encoder_lengths: np.ndarray, decoder_lengths: np.ndarray, encoder_slots: int, decoder_slots: int
) -> np.ndarray:
    """Assigns examples to rows, so that there are few rows.

    Best fit first: the largest example first, each to the row that is fullest on the binding side and has room for it.
    Where one side binds, that is close to the fewest rows possible. Where both do and it is not close, rows are filled
    one by one as well, by two rules that weigh both sides (`_row_by_row`), and the fewest rows win.

    The result depends on the lengths alone, and is the same on every machine: no sum depends on the order in which a
    library adds.

    Args:
      encoder_lengths, decoder_lengths: [N] lengths, none longer than its slots.
      encoder_slots, decoder_slots: room of a row.

    Returns:
      int64 [N], the row of each example; rows are numbered from 0 without gaps.

    Raises:
      ValueError: an example is longer than a row.
    """
    sides = _Side(_integers(encoder_lengths), encoder_slots), _Side(_integers(decoder_lengths), decoder_slots)
    if not len(sides[0].lengths):
        return np.zeros(0, np.int64)
    too_long_N = np.logical_or(*(side.lengths > side.slots for side in sides))
    if too_long_N.any():
        raise ValueError(f"example {int(too_long_N.argmax())} is longer than a row")
    binding, other = sorted(sides, key=lambda side: -side.demand)
    order_N = np.argsort(-sum(side.lengths / side.slots * side.demand for side in sides), kind="stable")
    found = _best_fit(binding, other, order_N)
    close = found.max() + 1 <= _CLOSE * least_rows(encoder_lengths, decoder_lengths, encoder_slots, decoder_slots)
    if not close and other.demand >= _ONE_SIDED * binding.demand:
        others = [_row_by_row(binding, other, order_N, power) for power in (1, 2)]
        found = min([found, *others], key=np.max)
    return found


def least_rows(encoder_lengths: np.ndarray, decoder_lengths: np.ndarray, encoder_slots: int, decoder_slots: int) -> int:
    """Rows that no packing can do without: the greater of both sides' bounds.

    Of one side it is the bound L2 of Martello and Toth (Knapsack Problems, 1990, section 8.3): for a threshold k,
    examples longer than half a row lie in rows of their own; those longer than slots - k leave no room for one of k or
    more; and what the others leave must hold all from k to half a row. The best k counts.
    """
    sides = _Side(_integers(encoder_lengths), encoder_slots), _Side(_integers(decoder_lengths), decoder_slots)
    return max(map(_least_rows, sides))


def _least_rows(side: _Side) -> int:
    if not len(side.lengths):
        return 0
    slots = side.slots
    counts = np.bincount(side.lengths, minlength=slots + 1)
    number = np.concatenate([[0], np.cumsum(counts)])  # of examples shorter than the index
    tokens = np.concatenate([[0], np.cumsum(counts * np.arange(len(counts)))])
    half = slots // 2 + 1  # the least length of which no two fit
    k = np.arange(half)
    large = number[-1] - number[half]
    free = slots * (number[slots - k + 1] - number[half]) - (tokens[slots - k + 1] - tokens[half])
    small = tokens[half] - tokens[k]
    return int((large + np.maximum(0, -(-(small - free) // slots))).max())


def _integers(lengths: np.ndarray) -> np.ndarray:
    return np.asarray(lengths, np.int64)


def _best_fit(binding: _Side, other: _Side, order_N: np.ndarray) -> np.ndarray:
    """The row of each example: in the given order, each to the row with the least room on the binding side."""
    # Plain lists and bisection: the rows sorted by their room on the binding side, and the room of every row on the
    # other side. Some microseconds an example, where masked NumPy searches take ten times as long.
    binding_N, other_N = binding.lengths.tolist(), other.lengths.tolist()
    rooms: list[int] = []
    rows: list[int] = []
    other_room: list[int] = []
    row_N = np.empty(len(binding_N), np.int64)
    for i in order_N.tolist():
        need, other_need = binding_N[i], other_N[i]
        at = bisect_left(rooms, need)
        while at < len(rooms) and other_room[rows[at]] < other_need:
            at += 1
        if at < len(rooms):
            row, room = rows.pop(at), rooms.pop(at) - need
            other_room[row] -= other_need
        else:
            row, room = len(other_room), binding.slots - need
            other_room.append(other.slots - other_need)
        at = bisect_left(rooms, room)
        rooms.insert(at, room)
        rows.insert(at, row)
        row_N[i] = row
    return row_N


def _row_by_row(binding: _Side, other: _Side, order_N: np.ndarray, power: int) -> np.ndarray:
    """The row of each example: one row after the other is filled, each time with the example that suits it best.

    With r the room that is left of a row on each side and l an example's lengths, in parts of a row, and w the demand
    of all examples that have no row yet: power 1 takes the greatest sum of w r l over both sides, power 2 the least sum
    of w^2 (r - l)^2. These are the dot product and the norm of Panigrahy, Talwar, Uyeda and Wieder (Heuristics for
    vector bin packing, 2011), with weights that follow what is left: a row takes most of what there is too much of.
    """
    sides = binding, other
    needs_2N = np.stack([side.lengths[order_N] for side in sides])
    fills_2N = np.stack([side.lengths[order_N] / side.slots for side in sides])
    squares_2N = fills_2N**2
    left_N = order_N.copy()
    demand = [side.demand for side in sides]
    room = [side.slots for side in sides]
    row_N, row, n = np.empty(len(order_N), np.int64), 0, len(order_N)
    while n:
        parts = [r / side.slots for r, side in zip(room, sides, strict=True)]
        (a, b), (fill_a, fill_b) = (w**power * r for w, r in zip(demand, parts, strict=True)), fills_2N[:, :n]
        score_n = a * fill_a + b * fill_b
        if power == 2:
            score_n -= (demand[0] ** 2 / 2) * squares_2N[0, :n] + (demand[1] ** 2 / 2) * squares_2N[1, :n]
        score_n[(needs_2N[0, :n] > room[0]) | (needs_2N[1, :n] > room[1])] = -np.inf
        at = int(score_n.argmax())
        if score_n[at] == -np.inf:
            row, room = row + 1, [side.slots for side in sides]
            continue
        row_N[left_N[at]] = row
        for s in range(2):
            room[s] -= int(needs_2N[s, at])
            demand[s] = max(0.0, demand[s] - float(fills_2N[s, at]))
        n -= 1
        for array in (needs_2N, fills_2N, squares_2N, left_N):
            array[..., at:n] = array[..., at + 1 : n + 1]
    return row_N


def rows_of(row_N: np.ndarray) -> list[np.ndarray]:
    """The examples of each row, in their given order: a list of R index arrays."""
    order_N = np.argsort(row_N, kind="stable")
    return np.split(order_N, np.cumsum(np.bincount(row_N))[:-1]) if len(row_N) else []


def layout(rows: Sequence[Sequence[np.ndarray]], slots: int, dtype=np.int32):
    """Lays sequences out in rows: (tokens_RS, segment_ids_RS, positions_RS, shifted_RS)."""
    out = np.zeros((4, len(rows), slots), dtype)
    sequences = [s for row in rows for s in row]
    if not sequences:
        return out
    per_row_R = np.fromiter(map(len, rows), np.int64, len(rows))
    length_N = np.fromiter(map(len, sequences), np.int64, len(sequences))
    end_N = np.cumsum(length_N)
    row_N = np.repeat(np.arange(len(rows)), per_row_R)
    first_R = np.cumsum(per_row_R) - per_row_R
    row_start_R = np.concatenate([[0], end_N])[first_R]
    start_N = end_N - length_N - row_start_R[row_N]
    if (start_N + length_N).max() > slots:
        row = int(row_N[(start_N + length_N).argmax()])
        raise ValueError(f"row {row} holds more than {slots} tokens")
    token = np.arange(end_N[-1])
    position = token - np.repeat(end_N - length_N, length_N)
    place = position + np.repeat(row_N * slots + start_N, length_N)
    tokens = np.concatenate(sequences)
    flat = out.reshape(4, -1)
    flat[0, place] = tokens
    flat[1, place] = np.repeat(np.arange(len(sequences)) - first_R[row_N] + 1, length_N)
    flat[2, place] = position
    shifted = np.zeros(len(tokens), tokens.dtype)
    shifted[1:] = tokens[:-1]
    shifted[position == 0] = 0
    flat[3, place] = shifted
    return out


def build_batch(rows: Sequence[Sequence[Pair]], encoder_slots: int, decoder_slots: int) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its examples, each a pair of token arrays (inputs, targets). A row may be empty (padding).
      encoder_slots, decoder_slots: length of a row on each side.

    Returns:
      int32 arrays [rows, slots] under SeqIO's names. `decoder_input_tokens` are the targets shifted right inside each
      segment, 0 first; `decoder_loss_weights` are 1 on every token of a target; segments count from 1, 0 is padding.

    Raises:
      ValueError: the examples of a row do not fit.
    """
    tokens_RS, segments_RS, positions_RS, _ = layout([[e for e, _ in row] for row in rows], encoder_slots)
    targets_RT, target_segments_RT, target_positions_RT, shifted_RT = layout(
        [[d for _, d in row] for row in rows], decoder_slots
    )
    return {
        "encoder_input_tokens": tokens_RS,
        "encoder_segment_ids": segments_RS,
        "encoder_positions": positions_RS,
        "decoder_input_tokens": shifted_RT,
        "decoder_target_tokens": targets_RT,
        "decoder_loss_weights": (target_segments_RT > 0).astype(np.int32),
        "decoder_segment_ids": target_segments_RT,
        "decoder_positions": target_positions_RT,
    }


def unpacked_batches(
    examples: Iterable[Pair], batch_size: int, encoder_slots: int, decoder_slots: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches with one example a row, in the given order; longer sequences are cut at the row's length.

    The last batch is filled up with empty rows (segment ids and loss weights 0), so every batch has the same shape.

    Args:
      examples: pairs of token arrays (inputs, targets).
      batch_size: rows of a batch.
      encoder_slots, decoder_slots: length of a row on each side.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")
    rows = []
    for inputs, targets in examples:
        rows.append([(inputs[:encoder_slots], targets[:decoder_slots])])
        if len(rows) == batch_size:
            yield build_batch(rows, encoder_slots, decoder_slots)
            rows = []
    if rows:
        yield build_batch(rows + [[]] * (batch_size - len(rows)), encoder_slots, decoder_slots)
