"""Published numbers to set beside a study's own, each with its source and with what is different about it.

Only numbers that were read in the source named are here. They are means over all languages of the task, English among
them, as the benchmarks have it; a study's own are computed in the same way from its rows, for the same metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xtr.evaluate.results import is_mean
from xtr.export.summary import main_split
from xtr.study.transfer import NONE, POOLED, TransferTable

BEST_EACH = "best for each target"  # Phang et al.'s system: the best of their intermediate tasks for each target

_README = "README of google-research/multilingual-t5 (commit 9dcd60f), XTREME"
_REMBERT = "RemBERT paper, table 16: XTREME leaderboard, test"
_JIANT = "jiant-dev pull request 128, replication of XTREME, no training"
_FAIRSEQ = "README of fairseq's examples/xlmr"
_XMTF = "results of bigscience-workshop/xmtf, mean over languages of the median over 5 English prompts"
_TYDIQA = "checkpoint chosen by the mean F1 of all languages on the set that is reported"
_OTHERS = "text-to-text, checkpoint chosen on validation data"
_PROMPTED = "prompted, not trained on the target; validation split"
_RETRIEVAL = "layer 14, mean over tokens, dev set"

# Model -> (other names, parameters). A study's model counts as the published one by name and size together.
_MODELS = {
    "mt5-small": ((), 300_176_768),
    "mt5-base": ((), 582_401_280),
    "mt5-large": ((), 1_229_581_312),
    "mt5-xl": ((), 3_742_619_648),
    "mt5-xxl": ((), 12_921_057_280),
    "xlmr-large": (("xlm-r-large", "xlm-roberta-large"), 558_840_832),
    "mbert": (("mbert-cased", "bert-base-multilingual-cased"), 177_853_440),
    "bloom-560m": ((), 559_214_592),
    "bloom-1b1": ((), 1_065_314_304),
    "bloom-1b7": ((), 1_722_408_960),
    "bloom-3b": ((), 3_002_557_440),
    "bloom-7b1": ((), 7_069_016_064),
    "bloom-176b": (("bloom",), 176_247_271_424),
}
_SIZE_SLACK = 0.1  # heads, poolers and padded vocabularies


@dataclass(frozen=True)
class Published:
    """One published number, in per cent.

    Attributes:
      model: one of `_MODELS`.
      intermediate: `NONE` or `BEST_EACH`.
      target, metric: as in a study's rows.
      languages: how many it is a mean over.
      differs: how it was come by where a study does otherwise.
    """

    model: str
    intermediate: str
    target: str
    metric: str
    value: float
    languages: int
    source: str
    differs: str = ""


def _line(model, intermediate, source, differs, targets, values) -> list[Published]:
    return [
        Published(model, intermediate, target, metric, value, count, source, differs.get(target, differs.get("", "")))
        for (target, metric, count), value in zip(targets, values, strict=True)
        if value is not None
    ]


_MT5 = (
    ("xnli", "accuracy", 15), ("pawsx", "accuracy", 7), ("panx", "span_f1", 40),
    ("xquad", "f1", 11), ("mlqa", "mlqa_f1", 7), ("tydiqa", "f1", 9),
)  # fmt: skip
_TEST = (
    ("xnli", "accuracy", 15), ("udpos", "span_f1", 33), ("panx", "span_f1", 40), ("pawsx", "accuracy", 7),
    ("xquad", "em", 11), ("xquad", "f1", 11), ("mlqa", "mlqa_em", 7), ("mlqa", "mlqa_f1", 7),
    ("tydiqa", "em", 9), ("tydiqa", "f1", 9),
)  # fmt: skip
_TEXT = {"": _OTHERS, "tydiqa": _TYDIQA, "panx": "F1 of generated tags, as a set without positions"}
_STILTS = {"": "the best of the intermediate tasks for each target"}
_BLOOMS = ("bloom-560m", "bloom-1b1", "bloom-1b7", "bloom-3b", "bloom-7b1", "bloom-176b")

PUBLISHED: tuple[Published, ...] = (
    *_line("mt5-small", NONE, _README, _TEXT, _MT5, (67.5, 82.4, 50.5, 58.1, 54.6, 36.4)),
    *_line("mt5-base", NONE, _README, _TEXT, _MT5, (75.4, 86.4, 55.7, 67.0, 64.6, 59.1)),
    *_line("mt5-large", NONE, _README, _TEXT, _MT5, (81.1, 88.9, 58.5, 77.8, 71.2, 68.4)),
    *_line("mt5-xl", NONE, _README, _TEXT, _MT5, (82.9, 89.6, 65.5, 79.5, 73.5, 77.8)),
    *_line("mt5-xxl", NONE, _README, _TEXT, _MT5, (85.0, 90.0, 69.2, 82.5, 76.0, 82.0)),
    *_line("mbert", NONE, _README, {}, _MT5, (65.4, 81.9, 62.2, 64.5, 61.4, 59.7)),
    *_line("xlmr-large", NONE, _REMBERT, {}, _TEST, (79.2, 73.8, 65.4, 86.4, 60.8, 76.6, 53.2, 71.6, 45.0, 65.1)),
    *_line(
        "xlmr-large", BEST_EACH, _REMBERT, _STILTS, _TEST, (80.0, 74.9, 64.0, 87.9, 63.3, 78.7, 53.7, 72.4, 59.5, 76.0)
    ),
    *_line("xlmr-large", BEST_EACH, _README, _STILTS, _MT5, (80.4, 87.7, 64.7, 77.2, 72.3, 76.0)),
    Published("xlmr-large", NONE, "mlqa", "mlqa_f1", 70.7, 7, _FAIRSEQ),
    Published("xlmr-large", NONE, "mlqa", "mlqa_em", 52.7, 7, _FAIRSEQ),
    Published("xlmr-large", NONE, "bucc2018", "bucc_f1", 71.5, 4, _JIANT, _RETRIEVAL),
    Published("xlmr-large", NONE, "tatoeba", "accuracy", 31.0, 36, _JIANT, "layer 14, mean over tokens"),
    *(
        Published(model, NONE, "xnli", "accuracy", value, 15, _XMTF, _PROMPTED)
        for model, value in zip(_BLOOMS, (33.7, 33.5, 33.6, 33.9, 33.6, 33.6), strict=True)
    ),
    *(
        Published(model, NONE, "xcopa", "accuracy", value, 11, _XMTF, _PROMPTED)
        for model, value in zip(_BLOOMS, (53.0, 50.8, 53.6, 52.9, 54.0, 54.4), strict=True)
    ),
)


@dataclass(frozen=True)
class Compared:
    """A published number and the study's own of the same model, target and metric.

    Attributes:
      name: of the study's model.
      own: mean over all its languages and seeds, English among them; of `BEST_EACH` the mean over its intermediate
        tasks.
      languages: how many languages that is over.
    """

    published: Published
    name: str
    own: float
    languages: int


def published_name(model: str, parameters: int) -> str | None:
    """The published model that a study's is, by name and number of parameters; None where it is none of them."""
    plain = model.lower().replace("_", "-")
    for name, (others, size) in _MODELS.items():
        if plain in (name, *others) and abs(parameters - size) <= _SIZE_SLACK * size:
            return name
    return None


