"""Writes tasks into the cache: `python -m xtr.data.cache_writer REQUEST.json RESPONSE.json`.

A process of its own, because it imports TensorFlow. It resolves names to SeqIO tasks, tokenises every split once,
and puts each task into `<cache_dir>/<task>-<fingerprint>` by an atomic rename, so that a directory is whole or absent.

REQUEST: {"names": [mixtures or tasks], "task_modules": [...], "vocabulary_path", "data_dir", "cache_dir", "format",
          "tfds_tasks": [...], "lengths": {feature: tokens} or null, for tasks whose preprocessors ask for them}
RESPONSE: {"mixtures": {name: [[task, rate], ...]}, "components": {name: {task: {member: share}}},
           "reads_lengths": whether one of the tasks asked for lengths,
           "tasks": {task: directory}, "skipped": {name: {task: why}}}

Exit codes: 0 written, 1 crash, 2 a mistake in the request or the data (one message on standard error, no RESPONSE).
"""

import dataclasses
import fcntl
import functools
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from xtr.data import fingerprint
from xtr.data.vocabulary import vocabulary_file, vocabulary_sha256
from xtr.errors import UserError
from xtr.progress import progress

# A record a group: any example is read without its neighbours.
_RECORD_OPTIONS = "group_size:1"
_EXAMPLES_PER_SHARD = 1 << 17
_FETCH = 128


def main(argv: Sequence[str]) -> int:
    """Runs one request; returns the exit code."""
    if len(argv) != 2:
        print("usage: python -m xtr.data.cache_writer REQUEST.json RESPONSE.json", file=sys.stderr)
        return 2
    try:
        request = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
        response = write(request)
    except UserError as e:
        _say(e)
        return 2
    except Exception as e:  # A reader's error may come back wrapped by TFDS or tf.data.
        if (cause := _user_error(e)) is None:
            raise
        _say(cause)
        return 2
    _write_json(Path(argv[1]), response)
    return 0


def write(request: Mapping) -> dict:
    """Writes whatever of the request's tasks is not in the cache yet and returns the response (see the module)."""
    cache_dir = Path(request["cache_dir"]).absolute()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with open(cache_dir / ".writer.lock", "w") as lock:
        # Two runs that start together would tokenise everything twice; the second one finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        from xtr.tasks.modules import import_tensorflow, set_environment

        set_environment(request)
        import_tensorflow()
        return _Writer(request, cache_dir).run()


def _user_error(error: BaseException | None) -> UserError | None:
    """Returns the UserError among an exception and its causes, if there is one."""
    while error is not None and not isinstance(error, UserError):
        # Of an error in a Python function of its, tf.data passes on the class's name and the words alone.
        if found := re.search(r"\b(?:Data|User)Error: (.*?)\nTraceback \(", str(error), re.DOTALL):
            return UserError(found[1])
        error = error.__cause__ or error.__context__
    return error


