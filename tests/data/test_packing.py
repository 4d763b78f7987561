import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.packing import _best_fit, _row_by_row, _Side, build_batch, least_rows, pack, rows_of, unpacked_batches
from xtr.errors import UserError

_S, _T = 16, 8
# Token id 0 and empty sequences are ordinary.
_EXAMPLES = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=_S), st.lists(st.integers(0, 9), max_size=_T)), max_size=40
)


def _pairs(examples):
    return [(np.array(a, np.int64), np.array(b, np.int64)) for a, b in examples]


def _packed(pairs):
    lengths = np.array([[len(a), len(b)] for a, b in pairs]).reshape(-1, 2)
    return rows_of(pack(lengths[:, 0], lengths[:, 1], _S, _T))


def _segments(batch, row, count):
    """Reads a row back: for each segment its (inputs, targets)."""
    found = []
    for segment in range(1, count + 1):
        enc = batch["encoder_segment_ids"][row] == segment
        dec = batch["decoder_segment_ids"][row] == segment
        for mask, positions in ((enc, "encoder_positions"), (dec, "decoder_positions")):
            np.testing.assert_array_equal(batch[positions][row][mask], np.arange(mask.sum()))
            places = np.flatnonzero(mask)
            assert len(places) == 0 or places[-1] - places[0] == len(places) - 1
        targets = batch["decoder_target_tokens"][row][dec]
        np.testing.assert_array_equal(batch["decoder_input_tokens"][row][dec], [0, *targets[:-1]][: len(targets)])
        found.append((batch["encoder_input_tokens"][row][enc].tolist(), targets.tolist()))
    return found


@given(_EXAMPLES)
def test_every_example_once_whole_and_apart(examples):
    rows = _packed(_pairs(examples))
    assert sorted(i for row in rows for i in row.tolist()) == list(range(len(examples)))
    pairs = _pairs(examples)
    batch = build_batch([[pairs[i] for i in row] for row in rows], _S, _T)
    assert {a.dtype for a in batch.values()} == {np.dtype(np.int32)}
    assert {a.shape for a in batch.values()} <= {(len(rows), _S), (len(rows), _T)}
    for r, row in enumerate(rows):
        assert len(row)
        assert _segments(batch, r, len(row)) == [tuple(examples[i]) for i in row]
    np.testing.assert_array_equal(batch["decoder_loss_weights"], batch["decoder_segment_ids"] > 0)
    assert batch["encoder_segment_ids"].astype(bool).sum() == sum(len(a) for a, _ in examples)
    padding = batch["encoder_segment_ids"] == 0
    assert not batch["encoder_input_tokens"][padding].any() and not batch["encoder_positions"][padding].any()


@given(_EXAMPLES, st.randoms(use_true_random=False))
def test_order_of_examples_does_not_change_what_is_packed(examples, random):
    shuffled = list(examples)
    random.shuffle(shuffled)

    def content(examples):
        rows = _packed(_pairs(examples))
        assert all((np.diff(row) > 0).all() for row in rows)
        return len(rows), sorted((a, b) for row in rows for a, b in (examples[i] for i in row))

    assert content(examples)[1] == content(shuffled)[1]
    # Rows are filled by lengths alone.
    lengths = np.array([[len(a), len(b)] for a, b in examples]).reshape(-1, 2)
    np.testing.assert_array_equal(pack(*lengths.T, _S, _T), pack(*lengths.T, _S, _T))


@given(_EXAMPLES)
def test_no_two_rows_could_be_one(examples):
    pairs = _pairs(examples)
    rows = _packed(pairs)
    room = [(_S - sum(len(pairs[i][0]) for i in row), _T - sum(len(pairs[i][1]) for i in row)) for row in rows]
    assert all(s >= 0 and t >= 0 for s, t in room)
    for later in range(len(rows)):
        for earlier in range(later):
            s, t = room[earlier]
            assert (_S - room[later][0]) > s or (_T - room[later][1]) > t


def test_an_example_with_an_empty_side_keeps_its_segment_number():
    pairs = _pairs([([7, 8], []), ([], [5, 1]), ([9], [6, 1])])
    batch = build_batch([pairs], 6, 6)
    assert batch["encoder_segment_ids"][0].tolist() == [1, 1, 3, 0, 0, 0]
    assert batch["decoder_segment_ids"][0].tolist() == [2, 2, 3, 3, 0, 0]
    assert batch["decoder_input_tokens"][0].tolist() == [0, 5, 0, 6, 0, 0]


def test_token_zero_inside_a_sequence():
    batch = build_batch([_pairs([([7, 0, 8, 1], [0, 4, 0, 1])])], 6, 5)
    assert batch["encoder_input_tokens"][0].tolist() == [7, 0, 8, 1, 0, 0]
    assert batch["encoder_segment_ids"][0].tolist() == [1, 1, 1, 1, 0, 0]
    assert batch["decoder_loss_weights"][0].tolist() == [1, 1, 1, 1, 0]


def test_too_long():
    with pytest.raises(ValueError, match="example 1 is longer"):
        pack(np.array([3, 9]), np.array([1, 1]), 8, 8)
    with pytest.raises(ValueError, match="row 1 holds more than 4"):
        build_batch([_pairs([([1], [1])]), _pairs([([1] * 3, [1]), ([2] * 2, [1])])], 4, 4)


