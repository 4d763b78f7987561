"""Batches of labelled texts: padding, cuts, and the same stream after a restart and for any number of hosts."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.framing import longest_first
from xtr.data.pipeline import TrainData, train_batches
from xtr.errors import UserError

PAD, BOS, EOS = 1, 0, 2
LABELS = ["no", "yes", "perhaps"]


def example(number, a, b, label, choices=LABELS):
    """<s> A </s></s> B </s> of given lengths; the second token tells it apart. The second text has type 1."""
    rng = np.random.default_rng(number)
    texts = [rng.integers(10, 90, n) for n in (a, b)]
    texts[0][0] = 100 + number
    return {
        "inputs": np.concatenate([[BOS], texts[0], [EOS, EOS], texts[1], [EOS]]),
        "token_types": np.repeat([0, 1], [a + 3, b + 1]),
        "text_spans": np.array([1, 1 + a, a + 3, a + 3 + b]),
        "label": np.array([label]),
        "meta": json.dumps({"id": str(number), "choices": choices, "label": label}),
    }


A = [example(i, 1 + i % 9, i % 7, i % 3) for i in range(150)]
B = [example(1000 + i, 2, 3, 2) for i in range(40)]


@pytest.fixture(scope="session")
def tasks(shared_task_writer):
    a = shared_task_writer("labelled_a", {"train": A, "validation": A[:10]}, shards=3)
    return a, dataclasses.replace(shared_task_writer("labelled_b", {"train": B}), rate=2.0)


def spec(*tasks, **options):
    options = {"batch_size": 4, "packing_window": 16, "seed": 3, "pad_id": PAD, "num_labels": 3, **options}
    return TrainData(tasks, {"inputs": options.pop("length", 24)}, objective="classify", **options)


def everything(data, **options):
    batches = train_batches(data, **options)
    return list(batches), batches.stats()


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_an_epoch_holds_every_example_once_each_in_a_row(tasks):
    batches, stats = everything(spec(tasks[0], epochs=1))
    assert {name: array.shape for name, array in batches[0].items()} == {
        "encoder_input_tokens": (4, 24), "encoder_segment_ids": (4, 24), "encoder_positions": (4, 24),
        "encoder_token_types": (4, 24), "labels": (4,),
    }  # fmt: skip
    assert all(array.dtype == np.int32 for array in batches[0].values())
    rows = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    real_RS = rows["encoder_segment_ids"] > 0
    assert real_RS.sum() == sum(len(e["inputs"]) for e in A)
    assert set(rows["encoder_input_tokens"][~real_RS]) == {PAD}
    for name in ("encoder_segment_ids", "encoder_positions", "encoder_token_types"):
        assert not rows[name][~real_RS].any()
    found = {}
    for row in range(len(real_RS)):
        n = real_RS[row].sum()
        assert real_RS[row, :n].all() and set(rows["encoder_segment_ids"][row, :n]) <= {1}
        np.testing.assert_array_equal(rows["encoder_positions"][row, :n], np.arange(n))
        if n:
            texts = (rows[f"encoder_{name}"][row, :n].tolist() for name in ("input_tokens", "token_types"))
            found[int(rows["encoder_input_tokens"][row, 1])] = (*texts, int(rows["labels"][row]))
    assert found == {
        100 + i: (e["inputs"].tolist(), e["token_types"].tolist(), int(e["label"][0])) for i, e in enumerate(A)
    }
    # 150 examples in batches of 4: the last one is filled up with two empty rows.
    assert len(batches) == 38 and (~real_RS.any(axis=1)).sum() == 2
    assert (stats["examples"], stats["rows"], stats["truncated_examples"]) == (150, 150, 0)
    assert stats["encoder_tokens"] == real_RS.sum() and not [name for name in stats if "decoder" in name]


def test_long_texts_are_cut_and_counted(task_writer):
    task = task_writer("long", {"train": [example(0, 30, 4, 1), example(1, 3, 2, 0)]})
    (batch,), stats = everything(spec(task, epochs=1, batch_size=2, length=16))
    row = int((batch["encoder_input_tokens"][:, 1] == 100).argmax())
    tokens = batch["encoder_input_tokens"][row]
    np.testing.assert_array_equal(tokens[1:9], example(0, 30, 4, 1)["inputs"][1:9])
    assert tokens[0] == BOS and list(np.flatnonzero(tokens == EOS)) == [9, 10, 15]
    np.testing.assert_array_equal(batch["encoder_token_types"][row], np.repeat([0, 1], [11, 5]))
    assert (stats["truncated_examples"], stats["truncated_encoder_tokens"]) == (1, 22)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(4, 90))
def test_the_longer_text_is_cut_first(a, b, length):
    kept = longest_first([1, 1 + a, a + 3, a + 3 + b], a + b + 4, length)
    first, second = (int(((kept >= s) & (kept < s + n)).sum()) for s, n in ((1, a), (a + 3, b)))
    assert len(kept) == min(a + b + 4, length) == first + second + 4
    np.testing.assert_array_equal(kept, np.r_[: 1 + first, 1 + a : a + 3 + second, a + 3 + b])
    assert first == a or second == b or abs(first - second) <= 1
    assert first >= min(a, (length - 4) // 2) and second >= min(b, (length - 4) // 2)


@pytest.mark.parametrize("kind", ["xlmr", "wordpiece"])
def test_the_cut_is_hugging_faces(kind, small_vocabularies, hugging_face):
    from xtr.data.vocabulary import read_vocabulary

    theirs, vocabulary = hugging_face(kind, small_vocabularies[kind]), read_vocabulary(small_vocabularies[kind])
    texts = ["", "The fox", "jumps over the lazy dog", "the queen and seven wizards make toxic brew"]
    for a, b in itertools.product(texts, texts):
        ids, types = vocabulary.with_special_tokens(vocabulary.encode(a), vocabulary.encode(b))
        between = 2 if kind == "xlmr" else 1
        n_a, n_b = len(vocabulary.encode(a)), len(vocabulary.encode(b))
        spans = [1, 1 + n_a, 1 + n_a + between, 1 + n_a + between + n_b]
        for length in (4, 5, 8, 11, 14):
            kept = longest_first(spans, len(ids), length)
            expected = theirs([a], [b], truncation="longest_first", max_length=length, return_token_type_ids=True)
            assert [[ids[i] for i in kept]] == expected["input_ids"], (a, b, length)
            if kind == "wordpiece":
                assert [[types[i] for i in kept]] == expected["token_type_ids"]
    text = vocabulary.encode(texts[3])
    kept = longest_first([1, 1 + len(text)], len(text) + 2, 7)
    ids, _ = vocabulary.with_special_tokens(text)
    assert [ids[i] for i in kept] == theirs(texts[3], truncation=True, max_length=7)["input_ids"]


@pytest.mark.parametrize("at", [0, 1, 9, 37])
def test_a_restart_gives_the_same_batches(tasks, at):
    data = spec(*tasks)
    batches = train_batches(data)
    for _ in range(at):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    assert len(json.dumps(state)) < 400
    ahead = [next(batches) for _ in range(4)]
    resumed = train_batches(data, start_state=state)
    for batch in ahead:
        same(batch, next(resumed))
    assert resumed.stats() == batches.stats()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batches(tasks, hosts):
    data = spec(*tasks, epochs=1)
    whole, stats = everything(data)
    parts = [everything(data, process_index=p, process_count=hosts) for p in range(hosts)]
    assert all(s == stats for _, s in parts)
    for i, batch in enumerate(whole):
        same(batch, {k: np.concatenate([part[i][k] for part, _ in parts]) for k in batch})
    it = train_batches(data, 1, hosts)
    next(it)
    same(next(train_batches(data, start_state=it.get_state())), whole[1])


def test_the_order_is_the_seeds_and_targets_play_no_part(tasks):
    def labels(**options):
        return [b["encoder_input_tokens"][:, 1].tolist() for b in everything(spec(tasks[0], epochs=1, **options))[0]]

    assert labels() == labels() != labels(seed=4)
    lengths = {"inputs": 24, "targets": 7}
    data = TrainData((tasks[0],), lengths, 4, objective="classify", pad_id=PAD, num_labels=3)
    assert data.pack is False and data.lengths == (("inputs", 24),)


def test_what_cannot_be_trained_on(tasks, task_writer):
    other = task_writer("other", {"train": [example(0, 3, 2, 1, ["left", "right", "none"])]})
    bare = task_writer("bare", {"train": [{"inputs": [5, 1], "targets": [6, 1], "meta": "{}"}]})
    for data, message in [
        (
            spec(tasks[0], num_labels=2),
            r"labelled_a has 3 labels \(no, yes, perhaps\), but the head has 2: set NUM_LAB",
        ),
        (spec(tasks[0], other), "labelled_a has no, yes, perhaps, other has left, right, none"),
        (spec(bare), "bare is not for heads/classify.gin: .*lack label, token_types, text_spans"),
        (spec(tasks[0], length=3), "3 tokens have no room for the 4 special tokens"),
        (spec(tasks[1], split="validation"), "no split 'validation'"),
    ]:
        with pytest.raises(UserError, match=message):
            train_batches(data)
    with pytest.raises(UserError, match="positive lengths for inputs"):
        TrainData((tasks[0],), {"targets": 3}, 4, objective="classify")
    with pytest.raises(UserError, match="objective is 'chose'; there are training data for"):
        TrainData((tasks[0],), {"inputs": 3}, 4, objective="chose")
