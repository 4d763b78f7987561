"""SeqIO tasks and mixtures that know nothing of xtr: what is trained on is what SeqIO's own get_dataset gives."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from xtr.data import cache_writer
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.data.pipeline import TrainData, train_batches
from xtr.errors import UserError
from xtr.tasks import modules

LENGTHS = {"inputs": 8, "targets": 4}

MODULE = """
import functools
import numpy as np
import seqio
import tensorflow as tf
from helper_of_foreign_tasks import upper

FOLDER = "@FOLDER@"
VOCABULARY = seqio.SentencePieceVocabulary("@VOCABULARY@", extra_ids=0)
FEATURES = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ("inputs", "targets")}
TEXTS = ["hello", "a man", "question when a person opened", "thanks a person", "one more hello for a man"]
PAIR = {"inputs": TEXTS, "targets": ["yes", "no", "a man opened when hello", "no", "yes"]}

def made(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices(PAIR)

def unseeded(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices(PAIR)

def lines(dataset):
    def pair(line):
        parts = tf.strings.split(line, "|")
        return {"inputs": parts[0], "targets": parts[1]}
    return dataset.map(pair)

TOKENISED = [seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos]
MADE = seqio.FunctionDataSource(made, ["train"], num_input_examples={"train": 5})

def add(name, source=MADE, preprocessors=TOKENISED, features=FEATURES, **more):
    return seqio.TaskRegistry.add(
        name, source=source, preprocessors=preprocessors, output_features=features, **more)

# Every kind of source.
add("f_function")
add("f_unseeded", seqio.FunctionDataSource(unseeded, ["train"]))
add("f_lines", seqio.TextLineDataSource({"train": FOLDER + "/*.txt"}, skip_header_lines=1), [lines, *TOKENISED])
SPEC = {name: tf.io.FixedLenFeature([], tf.string) for name in ("inputs", "targets")}
add("f_examples", seqio.TFExampleDataSource({"train": FOLDER + "/pairs.tfrecord"}, SPEC))
add("f_protos", seqio.ProtoDataSource({"train": [FOLDER + "/pairs.tfrecord"]},
    decode_proto_fn=lambda record: tf.io.parse_single_example(record, SPEC)))
add("f_files", seqio.FileDataSource(
    lambda path: tf.data.TextLineDataset(path).skip(1), {"train": [FOLDER + "/a.txt", FOLDER + "/b.txt"]}),
    [lines, *TOKENISED])
add("f_tfds", seqio.TfdsDataSource("tiny_pairs:1.0.0", FOLDER + "/tfds", splits={"train": "train[:4]"}))

# Preprocessors of every kind.
def with_features(dataset, output_features):
    return dataset.map(lambda x: {**x, "inputs": tf.strings.join([x["inputs"], " "] + sorted(output_features))})

def halves(dataset, sequence_length, output_features):
    half = sequence_length["inputs"] // 2
    return dataset.map(lambda x: {**x, "inputs": x["inputs"][:half]})

def cut(dataset, sequence_length=None):
    if sequence_length is None:
        return dataset
    return dataset.map(lambda x: {k: x[k][: length - 1] for k, length in sequence_length.items()})

@seqio.map_over_dataset(num_seeds=1)
def drawn(x, seed):
    return {**x, "inputs": tf.random.experimental.stateless_shuffle(x["inputs"], seed)}

def several(dataset):
    return dataset.filter(lambda x: x["targets"] != b"no").repeat(2)

def extras(dataset):
    return dataset.map(lambda x: {
        **x, "nested": {"a": {"b": x["inputs"]}}, "grid": tf.zeros([2, 3]), "image": b"\\\\xff\\\\xfe",
        "ragged": tf.ragged.constant([[1], [2, 3]]), "sparse": tf.sparse.from_dense([0, 1]), "flag": True,
        "answers": tf.stack([x["targets"], "other"]), "weight": 0.5, "meta": "no JSON",
        "empty": tf.zeros([0], tf.int32)})

add("f_features", preprocessors=[with_features, upper, *TOKENISED])
add("f_lengths", preprocessors=[*TOKENISED, halves])
add("f_default", preprocessors=[*TOKENISED[:2], cut, seqio.preprocessors.append_eos])
add("f_trimmed", preprocessors=[*TOKENISED[:2], seqio.preprocessors.append_eos_after_trim])
add("f_no_placeholder", preprocessors=[TOKENISED[0], TOKENISED[2]])
add("f_required", preprocessors=[TOKENISED[0], seqio.CacheDatasetPlaceholder(required=True), TOKENISED[2]])
add("f_several", preprocessors=[several, *TOKENISED])
add("f_extras", preprocessors=[extras, functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=True)])
add("f_drawn", preprocessors=[TOKENISED[0], drawn])
add("f_by_numpy", preprocessors=[TOKENISED[0], lambda d: d.map(lambda x: {**x, "inputs": tf.numpy_function(
    np.random.permutation, [x["inputs"]], tf.int32)}), lambda d: d.map(lambda x: {**x, "inputs": tf.ensure_shape(
    x["inputs"], [None])})])

# Features of every kind.
add("f_no_eos", features={"inputs": seqio.Feature(VOCABULARY, add_eos=False), "targets": FEATURES["targets"]})
IDS = {name: seqio.Feature(seqio.PassThroughVocabulary(1000), add_eos=False) for name in ("inputs", "targets")}
def ids(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": [[5, 6, 7], [8, 9, 10]], "targets": [[4, 1], [3, 1]]})
add("f_ids", seqio.FunctionDataSource(ids, ["train"]), [lambda d: d.map(
    lambda x: {k: tf.cast(v, tf.int32) for k, v in x.items()})], IDS)
add("f_wide", preprocessors=[*TOKENISED, lambda d: d.map(lambda x: {k: v[None] for k, v in x.items()})],
    features={n: seqio.Feature(VOCABULARY, rank=2) for n in ("inputs", "targets")})
add("f_text", preprocessors=[lambda d: d.map(lambda x: {"text": x["inputs"]}), *TOKENISED],
    features={"text": FEATURES["inputs"]})
add("f_targets", preprocessors=[lambda d: d.map(lambda x: {"targets": x["inputs"]}), *TOKENISED],
    features={"targets": FEATURES["targets"]})
add("f_optional", preprocessors=[lambda d: d.map(lambda x: {"targets": x["inputs"]}), *TOKENISED],
    features={"targets": FEATURES["targets"], "inputs": seqio.Feature(VOCABULARY, required=False)})
add("f_other", features={n: seqio.Feature(seqio.ByteVocabulary()) for n in ("inputs", "targets")})

def missing(dataset):
    return dataset.map(lambda x: {"inputs": x["no_such"], "targets": x["targets"]})
add("f_broken", preprocessors=[missing, *TOKENISED])

# Mixtures of every kind.
by_size = functools.partial(seqio.mixing_rate_num_examples, temperature=2.0, maximum=4)
seqio.MixtureRegistry.add("f_sizes", ["f_function", "f_several", "f_unseeded"], default_rate=by_size)
seqio.MixtureRegistry.add("f_fixed", [("f_function", 3), ("f_lines", 1.5)])
seqio.MixtureRegistry.add("f_mixed", [("f_fixed", 2.0), ("f_examples", lambda task: len(task.name)), ("f_lines", 1)])
inner = seqio.Mixture("f_unregistered", [("f_function", 1), ("f_ids", 3)])
seqio.MixtureRegistry.add("f_objects", [(inner, 1.0), (seqio.TaskRegistry.get("f_protos"), 2.0)])
seqio.MixtureRegistry.add("f_deep", [("f_mixed", 1.0), ("f_objects", 4.0), ("f_fixed", 0.5)])
"""


@pytest.fixture(scope="module")
def write(tmp_path_factory, official_files, vocabulary_path):
    """`write(*names, lengths=...)`: the cached tasks by name and the writer's whole answer; the names of `MODULE`."""
    folder = tmp_path_factory.mktemp("foreign")
    before = dict(os.environ), list(sys.path)
    modules.import_tensorflow()
    _write_sources(folder)
    (folder / "helper_of_foreign_tasks.py").write_text(
        "import tensorflow as tf\n\ndef upper(dataset):\n"
        "    return dataset.map(lambda x: {**x, 'targets': tf.strings.upper(x['targets'])})\n"
    )
    text = MODULE.replace("@FOLDER@", str(folder)).replace("@VOCABULARY@", str(vocabulary_path))
    (folder / "foreign_tasks.py").write_text(text.replace("\\\\x", "\\x"))

    def write(*names, lengths=None, cache="cache", vocabulary=vocabulary_path):
        response = cache_writer.write(
            {
                "names": list(names), "task_modules": [str(folder / "foreign_tasks.py")], "lengths": lengths,
                "data_dir": str(official_files), "vocabulary_path": str(vocabulary), "cache_dir": str(folder / cache),
                "format": "text2text",
            }
        )  # fmt: skip
        return {name: CachedTask.open(path) for name, path in response["tasks"].items()}, response

    yield write
    os.environ.clear()
    os.environ.update(before[0])
    sys.path[:] = before[1]


def _write_sources(folder):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    pairs = [("hello", "yes"), ("a man", "no"), ("when", "a person"), ("thanks", "no"), ("opened", "yes")]
    for name, some in (("a", pairs[:3]), ("b", pairs[3:])):
        (folder / f"{name}.txt").write_text("".join(["header\n", *(f"{a}|{b}\n" for a, b in some)]))

    def feature(text):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))

    with tf.io.TFRecordWriter(str(folder / "pairs.tfrecord")) as writer:
        for inputs, targets in pairs:
            features = tf.train.Features(feature={"inputs": feature(inputs), "targets": feature(targets)})
            writer.write(tf.train.Example(features=features).SerializeToString())

    class TinyPairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            names = {name: tfds.features.Text() for name in ("inputs", "targets")}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(names))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, (inputs, targets) in enumerate(pairs):
                yield i, {"inputs": inputs, "targets": targets}

    TinyPairs(data_dir=str(folder / "tfds")).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


