"""XTREME-R targets: a task for every language found, and a mixture of all languages of each target."""

from .datasets import Sources
from .datasets.nli import find_xnli
from .datasets.squad import find_xquad
from .datasets.tatoeba import find_tatoeba
from .registration import Catalog


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers a task `<target>.<language>` for each language found, and the mixtures `xnli`, `xquad`, `tatoeba`."""
    catalog.add_target("xnli", find_xnli(sources), ("accuracy",), style="nli")
    catalog.add_target("xquad", find_xquad(sources), ("em", "f1"))
    catalog.add_target("tatoeba", find_tatoeba(sources), ("accuracy",))