def _say(error: UserError) -> None:
    # One line, the last: that is where the caller looks for the reason.
    print(" ".join(str(error).split("\n")), file=sys.stderr, flush=True)


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class _Writer:
    """One request: the registered names, and what is written so far."""

    def __init__(self, request: Mapping, cache_dir: Path):
        import xtr.tasks
        from xtr.tasks.modules import import_task_module

        self.names = list(dict.fromkeys(request["names"]))
        self.cache_dir = cache_dir
        self.data_dir = os.environ["XTR_DATA_DIR"]
        self.catalog = xtr.tasks.register_all()
        modules = request.get("task_modules") or ()
        self.module_files = [file for name in modules for file in import_task_module(name, self.catalog.absent)]
        path = vocabulary_file(os.environ["XTR_VOCABULARY_PATH"])
        self.seqio_vocabulary = xtr.tasks.output_features()["inputs"].vocabulary
        size = self.seqio_vocabulary.vocab_size
        self.vocabulary = {"path": path, "sha256": vocabulary_sha256(path), "size": size}
        self.lengths = request.get("lengths")
        self.reads_lengths = False

    def run(self) -> dict:
        members = {name: self._resolve(name) for name in self.names}
        tasks = {task.name: task for provider in members.values() for task in provider.tasks}
        directories: dict[str, str] = {}
        with progress("tokenising tasks", len(tasks)) as bar:
            for name, task in tasks.items():
                start = time.monotonic()
                directory, examples = self._write_task(task)
                directories[name] = task._cache_dir = str(directory)  # where SeqIO finds numbers of examples
                bar.advance(note=name)
                if examples is not None and not sys.stderr.isatty():
                    print(f"{name}: {examples} examples, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        mixtures = {
            name: [[task.name, provider.rate(task)] for task in provider.tasks] for name, provider in members.items()
        }
        return {
            "reads_lengths": self.reads_lengths,
            "mixtures": mixtures,
            "components": {name: _components(name) for name in self.names},
            "tasks": directories,
            "skipped": {name: self.catalog.left_out[name] for name in self.names if name in self.catalog.left_out},
        }

    def _resolve(self, name: str) -> "_Members":
        """Returns the tasks of a mixture or task."""
        import seqio

        provider = self.catalog.provider(name)
        if isinstance(provider, seqio.Mixture):
            return _Members(list(provider.tasks), functools.partial(_rate, provider))
        return _Members([provider], lambda task: 1.0)

    def _write_task(self, task) -> tuple[Path, int | None]:
        """Returns a task's cache directory, and how many examples were written (None: it was there already)."""
        import xtr.tasks
        from xtr.tasks import foreign

        ours = task.name in self.catalog.tasks
        own_metrics = foreign.own_metrics(task)
        description = dataclasses.asdict(xtr.tasks.task_info(task.name, own_metrics["outputs"]))
        if detail := getattr(task.source, "detail", ""):
            description["read_as"] = detail
        lengths = None
        if not ours and foreign.reads_lengths(task):
            self.reads_lengths, lengths = True, self.lengths
            description["lengths"] = lengths
        code = [*getattr(task.source, "code", ()), *(() if ours else self.module_files)]
        code = fingerprint.code_names(code)
        record = {
            "task": task.name,
            **description,
            "vocabulary": self.vocabulary,
            "format": os.environ["XTR_FORMAT"],
            "features": list(task.output_features),
            "sources": [fingerprint.source_record(path) for path in _source_files(task)],
            "code": code,
            "code_sha256": fingerprint.code_sha256(code),
            "data_dir": self.data_dir,
            "own_metrics": own_metrics,
        }
        digest = fingerprint.task_fingerprint(
            task.name,
            description,
            record["sources"],
            record["code_sha256"],
            self.vocabulary["sha256"],
            record["format"],
        )
        directory = fingerprint.cache_directory(self.cache_dir, task.name, digest)
        if (directory / "COMPLETED").exists():
            described = json.loads((directory / "xtr_task.json").read_text(encoding="utf-8"))
            # The same bytes may lie in another folder, or carry new times, by now.
            if any(described.get(key) != value for key, value in _as_json(record).items()):
                _write_json(directory / "xtr_task.json", {**described, **record})
            return directory, None
        if not ours:
            foreign.check_vocabulary(task, self.seqio_vocabulary, self.vocabulary["path"])
        shutil.rmtree(directory, ignore_errors=True)
        work = self.cache_dir / f".{directory.name}.tmp-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            record["splits"] = {split: _write_split(task, split, lengths, work) for split in task.splits}
            _write_json(work / "xtr_task.json", {**record, "fingerprint": digest})
            (work / "COMPLETED").touch()
            os.rename(work, directory)
        except BaseException as e:
            shutil.rmtree(work, ignore_errors=True)
            if not ours and isinstance(e, Exception) and _user_error(e) is None:
                from xtr.tasks.modules import place_of

                why = f"{type(e).__name__}: {str(e).strip():.1000}"
                raise UserError(f"Task {task.name} cannot be read: {why} (at {place_of(e, self.module_files)})") from e
            e.add_note(f"while writing the cache of task {task.name}")
            raise
        return directory, sum(split["examples"] for split in record["splits"].values())


@dataclasses.dataclass(frozen=True)
class _Members:
    """The tasks that a requested name stands for, and `rate(task)`."""

    tasks: list
    rate: object


def _rate(mixture, task) -> float:
    try:
        return float(mixture.get_rate(task))
    except UserError:
        raise
    except Exception as e:
        raise UserError(
            f"Mixture {mixture.name}: the rate of {task.name} cannot be computed: {type(e).__name__}: {e}"
        ) from e


def _components(name: str) -> dict[str, dict[str, float]]:
    """Task -> the members of a mixture that draw it, each with the task's share of its draws; {} for a task."""
    import seqio

    if name not in seqio.MixtureRegistry.names():
        return {}
    mixture = seqio.MixtureRegistry.get(name)
    inner = {member.name: member for member in mixture._sub_mixtures}  # they need not be registered
    components: dict[str, dict[str, float]] = {}
    for member in mixture.rate_per_task_name:
        if member not in inner:
            components.setdefault(member, {})[member] = 1.0
            continue
        rates = {task.name: _rate(inner[member], task) for task in inner[member].tasks}
        for task, rate in rates.items():
            components.setdefault(task, {})[member] = rate / sum(rates.values())
    return components


def _as_json(value: object) -> dict:
    return json.loads(json.dumps(value))


def _source_files(task) -> list[Path]:
    """Returns the local files a task reads, as far as its source tells."""
    if hasattr(task.source, "files"):
        return list(task.source.files)
    files: dict[Path, None] = {}
    for split in task.splits:
        try:
            shards = task.source.list_shards(split)
        except Exception as e:
            raise UserError(f"The files of task {task.name}, split {split}, cannot be listed: {e}") from e
        files.update(dict.fromkeys(Path(shard) for shard in shards if os.path.isfile(shard)))
    return list(files)


