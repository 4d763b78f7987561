"""Length buckets: examples sorted by length into batches of a bounded number of compiled shapes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

# Lengths of inputs that are compiled for: a quarter more each at the most from 64 on, so that padding costs a tenth.
LENGTH_BUCKETS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024)
_ROWS_OF_A_TILE = 8
_FEW_TOKENS = 2048  # and what a batch holds before a set is small: with less, weights are read for too little work


@dataclasses.dataclass(frozen=True)
class Batch:
    """Which sequences a batch holds, and its shape.

    Attributes:
      indices: of the sequences, at most `rows`.
      rows, bucket: of the batch: rows and tokens of each.
    """

    indices: np.ndarray
    rows: int
    bucket: int


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The shortest bucket that holds `length` tokens; the longest one for anything longer (which is then cut)."""
    return next((bucket for bucket in buckets if length <= bucket), buckets[-1])


def rows_per_batch(bucket: int, tokens_per_batch: int, multiple: int = 1) -> int:
    """Rows of `bucket` tokens in a batch: as many as it holds, at least one a device; of 8 or more a device a
    multiple of 8, as devices lay out rows.

    Args:
      multiple: the number of devices.
    """
    rows = max(tokens_per_batch // bucket // multiple, 1)
    return multiple * (rows if rows < _ROWS_OF_A_TILE else rows - rows % _ROWS_OF_A_TILE)


def most_rows(count: int, share: int, few: int, multiple: int = 1) -> int:
    """Rows of a batch that is no more than 1/share of `count` sequences, but has `few` a device where they are so many.

    A small set in large batches would be padded to the longest of all, and leave most of the last batch empty. A power
    of two a device: sets of many sizes have few shapes.
    """
    share_of_each, fewest = count // share // multiple, min(-(-count // multiple), few)
    # Up to a power of two where all are to go together, else down.
    return multiple * (1 << max(share_of_each.bit_length() - 1, max(fewest - 1, 0).bit_length()))


def plan(
    lengths: Sequence[int],
    buckets: Sequence[int],
    rows_of: Callable[[int], int],
    least_of: Callable[[int], int] | None = None,
) -> Iterator[Batch]:
    """Divides sequences into batches, the shortest first: buckets never fall.

    Every batch is full but the last, and in the shortest bucket that then holds it: what does not fill a batch of its
    bucket goes with longer sequences, and a bucket that few would fill is not used, hence not compiled for.

    Args:
      lengths: of the sequences, in tokens.
      rows_of: bucket -> rows of its batches, which never rise.
      least_of: bucket -> how many sequences a bucket is used for at the least; default one batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    start, place, needed = 0, 0, least_of or rows_of
    while start < len(order):
        last = order[min(start + needed(buckets[place]), len(order)) - 1]
        if lengths[last] > buckets[place] and place + 1 < len(buckets):
            place, needed = place + 1, least_of or rows_of
            continue
        needed, rows = rows_of, rows_of(buckets[place])
        yield Batch(np.array(order[start : start + rows]), rows, buckets[place])
        start += rows


def batches(
    sequences: Sequence[np.ndarray], buckets: Sequence[int], tokens_per_batch: int, multiple: int = 1, pad_id: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices_b, tokens_BS): which sequences a batch holds, and their tokens padded with `pad_id`.

    Shapes are one a bucket, and one more: the last batch is no larger than it must be. Only the first len(indices_b)
    rows of tokens_BS are sequences; the rest repeat the first row, so that no row is empty.
    """
    most = most_rows(len(sequences), 8, 8, multiple)

    def rows_of(bucket: int) -> int:
        few = max(most, rows_per_batch(bucket, _FEW_TOKENS, multiple))
        return min(rows_per_batch(bucket, tokens_per_batch, multiple), few)

    for batch in plan([len(s) for s in sequences], buckets, rows_of):
        rows = batch.rows
        while rows // 2 >= max(len(batch.indices), multiple) and (rows // 2) % multiple == 0:
            rows //= 2
        yield batch.indices, pad([sequences[i] for i in batch.indices], rows, batch.bucket, pad_id)


def pad(sequences: Sequence[np.ndarray], rows: int, length: int, pad_id: int) -> np.ndarray:
    """int32 [rows, length]; sequences are cut at `length`; missing rows repeat the first sequence."""
    tokens_BS = np.full((rows, length), pad_id, np.int32)
    for row in range(rows):
        sequence = sequences[row] if row < len(sequences) else sequences[0]
        cut = sequence[:length]
        tokens_BS[row, : len(cut)] = cut
    return tokens_BS
