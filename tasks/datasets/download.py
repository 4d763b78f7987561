"""Downloading the official files: resumed where they broke off, checked before use, unpacked beside and moved.

What was downloaded is recorded in `<data_dir>/.downloads/<file>.json`: address, size, SHA-256 (of an archive also
those of each unpacked file), which `xtr data verify` compares with the files of today.
"""

import email.message
import errno
import fcntl
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xtr.errors import DataError, UserError, by_reason
from xtr.progress import Reporter, progress

from .distributions import Distribution, File
from .unpack import unpack

RECORDS = ".downloads"
_CHUNK = 1 << 18
_MB = 1_000_000
_SECONDS_WITHOUT_DATA = 60.0
# Seconds between tries; the count starts again whenever bytes have come.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Answers after which another try may find the server well again.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class _Failed(Exception):
    """One file could not be had, for a reason that need not hold for others."""


@dataclass
class _Download:
    """What all files of one command share.

    Attributes:
      unreachable: hosts that gave no answer -> why: their other files are not tried.
    """

    data_dir: Path
    mirror: str
    pause: Callable[[float], None]
    unreachable: dict[str, str] = field(default_factory=dict)


def state(file: File, data_dir: Path) -> str:
    """Says whether a file is in the data folder: 'there', 'broken off' (a part of it), 'differs' or 'missing'.

    An archive is there once it is unpacked. 'differs' is a file with another size or SHA-256 than the published one.
    """
    if file.folder and (data_dir / file.holds).exists():
        return "there"
    path = data_dir / file.path
    if path.is_file():
        return "differs" if difference(file, path) else "there"
    return "broken off" if _part(path).exists() else "missing"


def digests(path: Path) -> dict[str, str]:
    """Returns {'sha256', 'md5'} of a file, in hex."""
    both = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK):
            for digest in both:
                digest.update(chunk)
    return {digest.name: digest.hexdigest() for digest in both}


def mismatch(file: File, size: int, found: dict[str, str]) -> str:
    """Says in what a file differs from the published one; '' where it does not, or nothing is published to compare."""
    if file.size is not None and size != file.size:
        return f"it has {size:,} bytes, the published one {file.size:,}"
    for name in ("sha256", "md5"):
        published = getattr(file, name)
        if published and found[name] != published:
            return f"its {name.upper()} is {found[name]}, the published one's {published}"
    return ""


def difference(file: File, path: Path) -> str:
    """Says in what a file at hand differs from the published one: as `mismatch`, but line ends may be another system's.

    Git, for one, changes them where it is told to; XCOPA's are published with CR LF.
    """
    why = mismatch(file, path.stat().st_size, digests(path))
    return "" if why and file.sha256 and not file.folder and has_text(path, file.sha256) else why


def has_text(path: Path, sha256: str) -> bool:
    """Whether a file has a SHA-256 but for its line ends (LF or CR LF)."""
    lines = path.read_bytes().replace(b"\r\n", b"\n")
    return any(hashlib.sha256(text).hexdigest() == sha256 for text in (lines, lines.replace(b"\n", b"\r\n")))


