"""Writes tasks into the cache: `python -m xtr.data.cache_writer REQUEST.json RESPONSE.json`.

A process of its own, because it imports TensorFlow. It resolves names to SeqIO tasks, tokenises every split once, in
parallel processes, and puts each task into `<cache_dir>/<task>-<fingerprint>` by an atomic rename, so that a directory
is whole or absent. What is finished of a task that is not lies in `<cache_dir>/.<task>-<fingerprint>.partial`, and the
next writer goes on from there. Of a task that is there, damaged shards are written anew, and no others.

REQUEST: {"names": [mixtures or tasks], "task_modules": [...], "vocabulary_path", "data_dir", "cache_dir", "format",
          "tfds_tasks": [...], "lengths": {feature: tokens} or null, for tasks whose preprocessors ask for them,
          "seqio_cache_dirs": [...] where SeqIO's own caches are looked for, "num_workers": processes or null for one
          on each core, "export_dir": where SeqIO's own cached tasks are written too, "beam": options of the Apache
          Beam pipeline that writes them}; what comes after the format may be missing
RESPONSE: {"mixtures": {name: [[task, rate], ...]}, "components": {name: {task: {member: share}}},
           "reads_lengths": whether one of the tasks asked for lengths,
           "tasks": {task: directory}, "skipped": {name: {task: why}}}

Exit codes: 0 written, 1 crash, 2 a mistake in the request or the data (one message on standard error, no RESPONSE).
"""

import fcntl
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtr import rundir
from xtr.data.cache_writer.seqio_examples import user_error
from xtr.errors import UserError

__all__ = ["main", "write"]


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
        if (cause := user_error(e)) is None:
            raise
        _say(cause)
        return 2
    rundir.write_atomic(argv[1], json.dumps(response, ensure_ascii=False))
    return 0


def write(request: Mapping) -> dict:
    """Writes whatever of the request's tasks is not in the cache yet and returns the response (see the module)."""
    cache_dir = Path(request["cache_dir"]).absolute()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with open(cache_dir / ".writer.lock", "w") as lock:
        # Two runs that start together would tokenise everything twice; the second one finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        from xtr.data.cache_writer.tasks import Writer

        return Writer(request, cache_dir).run()


def _say(error: UserError) -> None:
    # One line, the last: that is where the caller looks for the reason.
    print(" ".join(str(error).split("\n")), file=sys.stderr, flush=True)
