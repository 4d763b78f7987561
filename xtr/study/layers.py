"""Retrieval by layer: what every layer of the encoder would have scored, beside the one that counts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from xtr.evaluate.results import is_mean
from xtr.export.summary import main_split
from xtr.study.transfer import ENGLISH, NONE, TransferTable

_LAYER = re.compile(r"(.+)/layer_(\d+)")


@dataclass(frozen=True)
class ByLayer:
    """Zero-shot scores of one model and target by layer: means over languages but English, and over seeds.

    Attributes:
      model: its name.
      curves: intermediate -> layer -> score in per cent.
      fixed: the layer that counts: the one whose values are those of the metric itself in every row; None where there
        is none or more than one.
    """

    model: str
    target: str
    metric: str
    curves: Mapping[str, Mapping[int, float]]
    fixed: int | None

    def best(self, intermediate: str) -> int:
        """The layer with the highest score, seen on the test data: a description, no result."""
        return max(self.curves[intermediate], key=self.curves[intermediate].__getitem__)

    def gain(self, intermediate: str) -> float | None:
        """Gain over `NONE` at the layer that counts; None without either."""
        if self.fixed is None or NONE not in self.curves:
            return None
        mine, base = self.curves[intermediate], self.curves[NONE]
        return mine[self.fixed] - base[self.fixed] if self.fixed in mine and self.fixed in base else None

    def gain_of_best(self, intermediate: str) -> float | None:
        """The best layer of either side against the other's; None without `NONE`."""
        if NONE not in self.curves:
            return None
        return max(self.curves[intermediate].values()) - max(self.curves[NONE].values())


def by_layer(table: TransferTable, rows: pd.DataFrame) -> list[ByLayer]:
    """Every model and target whose rows hold single layers, in the table's order.

    Args:
      rows: results with the columns of `ResultRow`.
    """
    rows = rows[rows["target"].isin(table.targets) & (rows["language"] != ENGLISH) & ~rows["language"].map(is_mean)]
    rows = main_split(rows)
    single = rows["metric"].str.fullmatch(_LAYER.pattern)
    of_layers = rows[single].assign(
        layer=rows[single]["metric"].str.extract(_LAYER.pattern)[1].astype(int),
        whole=rows[single]["metric"].str.extract(_LAYER.pattern)[0],
    )
    found = []
    for model in table.models:
        for target in table.targets:
            own = of_layers[(of_layers["model"] == model.name) & (of_layers["target"] == target)]
            for metric, those in own.groupby("whole", sort=False):
                means = those.groupby(["intermediate", "layer"])["value"].mean()
                names = [name for name in table.intermediates if name in means.index.get_level_values(0)]
                curves = {name: {int(layer): float(v) for layer, v in means[name].items()} for name in names}
                counts = rows[(rows["model"] == model.name) & (rows["target"] == target) & (rows["metric"] == metric)]
                found.append(ByLayer(model.name, target, str(metric), curves, _fixed(those, counts)))
    return found


def _fixed(layers: pd.DataFrame, counts: pd.DataFrame) -> int | None:
    place = ["run_id", "intermediate", "language", "seed", "step"]
    both = layers.merge(counts[[*place, "value"]], on=place, suffixes=("", "_that_counts"))
    if both.empty:
        return None
    same = (both["value"] - both["value_that_counts"]).abs() < 1e-9
    chosen = [layer for layer, agrees in same.groupby(both["layer"]) if agrees.all()]
    return int(chosen[0]) if len(chosen) == 1 else None
