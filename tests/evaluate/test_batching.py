"""Length buckets: every sequence once, in its bucket, in a bounded number of shapes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtr.evaluate import batching

LENGTHS = st.lists(st.integers(0, 70), min_size=1, max_size=60)


@given(LENGTHS, st.integers(8, 400), st.sampled_from([1, 2, 8]))
def test_every_sequence_once_and_whole(lengths, tokens_per_batch, multiple):
    sequences = [np.arange(1, n + 1, dtype=np.int32) for n in lengths]
    seen, shapes = [], set()
    for indices, tokens in batching.batches(sequences, (16, 32, 64), tokens_per_batch, multiple):
        shapes.add(tokens.shape)
        assert len(tokens) % multiple == 0 and len(indices) <= len(tokens)
        for row, index in zip(tokens, indices, strict=False):
            kept = sequences[index][:64]
            assert (row[: len(kept)] == kept).all() and not row[len(kept) :].any()
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(shapes) <= 4


@given(LENGTHS, st.sampled_from([1, 3, 8]), st.sampled_from([1, 4]))
def test_a_plan_is_full_batches_in_buckets_that_enough_sequences_want(lengths, rows, times):
    """Buckets never fall, and none is used for fewer sequences than asked for, but the last."""
    plan = list(batching.plan(lengths, (16, 32, 64), lambda _: rows, lambda _: rows * times))
    assert sorted(i for batch in plan for i in batch.indices.tolist()) == list(range(len(lengths)))
    assert all(len(batch.indices) == rows for batch in plan[:-1])
    used = [batch.bucket for batch in plan]
    assert used == sorted(used)
    for batch in plan:
        assert all(lengths[i] <= batch.bucket or batch.bucket == 64 for i in batch.indices)
    for bucket in set(used[:-1]) - {used[-1]}:
        assert used.count(bucket) >= times


def test_small_sets_have_small_batches():
    assert [batching.most_rows(count, 8, 8) for count in (1, 2, 7, 8, 63, 64, 1000)] == [1, 2, 8, 8, 8, 8, 64]
    assert [batching.most_rows(count, 8, 8, 3) for count in (1, 24, 100, 1000)] == [3, 24, 24, 96]


def test_bucket_is_the_shortest_that_holds():
    assert [batching.bucket_of(n, (16, 32)) for n in (0, 16, 17, 99)] == [16, 16, 32, 32]
