"""What the sizes of a family have in common: their gains are compared over that alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from xtr.study.panels import ENGLISH, NONE, Model

Pair = tuple[str, str]  # (intermediate, target)


@dataclass(frozen=True)
class Shared:
    """What sizes are compared over.

    Attributes:
      everywhere: pairs in which all sizes have a gain: of the mean of intermediates on an average.
      of_intermediate: those in which all sizes with any gain of this intermediate have one: of its averages.
      of_target: those in which all sizes with any gain on this target have one: of the mean of intermediates on it.
      languages: pair -> the languages but English in which all sizes that have the pair have a gain.
    """

    everywhere: frozenset[Pair]
    of_intermediate: frozenset[Pair]
    of_target: frozenset[Pair]
    languages: Mapping[Pair, frozenset[str]]


def shared_by_family(scored: Mapping[Model, Mapping[str, pd.DataFrame]]) -> dict[str, Shared | None]:
    """Family -> what its sizes share; None where all sizes have the same."""
    families: dict[str, list[dict[Pair, frozenset[str]]]] = {}
    for model, mine in scored.items():
        families.setdefault(model.family, []).append(_gains(mine))
    return {family: _shared([one for one in found if one]) for family, found in families.items()}


def _gains(mine: Mapping[str, pd.DataFrame]) -> dict[Pair, frozenset[str]]:
    """(intermediate, target) -> the languages but English in which there is a gain."""
    found: dict[Pair, set[str]] = {}
    for target, rows in mine.items():
        for name, language in rows[["intermediate", "language"]].drop_duplicates().itertuples(index=False):
            if language != ENGLISH:
                found.setdefault((str(name), target), set()).add(str(language))
    both = {pair: frozenset(own & found.get((NONE, pair[1]), set())) for pair, own in found.items() if pair[0] != NONE}
    return {pair: languages for pair, languages in both.items() if languages}


def _shared(sizes: Sequence[Mapping[Pair, frozenset[str]]]) -> Shared | None:
    if all(one == sizes[0] for one in sizes):
        return None
    pairs = {pair for one in sizes for pair in one}
    languages = {pair: frozenset.intersection(*(one[pair] for one in sizes if pair in one)) for pair in pairs}

    def among(alike: Callable[[Pair, Pair], bool]) -> frozenset[Pair]:
        concerned = {pair: [one for one in sizes if any(alike(pair, other) for other in one)] for pair in pairs}
        return frozenset(p for p in pairs if languages[p] and all(p in one for one in concerned[p]))

    return Shared(
        everywhere=among(lambda pair, other: True),
        of_intermediate=among(lambda pair, other: pair[0] == other[0]),
        of_target=among(lambda pair, other: pair[1] == other[1]),
        languages=languages,
    )