def _write_split(task, split: str, lengths: Mapping | None, directory: Path) -> dict:
    """Tokenises one split into ArrayRecord shards with SeqIO's info and stats; returns {"examples", "shards"}."""
    import seqio

    from xtr.tasks import foreign

    dataset = foreign.task_dataset(task, split, lengths)
    dataset, left_out = _flat(dataset, task.output_features)
    stats: Counter = Counter()
    noted: Counter = Counter()
    shards: list[Path] = []
    writer = None
    for example in _examples(dataset):
        if stats["examples"] % _EXAMPLES_PER_SHARD == 0:
            if writer:
                writer.close()
            shards.append(directory / f"{split}.part-{len(shards):05d}")
            writer = ArrayRecordWriter(str(shards[-1]), _RECORD_OPTIONS)
        writer.write(_serialise(example))
        _count(stats, example, task.output_features)
        noted.update(_noted(example))
    if writer is None:
        raise UserError(f"Task {task.name} has no examples in its split {split}.")
    writer.close()
    examples = stats["examples"]
    expected = task.source.num_input_examples(split)
    written = 0
    for i, shard in enumerate(shards):
        final = directory / f"{split}.array_record-{i:05d}-of-{len(shards):05d}"
        shard.rename(final)
        reader = ArrayRecordReader(str(final))
        written += reader.num_records()
        reader.close()
    tally = task.source.tally(split) if hasattr(task.source, "tally") else None
    if written != examples or (tally and not tally["examples"] == expected == examples):
        raise RuntimeError(
            f"Task {task.name}, split {split}: {expected} examples in, {examples} tokenised, {written} written."
        )
    info = {
        "num_shards": len(shards),
        "features": {
            name: {"shape": [None, *spec.shape[1:]] if spec.shape.rank else [], "dtype": spec.dtype.name}
            for name, spec in dataset.element_spec.items()
        },
        "seqio_version": seqio.__version__,
        "examples_in": expected,
        "examples_out": written,
        **({"read": tally} if tally else {}),
        **({"rendered": dict(noted)} if noted else {}),
        **({"left_out": left_out} if left_out else {}),
    }
    _write_json(directory / f"info.{split}.json", info)
    _write_json(directory / f"stats.{split}.json", dict(stats))
    return {"examples": examples, "shards": len(shards)}


def _flat(dataset, output_features: Mapping) -> tuple[object, list[str]]:
    """A dataset without what a record cannot hold, and the names of that: features of two dimensions or more, nested
    ones, and those without a fixed number of dimensions. The task's own metrics read them from the task itself.

    Raises:
      UserError: an output feature, which training reads, is such a one.
    """
    kept, left_out = [], []
    for name, spec in dataset.element_spec.items():
        shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
        plain = dtype is not None and (dtype.is_integer or dtype.is_floating or dtype.is_bool or dtype.name == "string")
        if plain and shape is not None and shape.rank in (0, 1) and spec.value_type.__name__ != "SparseTensor":
            kept.append(name)
        elif name in output_features:
            what = f"of rank {shape.rank}" if plain else "no plain tensor"
            raise UserError(f"Feature '{name}' is {what}; the cache holds scalars and one-dimensional lists.")
        else:
            left_out.append(name)
    return (dataset.map(lambda example: {name: example[name] for name in kept}) if left_out else dataset), left_out


def _examples(dataset) -> Iterator[dict[str, np.ndarray]]:
    """Yields a tf.data dataset's examples as NumPy arrays, fetched in batches: each fetch has a high fixed cost."""
    ranks = {name: spec.shape.rank for name, spec in dataset.element_spec.items()}
    for batch in dataset.ragged_batch(_FETCH):
        columns = {}
        for name, value in batch.items():
            if ranks[name] == 1 and hasattr(value, "row_splits"):
                values, splits = value.values.numpy(), value.row_splits.numpy()
                columns[name] = np.split(values, splits[1:-1])
            else:
                columns[name] = value.numpy()
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def _count(stats: Counter, example: Mapping, features: Mapping) -> None:
    """Adds an example to SeqIO's statistics, in which neither EOS nor padding is a token."""
    stats["examples"] += 1
    for name, feature in features.items():
        value = example.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "i":
            tokens = int(np.sum((value != feature.vocabulary.eos_id) & (value != feature.vocabulary.pad_id)))
            stats[f"{name}_tokens"] += tokens
            stats[f"{name}_max_tokens"] = max(stats[f"{name}_max_tokens"], tokens)


def _noted(example: Mapping) -> list[str]:
    """What the format says is worth counting of an example (`tasks/formats/encoder.py`), as a reader's tally has it."""
    meta = example.get("meta")
    if not isinstance(meta, bytes) or b'"noted":' not in meta:
        return []
    try:
        meta = json.loads(meta)
    except ValueError:
        return []  # another's, who may mean by it what they like
    return [f"noted: {meta['noted']}"] if isinstance(meta, dict) and "noted" in meta else []


def _serialise(example: Mapping) -> bytes:
    """Returns a serialised tf.train.Example of scalars and 1-D arrays of integers, floats or bytes."""
    import tensorflow as tf

    features = {}
    for name, value in example.items():
        value = np.asarray(value)
        flat = (value.astype(np.int64) if value.dtype.kind == "b" else value).reshape(-1).tolist()
        if value.dtype.kind in "iub":
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=flat))
        elif value.dtype.kind == "f":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=flat))
        else:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=flat))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
