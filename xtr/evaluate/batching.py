"""Length buckets: examples sorted by length into batches of a bounded number of compiled shapes."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The shortest bucket that holds `length` tokens; the longest one for anything longer (which is then cut)."""
    return next((bucket for bucket in buckets if length <= bucket), buckets[-1])


def rows_per_batch(bucket: int, tokens_per_batch: int, multiple: int = 1) -> int:
    """Rows of `bucket` tokens in a batch: a power of two times `multiple` (the number of devices), at least that."""
    rows = max(tokens_per_batch // bucket, multiple) // multiple
    return multiple * (1 << (rows.bit_length() - 1))


@dataclasses.dataclass(frozen=True)
class Refill:
    """One refill of decoding slots (`xtr.evaluate.continuous`).

    Attributes:
      indices: the sequences that come in, at most `rows`.
      rows: inputs of a refill.
      bucket: the length that they are padded to.
      slots: sequences that are decoded at a time.
    """

    indices: np.ndarray
    rows: int
    bucket: int
    slots: int


def refills(
    lengths: Sequence[int], buckets: Sequence[int], max_length: int, tokens_per_batch: int, multiple: int = 1
) -> Iterator[Refill]:
    """Yields the refills of sequences of `lengths`, the shortest first: buckets never fall and slots never rise.

    A refill brings all rows that it has room for, in the shortest bucket that then holds them, but for the last one:
    what does not fill a batch of its bucket goes with longer sequences.

    Args:
      max_length: of the outputs, for which a slot has room too.
      tokens_per_batch: of the inputs and outputs of all slots.
      multiple: the number of devices that slots are spread over.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    most = multiple * (1 << (-(-len(order) // multiple) - 1).bit_length())
    start, place = 0, 0
    while start < len(order):
        slots = min(rows_per_batch(buckets[place] + max_length, tokens_per_batch, multiple), most)
        rows = max(slots // multiple // 4, 1) * multiple
        indices = np.array(order[start : start + rows])
        if lengths[indices[-1]] > buckets[place] and place + 1 < len(buckets):
            place += 1
            continue
        yield Refill(indices, rows, buckets[place], slots)
        start += rows


def batches(
    sequences: Sequence[np.ndarray], buckets: Sequence[int], tokens_per_batch: int, multiple: int = 1, pad_id: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices_b, tokens_BS): which sequences a batch holds, and their tokens padded with `pad_id`.

    Only the first len(indices_b) rows of tokens_BS are sequences; the rest repeat the first row, so that every batch
    of a bucket has one shape and no row is empty.
    """
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
    by_bucket: dict[int, list[int]] = {}
    for i in order:
        by_bucket.setdefault(bucket_of(len(sequences[i]), buckets), []).append(i)
    for bucket, members in sorted(by_bucket.items()):
        rows = rows_per_batch(bucket, tokens_per_batch, multiple)
        # A small set does not fill a large batch: shrink to the next power of two that holds it.
        while rows // 2 >= max(len(members), multiple) and (rows // 2) % multiple == 0:
            rows //= 2
        for start in range(0, len(members), rows):
            indices = np.array(members[start : start + rows])
            yield indices, pad([sequences[i] for i in indices], rows, bucket, pad_id)


def pad(sequences: Sequence[np.ndarray], rows: int, length: int, pad_id: int) -> np.ndarray:
    """int32 [rows, length]; sequences are cut at `length`; missing rows repeat the first sequence."""
    tokens_BS = np.full((rows, length), pad_id, np.int32)
    for row in range(rows):
        sequence = sequences[row] if row < len(sequences) else sequences[0]
        cut = sequence[:length]
        tokens_BS[row, : len(cut)] = cut
    return tokens_BS
