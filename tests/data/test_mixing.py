from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.mixing import BlockMixture, Mixing, equal, explicit, normalized, proportional, shuffled, temperature
from xtr.errors import UserError


def test_rates():
    assert proportional([10, 30]).tolist() == [10, 30]
    assert proportional([10, 30], maximum=20).tolist() == [10, 20]
    assert equal([10, 30]).tolist() == [1, 1]
    np.testing.assert_allclose(temperature([16, 81, 1000], 4.0, maximum=256), [2, 3, 4])
    assert explicit(["a", "b"], {"b": 3, "a": 1}).tolist() == [1, 3]
    np.testing.assert_allclose(normalized([1, 3], ["a", "b"]), [0.25, 0.75])


def test_bad_rates():
    with pytest.raises(UserError, match="sum to 0"):
        normalized([0, 0], ["a", "b"])
    with pytest.raises(UserError, match="sum to 0"):
        normalized([], [])
    for rate in (-1, np.inf, np.nan):
        with pytest.raises(UserError, match="rate of b"):
            normalized([1, rate], ["a", "b"])
    with pytest.raises(UserError, match="temperature"):
        temperature([1], 0)
    with pytest.raises(UserError, match="limit"):
        temperature([1], 1, maximum=0)
    with pytest.raises(UserError, match="mnl'.*Did you mean mnli"):
        explicit(["mnli", "squad"], {"mnl": 1, "squad": 1})
    with pytest.raises(UserError, match="No mixing rate for squad"):
        explicit(["mnli", "squad"], {"mnli": 1})


@settings(max_examples=30)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.integers(1, 64), st.integers(0, 5000))
def test_every_block_follows_the_rates(weights, block, blocks):
    rates = np.array(weights) / sum(weights)
    mixture = BlockMixture(tuple(rates), block)
    before, after = mixture.drawn(blocks), mixture.drawn(blocks + 1)
    share = after - before
    assert share.sum() == block and (share >= 0).all()
    if rates.min() * block * 1024 >= 1:
        assert (np.abs(share - rates * block) < 1 + 1e-2).all()
        np.testing.assert_allclose(mixture.drawn(2048), rates * block * 2048, atol=2 * len(rates))


@given(st.integers(1, 700), st.integers(0, 2**64 - 1), st.randoms(use_true_random=False))
def test_an_order_has_every_number_once(size, seed, random):
    order = shuffled(np.arange(size), size, seed)
    assert sorted(order.tolist()) == list(range(size))
    some = np.array([random.randrange(size) for _ in range(5)])
    np.testing.assert_array_equal(shuffled(some, size, seed), order[some])


@pytest.mark.parametrize("size", [5, 64, 1000])
def test_orders_look_random(size):
    """Over many seeds each place leads to each part of the range equally often, and neighbours go separate ways."""
    orders = np.array([shuffled(np.arange(size), size, seed) for seed in range(2000)])
    for place in (0, 1, size - 1):
        fifths = np.bincount(orders[:, place] * 5 // size, minlength=5)
        expected = np.bincount(np.arange(size) * 5 // size) * 2000 / size
        assert ((fifths - expected) ** 2 / expected).sum() < 25  # chi-squared, 4 degrees of freedom: p < 1e-4
    assert abs(np.corrcoef(orders[:, 0], orders[:, 1])[0, 1] + 1 / (size - 1)) < 0.1
    assert len({tuple(order) for order in orders.tolist()}) >= 110


def test_a_very_large_order():
    size = 3 * 10**12
    found = shuffled(np.arange(1000), size, 7)
    assert len(set(found.tolist())) == 1000 and found.min() >= 0 and found.max() < size
    assert abs(found.mean() / size - 0.5) < 0.04


def test_a_tiny_rate_is_drawn_all_the_same():
    assert BlockMixture((1 - 1e-9, 1e-9), 16).drawn(1024).tolist() == [16 * 1024 - 1, 1]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.integers(1, 3000)), min_size=1, max_size=6),
    st.integers(1, 64),
    st.integers(0, 2000),
)
def test_tasks_that_end_are_left_out(members, block, at):
    weights, limits = map(np.array, zip(*members, strict=True))
    rates = tuple((weights / weights.sum()).tolist())
    mixture, endless = BlockMixture(rates, block, tuple(limits.tolist())), BlockMixture(rates, block)
    end = mixture.num_blocks
    np.testing.assert_array_equal(mixture.drawn(end), limits)
    assert (mixture.drawn(end - 1) <= limits).all() and (mixture.drawn(end - 1) < limits).any()
    at = min(at, end - 1)
    before, after = mixture.drawn(at), mixture.drawn(at + 1)
    share, left = after - before, before < limits
    assert (share >= 0).all() and 0 < share.sum() <= block and not share[~left].any()
    # A block is whole unless a task ends in it; those that are left keep their rates to one another.
    if (after[left] < limits[left]).all():
        assert share.sum() == block
        if (own := np.array(rates)[left] / np.array(rates)[left].sum()).min() * block * 1024 >= 1:
            assert (np.abs(share[left] - own * block) < 1 + 1e-2).all()
    first = next(n for n in range(end + 1) if (mixture.drawn(n) >= limits).any()) if end < 500 else 0
    np.testing.assert_array_equal(mixture.drawn(max(0, first - 1)), endless.drawn(max(0, first - 1)))