def rows_of_training(task):
    """The pairs of tokens that one epoch trains on, sorted."""
    spec = TrainData(tasks=(task,), lengths=LENGTHS, batch_size=3, pack=False, epochs=1)
    rows = []
    for batch in train_batches(spec, process_index=0, process_count=1):
        for inputs, used, targets, weights in zip(
            batch["encoder_input_tokens"], batch["encoder_segment_ids"], batch["decoder_target_tokens"],
            batch["decoder_loss_weights"], strict=True,
        ):  # fmt: skip
            if used.any() or weights.any():
                rows.append((inputs[used > 0].tolist(), targets[weights > 0].tolist()))
    return sorted(rows)


def rows_of_seqio(name):
    """The same by SeqIO: its own get_dataset, cut at the lengths."""
    import seqio
    import tensorflow as tf

    tf.random.set_seed(42)
    np.random.seed(42)
    task = seqio.TaskRegistry.get(name)
    if task.requires_caching:
        steps = [step for step in task.preprocessors if not isinstance(step, seqio.CacheDatasetPlaceholder)]
        task = task.replace(preprocessors=steps)
    dataset = task.get_dataset(LENGTHS, "train", shuffle=False, try_in_mem_cache=False)
    tf.random.set_seed(None)
    return sorted((e["inputs"].tolist(), e["targets"].tolist()) for e in dataset.as_numpy_iterator())


