"""SeqIO's own cached tasks: read as the source of a task, and written for whoever uses SeqIO (or T5X) itself.

SeqIO looks for a task by its name, in `<cache directory>/<task>`, and finds there what its preprocessors give before
the task's `CacheDatasetPlaceholder`, in TFRecord files; what comes behind runs when it is read. xtr's own cache holds
the examples as training reads them, in ArrayRecord files, which SeqIO's reader does not know.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtr.data import fingerprint
from xtr.data.cache_writer.seqio_examples import cached_files
from xtr.errors import DataError, UserError
from xtr.progress import note, progress

_SHARDS = 16  # SeqIO shuffles files first; one is too few
_MADE_FROM = "xtr_task.json"


def find(request: Mapping, task, vocabulary: Mapping) -> tuple[str, list[Path]]:
    """Where SeqIO has a task in its cache, '' where it has not; and the files that the cached task is made from.

    A cache that xtr had written counts only as long as what it was made from is what it was; of any other one nothing
    is known but its files.

    Raises:
      DataError: one of its files is missing.
    """
    directory = task.cache_dir if task.supports_caching else None
    if not directory:
        return "", source_files(task)
    if (Path(directory) / _MADE_FROM).exists():
        if not _is_made_from(Path(directory), _made_from(request, task, vocabulary)):
            note(f"{directory} was made from other files, code or vocabulary: {task.name} is tokenised anew.")
            return "", source_files(task)
        sources = source_files(task)
    else:
        sources = []
    described = [Path(directory) / f"{kind}.{split}.json" for split in task.splits for kind in ("info", "stats")]
    shards = (path for split in task.splits for path in cached_files(directory, split))
    return directory, [*sources, *described, *shards]


def source_files(task) -> list[Path]:
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


def examples(directory: str, split: str) -> int:
    """How many examples a task that SeqIO has cached should have."""
    path = Path(directory) / f"stats.{split}.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["examples"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path} is no statistics file of SeqIO's ({type(e).__name__}: {e}).") from e


def export(request: Mapping, tasks: Sequence, vocabulary: Mapping) -> None:
    """Writes tasks as SeqIO caches them into the request's `export_dir`, if it has one; where it has `beam`, by SeqIO's
    own Apache Beam pipeline.

    A task that is there already, made from the same files, code and vocabulary, stays.

    Raises:
      UserError: a task that SeqIO cannot cache, another's task of this name, or a pipeline that fails.
    """
    if not (folder := request.get("export_dir")):
        if request.get("beam"):
            raise UserError("Apache Beam writes SeqIO's own cache: say where with --seqio_dir.")
        return
    import seqio

    due = {}
    for task in tasks:
        if not task.supports_caching:
            raise UserError(
                f"Task {task.name} has no CacheDatasetPlaceholder among its preprocessors, so SeqIO cannot cache it."
            )
        path = Path(folder).absolute() / seqio.get_task_dir_from_name(task.name)
        made_from = _made_from(request, task, vocabulary)
        if _already(path, made_from):
            continue
        due[path] = task, made_from
    if due:
        note(f"Writing SeqIO's cached tasks ({len(due)}) to {folder}")
    if request.get("beam") and due:
        _by_beam(request, Path(folder).absolute(), [task for task, _ in due.values()])
    with progress("SeqIO's cached tasks", len(due)) as bar:
        for path, (task, made_from) in due.items():
            if not request.get("beam"):
                _write_task(task, path)
            (path / _MADE_FROM).write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
            bar.advance(note=task.name)
    if request.get("beam"):  # made for what is too large for this machine, which need not do it again
        seqio.add_global_cache_dirs([str(Path(folder).absolute())])


def _made_from(request: Mapping, task, vocabulary: Mapping) -> dict:
    code = fingerprint.code_names([*getattr(task.source, "code", ()), *_module_files(request)])
    return {
        "task": task.name,
        "format": request["format"],
        "vocabulary": vocabulary["sha256"],
        "code_sha256": fingerprint.code_sha256(code),
        "sources": sorted(
            [record["path"], record["sha256"]] for record in map(fingerprint.source_record, source_files(task))
        ),
    }


def _module_files(request: Mapping) -> Sequence[Path]:
    from xtr.data.cache_writer.registered import register

    return register(request).module_files


def _already(path: Path, made_from: Mapping) -> bool:
    """Whether a task is there as it should be; removes one that was made from something else."""
    if not path.exists():
        return False
    if not (path / _MADE_FROM).exists():
        raise UserError(
            f"{path} is there, and xtr has not written it, or not to its end: remove it, or choose another --seqio_dir."
        )
    if _is_made_from(path, made_from):
        return True
    shutil.rmtree(path)
    return False


def _is_made_from(path: Path, made_from: Mapping) -> bool:
    try:
        there = json.loads((path / _MADE_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return there == made_from and (path / "COMPLETED").exists()


def _write_task(task, path: Path) -> None:
    """Writes one task as SeqIO's Beam pipeline does, without Beam: in the order of its source."""
    import seqio
    import tensorflow as tf

    from xtr.tasks import foreign

    work = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        for split in task.splits:
            dataset = foreign.precached_dataset(task, split)
            stats: Counter = Counter()
            prefix = seqio.get_cached_tfrecord_prefix(str(work), split)
            names = [f"{prefix}-{i:05d}-of-{_SHARDS:05d}" for i in range(_SHARDS)]
            writers = [tf.io.TFRecordWriter(name) for name in names]
            for number, example in enumerate(dataset):
                writers[number % _SHARDS].write(seqio.dict_to_tfexample(example).SerializeToString(deterministic=True))
                _count(stats, example, task.output_features)
            for writer in writers:
                writer.close()
            if not stats:
                raise UserError(f"Task {task.name} has no examples in its split {split}.")
            info = {"num_shards": _SHARDS, "features": _features(dataset), "seqio_version": seqio.__version__}
            for name, value in (("info", info), ("stats", dict(stats))):
                text = json.dumps(value, indent=2, sort_keys=True) + "\n"
                (work / f"{name}.{split}.json").write_text(text, encoding="utf-8")
        (work / "COMPLETED").touch()
        os.rename(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _features(dataset) -> dict:
    """Shape and type of each feature as SeqIO's pipeline says them: the first dimension of a list is open."""
    return {
        name: {"shape": [None, *spec.shape.as_list()[1:]] if spec.shape.rank else [], "dtype": spec.dtype.name}
        for name, spec in dataset.element_spec.items()
    }


def _count(stats: Counter, example: Mapping, features: Mapping) -> None:
    """Adds an example to SeqIO's statistics (`seqio.beam_utils.GetStats`), in which EOS and padding are no tokens."""
    stats["examples"] += 1
    for name, feature in features.items():
        if name in example and example[name].dtype.is_integer:
            values = example[name].numpy()
            tokens = int(((values != feature.vocabulary.eos_id) & (values != feature.vocabulary.pad_id)).sum())
            stats[f"{name}_tokens"] += tokens
            stats[f"{name}_max_tokens"] = max(stats[f"{name}_max_tokens"], tokens)


def _by_beam(request: Mapping, folder: Path, tasks: Sequence) -> None:
    """Runs SeqIO's `cache_tasks` over tasks, with the request's options of the pipeline."""
    from importlib.util import find_spec

    if find_spec("apache_beam") is None:
        raise UserError("Apache Beam is not installed: pip install 'xtr[beam]', in an environment of its own.")
    names = "|".join(re.escape(task.name) for task in tasks)
    command = [
        sys.executable, "-m", "seqio.scripts.cache_tasks_main", f"--tasks={names}", f"--output_cache_dir={folder}",
        "--module_import=xtr.tasks.registered", f"--pipeline_options={request['beam']}", "--ignore_other_caches",
    ]  # fmt: skip
    environment = os.environ | {"XTR_TASK_MODULES": ",".join(request.get("task_modules") or ())}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    missing = [task.name for task in tasks if not (folder / task.name.replace(":", "/") / "COMPLETED").exists()]
    if done.returncode or missing:
        for task in tasks:
            shutil.rmtree(folder / task.name.replace(":", "/"), ignore_errors=True)
        print(done.stdout, file=sys.stderr)
        raise UserError(
            f"SeqIO's cache_tasks ended with code {done.returncode}; {', '.join(missing) or 'no task'} is missing. Its "
            f"messages stand above. The command was: {' '.join(command)}"
        )
