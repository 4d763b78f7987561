"""Data sets in their official files: readers (plain Python), and one TFDS builder around them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Split:
    """One split: its files, and `read(files, tally)` which yields canonical examples in file order.

    The reader counts in `tally` what it saw: 'rows', and one entry for each reason to drop a row ('dropped: ...').
    """

    files: tuple[Path, ...]
    read: Callable[[tuple[Path, ...], Counter], Iterator[Any]]


@dataclass(frozen=True)
class Dataset:
    """One data set in one language, found on disk. `example_type` is the canonical dataclass that its readers yield."""

    name: str
    language: str
    example_type: type
    splits: Mapping[str, Split]


@dataclass(frozen=True)
class Found:
    """What a finder saw below the data directory: data sets, and names that cannot be had with the reason why."""

    datasets: tuple[Dataset, ...] = ()
    absent: Mapping[str, str] | None = None
