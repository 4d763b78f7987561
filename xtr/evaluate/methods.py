"""How each kind of task is predicted: its examples to what the device says, and that to prediction records.

A `Method` works on any part of a task's examples. `predict` is the device's work; `record` is the host's, and makes
records from which alone the task is graded (`grading`), so that neither needs the other.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xtr.data.formats import UNANSWERABLE
from xtr.data.framing import longest_first
from xtr.data.tag_text import parse_tags
from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError
from xtr.evaluate.grading import may_lack_answers
from xtr.evaluate.metrics import forms, unpad_answer
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.run import EvaluateRun


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the prediction of one task is to know.

    Attributes:
      run: the evaluation.
      info: the task's facts.
      length: the most tokens of a row.
      numbers: the examples' numbers in their split, where not all are predicted at once.
    """

    run: EvaluateRun
    info: Mapping
    length: int
    numbers: Sequence[int] | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """How examples are predicted.

    Attributes:
      predict: (predictor, examples, asked, advance) -> what the device says of each example.
      record: (vocabulary, example, what was said of it, asked) -> JSON fields of its record, without the id.
    """

    predict: Callable[[Predictor, Sequence[Mapping], Asked, Callable[[int], None]], Sequence]
    record: Callable[[Vocabulary, Mapping, Any, Asked], dict]

    def records(
        self, vocabulary: Vocabulary, examples: Sequence[Mapping], said: Sequence, asked: Asked
    ) -> list[dict]:
        """The records of some of a task's examples; one without an id is named by its number.

        Raises:
          DataError: an example cannot be scored; the message names it.
        """
        records, numbers = [], range(len(examples)) if asked.numbers is None else asked.numbers
        for example, number, own in zip(examples, numbers, said, strict=True):
            name = str(example["meta"].get("id", number))
            record = {"id": name, **self.record(vocabulary, example, own, asked)}
            if (field := _not_a_number(record)) is not None:
                raise DataError(
                    f"{asked.info['task']}, example {name!r} cannot be scored: its {field} is not a number. The "
                    "checkpoint holds values that are not finite, or they overflow in the model's dtype."
                )
            records.append(record)
        return records


def _not_a_number(record: Mapping) -> str | None:
    for field, value in record.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, float) and not math.isfinite(v) for v in values):
            return field
    return None


def inputs_of(
    predictor: Predictor, examples: Sequence[Mapping], length: int, feature: str = "inputs"
) -> list[np.ndarray]:
    """A feature of the examples' tokens, cut to `length`: special tokens stay where the format says what they are."""
    return [
        np.asarray(example[feature][longest_first(example["text_spans"], len(example[feature]), length)], np.int32)
        if "text_spans" in example
        else predictor.cut(example[feature], length)
        for example in examples
    ]


# ---------------------------------------------------------------------------------------------------------------------
# One of several labels: by a classification head, where the model has one, else by ranking their texts
# ---------------------------------------------------------------------------------------------------------------------


def _label_scores(predictor: Predictor, examples, asked: Asked, advance) -> list[dict]:
    inputs = inputs_of(predictor, examples, asked.length)
    if "classify" in predictor.config.objectives:
        types = inputs_of(predictor, examples, asked.length, "token_types")
        return [{"scores": scores} for scores in predictor.classify(inputs, types, advance)]
    choices = [example["meta"]["choices"] for example in examples]
    said = [
        {"scores": scores, "tokens": tokens}
        for scores, tokens in zip(
            predictor.rank(inputs, choices, advance), predictor.choice_lengths(choices), strict=True
        )
    ]
    if (text := asked.run.ranking.calibrate) is not None:
        for own, priors in zip(said, predictor.priors(choices, text), strict=True):
            own["priors"] = {text: priors.tolist()}
    return said


def chosen(vocabulary: Vocabulary, example: Mapping, said: Mapping, asked: Asked) -> dict:
    """The record of one choice of several."""
    choices, label = example["meta"]["choices"], int(example["meta"]["label"])
    own = [float(score) for score in said["scores"][: len(choices)]]
    return {"gold": choices[label], "label": label, "choices": list(choices), **said, "scores": own}


LABEL = Method(_label_scores, chosen)

# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------


def _generated(predictor: Predictor, examples, asked: Asked, advance) -> Sequence:
    run, inputs = asked.run, inputs_of(predictor, examples, asked.length)
    numbers = range(len(examples)) if asked.numbers is None else asked.numbers
    # Draws go by the example's id: neither its place in the split nor the shard plays a part.
    row_ids = [
        zlib.crc32(str(example["meta"].get("id", number)).encode())
        for example, number in zip(examples, numbers, strict=True)
    ]
    found = predictor.generate_tokens(inputs, run.max_decode_length, run.decoding, advance, row_ids=row_ids)
    return [own[0] for own in found]


def _answer(vocabulary: Vocabulary, example: Mapping, said, asked: Asked) -> dict:
    """Answers to a passage are matched back into it (mT5's rendering pads punctuation), tags are read out of their
    text, and both are scored officially; any other text is compared with the target as it is."""
    tokens, log_prob = said
    text, meta = vocabulary.decode(tokens.tolist()), example["meta"]
    record = {"raw_prediction": text, "log_prob": log_prob}
    if "answers" in meta:
        context, none = meta["context"], UNANSWERABLE if may_lack_answers(asked.info) else None
        answer = text if text == UNANSWERABLE else unpad_answer(text, context)
        faults = forms.answer_faults(text, answer, context, none)
        wrong = False if text == none else forms.wrong_language(answer, asked.info["language"], context)
        record |= {"illegal": dict(faults), "wrong_language": wrong}
        return {"prediction": answer, "gold": meta["answers"], **record}
    if "tags" in meta:
        tags, counts = parse_tags(text, len(meta["tokens"]), asked.info["label_names"])
        faults = forms.tag_faults(text, counts)
        return {"prediction": list(tags), "gold": meta["tags"], **record, "illegal": dict(faults)}
    if "choices" in meta:
        record["illegal"] = dict(forms.label_faults(text, meta["choices"]))
    return {"prediction": text, "gold": [vocabulary.decode(example["targets"].tolist())], **record}


GENERATE = Method(_generated, _answer)


def target_tokens(examples: Sequence[Mapping], run: EvaluateRun) -> list[np.ndarray]:
    """The examples' targets, cut to the length that the run gives them."""
    length = (run.task_feature_lengths or {}).get("targets")
    return [example["targets"][:length] for example in examples]


def _target_scores(predictor: Predictor, examples, asked: Asked, advance) -> Sequence:
    inputs = inputs_of(predictor, examples, asked.length)
    return predictor.score(inputs, target_tokens(examples, asked.run), advance)


def _scored(vocabulary: Vocabulary, example: Mapping, score, asked: Asked) -> dict:
    """The log-probability of the target, for tasks whose own metrics read nothing else."""
    return {"prediction": float(score), "gold": vocabulary.decode(example["targets"].tolist()), "score": float(score)}


SCORE = Method(_target_scores, _scored)
