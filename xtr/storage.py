"""Files on a local disk or on Google Cloud Storage (gs://bucket/path), read alike, without TensorFlow.

gs:// goes through TensorStore's own driver. It takes the credentials of the machine ($GOOGLE_APPLICATION_CREDENTIALS,
gcloud's, or those of the virtual machine) and reads public buckets without any.
"""

import errno
import functools
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import tensorstore as ts

from xtr.errors import UserError

GCS = "gs://"
# A wrong bucket or a machine without a network should say so within a minute, not after the driver's 32 attempts.
_RETRIES = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "10s"}

# Whom an error of reading blames, see `blame`.
STORED, REFUSED, PASSING = "stored", "refused", "passing"
_OF_THE_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_OF_RIGHTS = {errno.EACCES, errno.EPERM}
# How TensorStore and XLA begin their errors, and how TensorStore names one of the operating system.
_STATUS_REFUSED = re.compile(r"\b(PERMISSION_DENIED|UNAUTHENTICATED): ")
_STATUS_PASSING = re.compile(
    r"\b(RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL|UNKNOWN): "
)
_OS_ERROR = re.compile(r"\[(?:os_error_code='|OS error )(\d+)")


def blame(error: BaseException) -> str:
    """Whom an error of reading blames: what is stored (STORED: it is missing, or is not what its format says),
    permissions (REFUSED), or the machine, its memory or the network (PASSING: nothing is known of what is stored, and
    another try may read it)."""
    for each in _with_causes(error):
        text = str(each)
        number = each.errno if isinstance(each, OSError) else None
        if number is None and (found := _OS_ERROR.search(text)):
            number = int(found[1])
        if number is not None and number not in _OF_THE_PATH:
            return REFUSED if number in _OF_RIGHTS else PASSING
        if isinstance(each, MemoryError | ConnectionError | TimeoutError):
            return PASSING
        if number is None and _STATUS_PASSING.search(text):
            return PASSING
        if number is None and _STATUS_REFUSED.search(text):
            return REFUSED
    return STORED


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__ or each.__context__, *getattr(each, "exceptions", ())]


def raise_if_passing(error: BaseException) -> None:
    """Raises an error again that is neither of what is stored nor of permissions: no mistake of the user's."""
    if blame(error) == PASSING:
        raise error


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` lies on Google Cloud Storage. UserError for any other scheme that is not a local path."""
    path = os.fspath(path)
    if "://" in path and not path.startswith(GCS):
        raise UserError(f"{path}: only local paths and gs:// are known.")
    return path.startswith(GCS)


def absolute(path: str | os.PathLike) -> str:
    """`path` with a local one made absolute, without a slash at its end."""
    path = os.fspath(path)
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def join(path: str | os.PathLike, *parts: str) -> str:
    """`path` and names below it."""
    return "/".join([os.fspath(path).rstrip("/"), *parts])


@functools.cache
def context() -> ts.Context:
    """What all of TensorStore's readers share: threads, connections and retries."""
    return ts.Context({"gcs_request_retries": _RETRIES})


def kvstore(path: str | os.PathLike) -> dict[str, Any]:
    """TensorStore's key-value store specification of the folder `path`: keys are the names of the files below it."""
    path = absolute(path)
    if not is_remote(path):
        return {"driver": "file", "path": path + "/"}
    bucket, _, prefix = path.removeprefix(GCS).partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": prefix + "/" if prefix else ""}


@functools.lru_cache(maxsize=16)
def _open(folder: str) -> ts.KvStore:
    return ts.KvStore.open(kvstore(folder), context=context()).result()


def _list(store: ts.KvStore, place: str, keys: ts.KvStore.KeyRange | None = None) -> list[bytes]:
    try:
        return store.list(keys).result()
    except ValueError as error:  # TensorStore has one kind of error for everything
        raise OSError(f"{place} cannot be listed: {error}") from error


def _split(path: str) -> tuple[ts.KvStore, str]:
    folder, _, name = absolute(path).rpartition("/")
    return _open(folder), name


def _read_remote(path: str, byte_range: slice | None) -> bytes:
    store, name = _split(path)
    try:
        result = store.read(name, byte_range=byte_range).result()
    except ValueError as error:
        raise OSError(f"{path} cannot be read: {error}") from error
    if result.state != "value":
        raise FileNotFoundError(f"there is no file {path}")
    return result.value


def read_bytes(path: str | os.PathLike) -> bytes:
    """The whole of a file. OSError (FileNotFoundError where there is none) if it cannot be read."""
    path = os.fspath(path)
    if is_remote(path):
        return _read_remote(path, None)
    with open(path, "rb") as file:
        return file.read()


def read_range(path: str | os.PathLike, start: int, length: int) -> bytes:
    """`length` bytes from byte `start` of a file on. OSError if they cannot be read, or the file ends before them."""
    path = os.fspath(path)
    if is_remote(path):
        data = _read_remote(path, slice(start, start + length)) if length else b""
    else:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(length)
    if len(data) != length:
        raise OSError(f"{path} ends before byte {start + length}")
    return data


def _status(path: str) -> os.stat_result | None:
    """None where there is nothing, or nothing that may be seen. A disk that does not answer is another matter."""
    try:
        return os.stat(path)
    except ValueError:
        return None
    except OSError as error:
        raise_if_passing(error)
        return None


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file at `path`. OSError where that cannot be found out."""
    path = absolute(path)
    if not is_remote(path):
        found = _status(path)
        return found is not None and stat.S_ISREG(found.st_mode)
    store, name = _split(path)
    return bool(_list(store, path, ts.KvStore.KeyRange(name, name + "\0")))


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder at `path` (on Google Cloud Storage: a folder with anything in it)."""
    path = absolute(path)
    return is_file(path) or bool(list_directory(path)) if is_remote(path) else _status(path) is not None


def list_directory(path: str | os.PathLike) -> list[str]:
    """Names of the files and folders in a folder, sorted; [] where there is none. OSError where that cannot be found
    out."""
    path = absolute(path)
    if is_remote(path):
        return sorted({key.decode().partition("/")[0] for key in _list(_open(path), path)})
    found = _status(path)
    return sorted(os.listdir(path)) if found is not None and stat.S_ISDIR(found.st_mode) else []
