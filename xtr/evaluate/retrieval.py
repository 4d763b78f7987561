"""Retrieval tasks: each query's nearest candidates by the cosine of their vectors."""


import numpy as np

from xtr.evaluate.methods import inputs_of
from xtr.evaluate.metrics import METRICS, nearest
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.run import EvaluateRun
from xtr.models.interface import ModelConfig

SPLITS = ("queries", "candidates")


def retrieve(predictor: Predictor, queries, candidates, run: EvaluateRun, length: int, info, advance):
    """Nearest candidate by cosine: of a dual encoder's vectors, else of mean-pooled states, of which every layer is
    scored and one layer makes the prediction. Returns records of the queries, and the layers' values."""
    query_inputs = inputs_of(predictor, queries, length)
    candidate_inputs = inputs_of(predictor, candidates, candidate_length(predictor, run, length))
    ids = [example["meta"]["id"] for example in candidates]
    golds = [example["meta"]["gold"] for example in queries]

    def found_by(query_QD: np.ndarray, candidate_CD: np.ndarray) -> list:
        return [ids[i] for i in nearest(query_QD, candidate_CD)]

    by_layer = []
    if is_dual(predictor.config):
        found = found_by(predictor.vectors(query_inputs, advance), predictor.vectors(candidate_inputs, advance))
    else:
        query_LQD, candidate_LCD = (predictor.embed(side, advance) for side in (query_inputs, candidate_inputs))
        by_layer = [found_by(*sides) for sides in zip(query_LQD, candidate_LCD, strict=True)]
        found = by_layer[run.embedding_layer]
    records = [
        {"id": example["meta"]["id"], "prediction": hit, "gold": gold}
        for example, hit, gold in zip(queries, found, golds, strict=True)
    ]
    values = {}
    for layer, hits in enumerate(by_layer):
        values |= {f"{name}/layer_{layer}": METRICS[name](hits, golds)[0] for name in info["metrics"]}
    return records, values


def candidate_length(predictor: Predictor, run: EvaluateRun, length: int) -> int:
    """Tokens of a candidate: a dual encoder is trained on positives (`targets`) that may be longer than queries."""
    positives = (run.task_feature_lengths or {}).get("targets", 0) if is_dual(predictor.config) else 0
    return max(length, min(positives, predictor.length_buckets[-1]))


def is_dual(model: ModelConfig) -> bool:
    return "contrastive" in model.objectives