SOURCES = ("function", "unseeded", "lines", "examples", "protos", "files", "tfds")
PREPROCESSORS = (
    "features", "lengths", "default", "trimmed", "no_placeholder", "required", "several", "extras", "drawn", "by_numpy",
)  # fmt: skip
ALL = [f"f_{name}" for name in (*SOURCES, *PREPROCESSORS, "no_eos", "ids")]


@pytest.fixture(scope="module")
def written(write):
    return write(*ALL, lengths=LENGTHS)[0]


@pytest.mark.parametrize("name", ALL)
def test_training_reads_what_seqio_gives(written, name):
    expected = rows_of_seqio(name)
    assert rows_of_training(written[name]) == expected
    sizes = {"f_tfds": 4, "f_several": 6, "f_ids": 2}
    assert len(expected) == sizes.get(name, 5) == written[name].num_examples("train")


def test_lengths_decide_only_what_asks_for_them(write, written):
    other, response = write("f_lengths", "f_trimmed", "f_function", lengths={"inputs": 4, "targets": 4})
    assert response["reads_lengths"] and not write("f_function")[1]["reads_lengths"]
    assert other["f_function"].directory == written["f_function"].directory
    assert other["f_lengths"].directory != written["f_lengths"].directory
    assert max(len(e["inputs"]) for e in eval_examples(other["f_lengths"], "train")) == 2
    # An end of sequence stays where the task puts it.
    assert all(e["inputs"][-1] == 1 and len(e["inputs"]) <= 4 for e in eval_examples(other["f_trimmed"], "train"))
    with pytest.raises(UserError, match="f_lengths: its preprocessor halves needs .*TASK_FEATURE_LENGTHS"):
        write("f_lengths", cache="without")
    assert write("f_trimmed", cache="without")[0]["f_trimmed"].num_examples("train") == 5


