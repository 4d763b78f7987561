"""What any SeqIO task tells of itself: its examples, whether lengths decide them, and what its own metrics read."""

import dataclasses
import functools
import inspect
import random
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from xtr.errors import UserError

# Drawn once, when the examples are cached; SeqIO's Evaluator has this seed too.
SEED = 42
# Long and in many scripts: two vocabularies that encode it alike are one.
_PROBE = (
    "The quick brown fox jumps over 13 lazy dogs; Zwölf Boxkämpfer jagen Viktor. Съешь же ещё этих мягких булок. "
    "人人生而自由，在尊严和权利上一律平等。 الناس أحرارا متساوين सभी मनुष्यों को गौरव ทุกคนเกิดมาอิสระ"
)


def own_metrics(task: seqio.Task) -> dict:
    """What a task's own SeqIO metrics are computed on.

    Returns:
      {'outputs': names of SeqIO's model outputs that they read, 'prediction', 'score', 'prediction_with_aux' or
      'score_with_intermediates'; 'wrong': why they cannot be used, '' where they can}.
    """
    try:
        outputs = {seqio.metrics.ModelOutputType.to_str(metric.model_output_type) for metric in task.metric_objs}
    except (ValueError, AttributeError) as e:  # SeqIO looks at signatures no sooner than now.
        functions = task._metric_fn_constructor_args
        names = ", ".join(f"{seqio.utils.function_name(function)} ({_place(function)})" for function in functions)
        return {"outputs": [], "wrong": f"Task {task.name}: its metric functions {names} are none for SeqIO: {e}"}
    return {"outputs": sorted(outputs), "wrong": ""}


def _place(function) -> str:
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else "built in"


def reads_lengths(task: seqio.Task) -> bool:
    """Whether a preprocessor of the task takes `sequence_length`, so that its examples may depend on it.

    It may do without where the argument has a default.
    """
    return any("sequence_length" in _arguments(step) for step in task.preprocessors)


def _arguments(preprocessor) -> dict:
    """The arguments that SeqIO may give a preprocessor -> whether it can do without."""
    if dataclasses.is_dataclass(preprocessor):
        return {field.name: True for field in dataclasses.fields(preprocessor)}
    bound = preprocessor.keywords if isinstance(preprocessor, functools.partial) else {}
    parameters = inspect.signature(preprocessor).parameters.items()
    return {name: p.default is not inspect.Parameter.empty for name, p in parameters if name not in bound}


def task_dataset(
    task: seqio.Task,
    split: str,
    lengths: Mapping[str, int] | None = None,
    *,
    trim: bool = False,
    shard: seqio.ShardInfo | None = None,
    precached: tf.data.Dataset | None = None,
) -> tf.data.Dataset:
    """The examples of a split, preprocessed, in the order of the source.

    Chance is seeded: a task that draws gives the same examples each time.

    Args:
      lengths: for preprocessors that take `sequence_length`.
      trim: whether features are cut at `lengths`, too.
      shard: the part of the source to read; None reads all of it.
      precached: examples as SeqIO has cached them, in the place of the source and of what comes before the cache.

    Raises:
      UserError: a preprocessor needs lengths and there are none.
    """
    for step in task.preprocessors:
        if lengths is None and not _arguments(step).get("sequence_length", True):
            raise UserError(
                f"Task {task.name}: its preprocessor {seqio.utils.function_name(step)} needs the lengths of the "
                "features: set TASK_FEATURE_LENGTHS (xtr cache: --task_feature_lengths)."
            )
    if task.requires_caching:  # The cache that it requires is being written.
        placeholder = seqio.CacheDatasetPlaceholder
        steps = [placeholder() if isinstance(step, placeholder) else step for step in task.preprocessors]
        task = task.replace(preprocessors=steps)
    # A seed for `get_dataset` would be one for the source too, which not every source takes.
    tf.random.set_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    try:
        if precached is not None:
            return task._validate_preprocessing(task.preprocess_postcache(precached, lengths))
        return task.get_dataset(
            lengths,
            split=split,
            shuffle=False,
            shard_info=shard,
            num_epochs=1,
            try_in_mem_cache=False,
            trim_output_features=trim,
        )
    finally:
        tf.random.set_seed(None)  # TensorFlow's graphs have drawn theirs; Python functions draw as they run


def precached_dataset(task: seqio.Task, split: str) -> tf.data.Dataset:
    """The examples of a split as SeqIO caches them: before the task's `CacheDatasetPlaceholder`, in the source's order.

    Chance is seeded as in `task_dataset`.
    """
    tf.random.set_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    try:
        return task.preprocess_precache(task.source.get_dataset(split=split, shuffle=False))
    finally:
        tf.random.set_seed(None)


def check_vocabulary(task: seqio.Task, ours: seqio.Vocabulary, path: str) -> None:
    """Raises UserError where a task makes its tokens with another vocabulary than `ours`, that of `path`.

    A task of ready-made ids (SeqIO's PassThroughVocabulary) is taken at its word.
    """
    expected = ours.encode(_PROBE)
    for name, feature in task.output_features.items():
        vocabulary = feature.vocabulary
        if feature.dtype.is_integer and not isinstance(vocabulary, seqio.PassThroughVocabulary):
            if vocabulary == ours or list(vocabulary.encode(_PROBE)) == expected:
                continue
            its = f"{type(vocabulary).__name__} {getattr(vocabulary, 'sentencepiece_model_file', '')}".rstrip()
            raise UserError(
                f"Task {task.name}: its feature '{name}' is tokenised with {its}, but the vocabulary of this run is "
                f"{path}. Set VOCABULARY_PATH to the task's, or build its features with "
                "xtr.tasks.output_features(), which are those of the run."
            )
