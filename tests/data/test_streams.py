"""Whole streams of packed rows: whatever the examples are, each is there once an epoch, whole, or cut and counted."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.mixing import Mixing
from xtr.data.pipeline import TrainData, train_batches
from xtr.data.vocabulary import read_vocabulary

_LENGTHS = {"inputs": 12, "targets": 6}
# Token id 0 is ordinary, either feature may be empty, and either may be longer than its slots.
_EXAMPLES = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=15), st.lists(st.integers(0, 9), max_size=9)),
    min_size=1,
    max_size=30,
)
_numbers = itertools.count()


def _kept(example, objective):
    """What training is to see of an example."""
    inputs, targets = example
    if objective == "seq2seq":
        return tuple(inputs[:12]), tuple(targets[:6])
    inputs, targets = inputs[-12:], targets[:6]
    whole = [*inputs, *targets]
    weights = [int(i >= len(inputs)) for i in range(1, len(whole))]
    return tuple(whole[:-1]), tuple(whole[1:]), tuple(weights)


def _found(batch, objective):
    """What a batch holds of examples that have any tokens."""
    if objective == "seq2seq":
        sides = [("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")]
    else:
        sides = [("decoder", f"decoder_{what}") for what in ("input_tokens", "target_tokens", "loss_weights")]
    segments = {side: batch[f"{side}_segment_ids"] for side, _ in sides}
    for row in range(len(segments["decoder"])):
        for segment in range(1, max(ids[row].max() for ids in segments.values()) + 1):
            found = tuple(tuple(batch[name][row][segments[side][row] == segment].tolist()) for side, name in sides)
            if any(found):
                yield found


@pytest.mark.parametrize("objective", ["seq2seq", "causal"])
@settings(max_examples=40, deadline=None)
@given(examples=_EXAMPLES, epochs=st.integers(1, 2), window=st.integers(1, 12), seed=st.integers(0, 9))
def test_no_example_is_split_lost_or_there_twice(shared_task_writer, objective, examples, epochs, window, seed):
    if objective == "causal" and not any(inputs for inputs, _ in examples):
        examples = [*examples, ([1], [1])]  # otherwise it is a task of plain text
    raw = [{"inputs": np.array(a, np.int64), "targets": np.array(b, np.int64)} for a, b in examples]
    task = shared_task_writer(f"stream_{next(_numbers)}", {"train": raw})
    data = TrainData(
        (task,), _LENGTHS, batch_size=3, objective=objective, epochs=epochs, packing_window=window, seed=seed
    )
    batches = train_batches(data, prefetch=0)
    found = Counter(example for batch in batches for example in _found(batch, objective))
    expected = [kept for example in examples if any(kept := _kept(example, objective))]
    assert found == Counter(expected * epochs)

    stats = batches.stats()
    cut = [(len(a) > 12, len(b) > 6) for a, b in examples]
    assert stats["examples"] == epochs * len(examples)
    assert stats["truncated_examples"] == epochs * sum(map(any, cut))
    assert stats["encoder_tokens"] == epochs * sum(len(kept[0]) for kept in expected)
    nothing = [not b or objective == "causal" and len(a) + len(b) < 2 for a, b in examples]
    assert stats["empty_examples"] == ({task.name: sum(nothing)} if any(nothing) else {})
    batches.close()


@pytest.fixture(scope="module")
def texts(shared_task_writer, small_vocabularies):
    """Plain text in three languages of very different size, with a vocabulary that has a mask."""
    vocabulary = read_vocabulary(small_vocabularies["xlmr"])
    info = {"kind": "text", "vocabulary": {"path": str(small_vocabularies["xlmr"]), "sha256": vocabulary.sha256}}
    rng, tasks = np.random.default_rng(0), []
    for language, n in (("en", 640), ("sw", 20), ("yo", 1)):
        documents = [{"targets": np.append(rng.integers(300, 340, k), 2)} for k in rng.integers(5, 30, n)]
        tasks.append(shared_task_writer(f"text.{language}", {"train": documents}, language=language, **info))
    return tasks


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_text_in_many_languages_is_drawn_by_alpha_and_found_again(texts, objective):
    tasks = Mixing(language_alpha=0.3).of(texts, "train")
    data = TrainData(
        tasks, {"inputs": 40, "targets": 24}, batch_size=8, objective=objective, packing_window=128, seed=4
    )
    batches = train_batches(data, prefetch=0)
    for _ in range(200):
        next(batches)
    drawn = batches.stats()["examples_by_task"]
    expected = np.array([640, 20, 1]) ** 0.3
    shares = np.array([drawn[task.name] for task in tasks]) / sum(drawn.values())
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.02)
    assert batches.stats()["encoder_density"] > 0.85
    state = batches.get_state()
    again = train_batches(data, prefetch=0, start_state=state)
    other = train_batches(dataclasses.replace(data, seed=5), prefetch=0)
    for _ in range(3):
        here, there, elsewhere = next(batches), next(again), next(other)
        for name, array in here.items():
            np.testing.assert_array_equal(array, there[name])
        assert any((array != elsewhere[name]).any() for name, array in here.items())
