"""XTREME-R's targets and its diagnostic tests: a task for every language found, a mixture of all languages of each
target, and what the targets are trained on in English where that is no intermediate task."""

import dataclasses

from .datasets import Sources
from .registration import Catalog

QA = ("em", "f1")
MLQA = ("mlqa_em", "mlqa_f1")  # its own rules: articles by language, Chinese by characters


def register(catalog: Catalog, sources: Sources) -> None:
    """Registers a task `<target>.<language>` for each language found, and the mixture `<target>` of them all.

    Besides: `siqa` and `copa`, which XCOPA is trained on; `lareqa_squad` and `mewslix_pairs`, which the two dual
    encoders are trained on; `mlqa.<context>_<question>` for the pairs of two languages, and the mixture `mlqa_pairs` of
    all pairs. The English training sets of UD-POS, PAN-X and TyDi QA are splits of the English tasks.
    """
    catalog.add_target("xnli", catalog.find("xnli"), ("accuracy",), style="nli")
    for name in ("siqa", "copa"):
        catalog.add_training("xcopa", catalog.find(name), ("accuracy",))
    catalog.add_target("xcopa", catalog.find("xcopa"), ("accuracy",))
    catalog.add_target("udpos", catalog.find("udpos"), ("span_f1", "token_accuracy"))
    catalog.add_target("panx", catalog.find("panx"), ("span_f1",))
    catalog.add_target("xquad", catalog.find("xquad"), QA)
    _register_mlqa(catalog)
    catalog.add_target("tydiqa", catalog.find("tydiqa"), QA)
    catalog.add_target("tatoeba", catalog.find("tatoeba"), ("accuracy",))
    for target, training in (("lareqa", "lareqa_squad"), ("mewslix", "mewslix_pairs")):
        catalog.add_training(target, catalog.find(training))
        catalog.add_target(target, catalog.find(target), ("map@20",))
    catalog.add_target("multichecklist", catalog.find("multichecklist"), ("failure_rate",))


def _register_mlqa(catalog: Catalog) -> None:
    mlqa = catalog.find("mlqa")
    pairs = {dataset.name: dataset for dataset in mlqa.datasets if "_" in dataset.name}
    alone = tuple(dataset for dataset in mlqa.datasets if dataset.name not in pairs)
    catalog.add_target("mlqa", dataclasses.replace(mlqa, datasets=alone), MLQA)
    due = catalog.languages.get("mlqa", ())
    for name, dataset in pairs.items():
        # A mean is over the languages of contexts, for questions in one language.
        question = name.rpartition("_")[2]
        contexts = [language for language in due if language != question]
        group = f"mlqa_{question}"
        catalog.add_task(dataset, stage="target", group=group, metrics=MLQA, languages=contexts)
    names = [f"mlqa.{c}" if c == q else f"mlqa.{c}_{q}" for c in due for q in due]
    for name in names:
        if name not in catalog.tasks:
            catalog.absent.setdefault(name, mlqa.looked_for)
    catalog.add_mixture("mlqa_pairs", dict.fromkeys((*names, *pairs), 1.0), some=True)