def test_chance_is_drawn_once(write, written):
    again, _ = write("f_drawn", "f_by_numpy", cache="again")
    for name in again:
        assert rows_of_training(again[name]) == rows_of_training(written[name])
    assert rows_of_training(written["f_drawn"]) != rows_of_training(written["f_by_numpy"])


def test_features_beside_the_tokens(written):
    example = eval_examples(written["f_extras"], "train")[1]
    assert example["inputs_pretokenized"] == "a man" and example["image"] == b"\xff\xfe" and example["meta"] == {}
    assert example["answers"] == [b"no", b"other"] and example["flag"] == [1] and example["weight"] == [0.5]
    info = json.loads((Path(written["f_extras"].directory) / "info.train.json").read_text())
    assert sorted(info["left_out"]) == ["grid", "nested", "ragged", "sparse"]


def test_features_that_an_objective_lacks(write):
    found, _ = write("f_text", "f_targets", "f_optional")
    with pytest.raises(UserError, match="f_text: .*no feature 'inputs'.*the task has text"):
        rows_of_training(found["f_text"])
    with pytest.raises(UserError, match="f_targets: .*no feature 'inputs'"):
        rows_of_training(found["f_targets"])
    for name in ("f_targets", "f_optional"):
        spec = TrainData(tasks=(found[name],), lengths=LENGTHS, batch_size=2, objective="causal")
        batch = next(iter(train_batches(spec, process_index=0, process_count=1)))
        assert batch["decoder_loss_weights"].any()
    with pytest.raises(UserError, match="Feature 'inputs' is of rank 2"):
        write("f_wide")


def test_a_preprocessor_that_fails_is_named(write):
    place = rf"foreign_tasks\.py.*line {MODULE.splitlines().index('def missing(dataset):') + 2}"
    with pytest.raises(UserError, match=rf"(?s)Task f_broken cannot be read: .*KeyError.*no_such.*{place}"):
        write("f_broken")


def test_another_vocabulary_is_refused(write, small_vocabularies):
    with pytest.raises(
        UserError, match="f_other: its feature 'inputs' is tokenised with ByteVocabulary, .*VOCABULARY_PATH"
    ):
        write("f_other")
    with pytest.raises(UserError, match="f_function: its feature 'inputs' is tokenised with SentencePieceVocabulary"):
        write("f_function", vocabulary=small_vocabularies["t5"])


@pytest.mark.parametrize("name", ["f_fixed", "f_mixed", "f_objects", "f_deep"])
def test_rates_of_mixtures(write, name):
    import seqio

    _, response = write(name, lengths=LENGTHS)
    mixture = seqio.MixtureRegistry.get(name)
    rates = dict(response["mixtures"][name])
    assert rates == {task.name: pytest.approx(mixture.get_rate(task)) for task in mixture.tasks} and len(rates) > 1
    # What the members draw adds up to it.
    members = mixture.rate_per_task_name
    for task, components in response["components"][name].items():
        drawn = 0
        for member, share in components.items():
            rate = members[member]
            drawn += share * (rate(seqio.TaskRegistry.get(member)) if callable(rate) else rate)
        assert rates[task] == pytest.approx(drawn)


def test_rates_by_size_count_what_is_cached(write):
    rates = dict(write("f_sizes")[1]["mixtures"]["f_sizes"])
    assert rates == {"f_function": 2.0, "f_several": 2.0, "f_unseeded": 2.0}  # of 5, 6 and 5 examples, 4 count at most


def test_helpers_of_a_module_are_code_of_its_tasks(written):
    names = [name.rpartition("/")[2] for name in written["f_features"].info["code"]]
    assert names == ["foreign_tasks.py", "helper_of_foreign_tasks.py"]
