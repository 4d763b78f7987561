"""English intermediate tasks and their mixtures."""

import functools

from .datasets import Sources
from .registration import Catalog, examples_rate

# As the original study mixes its tasks (Phang et al. 2020).
STUDY_RATE = functools.partial(examples_rate, cap=2**17, temperature=2.0)


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers `mnli`, `mnli.<language>` (machine-translated), `squad_v1` and `nli_qa` (mnli with squad_v1)."""
    mnli, squad = catalog.find("mnli"), catalog.find("squad_v1")
    catalog.absent.update({**mnli.absent, **squad.absent})
    for dataset in mnli.datasets:
        catalog.add_task(dataset, stage="intermediate", group="mnli", metrics=("accuracy",), style="nli")
    for dataset in squad.datasets:
        catalog.add_task(dataset, stage="intermediate", group="squad_v1", metrics=("em", "f1"))
    catalog.add_mixture("nli_qa", ("mnli", "squad_v1"), STUDY_RATE)
