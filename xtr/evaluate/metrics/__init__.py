"""The benchmarks' metrics, in percent, each with what every example contributes to it.

`METRICS[name](predictions, golds, **info) -> (value, contributions)`, `info` being what `Metric.needs` names. The value
is the mean of the contributions [N], or the micro F1 of counts [N, 3] of tp, fp, fn (`value_of_mean`).
"""

from collections.abc import Mapping

from xtr.evaluate.metrics import mlqa, squad2
from xtr.evaluate.metrics.accuracy import accuracy
from xtr.evaluate.metrics.checklist import failure_rate, failure_rates_by_test
from xtr.evaluate.metrics.labels import entity_text_f1, f1_with_invalid
from xtr.evaluate.metrics.metric import Metric, value_of_mean
from xtr.evaluate.metrics.mining import bucc_f1
from xtr.evaluate.metrics.retrieval import map_at_20, nearest, top_k
from xtr.evaluate.metrics.squad import exact_match, f1, normalize_answer, unpad_answer
from xtr.evaluate.metrics.tags import span_f1, token_accuracy

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy),
        Metric("em", exact_match),
        Metric("f1", f1),
        Metric("squad2_em", squad2.exact_match, needs=("no_answer",)),
        Metric("squad2_f1", squad2.f1, needs=("no_answer",)),
        Metric("mlqa_em", mlqa.exact_match, needs=("language",)),
        Metric("mlqa_f1", mlqa.f1, needs=("language",)),
        Metric("span_f1", span_f1),
        Metric("token_accuracy", token_accuracy),
        Metric("map@20", map_at_20),
        Metric("bucc_f1", bucc_f1),
        Metric("mt5_span_f1", entity_text_f1),
        Metric("f1_with_invalid", f1_with_invalid),
        Metric(
            "failure_rate", failure_rate, needs=("ids", "language"), higher_is_better=False, parts=failure_rates_by_test
        ),
    )
}

__all__ = [
    "METRICS",
    "Metric",
    "accuracy",
    "bucc_f1",
    "entity_text_f1",
    "exact_match",
    "f1",
    "f1_with_invalid",
    "map_at_20",
    "nearest",
    "normalize_answer",
    "span_f1",
    "token_accuracy",
    "top_k",
    "unpad_answer",
    "value_of_mean",
]