def compared(table: TransferTable, rows: pd.DataFrame) -> list[Compared]:
    """The published numbers of the models and targets at hand, in the table's order; of others there are none.

    Args:
      rows: results with the columns of `ResultRow`.
    """
    rows = main_split(rows[rows["target"].isin(table.targets) & ~rows["language"].map(is_mean).astype(bool)])
    found = []
    for model in table.models:
        known = published_name(model.name, model.parameters)
        mine = rows[rows["model"] == model.name]
        for one in (p for target in table.targets for p in PUBLISHED if p.model == known and p.target == target):
            own = mine[(mine["target"] == one.target) & (mine["metric"] == one.metric)]
            own = own[(own["intermediate"] == NONE) == (one.intermediate == NONE)]
            if not own.empty:
                by_name = own.groupby(["intermediate", "language"])["value"].mean().groupby("intermediate").mean()
                count = own["language"].nunique()
                found.append(Compared(one, model.name, float(np.mean(by_name)), int(count)))
    return found


def own_intermediate(one: Published) -> str:
    """What the study's own number is after, in its words."""
    return NONE if one.intermediate == NONE else POOLED


def sources(found: Sequence[Compared]) -> list[str]:
    """The sources named, once each."""
    return list(dict.fromkeys(one.published.source for one in found))
