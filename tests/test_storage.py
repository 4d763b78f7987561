"""Files on a local disk and in a bucket are read alike."""

import errno
import os

import pytest

from xtr import storage
from xtr.errors import UserError

FILES = {"a/one.txt": b"0123456789", "a/b/two.txt": b"x", "a/b/c/three.txt": b"y", "ab.txt": b"z", "a-b/four": b"w"}


@pytest.fixture(params=["local", "gs"])
def root(request, tmp_path):
    folder = tmp_path
    if request.param == "gs":
        folder = request.getfixturevalue("fake_gcs") / "storage"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder) if request.param == "local" else "gs://bucket/storage"


def test_whole_files_and_ranges(root):
    path = storage.join(root, "a", "one.txt")
    assert storage.read_bytes(path) == FILES["a/one.txt"]
    assert storage.read_range(path, 3, 4) == b"3456"
    assert storage.read_range(path, 9, 1) == b"9"
    assert storage.read_range(path, 4, 0) == b""


@pytest.mark.parametrize(("start", "length"), [(8, 3), (10, 1), (30, 2)])
def test_a_range_beyond_the_end_is_an_error(root, start, length):
    with pytest.raises(OSError):
        storage.read_range(f"{root}/a/one.txt", start, length)


def test_what_is_there(root):
    assert storage.list_directory(root) == ["a", "a-b", "ab.txt"]
    assert storage.list_directory(f"{root}/a/") == ["b", "one.txt"]
    assert storage.list_directory(f"{root}/nowhere") == []
    for name in ("a", "a/", "a/b", "ab.txt", "a/b/two.txt"):
        assert storage.exists(f"{root}/{name}"), name
    for name in ("nowhere", "a/b/tw", "ab"):
        assert not storage.exists(f"{root}/{name}"), name
    assert storage.is_file(f"{root}/ab.txt")
    assert not storage.is_file(f"{root}/a")


@pytest.mark.parametrize("read", [storage.read_bytes, lambda path: storage.read_range(path, 0, 1)])
def test_a_missing_file(root, read):
    with pytest.raises(FileNotFoundError):
        read(f"{root}/nowhere.txt")


def test_an_unknown_bucket_is_an_error(fake_gcs):
    with pytest.raises(OSError, match="gs://elsewhere/x"):
        storage.list_directory("gs://elsewhere/x")


def test_other_schemes_are_refused():
    with pytest.raises(UserError, match="s3://x/y: only local paths and gs:// are known"):
        storage.read_bytes("s3://x/y")


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"1")
    assert storage.read_bytes("file") == b"1"
    assert storage.absolute("file/") == os.path.join(tmp_path, "file")
    assert storage.kvstore("x") == {"driver": "file", "path": f"{tmp_path}/x/"}
    assert storage.kvstore("gs://bucket") == {"driver": "gcs", "bucket": "bucket", "path": ""}


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), storage.STORED),
        (FileNotFoundError("there is no file gs://bucket/a"), storage.STORED),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), storage.STORED),
        (OSError("a ends before byte 7"), storage.STORED),
        (ValueError("its CRC is another"), storage.STORED),
        (ValueError("DATA_LOSS: CRC-32C checksum verification failed"), storage.STORED),
        (ValueError("NOT_FOUND: Error opening: No such file or directory [os_error_code='2']"), storage.STORED),
        (KeyError("chunks"), storage.STORED),
        (PermissionError(errno.EACCES, "Permission denied"), storage.REFUSED),
        (OSError("gs://bucket/a cannot be read: PERMISSION_DENIED: HTTP response code: 403"), storage.REFUSED),
        (OSError(errno.EIO, "Input/output error"), storage.PASSING),
        (OSError(errno.EMFILE, "Too many open files"), storage.PASSING),
        (TimeoutError("timed out"), storage.PASSING),
        (MemoryError(), storage.PASSING),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5 bytes."), storage.PASSING),
        (ValueError("FAILED_PRECONDITION: Error Stale file handle [os_error_code='116']"), storage.PASSING),
        (OSError("gs://bucket/a cannot be listed: UNAVAILABLE: HTTP response code: 503"), storage.PASSING),
        (_caused(ValueError("it cannot be read"), MemoryError()), storage.PASSING),
        (ExceptionGroup("several", [KeyError("a"), OSError(errno.EIO, "Input/output error")]), storage.PASSING),
    ],
)
def test_whom_an_error_blames(error, blamed):
    assert storage.blame(error) == blamed


@pytest.mark.parametrize("look", [storage.is_file, storage.exists, storage.list_directory])
def test_a_disk_that_does_not_answer_is_not_an_empty_one(look, tmp_path, monkeypatch):
    os_stat = os.stat

    def fails(path, *arguments, **settings):
        if os.fspath(path) != str(tmp_path):
            return os_stat(path, *arguments, **settings)
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(storage.os, "stat", fails)
    with pytest.raises(OSError, match="Input/output error"):
        look(tmp_path)


def test_a_name_that_cannot_be_is_not_there(tmp_path):
    for name in ("a\0b", "a" * 3000, "file/below"):
        (tmp_path / "file").touch()
        path = f"{tmp_path}/{name}"
        assert not storage.is_file(path) and not storage.exists(path) and storage.list_directory(path) == []
