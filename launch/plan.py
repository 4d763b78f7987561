"""What a backend makes of a job: the actions of each part of its life, and how its state is read."""

import dataclasses
import enum
from collections.abc import Callable

from xtr.launch.actions import Action, Run, script

LOG = "[process 0] "  # before each line of process 0's log, as `start.sh attach` shows it


class Seen(enum.Enum):
    """What there is of a job's machines."""

    ABSENT = "absent"  # nothing was created, or it is deleted
    WAITING = "waiting for capacity"
    READY = "ready"
    GONE = "gone"  # preempted, or taken down by its maker
    REFUSED = "refused"  # it will never be
    DONE = "done"  # the backend itself saw the run end
    FAILED = "failed"
    EXPIRED = "out of time"  # the backend itself ended the run, after the time that it was given


@dataclasses.dataclass(frozen=True)
class Observation:
    """What was seen, in a word and in the backend's own words; `attempt` where the backend starts runs again itself."""

    seen: Seen
    detail: str = ""
    attempt: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The life of a job.

    Attributes:
      lock: takes the run directory; its failure means that another job has it.
      read_lock: prints who has it.
      unlock: gives it back.
      fresh: what a new job does before it brings its files, and one that is resumed does not.
      upload: brings the job's files to where the machines find them.
      create: asks for the machines.
      describe: prints their state, for `observe`; None where there is nothing to ask for.
      observe: (exit code, standard output, standard error) of `describe` -> what is there.
      attach: (attempt, lines of the log seen) -> commands that run side by side, show the log of process 0, and end
        when the run does.
      stop: (seconds) -> asks the processes to save and stop, and kills them after so many seconds.
      delete: takes down what was created; succeeds where there is nothing.
      logs: prints the log of process 0 of an attempt, as kept.
      restarts: whether the backend starts crashed and preempted runs again by itself.
    """

    lock: Action
    read_lock: Run
    unlock: Action
    upload: tuple[Action, ...]
    create: tuple[Run, ...]
    describe: Run | None
    observe: Callable[[int, str, str], Observation]
    attach: Callable[[int, int], tuple[Run, ...]]
    stop: Callable[[int], tuple[Run, ...]]
    delete: tuple[Run, ...]
    logs: Callable[[int], Run]
    restarts: bool = False
    fresh: tuple[Run, ...] = ()

    def dry_run(self) -> str:
        """Everything that a job does that never fails, as bash: the very commands, files and inputs."""
        parts = [
            ("take the run directory: two jobs never run in one", (self.lock,)),
            ("bring the job's files", (*self.fresh, *self.upload)),
            ("ask for the machines", self.create),
            ("wait until they are there", (self.describe,) if self.describe else ()),
            ("start, show the log, wait for the end", self.attach(1, 0)),
            ("take down what was created", self.delete),
            ("give the run directory back", (self.unlock,)),
        ]
        return "\n".join(script(title, actions) for title, actions in parts if actions)
