"""A study of two stages, the first of which fails in every process; as a program, for a process of several.

    python failing_study.py DIRECTORY

It ends as the `xtr` command does.
"""

import dataclasses
import sys
from pathlib import Path

from xtr import rundir
from xtr.cli import commands
from xtr.cli import main as command
from xtr.parallel import distributed
from xtr.study import runner
from xtr.study.graph import Stage
from xtr.study.jobs import Job


@dataclasses.dataclass(frozen=True)
class Run:
    directory: str
    train_steps: int = 4


def jobs_below(directory: Path) -> list[Job]:
    """A training that fails, and an evaluation that does not start from it."""
    stages = [Stage("intermediate", "m", "nli"), Stage("evaluate", "m", target="tatoeba")]
    places = [directory / "stages" / f"{stage.name}-a" for stage in stages]
    return [Job(stage, Run(str(place)), {}, (), "a", place) for stage, place in zip(stages, places, strict=True)]


def fail(run: Run, texts) -> None:
    raise ValueError("these numbers cannot be")


def end(run: Run, texts) -> None:
    distributed.from_first(lambda: rundir.mark_done(run.directory, {"seconds": 1.0}))


def study(directory: Path) -> int:
    outcome = runner.run_jobs(jobs_below(directory), None, fail, end)
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    runner.gin_texts = lambda job, configure: {}
    place = Path(sys.argv[1])
    commands.COMMANDS = {"study": lambda arguments: study(place)}
    sys.argv = ["xtr", "study", "run"]
    command.main()
