"""Unpacking a published archive safely: nothing is written outside its folder, and no half-unpacked folder is seen."""

import bz2
import gzip
import hashlib
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from xtr.errors import DataError

from .distributions import File

_CHUNK = 1 << 20
_JUNK = "__MACOSX"  # what macOS adds to zip files


def unpack(archive: Path, file: File, root: Path) -> dict[str, tuple[int, str]]:
    """Unpacks an archive to `root / file.folder`, which may be there already; files appear in it whole.

    Members outside of the archive's `top` folder are left out. Links become copies of what they point to.

    Returns:
      What was unpacked: path below `root` -> (size in bytes, SHA-256).

    Raises:
      DataError: the archive is damaged, or has a member that would lie outside of its folder; nothing is left behind.
      OSError: it cannot be written, for want of room, say; nothing is left behind.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=root) as name:
        work = Path(name) / "folder"
        work.mkdir()
        try:
            digests = dict(_write(archive, file.top, work))
            if file.inner:
                digests = _unpack_inner(work)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as e:
            # What writes fail with has a number; what decompressors and readers of archives say has none.
            if getattr(e, "errno", None) is not None:
                raise
            raise DataError(f"{archive} is damaged ({e}): remove it and download it again.") from e
        if not digests:
            raise DataError(f"{archive} has nothing in {file.top or 'it'}: it is not the published {archive.name}.")
        _place(work, root / file.folder)
    return {f"{file.folder}/{path}": digest for path, digest in digests.items()}


def _unpack_inner(folder: Path) -> dict[str, tuple[int, str]]:
    """Unpacks every <name>.tar.gz of a folder into <name>/ and removes it."""
    digests = {}
    for path in sorted(folder.glob("*.tar.gz")):
        below = folder / path.name.removesuffix(".tar.gz")
        digests |= {f"{below.name}/{name}": digest for name, digest in _write(path, "", below)}
        path.unlink()
    return digests


def _place(work: Path, folder: Path) -> None:
    """Moves an unpacked folder into its place; where there is one already, file by file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        os.rename(work, folder)
        return
    for path in sorted(p for p in work.rglob("*") if p.is_file()):
        target = folder / path.relative_to(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)


def _write(archive: Path, top: str, folder: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """Writes an archive's files below `folder`; yields (path below it, (size, SHA-256))."""
    for name, stream in members(archive):
        path = _safe(archive, name)
        if path.parts[0] == _JUNK or (top and path.parts[0] != top):
            continue
        path = path.relative_to(top) if top else path
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with stream, open(target, "wb") as out:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        yield path.as_posix(), (size, digest.hexdigest())


def members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields (name, content) of an archive's files; to go on to the end compares the checksum."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(f"{archive}: its member {info.filename!r} is a link, which is not unpacked.")
                if not info.is_dir():
                    yield info.filename, packed.open(info)
        return
    decompress = bz2.open if archive.suffix == ".bz2" else gzip.open
    with decompress(archive, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
        for member in packed:
            if member.isdir():
                continue
            if member.issym() or member.islnk():
                beside = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
                _safe(archive, os.path.normpath(beside / member.linkname), f"link {member.name!r} to ")
            try:
                content = packed.extractfile(member)
            except KeyError as e:
                raise DataError(f"{archive}: its link {member.name!r} leads nowhere.") from e
            if content is None:
                raise DataError(f"{archive}: its member {member.name!r} is neither a file nor a folder.")
            yield member.name, content
        while stream.read(_CHUNK):
            pass  # The checksum of a compressed file stands at its end, which the archive's own end does not reach.


def _safe(archive: Path, name: str, what: str = "") -> PurePosixPath:
    """Returns a member's path, which must stay within the archive's folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise DataError(f"{archive}: its {what or 'member '}{name!r} would lie outside of its folder: not unpacked.")
    return path
