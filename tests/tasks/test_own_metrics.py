"""A task's own metrics: the same numbers as from seqio.Evaluator, given the same model outputs."""

import functools
from pathlib import Path

import flax
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.tasks.modules import import_tensorflow

import_tensorflow()

import seqio  # noqa: E402
import tensorflow as tf  # noqa: E402

from xtr.tasks import foreign, own_metrics  # noqa: E402

TEXTS = ["thanks", "a person", "hello", "when", "a man"]


def made(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": [f"question {text}" for text in TEXTS], "targets": TEXTS, "weight": [1, 2, 3, 4, 5]}
    ).map(lambda example: {**example, "nested": {"grid": tf.reshape(example["weight"] * tf.range(4), [2, 2])}})


def weigh(decoded, example=None, is_target=False):
    """Reads the text, the example with its nested feature, and which side it is."""
    return decoded.strip(), int(example["weight"]), int(example["nested"]["grid"].sum()), is_target


def matches(targets, predictions):
    assert all(t[3] for t in targets) and not any(p[3] for p in predictions)
    right = [t[:1] == p[:1] for t, p in zip(targets, predictions, strict=True)]
    weights = [t[1] + t[2] for t in targets]
    return {"accuracy": 100 * np.mean(right), "weighted": seqio.metrics.Scalar(float(np.dot(right, weights)))}


def likelihood(targets, scores, base=2.0):
    return {"bits": -np.mean(scores) / np.log(base), "first": scores[0], "text": seqio.metrics.Text("five")}


def confidence(targets, predictions, aux_values):
    return {"confidence": np.exp(aux_values["scores"]).mean(), "histogram": seqio.metrics.Histogram(np.arange(3))}


def exact_texts(targets, predictions):
    return {"exact": sum(t == p for t, p in zip(targets, predictions, strict=True)), "undefined": float("nan")}


@flax.struct.dataclass
class Longest(seqio.metrics.Metric):
    """A metric object: tokens of the longest prediction."""

    model_output_type: seqio.metrics.ModelOutputType = seqio.metrics.ModelOutputType.PREDICTION
    longest: int = 0

    def from_model_output(
        self, inputs, model_output, features, target_field_name="targets", mask=None, indices_2d=None
    ):
        return Longest(longest=int((model_output != 0).sum(axis=1).max()))

    def compute(self):
        return {"longest": self.longest}


@pytest.fixture
def register(vocabulary_path):
    names = []

    def register(name, **options):
        vocabulary = seqio.SentencePieceVocabulary(str(vocabulary_path), extra_ids=0)
        names.append(name)
        return seqio.TaskRegistry.add(
            name, source=seqio.FunctionDataSource(made, ["validation"]),
            preprocessors=[functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=True),
                           seqio.preprocessors.append_eos],
            output_features={n: seqio.Feature(vocabulary, add_eos=True) for n in ("inputs", "targets")}, **options,
        )  # fmt: skip

    yield register
    for name in names:
        seqio.TaskRegistry.remove(name)


def outputs(task, seed=0):
    """Predictions, some right and some not, and scores."""
    rng = np.random.default_rng(seed)
    vocabulary = task.output_features["targets"].vocabulary
    predictions = np.zeros((len(TEXTS), 12), np.int32)
    for row, text in zip(predictions, ["thanks", "a man", "hello", "hello hello", "a man"], strict=True):
        tokens = [*vocabulary.encode(text), 1][:12]
        row[: len(tokens)] = tokens
    scores = -rng.random((2, len(TEXTS))).astype(np.float32)
    return {"predictions": predictions, "prediction_scores": scores[0], "scores": scores[1]}


def by_seqio(task, arrays, lengths=None):
    """What seqio.Evaluator itself computes."""
    number = range(len(TEXTS))
    evaluator = seqio.Evaluator(
        task.name, seqio.EncDecFeatureConverter(pack=False), "validation", seed=None, sequence_length=lengths,
        async_compute_metrics=False,
    )  # fmt: skip
    indexed = [*zip(number, arrays["predictions"], strict=True)]
    found, _ = evaluator.evaluate(
        compute_metrics=True,
        predict_fn=lambda dataset: indexed[::-1],
        score_fn=lambda dataset: [*zip(number, arrays["scores"], strict=True)][::-1],
        predict_with_aux_fn=lambda dataset: (indexed, {"scores": list(arrays["prediction_scores"])}),
    )
    values = {k: v.value if isinstance(v, seqio.metrics.Scalar) else v for k, v in found.result()[task.name].items()}
    return {k: float(v) for k, v in values.items() if np.size(v) == 1 and np.isscalar(v) or hasattr(v, "dtype")}


