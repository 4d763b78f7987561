"""`xtr cache` and what reads its cache: one message, checks, mending; and bad input, each one error with its place."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from xtr.cli.main import run
from xtr.data import cached_task
from xtr.data.cache_shards import shard_paths, write_shard
from xtr.data.cached_task import CachedTask
from xtr.data.records import serialize_example
from xtr.errors import DataError, UserError


def _xtr(*arguments, after="pass"):
    """`xtr` as a process of its own; `after` is run when it ends."""
    program = "import sys\nfrom xtr.cli.main import main\n"
    program += f"sys.argv = {['xtr', *map(str, arguments)]!r}\ntry:\n    main()\nfinally:\n    {after}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.fixture(scope="module")
def places(world):
    return [f"--data_dir={world.directory}", f"--vocabulary_path={world.vocabulary_path}"]


@pytest.fixture(scope="module")
def cached(places, tmp_path_factory):
    """A cache of its own, and what `xtr cache` said on standard error when it was made."""
    folder = tmp_path_factory.mktemp("own") / "cache"
    done = _xtr("cache", "mnli", "xnli", *places, f"--cache_dir={folder}", "--json")
    assert done.returncode == 0, done.stderr
    return folder, {fact["task"]: Path(fact["directory"]) for fact in json.loads(done.stdout)}, done.stderr


@pytest.fixture
def training(world, cached, study_arguments, tmp_path):
    """The command line of a tiny training run on that cache, with more arguments."""
    model = next(a for a in study_arguments("x") if a.startswith("--gin_file=")).replace("study.gin", "tiny.gin")
    arguments = [
        *("train", model, "--gin_file=runs/finetune.gin", "--gin.MIXTURE_OR_TASK_NAME=mnli"),
        f"--gin.VOCABULARY_PATH={world.vocabulary_path}",
        f"--gin.VOCAB_SIZE={-(-world.vocabulary_size // 128) * 128}",
        *(f"--gin.DATA_DIR={world.directory}", f"--gin.CACHE_DIR={cached[0]}"),
        *(f"--gin.MODEL_DIR={tmp_path / 'run'}", "--gin.TRAIN_STEPS=1", "--gin.BATCH_SIZE=8"),
        *("--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}", "--gin.EVAL_PERIOD=1", "--gin.EVAL_STEPS=1"),
    ]
    return lambda *more: [*arguments, *more]


def test_one_message_on_first_use_and_none_after_it(cached, places):
    folder, _, said = cached
    lines = [line for line in said.splitlines() if "goes without" not in line]
    assert len(lines) == 1 and lines[0].startswith("Tokenising mnli, xnli (") and str(folder) in lines[0]
    again = _xtr("cache", "mnli", "xnli", *places, f"--cache_dir={folder}")
    assert again.returncode == 0 and "Tokenising" not in again.stderr


def test_training_on_a_cache_imports_no_tensorflow(training):
    heavy = "tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"
    done = _xtr(*training(), after=f"print('loaded:', sorted(set({heavy!r}) & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("loaded: []\n")


def test_what_is_damaged_is_named_and_mended(cached, places, capsys):
    folder, directories, _ = cached
    command = ["cache", "mnli", *places, f"--cache_dir={folder}", "--verify", "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["mended"] == {}
    (shard,) = shard_paths(directories["mnli"], "train", 1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    assert run(command) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["mended"] == {shard.name: "its checksum is another than when it was written"}
    assert f"mnli: the shard {shard} is damaged" in said.err and shard.read_bytes() == whole


def test_training_names_a_corrupt_record_and_the_next_run_mends_it(cached, training, world, tmp_path):
    folder, directories, _ = cached
    (shard,) = shard_paths(directories["mnli"], "train", 1)
    whole = shard.read_bytes()
    for table in directories["mnli"].glob("train.[lt]*s.*"):  # what was read of it before
        table.unlink()
    (bad,) = [whole.index(b"premise", 300)]
    shard.write_bytes(whole[:bad] + b"PREMISE" + whole[bad + 7 :])
    done = _xtr(*training())
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "xtr: mnli: record " in done.stderr and f" of the shard {shard} (example " in done.stderr
    again = _xtr(*training())
    assert again.returncode == 0 and f"mnli: the shard {shard} is damaged" in again.stderr, again.stderr
    assert shard.read_bytes() == whole


@pytest.fixture
def mnli(cached, tmp_path):
    """A cached task that is put back behind the test."""
    directory, kept = cached[1]["mnli"], tmp_path / "kept"
    shutil.copytree(directory, kept)
    _forget()
    yield directory
    _forget()
    shutil.rmtree(directory, ignore_errors=True)
    shutil.move(kept, directory)


def _forget() -> None:
    """A process does not expect that a cached task becomes another one."""
    for known in (cached_task._lengths, cached_task._open_examples, cached_task._open_shard):
        known.cache_clear()


def _rewrite(directory: Path, change) -> None:
    """Writes a task's split 'train' with one example changed, described as if it had been written so."""
    path = directory / "xtr_task.json"
    info = json.loads(path.read_text())
    task = CachedTask.open(directory)
    examples = task.examples("train").read(range(task.num_examples("train")))
    _forget()
    examples[3].update(change)
    shard = write_shard(*shard_paths(directory, "train", 1), map(serialize_example, examples))
    info["shard_files"]["train"] = [asdict(shard)]
    path.write_text(json.dumps(info))
    for table in directory.glob("train.[lt]*s.*"):
        table.unlink()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs": np.array([5, 99999, 1])}, r"feature 'inputs' holds 99999, and the vocabulary's ids are 0 to \d+"),
        ({"targets": np.array([-1, 1])}, "feature 'targets' holds -1"),
        ({"inputs": np.array([0.5, 2.0])}, "feature 'inputs' holds floats, no token ids"),
        ({"inputs": b"text"}, "feature 'inputs' holds text, no token ids"),
    ],
    ids=["id", "negative", "floats", "text"],
)
def test_training_names_a_record_of_wrong_tokens(mnli, training, tmp_path, change, message):
    _rewrite(mnli, change)
    shard = r"\S+train\.array_record-00000-of-00001"
    with pytest.raises(DataError, match=f"mnli: record 3 of the shard {shard} .*{message}"):
        run(training())
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_mended_bit_by_bit_is_written_wholly(mnli, places, cached, capsys):
    whole = shard_paths(mnli, "train", 1)[0].read_bytes()
    _rewrite(mnli, {"inputs": np.array([-1])})
    Path(f"{shard_paths(mnli, 'train', 1)[0]}.damaged").touch()
    assert run(["cache", "mnli", *places, f"--cache_dir={cached[0]}"]) == 0
    assert "the whole task is written again" in capsys.readouterr().err
    assert shard_paths(mnli, "train", 1)[0].read_bytes() == whole


