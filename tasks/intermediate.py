"""English intermediate tasks and their mixtures."""

import functools

from .datasets.nli import find_mnli
from .datasets.squad import find_squad
from .formats import encoder, text2text
from .formats.rendering import Strings, TokenIds
from .info import TaskInfo
from .registration import Catalog, Settings, examples_rate


def register(catalog: Catalog, settings: Settings) -> None:
    """Registers `mnli`, `mnli.<language>` (machine-translated), `squad_v1` and `nli_qa` (mnli with squad_v1)."""
    mnli, squad = find_mnli(settings.data_dir), find_squad(settings.data_dir)
    catalog.absent.update({**(mnli.absent or {}), **(squad.absent or {})})
    nli = {"text2text": Strings(text2text.nli), "encoder": TokenIds(encoder.classification, labelled=True)}
    for dataset in mnli.datasets:
        info = TaskInfo("classification", dataset.language, "mnli", "rank", ("accuracy",))
        catalog.add_task(settings, dataset, info, nli)
    for dataset in squad.datasets:
        info = TaskInfo("span_qa", dataset.language, "squad_v1", "generate", ("em", "f1"))
        catalog.add_task(settings, dataset, info, {"text2text": Strings(text2text.question_answering)})
    rate = functools.partial(examples_rate, cap=2**17, temperature=2.0)
    catalog.add_mixture("nli_qa", ("mnli", "squad_v1"), rate)
