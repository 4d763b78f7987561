"""Plain text for pretraining: a task for every language of every corpus, and a mixture a corpus."""

from .datasets import Sources
from .datasets.text import find_text
from .registration import Catalog, examples_rate


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers `text.<corpus>.<language>` and the mixture `text.<corpus>`, in proportion to the documents."""
    found = find_text(sources)
    corpora: dict[str, list[str]] = {}
    for dataset in found.datasets:
        corpus = dataset.name.rpartition(".")[0]
        catalog.add_task(dataset, stage="pretrain", group=corpus)
        corpora.setdefault(corpus, []).append(dataset.name)
    catalog.absent.update(found.absent)
    for corpus, tasks in corpora.items():
        catalog.add_mixture(corpus, tasks, examples_rate)
