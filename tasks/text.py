"""Plain text for pretraining: a task for every language of every corpus, and a mixture a corpus."""

from .datasets.text import find_text
from .formats import text2text
from .formats.rendering import Strings
from .info import TaskInfo
from .registration import FORMATS, Catalog, Settings, examples_rate


def register(catalog: Catalog, settings: Settings) -> None:
    """Registers `text.<corpus>.<language>` and the mixture `text.<corpus>`, in proportion to the documents."""
    found = find_text(settings.data_dir)
    corpora: dict[str, list[str]] = {}
    # The same in every format: what is asked of a text is the training objective's choice.
    plain = Strings(text2text.plain_text, ("targets",), meta=False)
    for dataset in found.datasets:
        corpus = dataset.name.rpartition(".")[0]
        info = TaskInfo("text", dataset.language, corpus, "none", ())
        catalog.add_task(settings, dataset, info, dict.fromkeys(FORMATS, plain))
        corpora.setdefault(corpus, []).append(dataset.name)
    catalog.absent.update(found.absent or {})
    for corpus, tasks in corpora.items():
        catalog.add_mixture(corpus, tasks, examples_rate)
