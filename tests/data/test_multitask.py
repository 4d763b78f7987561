"""Batches of several heads: every batch is of one, as often as the rates say, and goes on from a state."""

import dataclasses
import itertools
import json
from collections import Counter

import numpy as np
import pytest

from xtr.data.multitask import MultitaskBatches, check_enough, tasks_of_heads
from xtr.data.pipeline import TrainData
from xtr.errors import UserError

PAD = 1


def labelled(number, choices):
    tokens = np.array([0, 10 + number % 50, 11, 2])
    return {
        "inputs": tokens, "token_types": np.zeros(4, int), "text_spans": np.array([1, 3]), "label": np.array([0]),
        "meta": json.dumps({"id": str(number), "choices": choices, "label": 0}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tasks(shared_task_writer):
    kind = {"kind": "classification"}
    nli = shared_task_writer("mt_nli", {"train": [labelled(i, list("abc")) for i in range(60)]}, **kind)
    qqp = shared_task_writer("mt_qqp", {"train": [labelled(i, list("ab")) for i in range(30)]}, **kind)
    tags = [{"inputs": np.array([9]), "word_lengths": np.array([1]), "tags": np.array([0])}]
    ccg = shared_task_writer("mt_ccg", {"train": tags}, kind="tagging", label_names=["N", "V"], shards=1)
    return dataclasses.replace(nli, rate=3.0), dataclasses.replace(qqp, rate=1.0), ccg


def head_for(objective, labels):
    return {("classify", 3): "nli", ("classify", 2): "same"}.get((objective, labels))


def parts(tasks, **options):
    found = tasks_of_heads(tasks[:2], "train", head_for)
    settings = {"batch_size": 4, "seed": 3, "pad_id": PAD, "objective": "classify", **options}
    labels = {"nli": 3, "same": 2}
    return {n: TrainData(t, {"inputs": 8}, num_labels=labels[n], **settings) for n, t in found.items()}


def test_tasks_go_to_the_head_of_their_kind(tasks):
    assert {n: [t.name for t in of] for n, of in tasks_of_heads(tasks[:2], "train", head_for).items()} == {
        "nli": ["mt_nli"], "same": ["mt_qqp"],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"no head for mt_ccg: add one like \{'mt_ccg': \('tag', 2\)\} to HEADS"):
        tasks_of_heads(tasks, "train", head_for)
    idle = dataclasses.replace(tasks[2], rate=0.0)
    assert len(tasks_of_heads((*tasks[:2], idle), "train", head_for)) == 2


def test_batches_follow_the_rates_and_are_of_one_head(tasks):
    batches = MultitaskBatches(parts(tasks))
    heads = []
    for batch in itertools.islice(batches, 400):
        heads.append(batches.head)
        assert batch["labels"].shape == (4,)
    assert Counter(heads) == {"nli": 300, "same": 100}
    # Evenly: no four batches in a row are of one head only, beyond what rounding asks for.
    assert max(len(list(run)) for _, run in itertools.groupby(heads)) <= 6
    assert {name: stats["batches"] for name, stats in batches.stats().items()} == {"nli": 300, "same": 100}
    batches.close()


def test_a_state_leads_to_the_same_batches(tasks):
    first = MultitaskBatches(parts(tasks))
    for _ in itertools.islice(first, 7):
        pass
    state = json.loads(json.dumps(first.get_state()))
    second = MultitaskBatches(parts(tasks))
    second.set_state(state)
    for _ in range(9):
        a, b = next(first), next(second)
        assert first.head == second.head
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    hosts = [MultitaskBatches(parts(tasks), p, 2) for p in range(2)]
    for host in hosts:
        host.set_state(state)
    third = MultitaskBatches(parts(tasks))
    third.set_state(state)
    for _ in range(5):
        whole, halves = next(third), [next(host) for host in hosts]
        for name in whole:
            np.testing.assert_array_equal(whole[name], np.concatenate([half[name] for half in halves]))
    with pytest.raises(UserError, match="batches were for the heads nli, same, now they are for nli"):
        MultitaskBatches({"nli": parts(tasks)["nli"]}).set_state(state)
    with pytest.raises(UserError, match="batches were for the heads of one head alone"):
        second.set_state({"data": "x", "window": 0})


def test_a_head_that_has_been_read_ends_the_data_or_is_dropped(tasks):
    """60 examples of nli and 30 of qqp, 4 a batch, 3 : 1: nli ends after 15 of its batches, qqp after 8."""
    stopped = [len(batch["labels"]) for batch in MultitaskBatches(parts(tasks, epochs=1))]
    assert 19 <= len(stopped) <= 21
    batches = MultitaskBatches(parts(tasks, epochs=1, exhausted="drop"))
    heads = [batches.head for _ in batches]
    assert Counter(heads) == {"nli": 15, "same": 8}
    assert Counter(heads[:16])["nli"] == 12  # the rates, until a head ends
    for data, enough in ((parts(tasks, epochs=1, exhausted="drop"), 23), (parts(tasks, epochs=1), len(stopped))):
        check_enough(data, enough)
        with pytest.raises(UserError, match="asks for .* batches.*, but the data end after .* has been read once"):
            check_enough(data, enough + 1)
    check_enough(parts(tasks), 10**6)
