"""English intermediate tasks, their machine translations, and the study's mixtures of them."""

import dataclasses
import functools
from collections.abc import Iterator

from .datasets import Dataset, Sources, finders
from .registration import Catalog, examples_rate
from .text import MULTILINGUAL

# Data set -> (metrics, style of its rendering).
DATASETS = {
    "snli": (("accuracy",), "nli"),
    "mnli": (("accuracy",), "nli"),
    "anli": (("accuracy",), "nli"),
    "qqp": (("accuracy",), "qqp"),
    "squad_v1": (("em", "f1"), ""),
    "squad_v2": (("squad2_em", "squad2_f1"), ""),
    "hellaswag": (("accuracy",), ""),
    "ccg": (("token_accuracy",), ""),
    "cosmosqa": (("accuracy",), ""),
    "commonsenseqa": (("accuracy",), ""),
}
ANLI_PLUS = ("snli", "mnli", "anli_r1", "anli_r2", "anli_r3")
# The nine of Phang et al. 2020, which translated three of them by machine.
NINE = (
    "anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa",
)  # fmt: skip
TRANSLATED, TRANSLATIONS = ("mnli", "qqp", "hellaswag"), ("de", "ru", "sw")
TRANSLATIONS_FOLDER = "translated"

# As the original study mixes its tasks.
STUDY_RATE = functools.partial(examples_rate, cap=2**17, temperature=2.0)


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers the data sets in English and translated, and the mixtures of them:

    - `anli_plus`: SNLI, MNLI and ANLI's three rounds, in proportion to their sizes;
    - `all_nine`: the study's nine tasks at temperature 2, each counted as 2^17 examples at most; `all_available`:
      those of the nine that can be had; `nli_qa`: MNLI and SQuAD 1.1, mixed in the same way;
    - `<task>_denoise` for each of the nine and the mixtures of them: 80% the task, 20% multilingual text;
    - `<task>_translated`: the machine translations into German, Russian and Swahili that can be had.
    """
    for name, (metrics, style) in DATASETS.items():
        found = catalog.find(name)
        catalog.absent.update(found.absent)
        here = {dataset.name for dataset in found.datasets}
        translated = (dataset for dataset in _translations(name, sources) if dataset.name not in here)
        for dataset in (*found.datasets, *translated):
            catalog.add_task(dataset, stage="intermediate", group=name, metrics=metrics, style=style)
    catalog.add_mixture("anli_plus", ANLI_PLUS, examples_rate)
    catalog.add_mixture("all_nine", NINE, STUDY_RATE)
    catalog.add_mixture("all_available", NINE, STUDY_RATE, some=True)
    catalog.add_mixture("nli_qa", ("mnli", "squad_v1"), STUDY_RATE)
    for name in (*NINE, "all_nine", "all_available"):
        catalog.add_mixture(f"{name}_denoise", {name: 0.8, MULTILINGUAL: 0.2})
    for name in TRANSLATED:
        names = [f"{name}.{language}" for language in TRANSLATIONS]
        for absent in (task for task in names if task not in catalog.tasks):
            catalog.absent.setdefault(absent, sources.no_file(f"{TRANSLATIONS_FOLDER}/<language>/<its official files>"))
        catalog.add_mixture(f"{name}_translated", names, examples_rate, some=True)


def _translations(name: str, sources: Sources) -> Iterator[Dataset]:
    """Translations of a data set in its official form: what lies below translated/<language>/."""
    for folder in sources.folders(TRANSLATIONS_FOLDER):
        here = Sources(tuple(root / TRANSLATIONS_FOLDER / folder.name for root in sources.roots))
        for dataset in finders.FINDERS[name](here).datasets:
            if dataset.language == "en":
                name_here = f"{dataset.name}.{folder.name}"
                yield dataclasses.replace(dataset, name=name_here, language=folder.name)
