"""`xtr study launch`: each stage that is ready as a job of `xtr launch`, watched by a launcher of its own."""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from xtr import rundir
from xtr.cli import launch
from xtr.errors import UserError
from xtr.study.handover import POLL, JobState, hand_over
from xtr.study.jobs import Job
from xtr.study.spec import StudySpec

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

_BEGINS = 60.0  # seconds in which a launcher has its record, or has said why not


class Launches:
    """`handover.Launcher` by commands of `xtr launch`, whose output goes to files of `logs`.

    Args:
      study: its name, with which those of the jobs begin.
      stages: the study's. A job is named by its stage's directory too, which holds the stage's address: a stage whose
        settings have changed is another job, and so is the same stage of a study in another directory.
      options: of `xtr launch study`.
      logs: a folder.
    """

    def __init__(self, study: str, stages: Sequence[Job], options: Sequence[str], logs: Path):
        prefix = launch.job_name("study", study, 23)  # a hyphen and the digest make 40
        places = {stage.stage.name: rundir.digest({"directory": str(stage.directory.absolute())}) for stage in stages}
        self.names = {name: f"{prefix}-{digest}" for name, digest in places.items()}
        self.options, self.logs = list(options), logs
        self.begun: dict[str, subprocess.Popen] = {}

    def submit(self, stage_name: str, argv: Sequence[str]) -> str:
        from xtr.launch import record

        job = self.names[stage_name]
        gin = [word for word in argv[2:] if not word.startswith("--stage=")]
        words = ["study", f"--name={job}", f"--stage={stage_name}", *self.options, *gin]
        if job in record.names() and record.load(job).is_open:  # its launcher has gone, its machines may be there
            words = ["resume", job]
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.log(job), "a") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "xtr.cli.main", "launch", *words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _BEGINS
        while job not in record.names() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() == 2:
            raise UserError(f"{stage_name} cannot be launched: {_last_line(Path(self.log(job)))}")
        self.begun[job] = process
        return job

    def state(self, job: str) -> JobState:
        from xtr.launch import record
        from xtr.launch.watch import Outcome

        begun = self.begun.get(job)
        if begun is not None and begun.poll() is None:
            return "running"
        if job not in record.names():
            return "failed"
        found = record.load(job)
        if found.is_open:
            return "running" if record.watched(found) else "preempted"
        return "done" if found.state.outcome is Outcome.DONE else "failed"

    def log(self, job: str) -> str:
        return str(self.logs / f"{job}.log")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("xtr: ") if lines else "its launcher said nothing"


def run(spec: StudySpec, texts: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Hands over what is not done, stage by stage, and reports at the end."""
    from xtr.cli import study
    from xtr.cli.study_load import load
    from xtr.study import protocol

    at_a_time = spec.workers if arguments.at_a_time is None else arguments.at_a_time
    if at_a_time < 1:
        raise UserError(f"--at_a_time is {at_a_time}; it must be at least 1.")
    loaded = load(spec, arguments, tokenise=True)
    folder = Path(loaded.spec.study_dir)
    protocol.settle(folder, loaded.protocol)
    for name, text in texts.items():
        rundir.write_atomic(folder / name, text)
    launcher = Launches(spec.name, loaded.jobs, launch.job_options(arguments), folder / "launched")

    def told(stage: str, job: str) -> None:
        console.print(f"{stage}: job {job}   (xtr launch status {job})", soft_wrap=True)

    handed = hand_over(
        loaded.jobs, gin_argv(arguments), launcher, at_a_time, poll=min(POLL, arguments.poll_seconds), on_submit=told
    )
    console.print(f"study {spec.name}: {handed.done} stages done, {handed.submitted} handed over")
    for name, why in handed.failed.items():
        console.print(f"  failed: {name}: {why}", style="red", soft_wrap=True, markup=False)
    if any(job.entry == "evaluate" and job.done for job in loaded.jobs):
        study.write_report(loaded)
    return 1 if handed.failed else 0


def gin_argv(arguments: argparse.Namespace) -> list[str]:
    """The gin arguments of a command line, to be given to another command."""
    words = [f"--gin_file={name}" for name in arguments.gin_file]
    if arguments.search_paths:
        words.append(f"--gin_search_paths={','.join(arguments.search_paths)}")
    return [*words, *(f"--gin.{text}" for text in arguments.overrides)]
