"""Batches of queries and positives: cut each by itself, and told apart by their groups."""

import numpy as np
import pytest

from xtr.data.pipeline import TrainData, train_batches
from xtr.errors import UserError

PAD = 1
GROUPS = [2**63 - 1, 2**32, 2**32 + 1, 2**31, 1, 2**63 - 1]


def example(number, query, positive, group):
    inputs, targets = np.r_[0, np.arange(100, 100 + query), 2], np.r_[0, np.arange(200, 200 + positive), 2]
    inputs[1], targets[1] = 1000 + number, 1000 + number
    return {
        "inputs": inputs,
        "token_types": np.zeros_like(inputs),
        "text_spans": np.array([1, 1 + query]),
        "targets": targets,
        "target_text_spans": np.array([1, 1 + positive]),
        "group": np.array([group]),
    }


@pytest.fixture
def task(task_writer):
    return task_writer("pairs", {"train": [example(i, 2 + i, 9 - i, group) for i, group in enumerate(GROUPS)]})


def test_batches(task):
    data = TrainData((task,), {"inputs": 6, "targets": 8}, 4, objective="contrastive", epochs=1, pad_id=PAD)
    batches = train_batches(data)
    groups = {}
    for batch in batches:
        assert {name: array.shape for name, array in batch.items()} == {
            "encoder_input_tokens": (4, 6), "encoder_segment_ids": (4, 6), "encoder_positions": (4, 6),
            "encoder_token_types": (4, 6), "target_input_tokens": (4, 8), "target_segment_ids": (4, 8),
            "target_positions": (4, 8), "groups": (4, 2),
        }  # fmt: skip
        assert all(array.dtype == np.int32 for array in batch.values())
        for query, positive, group in zip(
            batch["encoder_input_tokens"], batch["target_input_tokens"], batch["groups"], strict=True
        ):
            if (query == PAD).all():
                assert (positive == PAD).all()
                continue
            number = query[1] - 1000
            assert positive[1] == query[1]
            groups[int(number)] = tuple(group.tolist())
            for tokens, size, slots in ((query, 4 + number, 6), (positive, 11 - number, 8)):
                kept = min(size, slots)
                assert tokens[kept - 1] == 2 and (tokens[kept:] == PAD).all() and PAD not in tokens[:kept]
    same = {(a, b) for a in groups for b in groups if groups[a] == groups[b]}
    assert same == {(a, b) for a in range(6) for b in range(6) if GROUPS[a] == GROUPS[b]}
    stats = batches.stats()
    assert (stats["examples"], stats["truncated_examples"]) == (6, 6)
    assert (stats["truncated_encoder_tokens"], stats["truncated_target_tokens"]) == (6, 6)
    assert stats["target_tokens"] == 45 and not [name for name in stats if "decoder" in name]


def test_what_cannot_be_trained_on(task, task_writer):
    with pytest.raises(UserError, match="lengths for inputs and targets"):
        TrainData((task,), {"inputs": 6}, 4, objective="contrastive")
    with pytest.raises(UserError, match="no room for the 2 special tokens"):
        train_batches(TrainData((task,), {"inputs": 6, "targets": 1}, 4, objective="contrastive"))
    half = {name: value for name, value in example(0, 3, 3, 1).items() if name != "target_text_spans"}
    with pytest.raises(UserError, match="dual_encoder.gin: .*lack target_text_spans. tasks/formats/encoder.py"):
        lengths = {"inputs": 6, "targets": 6}
        train_batches(TrainData((task_writer("half", {"train": [half]}),), lengths, 4, objective="contrastive"))
