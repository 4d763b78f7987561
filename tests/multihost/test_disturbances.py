"""Two processes that are killed and asked to stop at random moments end in the bits of two that are left alone."""

import random
import signal
import time
from pathlib import Path

import pytest

from xtr.checkpoints.index import read_index
from xtr.evaluate.results import ResultStore

STEPS, LAST = 24, "--gin.TRAIN_STEPS=24"
# JAX aborts a process whose coordinator is gone; SIGTERM ends one that does not watch for it yet.
CODES = {0, 1, 42, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT}
PATIENCE = 30.0
QUICK = {"PERIOD": 0.1, "SUSPECT_AFTER": 1.0, "LOST_AFTER": 3.0}


def commands(world, folder: Path) -> list[tuple[list[str], Path]]:
    """(a command line, what says that it is done)."""
    model, out = folder / "model", folder / "evaluation"
    common = [f"--gin.VOCABULARY_PATH={world.folder / 'vocabulary'}", f"--gin.DATA_DIR={world.folder}"]
    evaluation = [
        *("eval", f"--gin_file={world.folder / 'model.gin'}", "--gin_file=runs/eval.gin", *common),
        *("--gin.MIXTURE_OR_TASK_NAME=random", f"--gin.CHECKPOINT_PATH={model}", f"--gin.EVAL_OUTPUT_DIR={out}"),
        *("--gin.LENGTH_BUCKETS=(16,32)", "--gin.TOKENS_PER_BATCH=96", "--gin.evaluate.max_decode_length=8"),
        *("--gin.evaluate.run_id=the_run",),
    ]
    training = world.train(model, LAST, "--gin.SAVE_PERIOD=4", "--gin.EVAL_PERIOD=12")
    return [(training, model / "DONE"), (evaluation, out / "DONE")]


def disturb(world, folder: Path, chance: random.Random, limit: int, seconds: dict[Path, float]) -> list[tuple]:
    """Runs all commands to their ends, disturbed at most `limit` times; what was done to whom, and what came of it."""
    done = []
    for arguments, mark in commands(world, folder):
        while not mark.exists():
            running = world.start(2, 1, arguments, pace=0.05, watchdog=QUICK)
            struck = None
            if len(done) < limit:
                moment = chance.uniform(0.4, 1.0) * seconds[mark.relative_to(folder)]
                what = chance.choice((signal.SIGKILL, signal.SIGTERM))
                whom = chance.choice(((0,), (1,), (0, 1)))
                wait_for(running, moment)
                alive = [number for number in whom if running[number].poll() is None]
                for number in alive:
                    running[number].send_signal(what)
                if alive:
                    struck = (arguments[0], what.name, alive, round(moment, 2))
            started = time.monotonic()
            # What is left of the run ends by itself; one that still waits for the others to start is ended, as a
            # launcher does.
            wait_for(running, PATIENCE if struck else 300)
            left = [process for process in running if process.poll() is None]
            for process in left:
                process.kill()
            ends = [(*process.communicate(), process.returncode)[1:] for process in running]
            assert {code for _, code in ends} <= CODES, (struck, ends)
            assert all("training" not in said for said, _ in ends if len(left)), (struck, ends)
            if struck:
                done.append((*struck, [code for _, code in ends], round(time.monotonic() - started, 1)))
                print(done[-1], [said[-200:] for said, _ in ends] if left else "", flush=True)
    return done


def wait_for(running, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(process.poll() is None for process in running):
        time.sleep(0.02)


def compare(folder: Path, undisturbed: Path) -> None:
    step = Path("model", "checkpoints", str(STEPS))
    assert read_index(folder / step) == read_index(undisturbed / step)
    stores = [ResultStore(place / "evaluation") for place in (folder, undisturbed)]
    assert stores[0].read().equals(stores[1].read()) and len(stores[0].read())
    written = list((undisturbed / "evaluation").rglob("predictions/*/*.jsonl"))
    assert written
    for path in written:
        assert (folder / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("disturbances", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_disturbed_runs_end_in_the_same_bits(disturbances, make_world, tmp_path):
    world, undisturbed, seconds = make_world("seq2seq"), tmp_path / "undisturbed", {}
    for arguments, mark in commands(world, undisturbed):
        started = time.monotonic()
        found = world.run(2, 1, arguments, pace=0.05, watchdog=QUICK)
        assert [end.code for end in found] == [0, 0], found
        seconds[mark.relative_to(undisturbed)] = time.monotonic() - started
    chance, count, run = random.Random(disturbances), 0, 0
    while count < disturbances:
        folder = tmp_path / f"run{run}"
        done = disturb(world, folder, chance, min(disturbances - count, 12), seconds)
        compare(folder, undisturbed)
        count, run = count + len(done), run + 1
