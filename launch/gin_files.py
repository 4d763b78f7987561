"""The user's own gin files, brought to another machine so that they find each other there as they do here."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from xtr.errors import UserError
from xtr.launch.spec import File

_INCLUDE = re.compile(r"""^\s*include\s+(['"])(.*?)\1""", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9._/=+-]+")


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a job brings along.

    Attributes:
      names: of the files in the place of those that the command line names; shipped ones as they are.
      search_paths: the folders that files are looked for in, there.
      files: all that is not shipped, below 'gin/' of the job's folder.
    """

    names: tuple[str, ...]
    search_paths: tuple[str, ...]
    files: tuple[File, ...]


def collect(
    paths: Sequence[Path],
    names: Sequence[str],
    search_paths: Sequence[str],
    shipped: Path,
    folder: str,
    more: Sequence[Path] = (),
) -> Collected:
    """Gathers gin files: those named, all in the user's search paths, what they include, and `more`.

    Args:
      paths: where the named files were found.
      names: as the command line names them.
      search_paths: the user's own folders.
      shipped: the folder of xtr's own files, which are on the other machine already.
      folder: where the files will be there, relative to the job's working folder.
      more: files that the run itself will look for, as a study does for its stages.
    """
    shipped = shipped.resolve()
    roots = [Path.cwd().resolve(), *(Path(path).resolve() for path in search_paths)]

    def is_shipped(path: Path) -> bool:
        return path.resolve().is_relative_to(shipped)

    waiting = [path.resolve() for path in (*paths, *more)]
    for root in roots[1:]:
        waiting += sorted(path.resolve() for path in root.rglob("*.gin"))
    own: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        if is_shipped(path) or path in own:
            continue
        own[path] = path.read_text(encoding="utf-8")
        for _, name in _INCLUDE.findall(own[path]):
            places = [Path(name)] if os.path.isabs(name) else [root / name for root in (path.parent, *roots)]
            found = next((place.resolve() for place in places if place.is_file()), None)
            if found and os.path.isabs(name) and not is_shipped(found):
                raise UserError(f"{path} includes {name}, which no other machine has: name it relative to the file.")
            waiting += [found] if found else []
    if not own:
        return Collected(tuple(names), (), ())
    top = Path(os.path.commonpath([path.parent for path in own]))
    top = Path(os.path.commonpath([top, *(root for root in roots if any(p.is_relative_to(root) for p in own))]))

    def there(path: Path) -> str:
        relative = path.relative_to(top).as_posix()
        if not _PLAIN.fullmatch(relative):
            raise UserError(
                f"{path}: on its way to other machines a gin file's name may have A-Z a-z 0-9 ._=+-/ alone."
            )
        return relative

    named = [
        name if is_shipped(path) else f"{folder}/{there(path.resolve())}"
        for name, path in zip(names, paths, strict=True)
    ]
    searched = [folder if root == top else f"{folder}/{there(root)}" for root in roots if root.is_relative_to(top)]
    files = [File(f"gin/{there(path)}", text if text.endswith("\n") else text + "\n") for path, text in own.items()]
    return Collected(tuple(named), tuple(dict.fromkeys(searched)), tuple(sorted(files, key=lambda file: file.path)))
