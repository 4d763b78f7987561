"""SeqIO's side of `xtr bench input`: `python -m xtr.bench.seqio_feed REQUEST.json RESPONSE.json`.

A process of its own, because it imports TensorFlow. What it measures is what T5X trains on: `seqio.get_dataset` with
`EncDecFeatureConverter(pack=True)`, shuffled, batched, prefetched, as NumPy arrays.
"""

import functools
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from xtr.bench.feed import count, respond

_NAME = "bench_input"
_BLOCK = 4096


def main(argv: list[str]) -> int:
    """Runs one request; returns the exit code."""
    request = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    if request["what"] == "copy":
        for task in request["tasks"]:
            _copy(task, Path(request["folder"]))
        respond(argv[1], {})
    else:
        batches = _batches(request)
        respond(argv[1], count(batches, request["most"]))
    return 0


def _copy(task: Mapping, folder: Path) -> None:
    """Lays a task's cached examples out as SeqIO's own cache of it: the same records in TFRecord files."""
    import tensorflow as tf

    from xtr.data.cached_task import CachedTask

    source = Path(task["directory"])
    examples = CachedTask.open(source).examples("train")
    target = folder / task["name"]
    target.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(target / "train.tfrecord-00000-of-00001")) as out:
        for start in range(0, len(examples), _BLOCK):
            for record in examples.records(range(start, min(start + _BLOCK, len(examples)))):
                out.write(record)
    info = json.loads((source / "info.train.json").read_text(encoding="utf-8"))
    (target / "info.train.json").write_text(json.dumps(info | {"num_shards": 1}), encoding="utf-8")
    shutil.copy(source / "stats.train.json", target)
    (target / "COMPLETED").touch()


def _batches(request: Mapping):
    import seqio
    import tensorflow as tf

    cached = request["what"] == "cached"
    if cached:
        # Of a cached task SeqIO needs the names and ids of its features alone: no vocabulary is read.
        ids = seqio.PassThroughVocabulary(request["vocabulary_size"])
        features = {name: seqio.Feature(ids, add_eos=False) for name in request["lengths"]}
        for task in request["tasks"]:
            seqio.TaskRegistry.add(
                task["name"],
                source=seqio.FunctionDataSource(_nothing, splits=["train"]),
                preprocessors=[seqio.CacheDatasetPlaceholder()],
                output_features=features,
            )
        seqio.add_global_cache_dirs([request["folder"]])
    else:
        import xtr.tasks
        from xtr.tasks.modules import import_task_module, import_tensorflow, set_environment

        set_environment(request["cache"])
        import_tensorflow()
        catalog = xtr.tasks.register_all()
        for module in request["cache"]["task_modules"]:
            import_task_module(module, catalog.absent)
        for task in request["tasks"]:
            catalog.provider(task["name"])
    # Every task whole, each example once, as on the other side.
    seqio.MixtureRegistry.add(
        _NAME,
        [(task["name"], task["examples"]) for task in request["tasks"]],
        sample_fn=functools.partial(tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False),
    )
    dataset = seqio.get_dataset(
        _NAME,
        request["lengths"],
        seqio.EncDecFeatureConverter(pack=True),
        "train",
        use_cached=cached,
        shuffle=True,
        num_epochs=1,
        seed=request["seed"],
        verbose=False,
    )
    return dataset.batch(request["batch"]).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _nothing(split, shuffle_files, seed=None):
    raise AssertionError("a cached task's source is never read")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
