import json

import numpy as np
import pytest

from xtr.data.cached_task import CachedTask, eval_examples, shard_paths
from xtr.errors import DataError, UserError


def _examples(n):
    return [{"inputs": np.arange(2, 3 + i), "targets": np.array([9, 1]), "meta": f'{{"id": "e{i}"}}'} for i in range(n)]


def test_random_access(task_writer):
    task = task_writer("toy", {"train": _examples(10), "test": _examples(1)}, shards=3, rate=2.0)
    examples = task.examples("train")
    assert task.rate == 2.0 and task.splits == ("train", "test") and task.num_examples("train") == len(examples) == 10
    assert examples[7]["inputs"].tolist() == list(range(2, 10))
    assert examples[-1]["meta"] == b'{"id": "e9"}'
    assert [len(e["inputs"]) for e in examples.read([9, 0, 4, 9])] == [10, 1, 5, 10]
    assert [len(e["inputs"]) for e in examples] == list(range(1, 11))
    with pytest.raises(IndexError):
        examples[10]
    assert len(task.examples("test")) == 1
    with pytest.raises(UserError, match="no split 'tran'; it has train, test.*Did you mean train"):
        task.examples("tran")


def test_lengths_are_read_once(task_writer):
    task = task_writer("toy", {"train": _examples(10)}, shards=3)
    lengths, last = task.lengths("train", ("inputs", "targets", "none"))
    assert lengths.tolist() == [list(range(1, 11)), [2] * 10, [-1] * 10]
    assert last.tolist() == [list(range(2, 12)), [1] * 10, [-1] * 10]
    (kept,) = (p for p in shard_paths(task.directory, "train", 3)[0].parent.iterdir() if "lengths" in p.name)
    fresh = CachedTask.open(task.directory, rate=3.0)
    assert isinstance(fresh.lengths("train", ("inputs", "targets", "none"))[0], np.memmap)
    kept.write_bytes(b"damaged")
    again = CachedTask.open(task.directory, rate=4.0)
    np.testing.assert_array_equal(again.lengths("train", ("inputs", "targets", "none"))[0], lengths)


def test_a_damaged_record_is_named(task_writer):
    examples = [{"inputs": np.random.default_rng(i).integers(2, 30000, 400)} for i in range(40)]
    task = task_writer("toy", {"train": examples}, shards=2)
    path = shard_paths(task.directory, "train", 2)[1]
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    opened = task.examples("train")
    with pytest.raises(DataError, match=r"toy: record \d+ of the shard .*train\.array_record-00001-of-00002") as error:
        opened.read(range(40))
    number = int(str(error.value).partition("(example ")[2].partition(" ")[0])
    for i in set(range(40)) - {number}:
        assert opened[i]["inputs"].tolist() == examples[i]["inputs"].tolist()
    with pytest.raises(DataError, match=f"example {number} "):
        opened[number]


def test_a_record_that_is_no_example(task_writer):
    from array_record.python.array_record_module import ArrayRecordWriter

    task = task_writer("toy", {"train": _examples(3)}, shards=1)
    writer = ArrayRecordWriter(str(shard_paths(task.directory, "train", 1)[0]), "group_size:1")
    for record in (b"", b"\xff\xff", b""):
        writer.write(record)
    writer.close()
    with pytest.raises(DataError, match="record 1 of the shard"):
        task.examples("train").read([0, 1])
    with pytest.raises(DataError, match="record 1 of the shard"):
        task.lengths("train", ("inputs",))


@pytest.mark.parametrize("harm", ["truncate", "remove", "empty"])
def test_a_damaged_shard_is_named(task_writer, harm):
    task = task_writer("toy", {"train": _examples(3)}, shards=1)
    path = shard_paths(task.directory, "train", 1)[0]
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000] if harm == "truncate" else b"")
    with pytest.raises(DataError, match="toy.*train.array_record-00000-of-00001"):
        task.examples("train").read([1])
    with pytest.raises(DataError, match="toy: the shard .*train.array_record-00000-of-00001 is damaged"):
        CachedTask.open(task.directory)


def test_a_wrong_or_unfinished_description(task_writer, tmp_path):
    task = task_writer("toy", {"train": _examples(3)}, shards=1)
    path = tmp_path / "toy-0123456789ab" / "xtr_task.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "splits": {"train": {"examples": 4, "shards": 1}}}))
    with pytest.raises(DataError, match="the shards of 'train' do not add up to its examples"):
        CachedTask.open(task.directory)
    info["shard_files"]["train"][0]["examples"] = 4
    path.write_text(json.dumps({**info, "splits": {"train": {"examples": 4, "shards": 1}}}))
    with pytest.raises(DataError, match="toy: the shard .* holds 3 records, but its description says 4"):
        CachedTask.open(task.directory).examples("train").read([0])
    (tmp_path / "toy-0123456789ab" / "train.array_record-00000-of-00001.damaged").unlink()
    info["shard_files"]["train"][0]["examples"] = 3
    for text in ("{", "[]", '{"task": "toy", "splits": {"train": {}}}'):
        path.write_text(text)
        with pytest.raises(DataError, match="not a description"):
            CachedTask.open(task.directory)
    path.write_text(json.dumps(info))
    (tmp_path / "toy-0123456789ab" / "COMPLETED").unlink()
    with pytest.raises(DataError, match="never completed"):
        CachedTask.open(task.directory)
    with pytest.raises(DataError, match="nowhere"):
        CachedTask.open(tmp_path / "nowhere")


def test_eval_examples(task_writer):
    raw = [
        {"inputs": [5, 1], "targets": [6, 1], "meta": '{"id": 1, "label": 2}', "inputs_pretokenized": "é"},
        {"inputs": [5, 6, 7, 1], "targets": [1]},
    ]
    task = task_writer("toy", {"test": raw}, shards=1)
    first, second = eval_examples(task, "test")
    assert first["inputs"].dtype == np.int32 and first["inputs"].tolist() == [5, 1]
    assert first["meta"] == {"id": 1, "label": 2} and first["inputs_pretokenized"] == "é"
    assert second["meta"] == {} and second["targets"].tolist() == [1]
    bad = task_writer("bad", {"test": [raw[1], {**raw[0], "meta": "{"}]}, shards=1)
    with pytest.raises(DataError, match="bad, test, example 1: the field 'meta'"):
        eval_examples(bad, "test")
