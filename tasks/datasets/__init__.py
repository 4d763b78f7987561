"""Data sets in their official files: readers (plain Python), and one TFDS builder around them."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sources:
    """The folders that official files lie below, in the order in which they are looked through."""

    roots: tuple[Path, ...]

    def file(self, *names: str) -> Path | None:
        """The first file there is: of the first of `names` (paths below a root) in any root, then of the next."""
        return next((root / name for name in names for root in self.roots if (root / name).is_file()), None)

    def matching(self, pattern: str, *folders: str) -> list[tuple[Path, re.Match]]:
        """Files directly in any of the folders (paths below a root) whose whole name matches, sorted by name.

        Of several files of one name, that of the first folder counts, and of the first root.
        """
        found: dict[str, tuple[Path, re.Match]] = {}
        for folder in (root / name for name in folders for root in self.roots if (root / name).is_dir()):
            for path in folder.iterdir():
                match = re.fullmatch(pattern, path.name)
                if match and path.name not in found and path.is_file():
                    found[path.name] = path, match
        return [found[name] for name in sorted(found)]

    def folders(self, name: str) -> list[Path]:
        """The folders directly below `name` in any root, sorted by name; the first root's of several of one name."""
        found: dict[str, Path] = {}
        for folder in (root / name for root in self.roots if (root / name).is_dir()):
            for path in folder.iterdir():
                if path.is_dir():
                    found.setdefault(path.name, path)
        return [found[name] for name in sorted(found)]

    def no_file(self, *names: str) -> str:
        """Says where a file was looked for in vain."""
        return f"no file {' or '.join(names)} below {', '.join(map(str, self.roots))}"


@dataclass(frozen=True)
class Split:
    """One split: its files, and `read(files, tally)` which yields canonical examples in file order.

    The reader counts in `tally` what it saw: 'rows', one entry for each reason to drop a row ('dropped: ...') and one
    for each thing worth knowing of rows that were kept ('noted: ...'). Rows are the examples and the dropped ones.
    """

    files: tuple[Path, ...]
    read: Callable[[tuple[Path, ...], Counter], Iterator[Any]]


def task_name(name: str) -> str:
    """Returns a name as SeqIO has it: '_' for each of the characters that its names lack (`panx.zh_yue`)."""
    return re.sub(r"[^\w.:#]", "_", name)


@dataclass(frozen=True)
class Dataset:
    """One data set in one language, found on disk.

    Attributes:
      name: the task's name, `<data set>` or `<data set>.<language>`, see `task_name`.
      language: its ISO 639-1 code (639-3 where there is none).
      example_type: the canonical dataclass that its readers yield.
      splits: SeqIO's names: train, validation, test; queries and candidates for retrieval.
      label_names: the tags of a tagging data set, in the order of their numbers.
      candidates: name of the data set whose split 'candidates' queries search, where it is not the data set itself.
    """

    name: str
    language: str
    example_type: type
    splits: Mapping[str, Split]
    label_names: tuple[str, ...] = ()
    candidates: str = ""

    def __post_init__(self):
        object.__setattr__(self, "name", task_name(self.name))


@dataclass(frozen=True)
class Found:
    """What a finder saw: data sets, and names that cannot be had with the reason why.

    Attributes:
      looked_for: why a language that is not among `datasets` is not, for data sets of many languages.
    """

    datasets: tuple[Dataset, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    looked_for: str = ""
