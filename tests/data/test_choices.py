"""Batches of choices: every text cut by itself, examples of different numbers of choices in one batch."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.framing import longest_first
from xtr.data.pipeline import TrainData, train_batches
from xtr.errors import DataError, UserError

PAD, BOS, EOS = 1, 0, 2


def example(number, sizes, label=0, **changes):
    """<s> A </s></s> B </s> for each (length of A, length of B) of `sizes`; the first token of B tells it apart."""
    inputs, types, spans, lengths = [], [], [], []
    for c, (a, b) in enumerate(sizes):
        inputs += [BOS, *range(10, 10 + a), EOS, EOS, 1000 + 10 * number + c, *range(50, 49 + b), EOS]
        types += [0] * (a + 3) + [1] * (b + 1)
        spans += [1, 1 + a, a + 3, a + 3 + b]
        lengths.append(a + b + 4)
    return {
        "inputs": np.array(inputs),
        "token_types": np.array(types),
        "text_spans": np.array(spans),
        "choice_lengths": np.array(lengths),
        "label": np.array([label]),
        "meta": json.dumps({"id": str(number), "choices": ["x"] * len(sizes), "label": label}),
    } | changes


def spec(*tasks, length=16, **options):
    return TrainData(tasks, {"inputs": length}, objective="choose", pad_id=PAD, **{"batch_size": 4, **options})


def rows_of(data):
    """All rows of an epoch: {first token of each choice's second text: (tokens, types)} and the labels of examples."""
    texts, labels, shapes = {}, {}, set()
    batches = train_batches(data)
    for batch in batches:
        shapes.add(batch["encoder_input_tokens"].shape)
        for tokens_CS, segments_CS, types_CS, label in zip(
            *(batch[f"encoder_{name}"] for name in ("input_tokens", "segment_ids", "token_types")), batch["labels"],
            strict=True,
        ):  # fmt: skip
            present = segments_CS.any(axis=1)
            assert (tokens_CS[segments_CS == 0] == PAD).all() and not types_CS[segments_CS == 0].any()
            assert present[: present.sum()].all()  # the absent ones come last
            for c in np.flatnonzero(present):
                real = segments_CS[c] > 0
                tokens = tokens_CS[c][real].tolist()
                key = next(t for t in tokens if t >= 1000)
                texts[key] = (tokens, types_CS[c][real].tolist())
                labels[key // 10] = int(label)
    return texts, labels, shapes, batches.stats()


numbers = iter(range(10**6))
choices = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=5)


@settings(max_examples=25)
@given(examples=st.lists(choices, min_size=1, max_size=5), length=st.integers(6, 20), data=st.data())
def test_every_choice_of_every_example_is_in_its_row(examples, length, data, shared_task_writer):
    labels = [data.draw(st.integers(0, len(sizes) - 1)) for sizes in examples]
    made = [example(i, *pair) for i, pair in enumerate(zip(examples, labels, strict=True))]
    task = shared_task_writer(f"choices{next(numbers)}", {"train": made}, shards=1)
    texts, found, shapes, stats = rows_of(spec(task, length=length, epochs=1))
    most = max(map(len, examples))
    assert shapes == {(4, most, length)}
    assert found == {100 + i: label for i, label in enumerate(labels)}
    expected = {}
    for i, (sizes, whole) in enumerate(zip(examples, made, strict=True)):
        starts = np.cumsum(whole["choice_lengths"]) - whole["choice_lengths"]
        for c, (start, size) in enumerate(zip(starts, whole["choice_lengths"], strict=True)):
            kept = start + longest_first(whole["text_spans"][4 * c : 4 * c + 4], int(size), length)
            expected[1000 + 10 * i + c] = (whole["inputs"][kept].tolist(), whole["token_types"][kept].tolist())
        assert len(sizes) == len(whole["choice_lengths"])
    assert texts == expected
    tokens = sum(len(text) for text, _ in expected.values())
    assert (stats["examples"], stats["encoder_tokens"]) == (len(examples), tokens)
    assert stats["truncated_encoder_tokens"] == sum(len(e["inputs"]) for e in made) - tokens
    rows = -(-len(examples) // 4) * 4
    assert stats["encoder_density"] == pytest.approx(tokens / (len(examples) * most * length))
    assert rows >= len(examples) and not [name for name in stats if "decoder" in name]


def test_tasks_of_four_and_of_five_choices_share_batches(task_writer):
    four = task_writer("four", {"train": [example(i, [(2, 3)] * 4, i % 4) for i in range(6)]})
    five = task_writer("five", {"train": [example(50 + i, [(3, 1)] * 5, 4) for i in range(6)]})
    texts, labels, shapes, _ = rows_of(spec(four, five, epochs=1))
    assert shapes == {(4, 5, 16)} and len(texts) >= 6 * 4 + 5
    assert {labels[n] for n in labels if n >= 150} == {4}
    # A member that is drawn never does not widen the batch.
    assert spec(four, dataclasses.replace(five, rate=0.0)).num_choices == 4


def test_what_cannot_be_trained_on(task_writer):
    good = example(0, [(2, 3), (4, 4)], 1)
    short = task_writer("short", {"train": [good | {"choice_lengths": np.array([9, 4])}]})
    unlabelled = task_writer("unlabelled", {"train": [good, good | {"label": np.array([-1])}]})
    beyond = task_writer("beyond", {"train": [good | {"label": np.array([2])}]})
    for data, kind, message in [
        (spec(short), DataError, "example 0 of 'train' has 21 tokens, but its choice_lengths sum to 13"),
        (spec(unlabelled), DataError, "example 1 of 'train' has the label -1, which is not of 0 to 1"),
        (spec(beyond), DataError, "label 2"),
        (spec(task_writer("good", {"train": [good]}), length=3), UserError, "no room for the 4 special tokens"),
    ]:
        with pytest.raises(kind, match=message):
            train_batches(data)
