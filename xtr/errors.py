"""Errors that are the user's to mend: one clear message, exit code 2, nothing half-written."""

import difflib
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """A mistake in a command, a config or a path. The message says what, where, and what to do."""


class DataError(UserError):
    """Bad input data. The message names the file, the line (or record) and the field."""


class Preempted(Exception):
    """The process was asked to stop (SIGTERM) and has saved its work; the command exits with 42."""


def did_you_mean(name: str, candidates: Iterable[str], n: int = 3) -> str:
    """Returns ' Did you mean a, b?' for the nearest candidates of `name`, or '' when nothing is near."""
    pool = sorted(set(candidates))
    folded = {c.lower(): c for c in pool}
    near = difflib.get_close_matches(name, pool, n=n, cutoff=0.6)
    near += [folded[c] for c in difflib.get_close_matches(name.lower(), list(folded), n=n, cutoff=0.6)]
    near += [c for c in pool if name and (c.startswith(name) or name.startswith(c + "."))]
    unique = list(dict.fromkeys(near))[:n]
    return f" Did you mean {', '.join(unique)}?" if unique else ""


def by_reason(why: Mapping[str, str]) -> str:
    """Says why names cannot be had, those of one reason together: 'a, b: no file; c: no licence'."""
    names: dict[str, list[str]] = {}
    for name, reason in why.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(together)}: {reason}" for reason, together in names.items())
