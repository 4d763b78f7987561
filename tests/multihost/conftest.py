"""Runs of several processes of the `xtr` command on this machine."""

import importlib.util
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("tiny_evaluations", HERE / "tiny_evaluations.py")
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

# Gin of networks that compile in a second or two.
_BERT = """
include 'models/xlmr/micro.gin'
VOCAB_SIZE = 640
bert.BertConfig.emb_dim = 16
bert.BertConfig.num_heads = 2
bert.BertConfig.num_layers = 1
bert.BertConfig.mlp_dim = 32
"""
MODELS = {
    "classify": _BERT,
    "multitask": _BERT,
}
_HEADED = ("--gin_file=runs/adamw.gin", "--gin.WARMUP_STEPS=2", "--gin.TASK_FEATURE_LENGTHS={'inputs': 32}")
OBJECTIVES = {
    "seq2seq": ("t5", {"greedy": 1.0}, ("--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",)),
    "classify": ("xlmr", {"classify": 1.0}, ("--gin_file=heads/classify.gin", "--gin.NUM_LABELS=3", *_HEADED)),
    "multitask": (
        "xlmr",
        {"classify": 2.0, "choose": 1.0},
        ("--gin_file=heads/multitask.gin", "--gin.HEADS={'nli': ('classify', 3), 'choice': 'choose'}", *_HEADED),
    ),
}


def write_task(folder: Path, what: str) -> None:
    """A cached task of random examples with the splits of a training."""
    rng = np.random.default_rng(0)
    splits = {name: [tiny.example(rng, what, n) for n in range(size)] for name, size in SIZES.items()}
    tiny.write_cached(folder, what, splits, kind=tiny._KINDS.get(what, "translation"), label_names=tiny.LABELS)


SIZES = {"train": 200, "validation": 40, "test": 40}


@dataclass(frozen=True)
class Ended:
    """What a process came to."""

    code: int
    out: str
    err: str


def start(processes: int, devices: int, settings: dict, arguments: Sequence[str], cwd=None) -> list[subprocess.Popen]:
    # Compiling is most of what these tests do: so without the compiler's costly passes.
    fast = "--xla_backend_optimization_level=0"
    return tiny.launch(HERE / "disturbed.py", processes, devices, [json.dumps(settings), *arguments], fast, cwd)


def ends(running: Sequence[subprocess.Popen], seconds: float = 300.0) -> list[Ended]:
    """What became of the processes, all of which must end by themselves."""
    found = []
    try:
        for process in running:
            out, err = process.communicate(timeout=seconds)
            found.append(Ended(process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    return found


@dataclass(frozen=True)
class World:
    """The cached tasks and the gin of one objective."""

    folder: Path
    tasks: dict[str, float]
    common: tuple[str, ...]

    def start(self, processes: int, devices: int, arguments: Sequence[str], cwd=None, **settings):
        """The command in so many processes with so many devices each.

        Args:
          cwd: a working folder for each.
          settings: see `disturbed`.
        """
        return start(processes, devices, {"tasks": self.tasks} | settings, arguments, cwd)

    def run(self, processes: int, devices: int, arguments: Sequence[str], cwd=None, **settings) -> list[Ended]:
        """As `start`; what became of all."""
        return ends(self.start(processes, devices, arguments, cwd, **settings))

    def train(self, directory: Path | str, *more: str) -> list[str]:
        """The command line of a training of six steps with dropout, validation and two checkpoints."""
        return [
            *("train", f"--gin_file={self.folder / 'model.gin'}", "--gin_file=runs/finetune.gin", *self.common),
            *(f"--gin.MODEL_DIR={directory}", f"--gin.VOCABULARY_PATH={self.folder / 'vocabulary'}"),
            *("--gin.MIXTURE_OR_TASK_NAME=random", f"--gin.DATA_DIR={self.folder}", "--gin.BATCH_SIZE=8"),
            *("--gin.TRAIN_STEPS=6", "--gin.SAVE_PERIOD=3", "--gin.EVAL_PERIOD=3", "--gin.EVAL_STEPS=2", *more),
        ]


@pytest.fixture(scope="session")
def make_world(tmp_path_factory, small_vocabularies, tiny_mt5):
    """A function: objective -> its world."""
    models = MODELS | {"seq2seq": f"{tiny_mt5}VOCAB_SIZE = 640\n"}
    made: dict[str, World] = {}

    def make(objective: str) -> World:
        if objective not in made:
            kind, rates, common = OBJECTIVES[objective]
            folder = tmp_path_factory.mktemp(objective)
            for what in rates:
                write_task(folder / f"{what}-0123456789ab", what)
            (folder / "model.gin").write_text(models[objective])
            (folder / "vocabulary").symlink_to(small_vocabularies[kind])
            tasks = {str(folder / f"{what}-0123456789ab"): rate for what, rate in rates.items()}
            made[objective] = World(folder, tasks, common)
        return made[objective]

    return make


@pytest.fixture(scope="session")
def run_program():
    """A function: program, processes, arguments -> what became of the processes, which have one device each."""

    def run(program: Path, processes: int, arguments: Sequence) -> list[Ended]:
        return ends(tiny.launch(program, processes, 1, arguments))

    return run
