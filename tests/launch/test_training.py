"""A real training on the fake cloud: two machines, joined by JAX, preemptions, and the bits of a run left alone."""

import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from xtr.checkpoints import manager, source
from xtr.cli.main import run
from xtr.demo.world import WorldSizes
from xtr.demo.write import write_world
from xtr.launch import record

SIZES = WorldSizes(
    mnli_train=60, mnli_dev=20, xnli_dev=12, xnli_test=24, squad_train=60, squad_dev=12, xquad=12, tatoeba=16,
    monolingual=60, bilingual=60, vocabulary=500,
)  # fmt: skip
STEPS, PERIOD = 120, 30  # enough that a preemption behind the first save comes before the end


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """All that the last checkpoint of a run holds."""
    opened = manager.open_source(str(folder / "checkpoints" / str(STEPS)))
    slots = {f"{path}/{slot}": a for path, own in opened.open_slots().items() for slot, a in own.items()}
    return {name: a.read(source.whole(a.shape)) for name, a in (opened.arrays | slots).items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_preempted_trainings_end_with_the_bits_of_one_left_alone(cloud, tmp_path, monkeypatch, capsys, tiny_mt5):
    """The first with time to save in, the second without notice."""
    world = write_world(tmp_path / "world", seed=0, sizes=SIZES)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    cloud.xtr(f'exec {sys.executable} -m xtr.cli.main "$@"\n')
    Path("tiny.gin").write_text(tiny_mt5)
    words = [
        *("launch", "train", "--gin_file=tiny.gin", "--gin_file=runs/finetune.gin", "--gin_file=intermediate/mnli.gin"),
        *(f"--gin.VOCABULARY_PATH={world.vocabulary_path}", f"--gin.DATA_DIR={world.directory}"),
        *(f"--gin.CACHE_DIR={tmp_path / 'cache'}", f"--gin.VOCAB_SIZE={-(-world.vocabulary_size // 128) * 128}"),
        *(f"--gin.TRAIN_STEPS={STEPS}", f"--gin.SAVE_PERIOD={PERIOD}", "--gin.BATCH_SIZE=8", "--gin.DROPOUT_RATE=0.1"),
        *("--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}", "--gin.EVAL_PERIOD=0"),
        *("--poll_seconds=0.2", "--retries=0"),
    ]
    assert run([*words, "--backend=local", "--processes=2", "--gin.MODEL_DIR=runs/alone"]) == 0
    alone = arrays(Path("runs/alone"))

    saved = "buckets/my-bucket/f/runs/{}/checkpoints/" + str(PERIOD)
    rules = {"1": {"when": saved.format("told"), "grace": 30}, "3": {"when": saved.format("lost"), "grace": 0}}
    cloud.cue(machines=2, port=free_port(), preempt=rules, capacity_after=[0, 2, 0, 2])
    cluster = ["--backend=tpu_vm", "--zone=us-central2-b", "--bucket=gs://my-bucket/f", "--accelerator=v4-16", "--spot"]
    for number, name in enumerate(("told", "lost"), 1):
        capsys.readouterr()
        own = [f"--gin.MODEL_DIR=runs/{name}", f"--name={name}", "--wheel=xtr-1.0-py3-none-any.whl"]
        assert run([*words, *cluster, *own]) == 0
        found = record.load(name).state
        assert found.preemptions >= 1 and found.crashes == 0 and cloud.state()["created"] == 2 * number
        assert f"{STEPS} steps done" in capsys.readouterr().out
        there = arrays(cloud.bucket / "f" / "runs" / name)
        assert there.keys() == alone.keys()
        assert all(np.array_equal(there[array], alone[array]) for array in alone)
