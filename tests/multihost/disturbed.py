"""The `xtr` command on tasks that are cached already, with a fault in one of its processes; as a program.

    python disturbed.py '{"tasks": {...}, "fault": [...]}' train --gin_file=...

Settings, in JSON:
  tasks: folder -> rate, what every mixture stands for.
  batches: a folder for the batches that this process trains on.
  fault: [what, process, batch] or [what, process, batch, a file that must be there first], before that process trains
    on that batch: 'stuck', 'slow' (3 s), 'kill', 'terminate', 'mistake' or 'crash'.
  validation: [process, batch]: that process is asked to stop before that batch of the first validation.
  pace: seconds that each batch takes, so that there is a time between steps.
  watchdog: constants of `xtr.parallel.watchdog`.
"""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from xtr.cli import main as command
from xtr.data.cached_task import CachedTask
from xtr.errors import UserError
from xtr.evaluate import engine
from xtr.parallel import watchdog
from xtr.train import loop


def fail(what: str) -> None:
    match what:
        case "stuck":
            time.sleep(600)
        case "slow":
            time.sleep(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        case "mistake":
            raise UserError("this host's file is not there.")
        case "crash":
            raise ZeroDivisionError("of one process")


def cached(folders: dict[str, float]):
    def found(names, **settings):
        return {name: [CachedTask.open(folder, rate) for folder, rate in folders.items()] for name in names}

    return found


def disturbed(batches_of, fault: list | None, kept: str | None, pace: float):
    """`loop.batches_of` whose batches are kept, and at one of which something happens."""

    def make(*arguments, place):
        # What a process reads is kept as it reads it: of a global batch it has a part alone.
        batches = batches_of(*arguments, place=lambda batch: (batch, place(batch)))
        inner, numbers = type(batches), itertools.count()

        class Disturbed(inner):
            def __next__(self):
                number = next(numbers)
                time.sleep(pace)
                if fault and fault[1:3] == [watchdog.index(), number]:
                    while not all(map(os.path.exists, fault[3:])):
                        time.sleep(0.05)
                    fail(fault[0])
                read, batch = super().__next__()
                if kept:
                    folder = Path(kept) / str(watchdog.index())
                    folder.mkdir(parents=True, exist_ok=True)
                    np.savez(folder / f"{number:03d}{self.head}.npz", **read)
                return batch

        batches.__class__ = Disturbed
        return batches

    return make


def validating(train_batches, at: list, pace: float):
    """`loop.train_batches`, which validation reads, with a request to stop before one batch."""

    def make(*arguments):
        batches = train_batches(*arguments)
        for number in itertools.count():
            time.sleep(pace)
            if at == [watchdog.index(), number]:
                at.clear()
                fail("terminate")
            if (batch := next(batches, None)) is None:
                return
            yield batch

    return make


def main(settings: str, *arguments: str) -> None:
    settings = json.loads(settings)
    loop.ensure_cached = engine.ensure_cached = cached(settings["tasks"])
    loop.batches_of = disturbed(
        loop.batches_of, settings.get("fault"), settings.get("batches"), settings.get("pace", 0)
    )
    loop.train_batches = validating(loop.train_batches, settings.get("validation", []), settings.get("pace", 0))
    for name, value in settings.get("watchdog", {}).items():
        setattr(watchdog, name, value)
    sys.argv = ["xtr", *arguments]
    command.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
