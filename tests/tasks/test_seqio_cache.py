"""SeqIO's own cached tasks: SeqIO reads what xtr writes, and xtr reads what SeqIO's pipeline (Apache Beam) writes."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xtr.data import cache_writer
from xtr.data.cached_task import CachedTask
from xtr.errors import UserError

beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed: pip install 'xtr[beam]'"
)


@pytest.fixture(autouse=True)
def environment(writer_environment):
    """The writer also sets SeqIO's cache directories."""
    import seqio

    yield
    seqio.set_global_cache_dirs([])


@pytest.fixture
def request_of(official_files, vocabulary_path, tmp_path):
    def request_of(*names, form="text2text", cache="cache", **more):
        return {
            "names": list(names), "data_dir": str(official_files), "vocabulary_path": str(vocabulary_path),
            "cache_dir": str(tmp_path / cache), "format": form, **more,
        }  # fmt: skip

    return request_of


def _records(response, task):
    cached = CachedTask.open(response["tasks"][task])
    return {split: cached.examples(split).records(range(cached.num_examples(split))) for split in cached.splits}


def _as_seqio_reads(task, split, **options) -> list[str]:
    """The examples of a task as text, in an order of their own."""
    import seqio

    dataset = seqio.get_mixture_or_task(task).get_dataset(None, split, shuffle=False, **options)
    rows = ({name: np.asarray(value).tolist() for name, value in e.items()} for e in dataset.as_numpy_iterator())
    return sorted(repr(sorted(row.items())) for row in rows)


@pytest.mark.parametrize("form, task", [("text2text", "mnli"), ("text2text", "squad_v1"), ("encoder", "xnli.qaz")])
def test_seqio_reads_what_is_written_for_it(request_of, tmp_path, form, task):
    import seqio

    folder = tmp_path / "seqio"
    cache_writer.write(request_of(task, form=form, export_dir=str(folder)))
    seqio.set_global_cache_dirs([str(folder)])
    registered = seqio.get_mixture_or_task(task)
    for split in registered.splits:
        live, cached = (_as_seqio_reads(task, split, use_cached=use) for use in (False, True))
        assert cached == live and len(live) > 0
        assert registered.get_cached_stats(split)["examples"] == len(live)
    info = json.loads((folder / task / f"info.{split}.json").read_text())
    shards = sorted(path.name for path in (folder / task).glob(f"{split}.tfrecord-*"))
    assert shards[0] == f"{split}.tfrecord-00000-of-{info['num_shards']:05d}" and len(shards) == info["num_shards"]
    assert info["features"]["inputs"] == {"shape": [None], "dtype": "int32"}
    assert (folder / task / "COMPLETED").exists()


