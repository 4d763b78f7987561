"""Batches of tagged words: every word's tag once, long sentences in pieces, and the refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.pipeline import TrainData, train_batches
from xtr.data.tagged import TaggedSource
from xtr.errors import DataError, UserError

PAD = 1
NAMES = [f"T{i}" for i in range(7)]


def vocabulary(special: bool):
    """Special tokens of XLM-R's kind, or none."""
    frame = (lambda ids: ([0, *ids, 2], [0] * (len(ids) + 2))) if special else (lambda ids: (list(ids), [0] * len(ids)))
    return SimpleNamespace(with_special_tokens=frame, sha256="v", path="v")


def sentence(number, lengths, tags):
    """Each sub-token says of which sentence, word and place in the word it is."""
    ids = [1000 * (number + 1) + 10 * w + i for w, n in enumerate(lengths) for i in range(n)]
    return {"inputs": np.array(ids, int), "word_lengths": np.array(lengths, int), "tags": np.array(tags, int)}


numbers = iter(range(10**6))
sentences = st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), max_size=12), min_size=1, max_size=6)


@settings(max_examples=40)
@given(words=sentences, special=st.booleans(), causal=st.booleans(), room=st.integers(1, 20))
def test_every_words_tag_is_in_a_batch_exactly_once(words, special, causal, room, shared_task_writer):
    examples = [sentence(i, [n for n, _ in own], [t for _, t in own]) for i, own in enumerate(words)]
    task = shared_task_writer(
        f"tagged{next(numbers)}", {"train": examples}, shards=1, label_names=NAMES, vocabulary={"sha256": "v"}
    )
    length = room + 2 * special
    options = {"vocabulary": vocabulary(special), "num_labels": 7, "causal": causal, "pad_id": PAD}
    data = TrainData((task,), {"inputs": length}, 3, objective="tag", epochs=1, **options)
    if not any(words):
        with pytest.raises(UserError, match="is empty"):
            train_batches(data)
        return
    found, tokens = [], 0
    batches = train_batches(data)
    for batch in batches:
        assert {batch[name].shape for name in batch} == {(3, length)}
        tokens += int((batch["encoder_segment_ids"] > 0).sum())
        for row in range(3):
            real = batch["encoder_segment_ids"][row] > 0
            assert (batch["encoder_input_tokens"][row][~real] == PAD).all()
            read = np.flatnonzero(batch["encoder_loss_weights"][row])
            assert not batch["encoder_target_tokens"][row][batch["encoder_loss_weights"][row] == 0].any()
            found += zip(
                batch["encoder_input_tokens"][row][read], batch["encoder_target_tokens"][row][read], strict=True
            )
    # A word is read at its first sub-token; of a causal model at its last one, also where its beginning was cut off.
    expected = [
        (1000 * (i + 1) + 10 * w + (n - 1 if causal else 0), tag)
        for i, own in enumerate(words)
        for w, (n, tag) in enumerate(own)
    ]
    assert sorted(found) == sorted(expected)
    stats = batches.stats()
    assert stats["encoder_tokens"] == tokens
    assert stats["truncated_encoder_tokens"] == sum(max(0, n - room) for own in words for n, _ in own)
    empty = sum(not own for own in words)
    assert stats["empty_examples"] == ({task.name: empty} if empty else {})


def test_a_long_sentence_becomes_rows_of_its_own(task_writer):
    task = task_writer("long", {"train": [sentence(0, [3, 2, 1, 4], [1, 2, 3, 4]), sentence(1, [1], [5])]})
    source = TaggedSource(task, "train", 7, 7, vocabulary(True), False)
    assert len(source) == 3
    pieces = [tokens for tokens, _ in source.read(np.arange(3), np.arange(3))]
    assert [piece[:, 0].tolist() for piece in pieces] == [
        [0, 1000, 1001, 1002, 1010, 1011, 2], [0, 1020, 1030, 1031, 1032, 1033, 2], [0, 2000, 2],
    ]  # fmt: skip
    assert [piece[:, 1].tolist() for piece in pieces] == [[0, 1, 0, 0, 2, 0, 0], [0, 3, 4, 0, 0, 0, 0], [0, 5, 0]]
    kept, cut = source.lengths(np.arange(3))
    assert kept.tolist() == [[7, 7, 3], [0, 0, 0]] and not cut.any()


def test_what_cannot_be_trained_on(task_writer):
    def data(*tasks, **options):
        options = {"vocabulary": vocabulary(True), "num_labels": 7, **options}
        return TrainData(tasks, {"inputs": 8}, 2, objective="tag", **options)

    good, where = sentence(0, [1, 2], [0, 6]), {"vocabulary": {"sha256": "v"}}
    named = task_writer("named", {"train": [good]}, label_names=NAMES, **where)
    others = task_writer("others", {"train": [good]}, label_names=NAMES[::-1], **where)
    unnamed = task_writer("unnamed", {"train": [good]}, **where)
    uneven = task_writer("uneven", {"train": [good, good | {"tags": np.array([1])}]}, **where)
    strange = task_writer("strange", {"train": [good]}, vocabulary={"sha256": "w"})
    label = {"inputs": [0, 5, 2], "token_types": [0] * 3, "text_spans": [1, 2], "label": [0]}
    texts = task_writer("texts", {"train": [label]}, **where)
    for spec, kind, message in [
        (data(named, num_labels=5), UserError, r"named has 7 tags \(T0, .*\), but the head has 5: set NUM_LABELS=7"),
        (data(named, others), UserError, "One head cannot learn two sets of labels"),
        (data(unnamed, num_labels=6), DataError, "has the tag 6, which is not of 0 to 5: NUM_LABELS is 6"),
        (data(uneven), DataError, "example 1 of 'train' has 2 words and 1 tags"),
        (data(strange), UserError, "not tokenised with the vocabulary v"),
        (
            data(texts),
            UserError,
            "texts is not for heads/tag.gin: .*lack word_lengths, tags. Train on it with .*classify",
        ),
    ]:
        with pytest.raises(kind, match=message):
            train_batches(spec)
    with pytest.raises(UserError, match="heads/classify.gin: .* Train on it with heads/tag.gin"):
        train_batches(TrainData((named,), {"inputs": 8}, 2, objective="classify", num_labels=7))
    assert len(train_batches(data(unnamed, epochs=1)).__next__()) == 6
