"""Batches of questions and windows of contexts: what they cover, where the answers are, and Hugging Face's windows."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.pipeline import TrainData, train_batches
from xtr.data.spans import SpanSource, Windowing
from xtr.data.vocabulary import read_vocabulary
from xtr.errors import DataError, UserError

PAD, NEWLINE = 1, 7
# Family -> (tokens before, between and behind two texts).
FRAMES = {"xlmr": ([0], [2, 2], [2]), "t5": ([], [2], [2]), "bpe": ([], [], [])}


def vocabulary(family):
    before, between, behind = FRAMES[family]

    def framed(a, b):
        tokens = [*before, *a, *between, *b, *behind]
        return tokens, [0] * len(tokens)

    return SimpleNamespace(with_special_tokens=framed, encode=lambda text: [NEWLINE], sha256="v", path="v")


def example(question, context, answer):
    """Tokens that tell their places: the question's from 100, the context's from 1000."""
    ids = {"question": np.arange(100, 100 + question), "inputs": np.arange(1000, 1000 + context)}
    return ids | {"answer": np.array(answer)}


numbers = iter(range(10**6))


@st.composite
def examples(draw):
    question, context = draw(st.integers(0, 9)), draw(st.integers(0, 60))
    answer = [-1, -1]
    if context and draw(st.booleans()):
        first = draw(st.integers(0, context - 1))
        answer = [first, draw(st.integers(first, min(context - 1, first + 8)))]
    return example(question, context, answer)


@settings(max_examples=60)
@given(
    made=st.lists(examples(), min_size=1, max_size=4), family=st.sampled_from(sorted(FRAMES)),
    stride=st.integers(1, 40), length=st.integers(11, 50),
)  # fmt: skip
def test_windows_cover_contexts_and_ends_are_the_answers(made, family, stride, length, shared_task_writer):
    task = shared_task_writer(f"spans{next(numbers)}", {"train": made}, shards=1)
    before, between, behind = (len(part) for part in FRAMES[family])
    joint = family == "bpe"
    source = SpanSource(task, "train", Windowing(length, stride, 6), vocabulary(family))
    everything = np.arange(len(source))
    kept_2n, cut_2n = source.lengths(everything)
    windows = source.read(everything, everything)
    per_example = np.split(everything, source._bounds[1:-1])
    for whole, its in zip(made, per_example, strict=True):
        question, context, answer = whole["question"][:6], whole["inputs"], whole["answer"].tolist()
        at = before + len(question) + joint + between
        room = length - at - behind
        starts = [w * min(stride, room) for w in range(len(its))]
        for w, start in zip(its.tolist(), starts, strict=True):
            (tokens_n2, ends) = windows[w]
            tokens = tokens_n2[:, 0]
            assert (len(tokens), len(ends)) == tuple(kept_2n[:, w]) and len(tokens) <= length
            assert cut_2n[:, w].tolist() == [len(whole["question"]) - len(question), 0]
            np.testing.assert_array_equal(tokens[before : before + len(question)], question)
            np.testing.assert_array_equal(tokens[at : len(tokens) - behind], context[start : start + room])
            first, last = ends.tolist()
            inside = start <= answer[0] and answer[1] < start + room
            assert (first, last) == (0, 0) or inside
            if inside:
                np.testing.assert_array_equal(tokens[first : last + 1], context[answer[0] : answer[1] + 1])
                assert first > 0 or len(question) + before + joint + between == 0
        # The last window alone reaches the end, and no token lies between two windows.
        assert starts[-1] + room >= len(context) and (len(its) == 1 or starts[-2] + room < len(context))
        assert all(b - a <= room for a, b in zip(starts, starts[1:], strict=False))


def test_batches(shared_task_writer):
    made = [example(3, 25, [4, 6]), example(2, 5, [-1, -1]), example(2, 6, [0, 5])]
    task = shared_task_writer("span_batches", {"train": made}, vocabulary={"sha256": "v"})
    options = {"vocabulary": vocabulary("xlmr"), "pad_id": PAD, "doc_stride": 4, "max_query_length": 8}
    data = TrainData((task,), {"inputs": 16}, 4, objective="span", epochs=1, **options)
    batches = train_batches(data)
    rows = list(batches)
    assert {name: rows[0][name].shape for name in rows[0]} == {
        "encoder_input_tokens": (4, 16), "encoder_segment_ids": (4, 16), "encoder_positions": (4, 16),
        "encoder_token_types": (4, 16), "start_positions": (4,), "end_positions": (4,),
    }  # fmt: skip
    found = sorted(
        (tokens[tokens >= 1000][0], tokens[start : end + 1].tolist())
        for batch in rows
        for tokens, start, end, segments in zip(
            batch["encoder_input_tokens"], batch["start_positions"], batch["end_positions"],
            batch["encoder_segment_ids"], strict=True,
        )
        if segments.any()
    )  # fmt: skip
    # 16 - 4 special tokens - 3 of the question leave 9: windows from 0, 4, 8, 12, 16; the answer is in the first two.
    inside, outside = [1004, 1005, 1006], [0]
    assert found == [
        (1000, outside), (1000, list(range(1000, 1006))), (1000, inside),
        (1004, inside), (1008, outside), (1012, outside), (1016, outside),
    ]  # fmt: skip
    assert batches.stats()["examples"] == 7
    again = TrainData((task,), {"inputs": 16}, 4, objective="span", epochs=1, **options | {"doc_stride": 5})
    with pytest.raises(UserError, match="not what it was"):
        train_batches(again, start_state=batches.get_state())


@pytest.mark.parametrize("kind", ["xlmr", "wordpiece"])
def test_the_windows_are_hugging_faces(kind, small_vocabularies, hugging_face, task_writer):
    theirs, ours = hugging_face(kind, small_vocabularies[kind]), read_vocabulary(small_vocabularies[kind])
    question, context = "What jumps over the lazy dog", " ".join(["The quick brown fox jumps over it"] * 4)
    ids = ours.encode(question), ours.encode(context)
    example = {"question": np.array(ids[0]), "inputs": np.array(ids[1]), "answer": np.array([5, 6])}
    task = task_writer("hugging_face", {"train": [example]}, shards=1)
    length = len(ids[0]) + 30
    frame = len(ours.with_special_tokens(*ids)[0]) - len(ids[0]) - len(ids[1])
    for stride in (7, 20, length - frame - len(ids[0])):
        source = SpanSource(task, "train", Windowing(length, stride), ours)
        got = [tokens[:, 0].tolist() for tokens, _ in source.read(np.arange(len(source)), np.arange(len(source)))]
        overlap = length - frame - len(ids[0]) - stride
        expected = theirs(
            [question], [context], truncation="only_second", max_length=length, stride=overlap,
            return_overflowing_tokens=True,
        )["input_ids"]  # fmt: skip
        assert got == expected


def test_what_cannot_be_trained_on(task_writer):
    where = {"vocabulary": {"sha256": "v"}}

    def data(task, length=16, **options):
        options = {"vocabulary": vocabulary("xlmr"), **options}
        return TrainData((task,), {"inputs": length}, 2, objective="span", **options)

    good = task_writer("good", {"train": [example(5, 9, [2, 3])]}, **where)
    with pytest.raises(UserError, match="Rows of 9 tokens have no room for a context beside a question of 5 tokens"):
        train_batches(data(good, 9))
    with pytest.raises(UserError, match="DOC_STRIDE"):
        train_batches(data(good, doc_stride=0))
    beyond = task_writer("beyond", {"train": [example(5, 9, [2, 9])]}, **where)
    with pytest.raises(DataError, match=r"example 0 of 'train' has the answer \[2, 9\] in a context of 9 tokens"):
        next(train_batches(data(beyond), prefetch=0))