def test_what_is_written_for_seqio_is_neither_stale_nor_anothers(request_of, tmp_path, write_official_files):
    data, folder = write_official_files(tmp_path / "data"), tmp_path / "seqio"
    request = request_of("xnli.qaz", export_dir=str(folder)) | {"data_dir": str(data)}
    cache_writer.write(request)
    completed = folder / "xnli.qaz" / "COMPLETED"
    first = completed.stat().st_mtime_ns
    cache_writer.write(request)
    assert completed.stat().st_mtime_ns == first
    (data / "xnli/dev-qaz.tsv").write_text("new\ttext\tneutral\n")
    # Nor is it taken for what it is not any more.
    response = cache_writer.write(request_of("xnli.qaz", seqio_cache_dirs=[str(folder)]) | {"data_dir": str(data)})
    assert "cached_by_seqio" not in CachedTask.open(response["tasks"]["xnli.qaz"]).info
    cache_writer.write(request)
    assert completed.stat().st_mtime_ns > first
    assert json.loads((folder / "xnli.qaz/stats.validation.json").read_text())["examples"] == 1
    (folder / "xnli.qaz/xtr_task.json").unlink()
    with pytest.raises(UserError, match="xtr has not written it.*choose another --seqio_dir"):
        cache_writer.write(request)
    assert completed.exists()


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_a_cache_of_seqios_takes_the_place_of_tokenising(request_of, tmp_path, kind):
    import tensorflow as tf
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = tmp_path / "seqio"
    task = folder / "squad_v1"
    plain = cache_writer.write(request_of("squad_v1", export_dir=str(folder)))
    (task / "xtr_task.json").unlink()  # anybody's
    if kind == "array_record":  # as SeqIO's pipeline names them
        for path in list(task.glob("*.tfrecord-*")):
            writer = ArrayRecordWriter(str(path).replace("tfrecord", "array_record"), "group_size:1")
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                writer.write(record)
            writer.close()
            path.unlink()
    request = request_of("squad_v1", cache="other", seqio_cache_dirs=[str(folder)])
    response = cache_writer.write(request)
    cached = CachedTask.open(response["tasks"]["squad_v1"])
    assert cached.info["cached_by_seqio"]
    # The same examples, EOS included, which SeqIO adds behind its cache; in the order of the shards.
    for split, records in _records(plain, "squad_v1").items():
        assert sorted(_records(response, "squad_v1")[split]) == sorted(records)
    assert Path(response["tasks"]["squad_v1"]).name != Path(plain["tasks"]["squad_v1"]).name
    assert cache_writer.write(request)["tasks"] == response["tasks"]
    # What it is made from are SeqIO's files.
    stats = task / "stats.train.json"
    stats.write_text(json.dumps(json.loads(stats.read_text()) | {"examples": 7}))
    with pytest.raises(UserError, match=r"squad_v1: its files hold 2 examples of 'train'.* says 7"):
        cache_writer.write(request)
    next(iter(task.glob("train.*-00001-of-*"))).unlink()
    with pytest.raises(UserError, match=r"squad_v1 lacks train\.\w+-00001-of-00016"):
        cache_writer.write(request)


def test_what_seqio_cannot_cache_is_said(request_of, tmp_path):
    module = tmp_path / "uncachable_tasks.py"
    module.write_text(
        "import seqio, tensorflow as tf\n"
        "from xtr.tasks import output_features\n"
        "def made(split, shuffle_files, seed=None):\n"
        "    return tf.data.Dataset.from_tensors({'inputs': 'a', 'targets': 'b'})\n"
        "seqio.TaskRegistry.add('uncachable', source=seqio.FunctionDataSource(made, ['train']),\n"
        "    preprocessors=[seqio.preprocessors.tokenize], output_features=output_features())\n"
    )
    request = request_of("uncachable", task_modules=[str(module)], export_dir=str(tmp_path / "seqio"))
    with pytest.raises(UserError, match="uncachable has no CacheDatasetPlaceholder"):
        cache_writer.write(request)
    with pytest.raises(UserError, match="say where with --seqio_dir"):
        cache_writer.write(request_of("mnli", beam="--runner=DirectRunner"))


@beam
@pytest.mark.slow
def test_apache_beam_writes_the_same_examples(request_of, tmp_path):
    """SeqIO's own `cache_tasks` by the direct runner, through `xtr cache`, then read by SeqIO and by xtr."""
    plain = cache_writer.write(request_of("mnli", "xnli.qaz", cache="plain"))
    request = request_of("mnli", "xnli.qaz")
    command = [
        sys.executable, "-m", "xtr.cli.main", "cache", "mnli", "xnli.qaz", "--json",
        f"--data_dir={request['data_dir']}", f"--vocabulary_path={request['vocabulary_path']}",
        f"--cache_dir={request['cache_dir']}", f"--seqio_dir={tmp_path / 'seqio'}", "--beam=--runner=DirectRunner",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    directories = {fact["task"]: fact["directory"] for fact in json.loads(done.stdout)}
    for task in ("mnli", "xnli.qaz"):
        assert CachedTask.open(directories[task]).info["cached_by_seqio"]
        theirs, ours = _records({"tasks": directories}, task), _records(plain, task)
        assert {split: sorted(records) for split, records in theirs.items()} == {
            split: sorted(records) for split, records in ours.items()
        }
        for split in ours:
            found = json.loads((tmp_path / "seqio" / task / f"stats.{split}.json").read_text())
            assert found == json.loads((Path(plain["tasks"][task]) / f"stats.{split}.json").read_text())
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not re.search("Writing|Tokenising", done.stderr), done.stderr