def download(
    wanted: Sequence[Distribution],
    data_dir: Path,
    *,
    mirror: str = "",
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Brings data sets into the data folder; what is there already is left alone.

    Args:
      mirror: an address that has the files below `<host>/<path>` of their own addresses; '' for their own.
      pause: waits some seconds.

    Returns:
      Name of the data set -> what was done: 'downloaded', 'there' or, for one got by hand, how.

    Raises:
      UserError: something could not be had: all that could, was; or the disk is full, which ends it at once.
    """
    if mirror and urllib.parse.urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(f"The mirror {mirror} is not an http:// or https:// address.")
    work = _Download(data_dir, mirror, pause)
    done: dict[str, str] = {}
    failed: dict[str, str] = {}
    with _only_one(data_dir):
        for distribution in wanted:
            if not distribution.files:
                done[distribution.name] = distribution.note
                continue
            brought = 0
            for file in distribution.files:
                try:
                    brought += _bring(work, file)
                except (_Failed, DataError) as e:
                    failed[distribution.name] = str(e)
                    break
            else:
                done[distribution.name] = "downloaded" if brought else "there"
    if failed:
        complete = [name for name, what in done.items() if what in ("downloaded", "there")]
        kept = f" Complete: {', '.join(complete)}." if complete else ""
        raise UserError(
            f"Not all could be downloaded. {by_reason(failed)}.{kept} The same command goes on where this one ended."
        )
    return done


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Holds the data folder against a second download, and says where a folder or file cannot be written."""
    try:
        (data_dir / RECORDS).mkdir(parents=True, exist_ok=True)
        with open(data_dir / RECORDS / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise UserError(f"Another `xtr data download` is at work in {data_dir}: wait for it.") from e
            yield
    except OSError as e:
        if e.errno in _FULL:
            raise UserError(
                f"There is no room left for the data in {data_dir} ({e.strerror}). What has come is kept: make room "
                "and run the same command again, which goes on from there."
            ) from e
        raise UserError(f"{e.filename or data_dir} cannot be written ({e.strerror}).") from e


def _bring(work: _Download, file: File) -> bool:
    """Brings one file, unless it is there; returns whether it came."""
    if file.folder and (work.data_dir / file.holds).exists():
        return False
    path = work.data_dir / file.path
    # An archive that the user laid there is unpacked, and kept.
    kept = path.is_file()
    if not kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(work, file, path)
    elif why := difference(file, path):
        raise _Failed(f"{path} is not as published ({why}): move it away to have it downloaded")
    elif not file.folder:
        return False
    found = {"size": path.stat().st_size, **digests(path)}
    unpacked = unpack(path, file, work.data_dir) if file.folder else {}
    record = {"file": asdict(file), "found": found, "verified": bool(file.sha256 or file.md5), "unpacked": unpacked}
    _write(work.data_dir / RECORDS / f"{path.name}.json", record)
    if file.folder and not kept:
        path.unlink()
    return True


def records(data_dir: Path) -> list[dict]:
    """Returns the records of what was downloaded into a data folder."""
    return [json.loads(path.read_text()) for path in sorted((data_dir / RECORDS).glob("*.json"))]


def _write(path: Path, record: dict) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(record, indent=1))
    os.replace(beside, path)


# ------------------------------------------------------------------------------------------------- transfer


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _validator_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.validator")


def _address(work: _Download, url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{work.mirror.rstrip('/')}/{parts.netloc}{parts.path}" if work.mirror else url


def _fetch(work: _Download, file: File, path: Path) -> None:
    """Downloads a file to `path`, resuming what lies in its .part, and checks it."""
    url = _address(work, file.url)
    host = urllib.parse.urlsplit(url).netloc
    if host in work.unreachable:
        raise _Failed(work.unreachable[host])
    part = _part(path)
    start = part.stat().st_size if part.exists() else 0
    with progress(f"{path.name} (MB)", (file.size or 0) // _MB, start // _MB) as bar:
        tries = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _transfer(url, file, path, bar)
                break
            except _Broken as broken:
                came = part.exists() and part.stat().st_size > before
                tries = 0 if came else tries + 1
                # Without a network nothing is won by waiting long.
                if tries > (len(_PAUSES) if broken.connected else 1):
                    work.unreachable[host] = f"{host}: {broken}"
                    raise _Failed(work.unreachable[host]) from broken
                work.pause(_PAUSES[max(tries - 1, 0)])
    why = mismatch(file, part.stat().st_size, digests(part))
    _validator_path(path).unlink(missing_ok=True)
    if why:
        bad = path.with_name(f"{path.name}.bad")
        os.replace(part, bad)
        raise _Failed(f"what {url} gave is not the published file ({why}); it is kept as {bad}")
    os.replace(part, path)


class _Broken(Exception):
    """A transfer that broke off, and may be tried again; `connected` tells whether the server was there at all."""

    def __init__(self, why: object, connected: bool = True):
        super().__init__(str(why) or type(why).__name__)
        self.connected = connected


def _transfer(url: str, file: File, path: Path, bar: Reporter) -> None:
    """Brings the rest of a file into its .part; returns once it is all there. Raises _Broken or _Failed."""
    part, validator_path = _part(path), _validator_path(path)
    done = part.stat().st_size if part.exists() else 0
    validator = validator_path.read_text() if validator_path.exists() else ""
    if done and not validator and not (file.sha256 or file.md5):
        done = 0  # Nothing would tell that the rest belongs to another version of the file.
    if file.size is not None and done > file.size:
        done = 0
    if done and done == file.size:
        return
    headers = {"User-Agent": "xtr", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if validator:
            headers["If-Range"] = validator
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_SECONDS_WITHOUT_DATA
        ) as response:
            if response.status != 206 or not _begins_at(response.headers, done):
                done = 0  # The whole file comes: the server knows no ranges, or the file has changed.
            _copy(response, part, validator_path, done, bar)
    except urllib.error.HTTPError as e:
        if e.code == 416:  # There is nothing after what we have: it is no beginning of this file.
            part.unlink()
            raise _Broken("the server has no such part of the file") from e
        if e.code in _PASSING:
            raise _Broken(f"HTTP {e.code} {e.reason}") from e
        raise _Failed(f"{url}: HTTP {e.code} {e.reason}") from e
    except urllib.error.URLError as e:
        raise _Broken(e.reason, connected=isinstance(e.reason, TimeoutError)) from e
    except (http.client.HTTPException, ConnectionError, TimeoutError) as e:
        raise _Broken(e) from e


def _begins_at(headers: email.message.Message, start: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _copy(response: http.client.HTTPResponse, part: Path, validator_path: Path, start: int, bar: Reporter) -> None:
    """Appends a response's body to the .part, from byte `start` of the file on."""
    headers = response.headers
    etag = headers.get("ETag", "")
    # A weak ETag does not vouch for the same bytes.
    validator_path.write_text(etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", ""))
    length = headers.get("Content-Length")
    size = start + int(length) if length else None
    with open(part, "r+b" if start else "wb") as out:
        out.seek(start)
        out.truncate()
        done = start
        bar.total = bar.total or (size or 0) // _MB
        bar.advance(done // _MB - bar.done)
        while chunk := _read(response):
            out.write(chunk)
            done += len(chunk)
            bar.advance(done // _MB - bar.done)
    if size is not None and done < size:
        raise _Broken(f"the connection ended after {done:,} of {size:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """Reads what is there. An error of the network must not be taken for one of the disk."""
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as e:
        raise _Broken(e) from e
