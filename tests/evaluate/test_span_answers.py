"""Answers of a span head against plain loops over all windows and tokens, and what must not change them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.spans import Window
from xtr.evaluate.span_answers import find_answers, in_greatest_context, null_difference

EMPTY = ""


@st.composite
def examples(draw):
    """Windows of a context of words, and logits with many ties."""
    words = draw(st.lists(st.sampled_from(["a", "bb", "ccc", "é", "字"]), min_size=0, max_size=14))
    context = " ".join(words)
    starts = np.cumsum([0] + [len(word) + 1 for word in words])[: len(words)]
    ends = starts + np.array([len(word) for word in words], int)
    question, room = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    stride = draw(st.integers(1, room))
    windows, start = [], 0
    while True:
        end = min(start + room, len(words))
        windows.append(Window(np.zeros((question + end - start + 1, 2), np.int32), start, end, question))
        if end == len(words):
            break
        start += stride
    draws = st.integers(-3, 3) if draw(st.booleans()) else st.floats(-20, 20, width=32)
    padding = draw(st.integers(0, 3))
    logits = [
        np.array(draw(st.lists(st.tuples(draws, draws), min_size=n, max_size=n)), np.float32)
        for n in (len(window.tokens) + padding for window in windows)
    ]
    return windows, logits, context, starts, ends


def reference(windows, logits, context, starts, ends, n_best, max_answer_length, may_lack):
    """The n-best list [(text, start logit, end logit)] and the null score, said once more as slowly as can be."""
    candidates, nulls = [], []
    for w, window in enumerate(windows):
        size = len(window.tokens)
        start_logits, end_logits = ([float(x) for x in logits[w][:size, side]] for side in (0, 1))
        nulls.append((start_logits[0] + end_logits[0], start_logits[0], end_logits[0]))
        likely = [sorted(range(size), key=lambda i, own=own: -own[i])[:n_best] for own in (start_logits, end_logits)]
        for i in likely[0]:
            for j in likely[1]:
                first, last = i - window.offset + window.start, j - window.offset + window.start
                if not (window.start <= first < window.end and window.start <= last < window.end):
                    continue
                if not first <= last < first + max_answer_length:
                    continue
                contexts = [
                    min(first - other.start, other.end - 1 - first) + 0.01 * (other.end - other.start)
                    if other.start <= first < other.end
                    else -math.inf
                    for other in windows
                ]
                if contexts.index(max(contexts)) == w:
                    text = context[starts[first] : ends[last]]
                    candidates.append((text, start_logits[i], end_logits[j]))
    null = min(nulls, key=lambda n: n[0])
    if may_lack:
        candidates.append((EMPTY, *null[1:]))
    candidates.sort(key=lambda c: -(c[1] + c[2]))
    kept = []
    for candidate in candidates:
        if len(kept) < n_best and candidate[0] not in [text for text, *_ in kept]:
            kept.append(candidate)
    if may_lack and EMPTY not in [text for text, *_ in kept]:
        kept.append((EMPTY, *null[1:]))
    return kept, null[0]


@given(examples(), st.integers(1, 6), st.integers(1, 5), st.booleans())
def test_answers_are_those_of_plain_loops(example, n_best, max_answer_length, may_lack):
    expected, null = reference(*example, n_best, max_answer_length, may_lack)
    found = find_answers(*example, n_best=n_best, max_answer_length=max_answer_length, may_lack=may_lack)
    assert [(a.text, a.start_logit, a.end_logit) for a in found.best] == expected and found.null_logit == null
    if expected:
        weights = [math.exp(start + end - expected[0][1] - expected[0][2]) for _, start, end in expected]
        np.testing.assert_allclose([a.probability for a in found.best], np.array(weights) / sum(weights), rtol=1e-12)
        assert sum(a.probability for a in found.best) == pytest.approx(1.0)
    spans = [answer for answer in found.best if answer.text]
    assert found.span == (spans[0] if spans else None)


@given(examples(), st.booleans())
def test_padding_changes_nothing(example, may_lack):
    windows, logits, *rest = example
    bare = [own[: len(window.tokens)] for window, own in zip(windows, logits, strict=True)]
    more = [np.pad(own, [(0, 5), (0, 0)], constant_values=99.0) for own in bare]
    found, again = (find_answers(windows, own, *rest, may_lack=may_lack) for own in (bare, more))
    assert found == again


@given(examples())
def test_records_say_all_that_grading_needs(example):
    found = find_answers(*example, may_lack=True)
    record = json.loads(json.dumps(found.record(), ensure_ascii=False))
    assert [(n["text"], n["probability"]) for n in record["n_best"]] == [(a.text, a.probability) for a in found.best]
    difference = null_difference(record)
    assert difference == (found.null_logit - found.span.logit if found.span else math.inf)


def test_windows_are_compared_by_logits():
    """The likelier end within its own window loses to the greater logit."""
    windows = [Window(np.zeros((4, 2)), 0, 3, 1), Window(np.zeros((4, 2)), 3, 6, 1)]
    sure, flat = np.full((4, 2), -9.0), np.full((4, 2), 4.0)
    sure[2] = 3.0
    place = np.arange(6)
    answer = find_answers(windows, [sure, flat], "abcdef", place, place + 1).span
    assert (answer.text, answer.logit) == ("d", 8.0)
    assert find_answers(windows, [sure, flat], "abcdef", place, place + 1).null_logit == -18.0


def test_tokens_of_the_question_count_among_the_likeliest():
    windows = [Window(np.zeros((5, 2)), 0, 3, 2)]
    logits = np.array([[9, 9], [8, 8], [1, 1], [3, 0], [0, 4]], np.float32)
    place = np.arange(3)
    assert find_answers(windows, [logits], "abc", place, place + 1, n_best=2).span is None
    record = find_answers(windows, [logits], "abc", place, place + 1, n_best=2).record()
    assert record == {"span": "", "span_logit": None, "null_logit": 18.0, "n_best": []}
    assert null_difference(record) == math.inf
    assert find_answers(windows, [logits], "abc", place, place + 1, n_best=3).span.text == "bc"


def test_a_token_s_greatest_context():
    windows = [Window(None, 0, 6, 2), Window(None, 2, 8, 2), Window(None, 4, 9, 2)]
    assert [own.astype(int).tolist() for own in in_greatest_context(windows)] == [
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1],
    ]
    assert [own.size for own in in_greatest_context([Window(None, 0, 0, 1)])] == [0]
