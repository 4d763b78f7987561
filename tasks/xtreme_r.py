"""XTREME-R targets: a task for every language found, and a mixture of all languages of each target."""

from .datasets.nli import find_xnli
from .datasets.squad import find_xquad
from .datasets.tatoeba import find_tatoeba
from .formats import encoder, text2text
from .formats.rendering import Strings, TokenIds
from .info import TaskInfo
from .registration import Catalog, Settings

# target: finder, kind, predictor, metrics, renderings by format
_TARGETS = {
    "xnli": (find_xnli, "classification", "rank", ("accuracy",),
             {"text2text": Strings(text2text.nli), "encoder": TokenIds(encoder.classification, labelled=True)}),
    "xquad": (find_xquad, "span_qa", "generate", ("em", "f1"),
              {"text2text": Strings(text2text.question_answering)}),
    "tatoeba": (find_tatoeba, "retrieval", "embed", ("accuracy",),
                {"text2text": Strings(text2text.retrieval, ("inputs",)), "encoder": TokenIds(encoder.retrieval)}),
}  # fmt: skip


def register(catalog: Catalog, settings: Settings) -> None:
    """Registers a task `<target>.<language>` for each language found, and the mixtures `xnli`, `xquad`, `tatoeba`."""
    for target, (find, kind, predictor, metrics, renderings) in _TARGETS.items():
        found = find(settings.data_dir)
        catalog.absent.update(found.absent or {})
        for dataset in found.datasets:
            info = TaskInfo(kind, dataset.language, target, predictor, metrics)
            catalog.add_task(settings, dataset, info, renderings)
        catalog.add_mixture(target, (dataset.name for dataset in found.datasets))
