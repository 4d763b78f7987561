"""The benchmark's metrics, in percent, each with the contribution of every example.

`METRICS[name](predictions, golds) -> (value, contributions_N)`; the value is the mean of the contributions.
"""

from xtr.evaluate.metrics.accuracy import accuracy
from xtr.evaluate.metrics.retrieval import nearest
from xtr.evaluate.metrics.squad import exact_match, f1, normalize_answer, unpad_answer

METRICS = {"accuracy": accuracy, "em": exact_match, "f1": f1}

__all__ = [
    "METRICS",
    "accuracy",
    "exact_match",
    "f1",
    "nearest",
    "normalize_answer",
    "unpad_answer",
]
