"""Runs a study's stages, each once; goes on where it was; a failed stage keeps its reason and the rest goes on."""

import concurrent.futures
import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from xtr import rundir
from xtr.parallel import watchdog
from xtr.parallel.distributed import from_first
from xtr.progress import progress
from xtr.study.graph import Stage
from xtr.study.jobs import FAILED, Configure, Job, gin_texts


@dataclasses.dataclass
class Outcome:
    """What a pass over the stages came to."""

    ran: int = 0
    reused: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def run_jobs(
    jobs: Sequence[Job],
    configure: Configure,
    train: Callable,
    evaluate: Callable,
    stop_on: tuple[type[BaseException], ...],
    workers: int = 1,
) -> Outcome:
    """Runs every job that is not done, each after its parent.

    Args:
      jobs: from `prepare`, in order.
      configure: builds a stage's run, for the texts that its directory keeps.
      train, evaluate: run one stage: f(run, gin_texts).
      stop_on: exceptions that end the whole pass (preemption) instead of marking one stage as failed.
      workers: stages run at a time, in threads: small models leave cores idle, and what is compiled is shared. One
        where several processes run the study together, and there an error ends the pass.
    """
    started = time.monotonic()
    outcome = Outcome()
    several = watchdog.processes() > 1
    if several:
        # All processes must come to the same stages in the same order; and after an error in one alone, none can go on.
        workers, stop_on = 1, (BaseException,)
    finished = set(from_first(lambda: [job.stage for job in jobs if job.status == "done"]))
    outcome.reused = len(finished)
    failed: set[Stage] = set()
    waiting = [job for job in jobs if job.stage not in finished]
    running: dict[concurrent.futures.Future, Job] = {}

    def run(job: Job, texts: Mapping[str, str]) -> None:
        from_first(lambda: (job.directory / FAILED).unlink(missing_ok=True))
        (evaluate if job.entry == "evaluate" else train)(job.run, texts)

    def settle(job: Job, error: BaseException | None) -> None:
        if error is None:
            finished.add(job.stage)
            outcome.ran += 1
        elif isinstance(error, stop_on):
            raise error
        else:  # one stage's failure must not stop the others; it is kept and reported
            failed.add(job.stage)
            outcome.failed[job.stage.name] = f"{type(error).__name__}: {error}"
            detail = {"error": str(error), "traceback": "".join(traceback.format_exception(error))}
            rundir.write_atomic(job.directory / FAILED, json.dumps(detail, indent=1) + "\n")

    with (
        progress("study stages", len(jobs), len(finished)) as bar,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        while waiting or running:
            for job in [job for job in waiting if job.stage.parent in failed]:
                waiting.remove(job)
                failed.add(job.stage)
                outcome.failed[job.stage.name] = f"its parent {job.stage.parent.name} failed"
                bar.advance(note=job.stage.name)
            ready = [job for job in waiting if job.stage.parent is None or job.stage.parent in finished]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[pool.submit(run, job, gin_texts(job, configure))] = job
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                settle(job, future.exception())
                bar.advance(note=job.stage.name)
    outcome.seconds = time.monotonic() - started
    return outcome
