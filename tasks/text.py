"""Plain text for pretraining: a task for every language of every corpus, and a mixture a corpus."""

from .datasets.text import find_text
from .formats import text2text
from .info import TaskInfo
from .registration import Catalog, Settings, examples_rate


def register(catalog: Catalog, settings: Settings) -> None:
    """Registers `text.<corpus>.<language>` and the mixture `text.<corpus>`, in proportion to the documents."""
    found = find_text(settings.data_dir)
    corpora: dict[str, list[str]] = {}
    for dataset in found.datasets:
        corpus = dataset.name.rpartition(".")[0]
        info = TaskInfo("text", dataset.language, corpus, "none", ())
        catalog.add_task(settings, dataset, info, text2text.plain_text, ("targets",), meta=False)
        corpora.setdefault(corpus, []).append(dataset.name)
    catalog.absent.update(found.absent or {})
    for corpus, tasks in corpora.items():
        catalog.add_mixture(corpus, tasks, examples_rate)