def examples_of(task, lengths=None):
    import tensorflow_datasets as tfds

    return list(tfds.as_numpy(foreign.task_dataset(task, "validation", lengths, trim=True)))


@pytest.mark.parametrize("lengths", [None, {"inputs": 6, "targets": 3}])
@pytest.mark.parametrize(
    "options",
    [
        {"metric_fns": [matches], "postprocess_fn": weigh},
        {"metric_fns": [likelihood]},
        {"metric_fns": [confidence, functools.partial(likelihood, base=10.0), matches], "postprocess_fn": weigh},
        {"metric_fns": [exact_texts], "metric_objs": [Longest()]},
    ],
    ids=["predictions", "scores", "all", "objects"],
)
def test_values_are_those_of_seqios_evaluator(register, options, lengths):
    task = register("own_metrics_task", **options)
    arrays = outputs(task)
    values, skipped = own_metrics.compute(task, examples_of(task, lengths), arrays)
    expected = by_seqio(task, arrays, lengths)
    assert {k: v for k, v in expected.items() if np.isfinite(v)} == values and values
    assert set(values) | set(skipped) >= set(expected)


def test_what_is_no_number_is_said(register):
    task = register("own_metrics_task", metric_fns=[likelihood, confidence, exact_texts])
    values, skipped = own_metrics.compute(task, examples_of(task), outputs(task))
    assert values.keys() == {"bits", "first", "confidence", "exact"}
    assert skipped == {
        "text": "a Text is no number", "histogram": "a Histogram is no number", "undefined": "it is nan",
    }  # fmt: skip


def broken(targets, predictions):
    return {"rate": len(predictions) / 0}


def again(targets, predictions):
    return {"exact": 1}


def odd(targets, guesses):
    return {}


def bare(targets, predictions):
    return 3


def test_mistakes_in_metrics(register):
    task = register("own_metrics_task", metric_fns=[broken])
    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf"own_metrics_task: its metric broken failed at .*{Path(__file__).name}, line "
                                        rf"{line}: ZeroDivisionError"):  # fmt: skip
        own_metrics.compute(task, examples_of(task), outputs(task), [Path(__file__)])
    twice = register("own_metrics_twice", metric_fns=[exact_texts, again])
    with pytest.raises(UserError, match="two of its metrics are called 'exact'"):
        own_metrics.compute(twice, examples_of(twice), outputs(twice))
    wrong = foreign.own_metrics(register("own_metrics_odd", metric_fns=[odd]))
    assert wrong["outputs"] == [] and f"odd ({__file__}, line {odd.__code__.co_firstlineno})" in wrong["wrong"]
    plain = register("own_metrics_bare", metric_fns=[bare])
    assert own_metrics.compute(plain, examples_of(plain), outputs(plain)) == ({"bare": 3.0}, {})


def test_what_metrics_read_is_known_beforehand(register):
    read = [
        foreign.own_metrics(register(f"own_metrics_{i}", metric_fns=functions))["outputs"]
        for i, functions in enumerate([[], [matches], [likelihood], [confidence, likelihood]])
    ]
    assert read == [[], ["prediction"], ["score"], ["prediction_with_aux", "score"]]


def test_the_examples_are_those_that_were_predicted(register):
    task = register("own_metrics_task", metric_fns=[matches])
    tokens = [example["targets"] for example in examples_of(task, {"targets": 2})]
    arrays = {"tokens/targets": np.concatenate(tokens), "sizes/targets": np.array([len(row) for row in tokens])}
    assert len(own_metrics._examples(task, "validation", {"targets": 2}, arrays)) == len(TEXTS)
    few = {"tokens/targets": np.concatenate(tokens[:2]), "sizes/targets": np.array([2, 2])}
    assert len(own_metrics._examples(task, "validation", {"targets": 2}, few)) == 2
    with pytest.raises(UserError, match="'targets' of example 1 of 'validation' is another than when it was cached"):
        own_metrics._examples(task, "validation", None, arrays)
