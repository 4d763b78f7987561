"""The two targets that XTREME has and XTREME-R left out."""

from .datasets import Sources
from .registration import Catalog


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers `pawsx.<language>` and the mixture `pawsx`; `bucc2018.<language>` and the mixture `bucc2018`."""
    catalog.add_target("pawsx", catalog.find("pawsx"), ("accuracy",), style="paws")
    catalog.add_target("bucc2018", catalog.find("bucc2018"), ("bucc_f1",))
