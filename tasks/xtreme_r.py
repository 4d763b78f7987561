"""XTREME-R targets: a task for every language found, and a mixture of all languages of each target."""

from .datasets import Sources
from .registration import Catalog


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers a task `<target>.<language>` for each language found, and the mixtures `xnli`, `xquad`, `tatoeba`."""
    catalog.add_target("xnli", catalog.find("xnli"), ("accuracy",), style="nli")
    catalog.add_target("xquad", catalog.find("xquad"), ("em", "f1"))
    catalog.add_target("tatoeba", catalog.find("tatoeba"), ("accuracy",))
