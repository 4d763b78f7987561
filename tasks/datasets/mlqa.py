"""MLQA: the same questions in several languages about paragraphs in several languages, in SQuAD's JSON."""

from ..examples import SpanQA
from . import Dataset, Found, Sources, Split
from .squad import answers_removed, read_squad, why_removed

_PARTS = {"validation": "dev", "test": "test"}
_FOLDERS = ("mlqa/MLQA_V1/{}", "MLQA_V1/{}", "mlqa/{}", "mlqa")
_CODE = "[A-Za-z0-9]+"


def find_mlqa(sources: Sources) -> Found:
    """Finds `mlqa.<language>`, context and question in one language, and `mlqa.<context>_<question>` for the others.

    Splits validation and test, from mlqa/MLQA_V1/{dev,test}/{dev,test}-context-<language>-question-<language>.json. The
    benchmarks are made of the former alone. A data set's language is that of its contexts, hence of its answers.
    """
    splits: dict[tuple[str, str], dict[str, Split]] = {}
    absent = {}
    for split, part in _PARTS.items():
        pattern = rf"{part}-context-(?P<context>{_CODE})-question-(?P<question>{_CODE})\.json"
        for path, m in sources.matching(pattern, *(folder.format(part) for folder in _FOLDERS)):
            pair = m["context"], m["question"]
            if answers_removed(path):
                absent[_name(*pair)] = why_removed(path)
            else:
                splits.setdefault(pair, {})[split] = Split((path,), read_squad)
    datasets = (Dataset(_name(*pair), pair[0], SpanQA, found) for pair, found in sorted(splits.items()))
    here = {_name(*pair) for pair in splits}
    looked_for = sources.no_file("mlqa/MLQA_V1/{dev,test}/{dev,test}-context-<language>-question-<language>.json")
    return Found(tuple(datasets), {name: why for name, why in absent.items() if name not in here}, looked_for)


def _name(context: str, question: str) -> str:
    return f"mlqa.{context}" if context == question else f"mlqa.{context}_{question}"
