"""How many examples each data set has as published: what `xtr data verify` compares a reader's count with.

Sources: the split sizes of Hugging Face datasets 1.18.4 (`dataset_infos.json`: its loaders count the rows of the
official files; UD 2.7's are sums over a language's treebanks); the statistics of CCGbank in Tian et al. 2020 and of
Mewsli-X in its documentation; for LAReQA and the five languages that XTREME-R adds to Tatoeba, the authors' files,
counted. A number that nobody published is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .. import benchmarks


@dataclass(frozen=True)
class Count:
    """A published number.

    Attributes:
      number: how many there are.
      of: what was counted: 'rows' of the files, 'examples' (rows that readers keep) or 'gold' pairs.
      form: which files have it, where there are several forms of the data set.
    """

    number: int
    of: str = "rows"
    form: str = ""


Splits = Mapping[str, tuple[Count, ...]]


def _splits(of: str = "rows", **numbers: int) -> dict[str, tuple[Count, ...]]:
    return {split: (Count(number, of),) for split, number in numbers.items()}


def _numbers(text: str) -> dict[str, int]:
    """Reads 'ar:5335 de:4517'."""
    return {name: int(number) for name, number in (entry.split(":") for entry in text.split())}


def _published() -> dict[str, Splits]:
    languages = {target: codes.split() for target, codes in (benchmarks.XTREME | benchmarks.XTREME_R).items()}
    out: dict[str, Splits] = {
        # HF's loader of SNLI counts rows without a gold label too, that of MultiNLI does not.
        "snli": _splits(train=550_152, validation=10_000, test=10_000),
        "mnli": _splits("examples", train=392_702, validation=9_815, validation_mismatched=9_832),
        "anli_r1": _splits(train=16_946, validation=1_000, test=1_000),
        "anli_r2": _splits(train=45_460, validation=1_000, test=1_000),
        "anli_r3": _splits(train=100_459, validation=1_200, test=1_200),
        "qqp": _splits(train=363_846, validation=40_430),
        "squad_v1": _splits(train=87_599, validation=10_570),
        "squad_v2": _splits(train=130_319, validation=11_873),
        "hellaswag": _splits(train=39_905, validation=10_042),
        "ccg": _splits(train=39_604, validation=1_913, test=2_407),
        "cosmosqa": _splits(train=25_262, validation=2_985),
        "commonsenseqa": _splits(train=9_741, validation=1_221),
        "siqa": _splits(train=33_410, validation=1_954),
        "copa": _splits(train=400, validation=100, test=500),
    }
    for language in languages["xnli"]:
        out[f"xnli.{language}"] = _splits(validation=2_490, test=5_010)
        if language != "en":
            out[f"mnli.{language}"] = _splits(train=392_702)
    for language in languages["xcopa"]:
        out[f"xcopa.{language}"] = _splits(validation=100, test=500)
    for language in languages["xquad"]:
        out[f"xquad.{language}"] = _splits(test=1_190)
    out |= _pawsx() | _mlqa() | _wikiann(languages["panx"]) | _udpos() | _tatoeba(languages["tatoeba"])
    return out | _lareqa() | _mewslix() | _bucc()


def _pawsx() -> dict[str, Splits]:
    # The official files, and what is left of them where rows without both sentences are dropped (HF's xtreme).
    kept = {
        "validation": {"es": 1_961, "fr": 1_988},
        "test": {"ko": 1_999},
    }
    out: dict[str, Splits] = {}
    for language in benchmarks.XTREME["pawsx"].split():
        out[f"pawsx.{language}"] = {
            split: (
                Count(2_000),
                *([Count(some[language], "examples", "without empty sentences")] if language in some else ()),
            )
            for split, some in kept.items()
        }
    out["pawsx.en"]["train"] = (Count(49_401), Count(49_175, "examples", "without empty sentences"))
    return out


def _mlqa() -> dict[str, Splits]:
    test = _numbers("ar:5335 de:4517 en:11590 es:5253 hi:4918 vi:5495 zh:5137")
    validation = _numbers("ar:517 de:512 en:1148 es:500 hi:507 vi:511 zh:504")
    return {f"mlqa.{language}": _splits(validation=validation[language], test=test[language]) for language in test}


def _wikiann(languages: list[str]) -> dict[str, Splits]:
    fewer = _numbers(
        "gu:100 jv:100 my:100 pa:100 qu:100 yo:100 af:1000 az:1000 bn:1000 hi:1000 kk:1000 ml:1000 mr:1000 ms:1000 "
        "sw:1000 ta:1000 te:1000 tl:1000 ur:1000"
    )
    sizes = {language: fewer.get(language, 10_000) for language in languages}
    out = {f"panx.{language}": _splits(validation=size, test=size) for language, size in sizes.items()}
    out["panx.en"] = _splits(train=20_000, validation=10_000, test=10_000)
    return out


def _udpos() -> dict[str, Splits]:
    # Without French: its counts include a treebank that is published without its words.
    test = _numbers(
        "af:425 ar:1680 bg:1116 de:22458 el:2809 en:5440 es:3147 et:3760 eu:1799 fa:600 fi:4422 he:491 hi:2684 hu:449 "
        "id:1557 it:3518 ja:2372 kk:1047 ko:4276 mr:47 nl:1471 pt:2681 ru:11336 ta:120 te:146 th:1000 tl:55 tr:4785 "
        "ur:535 vi:800 yo:100 zh:5528 lt:837 pl:4942 uk:892 wo:470 ro:2272"
    )
    out = {f"udpos.{language}": _splits(test=number) for language, number in test.items()}
    out["udpos.en"] = _splits(train=21_253, validation=3_974, test=5_440)
    return out


def _tatoeba(languages: list[str]) -> dict[str, Splits]:
    fewer = _numbers("jv:205 ka:746 kk:575 ml:687 sw:390 ta:307 te:234 th:548")
    sizes = {language: fewer.get(language, 1_000) for language in languages}
    return {f"tatoeba.{language}": _splits(queries=size, candidates=size) for language, size in sizes.items()}


def _lareqa() -> dict[str, Splits]:
    languages = benchmarks.XTREME_R["lareqa"].split()
    out = {f"lareqa.{language}": _splits(queries=1_190) for language in languages}
    return out | {"lareqa.candidates": _splits(candidates=13_014)}


def _mewslix() -> dict[str, Splits]:
    test = _numbers("ar:1501 de:1551 en:1490 es:1552 fa:458 ja:1519 pl:1562 ro:672 ta:1567 tr:1215 uk:1537")
    validation = _numbers("ar:318 de:326 en:316 es:311 fa:72 ja:310 pl:304 ro:145 ta:312 tr:262 uk:315")
    out = {
        f"mewslix.{language}": _splits("examples", queries=test[language], validation_queries=validation[language])
        for language in test
    }
    out["mewslix.candidates"] = _splits(candidates=1_003_893)
    out["mewslix_pairs"] = _splits(train=167_719, validation=14_051)
    return out


def _bucc() -> dict[str, Splits]:
    test, validation = _numbers("de:9580 fr:9086 ru:14435 zh:1899"), _numbers("de:1038 fr:929 ru:2374 zh:257")
    return {
        f"bucc2018.{language}": _splits("gold", queries=test[language], validation_queries=validation[language])
        for language in test
    }


PUBLISHED: Mapping[str, Splits] = _published()
