"""Checking the official files: every split is read by its own reader, counted, and compared with what is published."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtr.errors import DataError, UserError, did_you_mean
from xtr.progress import progress

from .. import benchmarks
from . import Dataset, Found, Sources, Split, task_name
from .archives import lying
from .distributions import DISTRIBUTIONS, GROUPS, distributions
from .download import difference, digests, has_text, records
from .files import readable
from .finders import FINDERS
from .published import PUBLISHED, Count

VERDICTS = ("complete", "truncated", "altered", "missing", "unreadable", "no published count")


@dataclass(frozen=True)
class Verdict:
    """What is known of one split of one data set.

    Attributes:
      dataset, language, split: which.
      verdict: 'complete'; 'truncated' (fewer than published); 'altered' (more, or the file's checksum is another);
        'missing'; 'unreadable'; 'no published count'.
      files: the files that hold it.
      rows, examples: counted: rows of the files, and examples that readers make of them; None where it is not there.
      dropped: why rows are left out -> how many.
      published: the published number that it has or should have; None where there is none.
      why: what is wrong, '' where nothing is.
    """

    dataset: str
    language: str
    split: str
    verdict: str
    files: tuple[str, ...] = ()
    rows: int | None = None
    examples: int | None = None
    dropped: Mapping[str, int] | None = None
    published: int | None = None
    why: str = ""


def verify(names: Sequence[str], sources: Sources) -> list[Verdict]:
    """Reads and judges every split of the named data sets (groups and names as `xtr data download`'s; none: all).

    Raises:
      UserError: an unknown name.
    """
    wanted = _finders(names)
    out = list(_archives(wanted, sources))
    check = _Checksums(sources)
    # A world with languages of its own has sizes of its own.
    published = {} if sources.file(benchmarks.OWN) else PUBLISHED
    with progress("reading data sets", len(wanted)) as bar:
        for name in wanted:
            try:
                with readable():
                    found = FINDERS[name](sources)
            except DataError as e:
                out.append(Verdict(name, "", "", "unreadable", why=str(e)))
            else:
                for dataset in found.datasets:
                    out += _of_dataset(dataset, published.get(dataset.name, {}), check)
                out += _missing(name, found, sources)
            bar.advance(note=name)
    return out


def _finders(names: Sequence[str]) -> list[str]:
    """Returns the finders that names stand for, in the table's order."""
    named = {distribution.name for distribution in DISTRIBUTIONS}
    wanted: set[str] = set()
    for name in names or tuple(FINDERS):
        if name in FINDERS:
            wanted.add(name)
        elif name in GROUPS or name in named:
            wanted.update(task for distribution in distributions([name]) for task in distribution.tasks)
        else:
            known = (*FINDERS, *GROUPS, *named)
            raise UserError(f"There is no data set {name!r}.{did_you_mean(name, known)}")
    return [name for name in FINDERS if name in wanted]


def _archives(wanted: Sequence[str], sources: Sources) -> Iterator[Verdict]:
    """Yields the archives, lying there as published, that are not the published ones."""
    for path, file in lying(sources.roots):
        (distribution,) = (distribution for distribution in DISTRIBUTIONS if file in distribution.files)
        if not set(distribution.tasks) & set(wanted):
            continue
        if why := difference(file, path):
            yield Verdict(distribution.name, "", "", "altered", (str(path),), why=why)


def _missing(name: str, found: Found, sources: Sources) -> Iterator[Verdict]:
    """Yields what the data set should have and has not: itself, or languages of the benchmark."""
    here = {dataset.name for dataset in found.datasets}
    languages = benchmarks.languages(sources).get(name, ())
    due = {task_name(f"{name}.{language}"): found.looked_for for language in languages}
    for absent, why in {**due, **found.absent}.items():
        if absent not in here:
            yield Verdict(absent, absent.partition(".")[2], "", "missing", why=why)


def _of_dataset(dataset: Dataset, published: Mapping, check: "_Checksums") -> Iterator[Verdict]:
    for split, part in dataset.splits.items():
        yield _of_split(dataset, split, part, published.get(split, ()), check)
    for split in published:
        if split not in dataset.splits:
            (count, *_) = published[split]
            why = "other splits of it are there, this one is not"
            yield Verdict(dataset.name, dataset.language, split, "missing", published=count.number, why=why)


def _of_split(dataset: Dataset, split: str, part: Split, published: Sequence[Count], check: "_Checksums") -> Verdict:
    verdict = functools.partial(Verdict, dataset.name, dataset.language, split, files=tuple(map(str, part.files)))
    tally: Counter = Counter()
    counted: Counter = Counter()
    try:
        with readable():
            for example in part.read(part.files, tally):
                counted["examples"] += 1
                counted["gold"] += len(getattr(example, "gold", ()))
    except DataError as e:
        return verdict(verdict="unreadable", why=str(e))
    counted["rows"] = tally["rows"]
    dropped = {what.removeprefix("dropped: "): n for what, n in tally.items() if what.startswith("dropped: ")}
    verdict = functools.partial(verdict, rows=counted["rows"], examples=counted["examples"], dropped=dropped)
    differs, checked = check(part.files)
    if not published:
        if differs:
            return verdict(verdict="altered", why=differs)
        return verdict(verdict="complete" if checked else "no published count")
    fits = [count for count in published if count.number == counted[count.of]]
    if fits:
        return verdict(verdict="altered" if differs else "complete", published=fits[0].number, why=differs)
    official = published[0]
    have = f"{counted[official.of]:,} {official.of}, published are {official.number:,}"
    fewer = any(counted[count.of] < count.number for count in published)
    return verdict(verdict="truncated" if fewer else "altered", published=official.number, why=have)


class _Checksums:
    """Compares files with the published SHA-256, or with what was recorded when they were downloaded."""

    def __init__(self, sources: Sources):
        self._roots = sources.roots
        self._published = {
            file.path: file.sha256
            for distribution in DISTRIBUTIONS
            for file in distribution.files
            if file.sha256 and not file.folder
        }
        self._recorded = {
            root / path: sha256
            for root in self._roots
            for record in records(root)
            for path, (_, sha256) in record["unpacked"].items()
        }
        self._digest = functools.cache(lambda path: digests(path)["sha256"])

    def __call__(self, files: Sequence[Path]) -> tuple[str, bool]:
        """Returns in what files differ ('' where they do not), and whether there was something to compare each with."""
        expected = {path: self._expected(path) for path in files}
        for path, sha256 in expected.items():
            if sha256 and self._digest(path) != sha256 and not has_text(path, sha256):
                return f"{path} has another SHA-256 than the published file", True
        return "", all(expected.values())

    def _expected(self, path: Path) -> str:
        if path in self._recorded:
            return self._recorded[path]
        below = (path.relative_to(root).as_posix() for root in self._roots if path.is_relative_to(root))
        return next((self._published[name] for name in below if name in self._published), "")
