"""What a launcher does, as values: a command with its standard input, or a file. They print as the shell runs them."""

import dataclasses
import shlex
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Run:
    """One command, run without a shell.

    Attributes:
      argv: the program and its arguments.
      stdin: its standard input; '' for none. It ends with a newline.
    """

    argv: tuple[str, ...]
    stdin: str = ""

    def __post_init__(self):
        if self.stdin and not self.stdin.endswith("\n"):
            raise ValueError("the standard input of a command must end with a newline")


@dataclasses.dataclass(frozen=True)
class Write:
    """One file on this machine, written whole.

    Attributes:
      path: where; its folder is made.
      body: its text, which ends with a newline.
      exclusive: whether the file must not be there yet.
    """

    path: str
    body: str
    exclusive: bool = False

    def __post_init__(self):
        if not self.body.endswith("\n"):
            raise ValueError("a file must end with a newline")


@dataclasses.dataclass(frozen=True)
class Remove:
    """A file on this machine goes away; it need not be there."""

    path: str


Action = Run | Write | Remove


def _heredoc(body: str) -> tuple[str, str]:
    """How a shell takes this text as it is: what stands behind the command, and the lines below it."""
    mark, lines = "EOF", set(body.split("\n"))
    while mark in lines:
        mark += "_"
    return f" <<'{mark}'", f"{body}{mark}\n"


def shell(action: Action) -> str:
    """The action as lines of bash that do the same, with a newline at the end."""
    if isinstance(action, Run):
        command = shlex.join(action.argv)
        if not action.stdin:
            return f"{command}\n"
        where, below = _heredoc(action.stdin)
        return f"{command}{where}\n{below}"
    if isinstance(action, Remove):
        return f"rm -f {shlex.quote(action.path)}\n"
    where, below = _heredoc(action.body)
    folder, path = shlex.quote(action.path.rpartition("/")[0] or "."), shlex.quote(action.path)
    guard = "set -o noclobber; " if action.exclusive else ""
    text = f"mkdir -p {folder}\n" if folder != "." else ""
    line = f"({guard}cat > {path}){where}" if guard else f"cat > {path}{where}"
    return f"{text}{line}\n{below}"


def script(title: str, actions: Sequence[Action]) -> str:
    """Several actions under a comment."""
    return f"# {title}\n" + "".join(map(shell, actions))
