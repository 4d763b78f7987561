"""Shards: every example once, and nothing but whole ones survive."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.evaluate.batching import bucket_of, rows_per_batch
from xtr.evaluate.journal import Journal, plan_shards

BUCKETS = (8, 32)


@given(st.lists(st.integers(0, 40), max_size=200), st.sampled_from([8, 64, 256]), st.integers(1, 50))
def test_every_example_is_in_one_shard_of_its_bucket(lengths, tokens_per_batch, least):
    shards = plan_shards(lengths, BUCKETS, tokens_per_batch, least)
    assert sorted(i for members in shards for i in members) == list(range(len(lengths)))
    by_bucket = {}
    for members in shards:
        (bucket,) = {bucket_of(lengths[i], BUCKETS) for i in members}
        by_bucket.setdefault(bucket, []).append(members)
    for bucket, own in by_bucket.items():
        for members in own[:-1]:
            assert len(members) >= least and len(members) % rows_per_batch(bucket, tokens_per_batch) == 0
        in_order = [lengths[i] for members in own for i in members]
        assert in_order == sorted(in_order)


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