def test_no_examples():
    assert rows_of(pack(np.zeros(0, np.int64), np.zeros(0, np.int64), 4, 4)) == []
    batch = build_batch([[], []], 4, 3)
    assert not any(a.any() for a in batch.values()) and batch["decoder_target_tokens"].shape == (2, 3)


def _lengths(rng, n, mean, spread, low, high):
    return np.clip(rng.lognormal(np.log(mean), spread, n), low, high).astype(np.int64)


@pytest.mark.parametrize(
    "inputs, targets, slots",
    [
        ((40, 0.5), (2, 0.0), (512, 114)),  # sentence pairs, one-token labels
        ((165, 0.45), (4, 0.6), (512, 64)),  # paragraphs, short answers
        ((165, 0.45), (4, 0.6), (1024, 256)),
        ((500, 0.5), (65, 0.5), (1024, 256)),  # long documents, long targets: both sides bind
    ],
)
def test_density_on_realistic_lengths(inputs, targets, slots):
    rng = np.random.default_rng(0)
    enc, dec = _lengths(rng, 4096, *inputs, 1, slots[0]), _lengths(rng, 4096, *targets, 1, slots[1])
    rows = sum(pack(enc[i : i + 1024], dec[i : i + 1024], *slots).max() + 1 for i in range(0, 4096, 1024))
    assert max(enc.sum() / slots[0], dec.sum() / slots[1]) / rows >= 0.95


def _mixed(rng, n, share, slots):
    """Paragraphs with short answers and, in that share, sentences with a long target: both sides bind."""
    tagged = rng.random(n) < share
    inputs = np.where(tagged, _lengths(rng, n, 30, 0.5, 1, slots[0]), _lengths(rng, n, 165, 0.45, 1, slots[0]))
    return inputs, np.where(tagged, _lengths(rng, n, 60, 0.5, 1, slots[1]), _lengths(rng, n, 4, 0.6, 1, slots[1]))


@pytest.mark.parametrize(
    "share, slots, least", [(0.5, (512, 114), 0.95), (0.5, (1024, 256), 0.98), (0.85, (1024, 256), 0.99)]
)
def test_density_where_both_sides_bind(share, slots, least):
    enc, dec = _mixed(np.random.default_rng(1), 1024, share, slots)
    row_N = pack(enc, dec, *slots)
    assert max(enc.sum() / slots[0], dec.sum() / slots[1]) / (row_N.max() + 1) >= least
    # What best fit on the binding side alone gives.
    alone = _best_fit(*sorted((_Side(enc, slots[0]), _Side(dec, slots[1])), key=lambda side: -side.demand), _order(enc))
    assert row_N.max() < alone.max()


def _order(lengths):
    return np.argsort(-lengths, kind="stable")


@given(st.lists(st.tuples(st.integers(0, _S), st.integers(0, _T)), min_size=1, max_size=40), st.integers(1, 2))
def test_rows_one_by_one_hold_every_example_and_no_more_than_fits(lengths, power):
    enc, dec = np.array(lengths).T
    row_N = _row_by_row(_Side(enc, _S), _Side(dec, _T), _order(enc), power)
    assert sorted(set(row_N.tolist())) == list(range(row_N.max() + 1))
    assert np.bincount(row_N, enc).max() <= _S and np.bincount(row_N, dec).max() <= _T


@given(st.lists(st.tuples(st.integers(0, _S), st.integers(0, _T)), max_size=40))
def test_no_packing_has_fewer_rows_than_the_bound(lengths):
    enc, dec = np.array(lengths, np.int64).reshape(-1, 2).T
    bound = least_rows(enc, dec, _S, _T)
    assert bound <= len(set(pack(enc, dec, _S, _T).tolist()))
    assert bound >= max(enc.sum() / _S, dec.sum() / _T, (enc > _S / 2).sum(), (dec > _T / 2).sum())


@given(st.lists(st.integers(1, 6), max_size=7))
def test_the_bound_is_below_the_best_packing(lengths):
    """By trying every assignment."""

    def best(at, rooms):
        if at == len(lengths):
            return len(rooms)
        fits = [i for i, room in enumerate(rooms) if room >= lengths[at]]
        tried = [best(at + 1, [r - lengths[at] * (i == j) for j, r in enumerate(rooms)]) for i in fits]
        return min([*tried, best(at + 1, [*rooms, 7 - lengths[at]])])

    enc = np.array(lengths, np.int64)
    assert least_rows(enc, np.zeros_like(enc), 7, 1) <= best(0, [])


def test_unpacked_batches():
    pairs = _pairs([(range(2, 2 + n), [n, 1]) for n in (3, 6, 1)])
    batches = list(unpacked_batches(pairs, 2, 4, 3))
    assert [b["encoder_input_tokens"].tolist() for b in batches] == [
        [[2, 3, 4, 0], [2, 3, 4, 5]],
        [[2, 0, 0, 0], [0, 0, 0, 0]],
    ]
    assert batches[1]["decoder_loss_weights"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert batches[0]["encoder_segment_ids"].max() == 1
    assert list(unpacked_batches([], 2, 4, 3)) == []
    with pytest.raises(UserError, match="batch_size"):
        next(unpacked_batches(pairs, 0, 4, 3))
