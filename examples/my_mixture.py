"""Data sets of one's own, mixed with one of xtr's. Copy this file and its folder my_data anywhere, and change them.

    xtr train --gin_file=models/mt5/small.gin --gin_file=runs/finetune.gin \
      --gin.TASK_MODULES="['my_mixture.py']" --gin.MIXTURE_OR_TASK_NAME=my_mixture \
      --gin.TASK_FEATURE_LENGTHS="{'inputs': 256, 'targets': 16}" --gin.TRAIN_STEPS=1000 \
      --gin.INITIAL_CHECKPOINT_PATH=... --gin.VOCABULARY_PATH=... --gin.DATA_DIR=... --gin.MODEL_DIR=runs/my_mixture
    xtr eval --gin_file=models/mt5/small.gin --gin_file=runs/eval.gin \
      --gin.TASK_MODULES="['my_mixture.py']" --gin.MIXTURE_OR_TASK_NAME=my_reviews \
      --gin.CHECKPOINT_PATH=runs/my_mixture --gin.VOCABULARY_PATH=... --gin.EVAL_OUTPUT_DIR=runs/my_mixture/eval

A kind of xtr's ('classification', 'span_qa', ...: `help(xtr.tasks.jsonl_task)`) brings its strings for mT5 and BLOOM,
its token ids for XLM-R and heads, its metrics and a row for each language. A task that is none of them is an ordinary
SeqIO task, as `my_spelling` below: its own postprocess_fn and metric_fns are called at evaluation.
"""

import seqio
import tensorflow as tf

import xtr.tasks

# JSON lines: {"premise": ..., "hypothesis": ..., "gold": "entailment"}
xtr.tasks.jsonl_task(
    "my_nli", kind="classification", language="en", label_names=("entailment", "neutral", "contradiction"),
    files={"train": "my_data/nli.train.jsonl", "validation": "my_data/nli.validation.jsonl"},
    text_a="premise", text_b="hypothesis", label="gold",
)  # fmt: skip

# Tables with a header line: review TAB stars. A task a language makes a target of many languages: my_reviews.
for language, files in {"en": {"train": "my_data/reviews.en.tsv"}, "sw": {}}.items():
    xtr.tasks.tsv_task(
        f"my_reviews.{language}", kind="classification", language=language, label_names=("bad", "good"),
        files={**files, "test": f"my_data/reviews.test.{language}.tsv"}, text_a="review", label="stars",
    )  # fmt: skip


# Any SeqIO task, with a metric of its own.
def spell(dataset):
    return dataset.map(
        lambda word: {
            "inputs": tf.strings.join(["spell: ", word]),
            "targets": tf.strings.regex_replace(word, "(.)", r"\1 "),
        }
    )


def letters_right(targets, predictions):
    pairs = [(letter, p[i : i + 1]) for t, p in zip(targets, predictions, strict=True) for i, letter in enumerate(t)]
    return {"letters_right": 100 * sum(a == b for a, b in pairs) / len(pairs)}


def without_spaces(text, example, is_target):
    return text.replace(" ", "")


def words(split, shuffle_files):
    names = {"train": ["house", "tree", "river", "stone"], "test": ["cloud", "bread"]}
    return tf.data.Dataset.from_tensor_slices(names[split])


# BLOOM and mT5 read strings; what reads token ids (the format 'encoder') has no inputs and targets to spell with.
seqio.TaskRegistry.add(
    "my_spelling",
    source=seqio.FunctionDataSource(words, ["train", "test"]),
    preprocessors=[spell, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=xtr.tasks.output_features(),
    postprocess_fn=without_spaces,
    metric_fns=[letters_right],
)

# Rates are relative numbers of examples.
seqio.MixtureRegistry.add("my_reviews", [("my_reviews.en", 1.0), ("my_reviews.sw", 1.0)])
seqio.MixtureRegistry.add("my_mixture", [("my_nli", 1.0), ("my_reviews.en", 1.0), ("mnli", 2.0)])
