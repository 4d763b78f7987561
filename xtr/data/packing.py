"""Packing encoder-decoder examples into rows of fixed length.

A row holds whole examples, one behind the other, on both sides at once: the n-th example of a row is segment n of the
encoder side and of the decoder side, also where one of its sides is empty. Lengths are counted from the sequences
themselves, never from a token's value, so a token id 0 inside a sequence is an ordinary token.

Letters: N examples, R rows, S and T slots of the encoder and decoder side.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from xtr.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]


def pack(
    encoder_lengths: np.ndarray, decoder_lengths: np.ndarray, encoder_slots: int, decoder_slots: int
) -> np.ndarray:
    """Assigns examples to rows: the largest example first, each to the fullest row that it fits into.

    The binding side, which all examples together fill more of, decides how full a row is; the other side must only
    fit. The result depends on the lengths alone.

    Args:
      encoder_lengths, decoder_lengths: [N] lengths, none longer than its slots.
      encoder_slots, decoder_slots: room of a row.

    Returns:
      int64 [N], the row of each example; rows are numbered from 0 without gaps.

    Raises:
      ValueError: an example is longer than a row.
    """
    fill_N2 = np.stack([encoder_lengths, decoder_lengths], axis=1) / np.array([encoder_slots, decoder_slots])
    if not len(fill_N2):
        return np.zeros(0, np.int64)
    if fill_N2.max() > 1:
        raise ValueError(f"example {int(fill_N2.max(axis=1).argmax())} is longer than a row")
    demand_2 = fill_N2.sum(axis=0)
    order_N = np.argsort(-(fill_N2 @ demand_2), kind="stable")
    sides = [(encoder_lengths.tolist(), encoder_slots), (decoder_lengths.tolist(), decoder_slots)]
    (binding_N, binding_slots), (other_N, other_slots) = sides if demand_2[0] >= demand_2[1] else sides[::-1]
    # Plain lists and bisection: the rows sorted by their room on the binding side, and the room of every row on the
    # other side. Some microseconds an example, where masked NumPy searches take ten times as long.
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
            row, room = len(other_room), binding_slots - need
            other_room.append(other_slots - other_need)
        at = bisect_left(rooms, room)
        rooms.insert(at, room)
        rows.insert(at, row)
        row_N[i] = row
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
