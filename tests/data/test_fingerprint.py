import os

import pytest

from xtr.data import fingerprint
from xtr.errors import UserError


def test_a_source_is_unchanged_while_its_bytes_are(tmp_path):
    path = tmp_path / "source.txt"
    path.write_bytes(b"abc")
    record = fingerprint.source_record(path)
    assert (record["path"], record["size"]) == (str(path), 3) and fingerprint.source_unchanged(record)
    os.utime(path, ns=(5, 5))
    assert fingerprint.source_unchanged(record)
    path.write_bytes(b"abd")
    assert not fingerprint.source_unchanged(record)
    path.write_bytes(b"abcd")
    assert not fingerprint.source_unchanged(record)
    path.unlink()
    assert not fingerprint.source_unchanged(record)
    with pytest.raises(UserError, match=r"source\.txt"):
        fingerprint.source_record(path)


def test_code_inside_the_package_is_named_relative_to_it(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("x = 1\n")
    names = fingerprint.code_names([own, fingerprint.tasks_root() / "datasets" / "nli.py", own])
    assert names == sorted([str(own.resolve()), "xtr.tasks/datasets/nli.py"])
    before = fingerprint.code_sha256(names)
    assert before == fingerprint.code_sha256(names)
    own.write_text("x = 2\n")
    assert fingerprint.code_sha256(names) != before
    own.unlink()
    assert fingerprint.code_sha256(names) != before


def test_a_fingerprint_changes_with_whatever_the_cache_is_made_from(tmp_path):
    source = {"path": "/a/x.tsv", "size": 1, "mtime_ns": 2, "sha256": "s"}

    def fingerprint_of(task="t", info=None, sources=(source,), code="c", vocabulary="v", form="f"):
        return fingerprint.task_fingerprint(task, info or {"kind": "text"}, sources, code, vocabulary, form)

    base = fingerprint_of()
    assert base == fingerprint_of(sources=({**source, "path": "/b/x.tsv", "mtime_ns": 9},))
    changed = [
        fingerprint_of(task="u"), fingerprint_of(info={"kind": "span_qa"}), fingerprint_of(code="d"),
        fingerprint_of(sources=({**source, "sha256": "z"},)), fingerprint_of(vocabulary="w"),
        fingerprint_of(form="g"),
    ]  # fmt: skip
    assert len({base, *changed}) == 7
    assert fingerprint.cache_directory(tmp_path, "t", base) == tmp_path / f"t-{base[:12]}"
