"""Shards: every example once, and nothing but whole ones survive."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.evaluate.journal import Journal, plan_shards


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 50))
def test_every_example_is_in_one_shard_among_its_like(lengths, size):
    shards = plan_shards(lengths, size)
    in_order = [i for members in shards for i in members]
    assert sorted(in_order) == list(range(len(lengths)))
    assert [lengths[i] for i in in_order] == sorted(lengths)
    sizes = [len(members) for members in shards]
    assert not sizes or max(sizes) - min(sizes) <= 1 and max(sizes) <= -(-3 * size // 2)


RECORDS = [[{"id": "a", "scores": [-0.1, 1e-7]}], [{"id": "ä\u2028", "text": "x\ny"}, {"id": "c"}], []]


@settings(max_examples=30)
@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_holds_its_whole_shards(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "deeper" / "t.partial"
    journal = Journal(path, "d")
    for number, records in enumerate(RECORDS):
        journal.add(number, records)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    again = Journal(path, "d")
    held = whole[:cut].count(b"\n") - 1
    assert again.shards == dict(enumerate(RECORDS[: max(held, 0)]))
    for number in range(max(held, 0), len(RECORDS)):
        again.add(number, RECORDS[number])
    assert path.read_bytes() == whole
    again.remove()
    assert not path.exists() and Journal(path, "d").shards == {}


def test_what_was_predicted_otherwise_is_not_taken(tmp_path):
    path = tmp_path / "t.partial"
    Journal(path, "old").add(0, RECORDS[0])
    journal = Journal(path, "new")
    assert journal.shards == {}
    journal.add(1, RECORDS[1])
    assert Journal(path, "new").shards == {1: RECORDS[1]} and Journal(path, "old").shards == {}
    assert json.loads(path.read_text().split("\n")[0]) == {"journal": "new"}


def test_only_the_writing_process_writes(tmp_path):
    path = tmp_path / "t.partial"
    reader = Journal(path, "d", writes=False)
    reader.add(0, RECORDS[0])
    reader.remove()
    assert not path.exists()
    with pytest.raises(ValueError):
        Journal(path, "d").add(0, [{"id": "a", "score": float("nan")}])
    assert Journal(path, "d").shards == {}
