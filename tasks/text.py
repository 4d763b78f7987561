"""Plain text for pretraining: a task for every language of every corpus, a mixture a corpus, and one over all."""

import functools

from .datasets import Sources
from .datasets.text import find_text
from .registration import Catalog, examples_rate

MULTILINGUAL = "text.multilingual"
# mT5's and XLM-R's language sampling: a language counts as (its documents) ** 0.3.
ALPHA = 0.3


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers `text.<corpus>.<language>`; the mixture `text.<corpus>`, in proportion to the documents; and
    `text.multilingual`, the text in the targets' languages of all corpora, sampled with alpha 0.3."""
    found = find_text(sources)
    corpora: dict[str, list[str]] = {}
    for dataset in found.datasets:
        corpus = dataset.name.rpartition(".")[0]
        catalog.add_task(dataset, stage="pretrain", group=corpus)
        corpora.setdefault(corpus, []).append(dataset.name)
    catalog.absent.update(found.absent)
    for corpus, tasks in corpora.items():
        catalog.add_mixture(corpus, tasks, examples_rate)

    due = sorted({language for of_target in catalog.languages.values() for language in of_target})
    in_due = [dataset.name for dataset in found.datasets if dataset.language in due]
    here = {dataset.language for dataset in found.datasets}
    lacking = [f"text.<corpus>.{language}" for language in due if language not in here]
    catalog.absent.update(dict.fromkeys(lacking, sources.no_file("text/<corpus>/<language>.txt")))
    catalog.add_mixture(
        MULTILINGUAL, (*in_due, *lacking), functools.partial(examples_rate, temperature=1 / ALPHA), some=True
    )
