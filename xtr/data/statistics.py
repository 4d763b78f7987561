"""How long a task's examples are in tokens, what is cut off them, and how full the packer makes its rows.

All of it follows from the cache's tables of lengths, not from the tokens.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.formats import CAUSAL, ENCODER
from xtr.data.labelled import OBJECTIVE_OF_KIND, num_labels, ragged
from xtr.data.packing import least_rows
from xtr.data.pipeline import SECOND_SIDE, TrainData, window_stream
from xtr.data.vocabulary import Vocabulary, read_vocabulary
from xtr.data.windows import Window, WindowStream
from xtr.errors import UserError

PERCENTILES = (50, 90, 95, 99)
_WINDOWS = 8


def objective_of(format: str, kind: str) -> str:
    """The objective that a kind of task is trained with in a format; '' for what is only embedded, or is no task of a
    head."""
    if kind == "retrieval":
        return ""
    if format == ENCODER:
        return "mlm" if kind == "text" else OBJECTIVE_OF_KIND.get(kind, "")
    if format == CAUSAL:
        return "causal"
    return "denoise" if kind == "text" else "seq2seq"


def quantiles(lengths: np.ndarray) -> dict[str, int]:
    """Length percentiles, each the length of some example, and the maximum: {'50%': ..., 'max': ...}."""
    values = np.quantile(lengths, np.array(PERCENTILES) / 100, method="inverted_cdf")
    return {f"{p}%": int(value) for p, value in zip(PERCENTILES, values, strict=True)} | {"max": int(lengths.max())}


def token_lengths(task: CachedTask, split: str) -> dict[str, np.ndarray]:
    """Tokens of each of a split's token features, int [examples]; where an example has several sequences of choices,
    those of each choice, int [choices of all examples]. Features that no example has are left out."""
    names = (*task.info["features"], "question")  # a span head's, which is none of SeqIO's features
    found, _ = task.lengths(split, names)
    out = {name: lengths for name, lengths in zip(names, found, strict=True) if (lengths > 0).any()}
    (choices,), _ = task.lengths(split, ("choice_lengths",))
    if "inputs" in out and len(choices) and (choices > 0).all():
        out["inputs"], _ = ragged(task, split, "choice_lengths")
    return out


def truncated(task: CachedTask, split: str, objective: str, lengths: Mapping[str, int]) -> dict:
    """What the feature lengths do to a split.

    Returns:
      rows: rows before packing (windows of contexts, chunks of texts, examples).
      truncated: share of them that lose tokens, by feature.

    Raises:
      UserError: the objective cannot use the task or the lengths.
    """
    if not objective:
        found = token_lengths(task, split)
        shares = {name: float((own > lengths[name]).mean()) for name, own in found.items() if name in lengths}
        return {"rows": task.num_examples(split), "truncated": shares}
    source = _data([task], split, objective, lengths).source(task)
    kept, cut = source.lengths(np.arange(len(source)))
    if objective == "causal":  # one side holds both features: what is cut is found in each
        own = token_lengths(task, split)
        prompted = len(own) == 2
        shares = {n: float((own[n] > lengths[n]).mean()) if prompted else 0.0 for n in own}
    else:
        sides = ("inputs", "targets") if objective in SECOND_SIDE else ("inputs",)
        shares = {name: float((side > 0).mean()) for name, side in zip(sides, cut, strict=False)}
    return {"rows": len(source), "truncated": shares}


def packing(tasks: Sequence[CachedTask], split: str, objective: str, lengths: Mapping[str, int]) -> dict:
    """How full rows will be: expected over the first windows of an epoch, mixed at the tasks' rates.

    Returns:
      slots: tokens of a row, by feature ('inputs' holds both features of a causal model's rows).
      examples_a_row: mean; 1 for heads, whose rows are not packed.
      density: tokens / slots, by feature.
      binding: the feature that the examples fill more of, whose density says how good the packing is.
      least_rows: rows that no packing can do without, as a share of the rows; 1 for heads.
      windows: how many windows of 1,024 examples it was measured on.

    Raises:
      UserError: the objective cannot use the tasks or the lengths.
    """
    spec = _data(tasks, split, objective, lengths, epochs=1)
    stream = window_stream(spec)
    plans = [stream.window(w) for w in range(min(stream.num_windows or _WINDOWS, _WINDOWS))]
    rows = sum(len(plan.rows) for plan in plans)
    tokens_2 = sum(plan.tokens_R2.sum(axis=0) for plan in plans)
    sides = ("inputs", "targets") if objective in SECOND_SIDE else ("inputs",)
    slots = dict(zip(sides, spec.slots, strict=False))
    density = {name: int(t) / (rows * slots[name]) for name, t in zip(sides, tokens_2, strict=False)}
    least = sum(least_rows(*_lengths(stream, plan), *spec.slots) for plan in plans) if spec.pack else rows
    return {
        "slots": slots,
        "examples_a_row": sum(len(plan.task_W) for plan in plans) / rows,
        "density": density,
        "binding": max(density, key=density.get),
        "least_rows": least / rows,
        "windows": len(plans),
    }


def _lengths(stream: WindowStream, plan: Window) -> np.ndarray:
    """Tokens of both sides of a window's examples: int64 [2, W]."""
    lengths_2W = np.empty((2, len(plan.task_W)), np.int64)
    for t, source in enumerate(stream.sources):
        of_t = plan.task_W == t
        lengths_2W[:, of_t], _ = source.lengths(plan.number_W[of_t])
    return lengths_2W


def _data(
    tasks: Sequence[CachedTask], split: str, objective: str, lengths: Mapping[str, int], epochs: int | None = None
) -> TrainData:
    labels = num_labels(tasks[0], split, objective)
    reads = objective in ("denoise", "mlm", "tag", "span")  # a vocabulary, to make examples of what is cached
    return TrainData(
        tuple(tasks),
        lengths,
        batch_size=1,
        split=split,
        objective=objective,
        num_labels=labels,
        epochs=epochs,
        vocabulary=_vocabulary(tasks[0].info["vocabulary"]["path"]) if reads else None,
    )


@functools.lru_cache(maxsize=1)
def _vocabulary(path: str) -> Vocabulary:
    """Read once for all tasks of a table: XLM-R's takes seconds."""
    return read_vocabulary(path)


def statistics(task: CachedTask, lengths: Mapping[str, int]) -> dict:
    """All of it for one task: counts, percentiles and cuts of each split, and the packing of its split 'train'.

    Args:
      lengths: TASK_FEATURE_LENGTHS; {} where nobody set any, so that nothing is said of cuts and packing.
    """
    info = task.info
    objective = objective_of(info["format"], info["kind"])
    splits = {}
    for split in task.splits:
        found = {name: quantiles(own) for name, own in token_lengths(task, split).items()}
        splits[split] = {"examples": task.num_examples(split), "tokens": found}
        if lengths:
            splits[split] |= _or_why(truncated, task, split, objective, lengths)
    out = {
        "task": task.name,
        "language": info["language"],
        "kind": info["kind"],
        "format": info["format"],
        "objective": objective,
        "lengths": dict(lengths),
        "splits": splits,
    }
    if lengths and objective and "train" in task.splits:
        out["packing"] = _or_why(packing, [task], "train", objective, lengths)
    return out


def mixture_packing(tasks: Sequence[CachedTask], lengths: Mapping[str, int]) -> dict | None:
    """The packing of tasks mixed at their rates; None where fewer than two of them are trained on together."""
    trained = [task for task in tasks if "train" in task.splits and task.rate > 0]
    objectives = {objective_of(task.info["format"], task.info["kind"]) for task in trained}
    if objectives == {"seq2seq", "denoise"}:
        objectives = {"seq2seq"}
    if len(trained) < 2 or "" in objectives:
        return None
    if len(objectives) > 1:
        return {"why": f"no one objective trains them all: {', '.join(sorted(objectives))}"}
    return _or_why(packing, trained, "train", objectives.pop(), lengths) if lengths else None


def _or_why(function, *arguments) -> dict:
    try:
        return function(*arguments)
    except UserError as error:
        return {"why": str(error)}
