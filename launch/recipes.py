"""Recipes: Markdown whose commands are run without a cloud, and whose output is compared with what they say.

A block of ```shell that a block of ```text follows is one command `xtr launch ... --dry_run` and what it prints. The
part of start.sh that is the same for every job stands there as one line; the file launch/templates/start.sh holds it.
"""

import contextlib
import importlib.resources
import io
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from xtr.errors import DataError, UserError

SCRIPT = "# <the rest of launch/templates/start.sh>\n"
_BLOCK = re.compile(r"```shell\n(?P<command>.*?)```\n\n```text\n(?P<output>.*?)```\n", re.DOTALL)
# What a word of bash is made of, as long as bash only takes quotes away: 'text', "text", \x and plain letters.
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\`$]|\\.)*)"|\\(.)|([\w@%+=:,./-]+)""", re.DOTALL)


def shipped() -> list[Path]:
    """The recipes that come with xtr."""
    folder = Path(str(importlib.resources.files("xtr.launch"))) / "recipes"
    return sorted(folder.glob("*.md"))


def _words(command: str, where: str) -> list[str]:
    """The words of a command, as bash reads them. DataError where bash would read more in it than words."""
    words, at, inside = [], 0, False
    text = command.strip().replace("\\\n", "")  # as bash itself does, outside of '...'
    while at < len(text):
        if text[at] in " \t":
            at, inside = at + 1, False
            continue
        found = _PART.match(text, at)
        if not found:
            more = text[at:].split()[0]
            raise DataError(f"{where}: a recipe's command must be plain words: write {more!r} between single quotes.")
        single, double, escaped, plain = found.groups()
        if double is not None:
            double = re.sub(r'\\([$`"\\])', r"\1", double)
        part = next(piece for piece in (single, double, escaped, plain) if piece is not None)
        words = [*words[:-1], words[-1] + part] if inside else [*words, part]
        at, inside = found.end(), True
    return words


def arguments(command: str, where: str) -> list[str]:
    """The arguments of a recipe's command. DataError for one that would do something."""
    words = _words(command, where)
    if words[:2] != ["xtr", "launch"] or "--dry_run" not in words:
        raise DataError(f"{where}: a recipe's command is `xtr launch ... --dry_run`, but this is {command.strip()!r}.")
    return words[1:]


def output(argv: Sequence[str], run: Callable[[Sequence[str]], int]) -> str:
    """What a command prints, with the common part of start.sh as one line."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = run(argv)
    if code != 0:
        raise UserError(f"`xtr {shlex.join(argv)}` ended with {code}.")
    common = importlib.resources.files("xtr.launch").joinpath("templates", "start.sh").read_text(encoding="utf-8")
    return text.getvalue().replace(common, SCRIPT)


def verify(path: Path, run: Callable[[Sequence[str]], int], update: bool = False) -> bool:
    """Whether a recipe's commands print something else than it says.

    Args:
      run: runs `xtr` with these arguments in this process, and returns its exit code.
      update: whether to write what comes out into the file.

    Raises:
      DataError: the file has no command, or one that is no dry run.
    """
    text = path.read_text(encoding="utf-8")
    if not _BLOCK.search(text):
        raise DataError(f"{path}: no ```shell block that a ```text block follows, so there is nothing to verify.")

    def renewed(found: re.Match) -> str:
        line = text.count("\n", 0, found.start()) + 2
        came = output(arguments(found["command"], f"{path}:{line}"), run)
        return f"```shell\n{found['command']}```\n\n```text\n{came}```\n"

    new = _BLOCK.sub(renewed, text)
    if update and new != text:
        path.write_text(new, encoding="utf-8")
    return new != text
