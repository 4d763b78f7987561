"""The folders that official files are looked for in: the data folder, TFDS's manual folders, and archives unpacked.

A published archive that lies in one of the folders as it was downloaded, and is not unpacked there, is unpacked once
below `<cache_dir>/unpacked/`; that folder is then looked through last.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from xtr import rundir
from xtr.errors import UserError

from . import Sources
from .distributions import File, archives
from .files import readable
from .unpack import unpack


@readable()
def sources(data_dir: Path, cache_dir: Path) -> Sources:
    """Returns where readers look: the data folder first, then TFDS's manual folders, then archives found in these.

    Raises:
      DataError: a damaged archive, or a folder that cannot be read.
      UserError: an archive cannot be unpacked below `cache_dir`.
    """
    folders = (data_dir, *map(Path, rundir.manual_dirs()))
    return Sources((*folders, *(_unpacked(path, file, cache_dir) for path, file in packed(folders))))


def packed(folders: Sequence[Path]) -> Iterator[tuple[Path, File]]:
    """Yields the published archives that lie in folders and are unpacked in none of them."""
    for path, file in lying(folders):
        if not any((folder / file.holds).exists() for folder in folders):
            yield path, file


def lying(folders: Sequence[Path]) -> Iterator[tuple[Path, File]]:
    """Yields the published archives that lie in folders: beside the folder that they unpack to, in it, or loose."""
    for file in archives():
        places = dict.fromkeys((Path(file.path).parent, Path(file.folder), Path()))
        names = (Path(file.path).name, *file.aliases)
        found = (folder / place / name for folder in folders for place in places for name in names)
        if path := next((path for path in found if path.is_file()), None):
            yield path, file


def _unpacked(path: Path, file: File, cache_dir: Path) -> Path:
    """Returns the folder that an archive is unpacked into, after doing so where it is not yet."""
    about = path.stat()
    digest = hashlib.sha256(f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}".encode()).hexdigest()[:12]
    root = cache_dir.absolute() / "unpacked" / f"{path.name}-{digest}"
    if root.exists():
        return root
    print(f"unpacking {path} below {root.parent} (once)", file=sys.stderr, flush=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        try:
            unpack(path, file, work / "root")
            # Another process may have been as far: then its folder stays.
            if not root.exists():
                os.rename(work / "root", root)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as e:
        raise UserError(
            f"{path} cannot be unpacked below {root.parent} ({e.strerror}): make room there, set XTR_CACHE_DIR to "
            "another place, or unpack it into the data folder yourself."
        ) from e
    return root