@pytest.fixture
def nli_in_two_places(task_writer):
    """mnli by itself (300 examples), and with snli (100) in the mixture `nli`, drawn 3 : 1 there."""
    rows = {"train": [{"inputs": np.array([1])}]}
    tasks = [task_writer("mnli", rows, shards=1, rate=7.0), task_writer("snli", rows, shards=1)]
    components = [{"mnli": 1.0, "nli": 0.75}, {"nli": 0.25}]
    for task, n in zip(tasks, (300, 100), strict=True):
        task.info["splits"]["train"]["examples"] = n
    return [replace(task, components=of) for task, of in zip(tasks, components, strict=True)]


@pytest.mark.parametrize(
    "mixing, mnli, snli",
    [
        (Mixing(), 7.0, 1.0),
        (Mixing("proportional", limit=None), 300 + 0.75 * 400, 0.25 * 400),
        (Mixing("proportional", limit=350), 300 + 0.75 * 350, 0.25 * 350),
        (Mixing("temperature", temperature=2.0), 300**0.5 + 0.75 * 20, 0.25 * 20),
        (Mixing("equal"), 1.75, 0.25),
        (Mixing({"mnli": 0, "nli": 8}), 6, 2),
    ],
)
def test_members_are_mixed_and_keep_their_inner_rates(nli_in_two_places, mixing, mnli, snli):
    assert [task.rate for task in mixing.of(nli_in_two_places, "train")] == pytest.approx([mnli, snli])


def test_wrong_mixings_are_refused(nli_in_two_places):
    with pytest.raises(UserError, match="Did you mean proportional"):
        Mixing("proportionally")
    with pytest.raises(UserError, match="'nlu'.* Did you mean nli"):
        Mixing({"mnli": 1, "nlu": 1}).of(nli_in_two_places, "train")
    with pytest.raises(UserError, match="No mixing rate for nli"):
        Mixing({"mnli": 1}).of(nli_in_two_places, "train")
    with pytest.raises(UserError, match="exhausted is 'drp'.* Did you mean drop"):
        Mixing(exhausted="drp")
    for epochs in (0, -1, 1.5, True):
        with pytest.raises(UserError, match=f"epochs is {epochs}; it must be a whole number"):
            Mixing(epochs=epochs)


@pytest.fixture
def texts_and_a_task(task_writer):
    """English in two corpora (300 and 100 documents), Swahili in one (25), each drawn as often, and a task beside."""
    rows = {"train": [{"targets": np.array([1])}]}
    found = []
    for name, language, kind, n in (
        ("wiki.en", "en", "text", 300), ("news.en", "en", "text", 100), ("wiki.sw", "sw", "text", 25),
        ("mnli", "en", "classification", 999),
    ):  # fmt: skip
        task = task_writer(name, rows, shards=1, rate=2.0, kind=kind, language=language)
        task.info["splits"]["train"]["examples"] = n
        found.append(task)
    return found


@pytest.mark.parametrize(
    "alpha, swahili", [(1.0, 25 / 425), (0.5, 5 / 25), (0.3, 25**0.3 / (25**0.3 + 400**0.3)), (0, 0.5)]
)
def test_text_is_sampled_by_language(texts_and_a_task, alpha, swahili):
    rates = [task.rate for task in Mixing(language_alpha=alpha).of(texts_and_a_task, "train")]
    english = 1 - swahili
    assert rates == pytest.approx([6 * english * 0.75, 6 * english * 0.25, 6 * swahili, 2.0])
    equal = Mixing("equal", language_alpha=alpha).of(texts_and_a_task, "train")
    assert [t.rate for t in equal] == pytest.approx([3 * english * 0.75, 3 * english * 0.25, 3 * swahili, 1.0])


def test_without_an_alpha_text_keeps_its_registered_rates(texts_and_a_task):
    assert [task.rate for task in Mixing().of(texts_and_a_task, "train")] == [2.0] * 4
    with pytest.raises(UserError, match="language_alpha is 3"):
        Mixing(language_alpha=3)