def slow(*values):
    """A case like one that is no slower; each starts a writer."""
    return pytest.param(*values, marks=pytest.mark.slow)


TASKS = """
import seqio, tensorflow as tf
from xtr.tasks import output_features

def task(name, tokens, dtype=tf.int32):
    def made(split, shuffle_files, seed=None):
        example = {"inputs": tf.constant(tokens, dtype), "targets": tf.constant([1])}
        return tf.data.Dataset.from_tensors(example).repeat(2 if len(tokens) else 0)
    seqio.TaskRegistry.add(name, source=seqio.FunctionDataSource(made, ["train"]),
        preprocessors=[seqio.CacheDatasetPlaceholder()], output_features={
            n: seqio.Feature(f.vocabulary, dtype=f.dtype) for n, f in output_features().items()})

task("good", [5, 6, 1])
task("outside", [5, 600000, 1])
task("below", [-3])
task("floats", [0.5], tf.float32)
task("empty", [])
seqio.MixtureRegistry.add("nothing", [("good", 0.0), ("mnli", 0.0)])
seqio.MixtureRegistry.add("backwards", [("good", -1.0)])
"""


@pytest.mark.parametrize(
    "name, message",
    [
        ("outside", r"Task outside, split train, .*example 0 .*'inputs': 600000 is no token id .* 0 to \d+"),
        slow("below", "Task below, split train, .*feature 'inputs': -3 is no token id"),
        slow("floats", "Task floats cannot be read: .*incorrect type for feature 'inputs'.*float32, expected int32"),
        slow("empty", "Task empty has no examples in its split train"),
    ],
)
def test_a_task_of_bad_examples_is_one_error(world, tmp_path, name, message):
    module = tmp_path / "bad_tasks.py"
    module.write_text(TASKS)
    places = [f"--data_dir={world.directory}", f"--vocabulary_path={world.vocabulary_path}"]
    done = _xtr("cache", name, *places, f"--cache_dir={tmp_path / 'cache'}", f"--task_modules={module}")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xtr: ") and re.search(message, last), last
    assert not list((tmp_path / "cache").glob(f"*{name}-*"))


def test_rates_that_sum_to_zero(training, tmp_path):
    module = tmp_path / "bad_tasks.py"
    module.write_text(TASKS)
    for name, message in (
        ("nothing", r"Mixture nothing: the rates of its tasks \(good, mnli\) sum to 0"),
        ("backwards", r"Mixture backwards: the rate of good is -1\.0"),
    ):
        with pytest.raises(UserError, match=message):
            run(training(f"--gin.TASK_MODULES=('{module}',)", f"--gin.MIXTURE_OR_TASK_NAME={name}"))
    assert not (tmp_path / "run").exists()


def test_wrong_use(places, tmp_path):
    with pytest.raises(UserError, match="--num_workers is 0; it must be at least 1"):
        run(["cache", "mnli", *places, "--num_workers=0"])
    with pytest.raises(UserError, match="say where with --seqio_dir"):
        run(["cache", "mnli", *places, "--beam=--runner=DirectRunner"])
    assert os.listdir(tmp_path) == []
