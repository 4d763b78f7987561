import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.cached_task import shard_paths
from xtr.data.tokens import RecordTokens, TokenTable, token_table
from xtr.errors import DataError

_FEATURES = ("inputs", "targets")


def _examples(count=50):
    rng = np.random.default_rng(3)
    return [{n: rng.integers(0, 250_100, rng.integers(0, 20)) for n in (*_FEATURES, "other")} for _ in range(count)]


def _check(tokens, examples, numbers):
    found = tokens.read(numbers)
    assert len(found) == len(numbers)
    for n, example in zip(numbers, found, strict=True):
        assert [tokens.dtype for tokens in example] == [np.int32, np.int32]
        for name, tokens in zip(_FEATURES, example, strict=True):
            np.testing.assert_array_equal(tokens, examples[n][name])


@pytest.fixture(scope="session")
def stored(shared_task_writer):
    return shared_task_writer("stored", {"train": _examples(), "empty": []}, shards=3)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 49), max_size=40))
def test_examples_are_those_of_the_records(stored, numbers):
    _check(token_table(stored, "train", _FEATURES), _examples(), numbers)
    _check(RecordTokens(stored, "train", _FEATURES), _examples(), numbers)


def test_features_of_their_own(stored):
    (other,) = token_table(stored, "train", ("other",)).read([7])[0]
    np.testing.assert_array_equal(other, _examples()[7]["other"])
    assert token_table(stored, "empty", _FEATURES).read([]) == []


def test_the_records_are_read_once(task_writer, monkeypatch):
    from xtr.data import tokens

    task = task_writer("once", {"train": _examples()})
    token_table(task, "train", _FEATURES)
    tokens._open.cache_clear()
    monkeypatch.setattr(tokens, "_of_records", lambda *_: pytest.fail("read again"))
    _check(token_table(task, "train", _FEATURES), _examples(), range(50))


def test_a_table_of_other_records_is_made_anew(task_writer):
    task = task_writer("changed", {"train": _examples()}, shards=1)
    token_table(task, "train", _FEATURES)
    (path,) = shard_paths(task.directory, "train", 1)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="changed: record .* of the shard .*train.array_record-00000-of-00001"):
        token_table(task, "train", _FEATURES)


@pytest.mark.parametrize("damage", ["cut", "index", "index cut", "gone"])
def test_a_damaged_table_is_made_anew(task_writer, damage):
    task = task_writer("damaged", {"train": _examples()})
    table = token_table(task, "train", _FEATURES)
    path = table._path
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "gone":
        path.unlink()
    else:
        index = path.with_suffix(".npz")
        content = index.read_bytes()
        index.write_bytes(content[: len(content) // 2] if "cut" in damage else b"no index")
    from xtr.data import tokens

    tokens._open.cache_clear()
    _check(token_table(task, "train", _FEATURES), _examples(), range(50))


def test_a_damaged_example_is_named(task_writer):
    examples = [{"inputs": [5, 6, 7], "targets": [8]} for _ in range(4)]
    table = token_table(task_writer("bits", {"train": examples}), "train", _FEATURES)
    content = bytearray(table._path.read_bytes())
    content[2 * 16 + 1] ^= 1
    table._path.write_bytes(content)
    assert [len(e[0]) for e in table.read([0, 1, 3])] == [3, 3, 3]
    with pytest.raises(DataError, match=f"bits: .*example 2 in {table._path}"):
        table.read([1, 2])


def test_what_holds_no_token_ids(task_writer):
    bad = {"floats, no": [0.5], "text, no": ["a", "b"], "1099511627776, and": [3, 2**40], "-1, and": [-1]}
    for words, value in bad.items():
        examples = [{"inputs": [1], "targets": [1]}, {"inputs": value, "targets": [1]}]
        task = task_writer(f"bad{len(words)}", {"train": examples})
        with pytest.raises(DataError, match=f"record 0 of the shard .*1-of-00002 .* feature 'inputs' holds {words}"):
            token_table(task, "train", _FEATURES)
    with pytest.raises(DataError, match="example 0 of 'train' has no feature 'inputs'"):
        token_table(task_writer("lacks", {"train": [{"targets": [1]}]}), "train", _FEATURES)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_to(task_writer):
    task = task_writer("fixed", {"train": _examples()})
    os.chmod(task.directory, 0o500)
    try:
        tokens = token_table(task, "train", _FEATURES)
        assert isinstance(tokens, RecordTokens)
        _check(tokens, _examples(), range(50))
    finally:
        os.chmod(task.directory, 0o700)


def test_no_room_for_a_table(task_writer, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    task = task_writer("full", {"train": _examples()})
    tokens = token_table(task, "train", _FEATURES)
    assert isinstance(tokens, RecordTokens)
    _check(tokens, _examples(), range(50))
    assert not [name for name in os.listdir(task.directory) if name.startswith(".")]


def test_files_are_closed(task_writer):
    table = token_table(task_writer("closed", {"train": _examples()}), "train", _FEATURES)
    assert isinstance(table, TokenTable)
    handle = table._file
    os.fstat(handle)
    from xtr.data import tokens

    tokens._open.cache_clear()
    del table
    with pytest.raises(OSError):
        os.fstat(handle)
