"""From the vectors of both sides of a retrieval task to prediction records, of which alone it is graded.

One layer, fixed beforehand, makes the predictions. Of the other layers that are held, each record has what the query
contributes to the metrics (`layers`), so that every layer is reported beside it (`layer_values`).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xtr import rundir
from xtr.data.cached_task import CachedTask
from xtr.errors import DataError, UserError
from xtr.evaluate.index import weights_digest
from xtr.evaluate.metrics import METRICS, mining, value_of_mean
from xtr.evaluate.metrics.mining import Search
from xtr.evaluate.metrics.retrieval import Vectors, top_k

BEST = 20  # candidates of a ranked list


@dataclass(frozen=True)
class Side:
    """The queries or the candidates of a task.

    Attributes:
      ids: their names.
      layers: layer, counted from 0 (the embeddings) -> their vectors [N, D]; one layer alone for a dual encoder's own.
    """

    ids: Sequence[str]
    layers: Mapping[int, Vectors]

    def __post_init__(self):
        for layer, vectors in self.layers.items():
            if len(vectors) != len(self.ids):
                raise DataError(f"layer {layer}: {len(vectors)} vectors of {len(self.ids)} texts")


def layers_held(
    chosen: int, num_layers: int, rows: int, dim: int, layers_bytes: int, name: str = "the task"
) -> tuple[tuple[int, ...], str | None]:
    """The layers whose vectors are kept of one pass over the encoder, and what to tell the user.

    Args:
      chosen: the layer of the predictions; negative ones count from the end.
      num_layers: of the encoder; layer 0 is the embeddings.
      rows, dim: queries and candidates together, and numbers of a vector.
      layers_bytes: what the float32 vectors of all layers may take.

    Returns:
      (every layer, None) where they fit, else ((the chosen one,), a message).

    Raises:
      UserError: the encoder has no such layer.
    """
    if not -num_layers - 1 <= chosen <= num_layers:
        raise UserError(f"evaluate.embedding_layer is {chosen}; the encoder has layers 0 (embeddings) to {num_layers}.")
    chosen %= num_layers + 1
    due = 4 * rows * dim * (num_layers + 1)
    if due <= layers_bytes:
        return tuple(range(num_layers + 1)), None
    return (chosen,), (
        f"{name}: only layer {chosen} is scored. All {num_layers + 1} layers of {rows:,} vectors take {due:,} bytes, "
        f"and they may take {layers_bytes:,}."
    )


def index_identity(
    params: Any, model: Any, task: CachedTask, split: str, layers: Sequence[int], pooling: str, length: int
) -> dict[str, Any]:
    """What an index of a task's candidates holds, for `index.open_or_build`.

    Args:
      params: the weights, of which a digest is taken: wherever they were read from, they are the checkpoint.
      model: the network's config.
      task, split: whose candidates; a cached task's directory is named by what it was made from.
      layers, pooling: which vectors; 'mean', or 'head' for a dual encoder's own.
      length: the most tokens of a candidate.
    """
    return {
        "weights": weights_digest(params),
        "model": rundir.plain(model),
        "task": task.name,
        "cache": Path(task.directory).name,
        "split": split,
        "layers": list(layers),
        "pooling": pooling,
        "length": length,
    }


def nearest(
    queries: Side, candidates: Side, golds: Sequence, metrics: Sequence[str], chosen: int, search: Search = top_k
) -> list[dict[str, Any]]:
    """Records of queries whose prediction is the id of the nearest candidate: Tatoeba. Otherwise as `ranked`."""
    records = ranked(queries, candidates, golds, metrics, chosen, search, k=1)
    return [{**record, "prediction": record["prediction"][0]} for record in records]


def ranked(
    queries: Side,
    candidates: Side,
    golds: Sequence,
    metrics: Sequence[str],
    chosen: int,
    search: Search = top_k,
    k: int = BEST,
) -> list[dict[str, Any]]:
    """Records of queries whose prediction is a ranked list of candidates: LAReQA, Mewsli-X.

    No candidate is excluded: LAReQA's are the sentences of all languages, the question's own too.

    Args:
      golds: of each query the id, or ids, of what is to be found.
      metrics: names of the task's metrics; of every layer, if several are held, they are computed too.
      chosen: the layer of the predictions, counted from 0.
      search: finds the candidates by cosine: `functools.partial(search.top_k, mesh=mesh, block_bytes=block_bytes)`.
      k: how many.

    Returns:
      A record a query: id, prediction (ids, the best first), scores (their cosines), gold, and `layers`: metric ->
      what the query contributes by each layer held, in their order; without it where one alone is held.
    """
    found, by_layer = None, []
    for layer in sorted(queries.layers):
        index_QK, score_QK = search(queries.layers[layer], candidates.layers[layer], k)
        lists = [[candidates.ids[i] for i in row] for row in index_QK.tolist()]
        if layer == chosen:
            found = lists, score_QK.tolist()
        if len(queries.layers) > 1:
            predictions = [ids[0] for ids in lists] if k == 1 else lists
            by_layer.append({name: METRICS[name](predictions, golds)[1].tolist() for name in metrics})
    if found is None:
        raise UserError(f"layer {chosen} is to make the predictions, and its vectors are not held.")
    records = [
        {"id": name, "prediction": ids, "scores": scores, "gold": gold}
        for name, ids, scores, gold in zip(queries.ids, *found, golds, strict=True)
    ]
    return _with_layers(records, by_layer)


def absent_golds(golds: Sequence, candidate_ids: Sequence[str]) -> int:
    """How many queries have no right answer among the candidates, which a limit on their number can cause."""
    known = set(candidate_ids)
    return sum(not known.intersection(_ids(gold)) for gold in golds)


# ---------------------------------------------------------------------------------------------------------------------
# Mining
# ---------------------------------------------------------------------------------------------------------------------


def mined(
    sources: Side,
    targets: Side,
    source_texts: Sequence[Hashable],
    target_texts: Sequence[Hashable],
    golds: Sequence,
    chosen: int,
    search: Search = top_k,
    thresholds: Mapping[int, float] | None = None,
) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """Records of source sentences whose prediction is the ids of their translations: BUCC.

    Args:
      source_texts, target_texts: texts, or tokens as bytes: equal ones are mined as one.
      golds: of each source the id, or ids, of its translations; most have none.
      chosen, search: as in `ranked`.
      thresholds: layer -> the score that a pair must have; None (development data): each layer's best one here.

    Returns:
      (a record a source: id, mined (its pair as [target id, margin score], or []), prediction (the target's id in a
      list, where the score is high enough), gold, and `layers` as in `ranked`; the thresholds).
    """
    own: dict[int, float] = {}
    by_layer, kept = [], None
    for layer in sorted(sources.layers):
        pairs = mining.mine_pairs(
            sources.ids, source_texts, sources.layers[layer], targets.ids, target_texts, targets.layers[layer], search
        )
        found = {source: [target, score] for source, target, score in pairs}
        records = [
            {"id": name, "mined": found.get(name, []), "gold": gold}
            for name, gold in zip(sources.ids, golds, strict=True)
        ]
        own[layer] = best_threshold(records) if thresholds is None else thresholds[layer]
        records = above(records, own[layer])
        if layer == chosen:
            kept = records
        if len(sources.layers) > 1:
            predictions = [record["prediction"] for record in records]
            by_layer.append({"bucc_f1": METRICS["bucc_f1"](predictions, list(map(_ids, golds)))[1].tolist()})
    if kept is None:
        raise UserError(f"layer {chosen} is to make the predictions, and its vectors are not held.")
    return _with_layers(kept, by_layer), own


def best_threshold(records: Sequence[Mapping]) -> float:
    """The threshold with the greatest F1 on the records of development data. DataError where none has a gold."""
    pairs = [(record["id"], *record["mined"]) for record in records if record["mined"]]
    gold = {(record["id"], target) for record in records for target in _ids(record["gold"])}
    return mining.best_threshold(pairs, gold)[0]


def above(records: Sequence[Mapping], threshold: float) -> list[dict[str, Any]]:
    """The records with the predictions that a threshold gives."""
    return [
        {**record, "prediction": [pair[0] for pair in [record["mined"]] if pair and pair[1] >= threshold]}
        for record in records
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


def layer_values(records: Sequence[Mapping]) -> dict[str, float]:
    """The values of each layer, '<metric>/layer_<number>', of the records alone; none where one layer was held."""
    values = {}
    for metric in records[0].get("layers", {}) if records else ():
        mean_L = np.mean([record["layers"][metric] for record in records], axis=0)
        for layer, mean in enumerate(mean_L):
            values[f"{metric}/layer_{layer}"] = float(value_of_mean(mean, counts=mean.ndim == 1))
    return values


def _with_layers(records: list[dict], by_layer: Sequence[Mapping[str, list]]) -> list[dict]:
    if not by_layer:
        return records
    return [
        {**record, "layers": {metric: [layer[metric][n] for layer in by_layer] for metric in by_layer[0]}}
        for n, record in enumerate(records)
    ]


def _ids(gold: Any) -> list[str]:
    return list(gold) if isinstance(gold, list | tuple) else [gold]
