"""TASK_FEATURE_LENGTHS = 'auto': what must fit does, and no other lengths are cheaper."""

import numpy as np
import pytest

from xtr.data.length_search import Examples
from xtr.data.lengths import AutoLengths
from xtr.data.pipeline import TrainData
from xtr.errors import UserError

RNG = np.random.default_rng(0)
INFO = {"kind": "text2text", "language": "en", "format": "text2text", "features": ["inputs", "targets"]}
FINE = AutoLengths(kept=0.9, multiples=(16, 4), most=160)


def flops(inputs, targets):
    """A model whose targets cost five times as much as its inputs, with attention over whole rows."""
    return inputs * (100 + inputs) + targets * (500 + targets + inputs)


def _examples(inputs, targets) -> list[dict]:
    return [
        {"inputs": np.ones(a, np.int64), "targets": np.ones(b, np.int64)} for a, b in zip(inputs, targets, strict=True)
    ]


@pytest.fixture(scope="module")
def tasks(shared_task_writer):
    short = _examples(RNG.integers(5, 40, 300), RNG.integers(1, 4, 300))
    long = _examples(RNG.integers(20, 100, 50), RNG.integers(1, 9, 50))
    return (
        shared_task_writer("lengths_short", {"train": short}, rate=3.0, **INFO),
        shared_task_writer("lengths_long", {"train": long}, rate=1.0, **INFO),
    )


@pytest.fixture(scope="module")
def text(shared_task_writer):
    documents = [{"targets": np.arange(3, n)} for n in (9, 40, 400)]
    return shared_task_writer("lengths_text", {"train": documents}, **INFO | {"kind": "text", "features": ["targets"]})


def _data(tasks, **more) -> TrainData:
    return TrainData(tuple(tasks), {"inputs": 1, "targets": 1}, batch_size=1, packing_window=256, **more)


def test_of_every_task_the_share_that_must_fit_does(tasks):
    chosen = Examples(_data(tasks)).choose(flops, FINE)
    assert chosen.lengths["inputs"] % 16 == chosen.lengths["targets"] % 4 == 0
    for task in tasks:
        lengths, _ = task.lengths("train", ("inputs", "targets"))
        for name, own in zip(("inputs", "targets"), lengths, strict=True):
            assert (own <= chosen.lengths[name]).mean() >= 0.9
        cut = (lengths > np.array([[chosen.lengths["inputs"]], [chosen.lengths["targets"]]])).any(axis=0)
        assert chosen.cut[task.name] == pytest.approx(cut.mean())
    nothing_cut = Examples(_data(tasks)).choose(flops, AutoLengths(1.0, (16, 4), 160))
    assert set(nothing_cut.cut.values()) == {0.0} and nothing_cut.tokens_cut == 0.0


@pytest.mark.parametrize("objective", ["seq2seq", "causal"])
def test_nothing_is_cheaper(tasks, objective):
    examples = Examples(_data(tasks, objective=objective))
    examples.windows = examples.windows[:2]  # by which candidates are compared
    cost = (lambda s, t: (s + t) * (100 + s + t)) if objective == "causal" else flops
    chosen, least = examples.choose(cost, FINE), examples.least(FINE, None)
    for inputs in range(least["inputs"], 161, 16):
        for targets in range(least["targets"], 161, 4):
            if objective == "seq2seq" or (inputs + targets) % 16 == 0 and targets == least["targets"]:
                assert examples.measure({"inputs": inputs, "targets": targets}, cost).flops >= chosen.flops


def test_short_targets_leave_no_room_for_long_ones(tasks):
    """T5X's rows have room for one target token in four or five; these examples have one in ten."""
    examples = Examples(_data(tasks))
    chosen, t5x = examples.choose(flops, FINE), examples.measure({"inputs": 160, "targets": 36}, flops)
    assert chosen.flops < 0.8 * t5x.flops and chosen.density["targets"] > t5x.density["targets"]


def test_one_example_a_row_takes_the_least_lengths(tasks):
    examples = Examples(_data(tasks, pack=False))
    chosen = examples.choose(flops, FINE)
    assert chosen.lengths == examples.least(FINE, None) and chosen.examples_a_row == 1
    assert chosen.flops == flops(*chosen.lengths.values())


def test_a_model_without_positions_for_more_gets_no_more(tasks):
    chosen = Examples(_data(tasks)).choose(flops, FINE, longest=48)
    assert chosen.lengths["inputs"] == 48 and chosen.cut["lengths_long"] > 0.1


def test_a_choice_is_measured_by_its_longest_text(shared_task_writer):
    row = {"inputs": np.arange(2, 24), "token_types": np.zeros(22, np.int64), "label": np.array([1])}
    row |= {"choice_lengths": np.array([4, 18]), "text_spans": np.array([0, 2, 2, 4, 0, 9, 9, 18]), "meta": b"{}"}
    task = shared_task_writer(
        "lengths_choices", {"train": [row] * 3}, **INFO | {"kind": "multiple_choice", "format": "encoder"}
    )
    data = TrainData((task,), {"inputs": 1}, batch_size=1, objective="choose")
    assert Examples(data).choose(lambda s, t: s, FINE).lengths == {"inputs": 20}


def test_text_beside_a_task_gets_room_for_its_spans(tasks, text, vocabulary):
    alone = Examples(_data(tasks)).choose(flops, FINE).lengths
    mixed = Examples(_data((*tasks, text), vocabulary=vocabulary)).choose(flops, FINE).lengths
    assert mixed["targets"] > alone["targets"] and mixed["targets"] >= mixed["inputs"] // 5


def test_text_alone_says_nothing_of_lengths(text):
    for objective in ("seq2seq", "denoise", "causal", "mlm"):
        with pytest.raises(UserError, match="lengths_text is plain text.*Give it, like"):
            Examples(_data((text,), objective=objective))


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="kept is 0"):
        AutoLengths(kept=0)
    with pytest.raises(UserError, match="multiples"):
        AutoLengths(multiples=(128,))
