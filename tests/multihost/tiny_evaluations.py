"""Tiny evaluations of every predictor, on random networks and examples; as a program, for a process of several.

    python tiny_evaluations.py WORLD OUT NAME,NAME ... ['{"limit": 5}']

It joins the processes that the environment names (`xtr.parallel.distributed`) and evaluates each NAME into OUT/NAME.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from xtr import preemption
from xtr.checkpoints.manager import CheckpointManager
from xtr.data.cache_shards import shard_paths, write_shard
from xtr.data.cached_task import CachedTask
from xtr.data.records import serialize_example
from xtr.data.vocabulary import read_vocabulary
from xtr.errors import Preempted
from xtr.evaluate import continuous, engine, index, journal, predictor
from xtr.evaluate.decoding import Decoding
from xtr.evaluate.ranking import Ranking
from xtr.evaluate.run import EvaluateRun
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import WithHead
from xtr.models.mt5 import MT5Config
from xtr.models.spec import init_params
from xtr.parallel import watchdog

SIZE, LENGTH, DECODED = 640, 32, 6
LABELS = ["1", "#@", "()"]
TAGS = ["B-PER", "I-PER", "O"]
_BERT = dict(vocab_size=SIZE, emb_dim=16, num_heads=2, mlp_dim=32, num_layers=1, dtype="float32")
BODIES = {
    "mt5": MT5Config(SIZE, 16, 2, 8, 32, 1, 1, dtype="float32"),
    "bloom": BloomConfig(SIZE, 16, 2, 1, dtype="float32"),
    "xlmr": BertConfig("xlmr", max_positions=LENGTH + 2, **_BERT),
    "mbert": BertConfig("mbert", max_positions=LENGTH, type_vocab_size=2, **_BERT),
}
# Head -> its settings.
HEADS = {"classify": (3,), "choose": (), "tag": (3,), "span": (), "embed": ()}
DECODING = {
    "greedy": Decoding(),
    "beam": Decoding("beam", beams=3),
    "sample": Decoding("sample", samples=2, top_p=0.9),
}
# What is evaluated -> the head it needs, None for a model that writes.
NEEDS = {
    **dict.fromkeys(("rank", "score", *DECODING)),
    **{head: head for head in ("classify", "choose", "tag", "span")},
    **dict.fromkeys(("nearest", "ranked", "mined"), ""),  # the body's own states
    "dual": "embed",
}


def config_of(family: str, what: str):
    """The network of an evaluation."""
    head = NEEDS[what]
    return WithHead(BODIES[family], head, *HEADS[head]) if head else BODIES[family]


# ---------------------------------------------------------------------------------------------------------------------
# Examples
# ---------------------------------------------------------------------------------------------------------------------


def _tokens(rng, size: int) -> np.ndarray:
    return rng.integers(10, 500, size).astype(np.int32)


def _words(rng, count: int) -> tuple[str, np.ndarray, np.ndarray]:
    """A text of so many words; where each starts and ends."""
    words = ["".join(rng.choice(list("abcdeé語"), rng.integers(1, 6))) for _ in range(count)]
    ends = np.cumsum([len(w) + 1 for w in words]) - 1
    return " ".join(words), ends - [len(w) for w in words], ends


def example(rng, what: str, number: int) -> dict:
    """One random example; of retrieval a query, whose translation is candidate `number`."""
    size = int(rng.integers(1, 28))
    meta = {"id": f"e{number}"}
    if what in ("rank", "classify"):
        meta |= {"choices": LABELS, "label": number % 3}
        row = {"inputs": _tokens(rng, size), "meta": meta}
        headed = {"token_types": np.zeros(size, np.int32), "text_spans": np.array([0, size]), "label": number % 3}
        return row | headed if what == "classify" else row
    if what == "choose":
        lengths = rng.integers(3, 28, 2 + number % 3)
        spans = np.stack([np.zeros_like(lengths), lengths - 2, lengths - 2, lengths], axis=1)
        meta |= {"choices": [f"choice {c}" for c in range(len(lengths))], "label": number % 2}
        total = int(lengths.sum())
        return {
            "inputs": _tokens(rng, total),
            "token_types": np.zeros(total, np.int32),
            "choice_lengths": lengths.astype(np.int32),
            "text_spans": spans.reshape(-1).astype(np.int32),
            "label": number % 2,
            "meta": meta,
        }
    if what == "tag":
        lengths = rng.integers(1, 4, int(rng.integers(1, 20)))
        tags = rng.integers(0, 3, len(lengths)).astype(np.int32)
        return {"inputs": _tokens(rng, int(lengths.sum())), "word_lengths": lengths, "tags": tags, "meta": meta}
    if what == "span":
        words = int(rng.integers(1, 60))
        text, starts, ends = _words(rng, words)
        # Any three words are an answer: chance finds some of them.
        answers = [text[a:b] for a, b in zip(starts, ends[2:], strict=False)] if number % 10 else []
        meta |= {"context": text, "answers": answers, "answerable": bool(answers)}
        row = {"question": _tokens(rng, int(rng.integers(1, 9))), "inputs": _tokens(rng, words), "meta": meta}
        return row | {"starts": starts, "ends": ends, "answer": np.array([0, 0] if answers else [-1, -1])}
    if what in ("score", *DECODING):
        return {"inputs": _tokens(rng, size), "targets": _tokens(rng, int(rng.integers(1, 6))), "meta": meta}
    gold = {"mined": [f"c{number}"] if number % 2 else [], "ranked": [f"c{number}", f"c{number + 1}"]}
    return {"inputs": _tokens(rng, size), "meta": meta | {"gold": gold.get(what, f"c{number}")}}


def candidate(rng, query: dict, number: int) -> dict:
    """A text that has much of a query's tokens."""
    tokens = query["inputs"].copy()
    tokens[:: int(rng.integers(2, 5))] += 1
    return {"inputs": tokens, "meta": {"id": f"c{number}"}}


def permuted(example: dict) -> dict:
    """The same example with its choices in another order: the first one last."""
    meta = dict(example["meta"])
    order = np.roll(np.arange(len(meta["choices"])), -1)
    meta["label"] = int(np.flatnonzero(order == meta["label"])[0])
    meta["choices"] = [meta["choices"][c] for c in order]
    if "choice_lengths" not in example:
        return {**example, "meta": meta}
    lengths = example["choice_lengths"]
    parts = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    places = np.concatenate([parts[c] for c in order])
    moved = {name: example[name][places] for name in ("inputs", "token_types")}
    spans = example["text_spans"].reshape(-1, 4)[order].reshape(-1)
    moved |= {"choice_lengths": lengths[order], "text_spans": spans, "label": meta["label"]}
    return {**example, **moved, "meta": meta}


_METRICS = {
    "rank": ["accuracy"], "classify": ["accuracy"], "choose": ["accuracy"], "tag": ["span_f1", "token_accuracy"],
    "span": ["squad2_em", "squad2_f1"], "score": [], "nearest": ["accuracy"], "dual": ["accuracy"],
    "ranked": ["map@20"], "mined": ["bucc_f1"], **dict.fromkeys(DECODING, ["em", "f1"]),
}  # fmt: skip
_PREDICTORS = {"classify": "rank", "choose": "rank", **dict.fromkeys(DECODING, "generate")} | {
    name: "embed" for name in ("nearest", "dual", "ranked", "mined")
}
_KINDS = {"rank": "classification", "classify": "classification", "choose": "multiple_choice", "tag": "tagging"}
_KINDS |= {"span": "span_qa", **dict.fromkeys(("nearest", "dual", "ranked", "mined"), "retrieval")}


def write_task(folder: Path, what: str, count: int, shuffled: bool = False) -> None:
    """Writes a cached task, or the same with its examples in another order and their choices too."""
    rng = np.random.default_rng(0)
    splits = {"test": [example(rng, what, n) for n in range(count)]}
    if _PREDICTORS.get(what) == "embed":
        queries = splits.pop("test")
        splits = {"queries": queries, "candidates": [candidate(rng, q, n) for n, q in enumerate(queries)]}
        if what == "mined":
            splits |= {f"validation_{name}": rows[: count // 2] for name, rows in splits.items()}
    elif what == "span":
        splits["validation"] = [example(rng, what, count + n) for n in range(count // 2)]
    if shuffled:
        splits = {name: [rows[i] for i in rng.permutation(len(rows))] for name, rows in splits.items()}
        if what in ("rank", "choose"):
            splits = {name: [permuted(row) for row in rows] for name, rows in splits.items()}
    names = {"label_names": TAGS} if what == "tag" else {"label_names": LABELS} if what == "classify" else {}
    write_cached(folder, what, splits, **names)


def write_cached(folder: Path, what: str, splits: dict[str, list[dict]], **facts) -> None:
    """Writes examples as the cache has them, with `facts` of the task beside those that `what` tells."""
    folder.mkdir(parents=True)
    files = {}
    for name, rows in splits.items():
        records = (serialize_example(row | {"meta": json.dumps(row["meta"])}) for row in rows)
        files[name] = [asdict(write_shard(*shard_paths(folder, name, 1), records))]
    info = {
        "task": what,
        "splits": {name: {"examples": len(rows), "shards": 1} for name, rows in splits.items()},
        "shard_files": files,
        "kind": _KINDS.get(what, "text"),
        "predictor": _PREDICTORS.get(what, what),
        "metrics": _METRICS[what],
        "features": ["inputs", "targets"],
        "language": "en",
        "group": what,
    }
    (folder / "xtr_task.json").write_text(json.dumps(info | facts))
    (folder / "COMPLETED").touch()


def launch(
    program: Path, processes: int, devices: int, arguments: Sequence[str], xla_flags: str = "", folders=None
) -> list[subprocess.Popen]:
    """A program in so many processes of one run with so many devices each, each in a folder of its own if given."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {xla_flags}",
        "XTR_COORDINATOR": f"127.0.0.1:{port}",
        "XTR_NUM_PROCESSES": str(processes),
    }
    command = [sys.executable, str(program), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=environment | {"XTR_PROCESS_ID": str(number)}, cwd=folder, **pipes)
        for number, folder in enumerate(folders or [None] * processes)
    ]


def write_checkpoint(folder: Path, family: str, what: str, vocabulary: Path) -> None:
    """Writes a random network that tells texts apart, and that ends some of the texts that it writes early."""
    config = config_of(family, what)
    params = jax.tree.map(np.asarray, init_params(config.param_specs(), jax.random.key(0)))
    if "head" in params and what != "dual":
        params["head"] = jax.tree.map(lambda x: x * 30, params["head"])
    eos = read_vocabulary(vocabulary).eos_id
    if family == "mt5" and "decoder" in params:
        params["decoder"]["logits_dense"]["kernel"] = params["decoder"]["logits_dense"]["kernel"] * np.where(
            np.arange(SIZE) == eos, 3, 1
        ).astype(np.float32)
    if family == "bloom" and what in DECODING:
        scale = np.where(np.arange(SIZE) == eos, 6, 1).astype(np.float32)
        params["token_embedder"]["embedding"] = params["token_embedder"]["embedding"] * scale[:, None]
    manager = CheckpointManager(folder)
    manager.save(3, {"params": params}, {})
    manager.close()


def write_world(folder: Path, family: str, what: str, vocabulary: Path, count: int) -> Path:
    """Writes all that one evaluation of a family reads; returns its folder."""
    world = folder / f"{family}.{what}"
    write_task(world / "tasks" / "plain", what, count)
    write_task(world / "tasks" / "shuffled", what, count, shuffled=True)
    write_checkpoint(world / "checkpoints", family, what, vocabulary)
    (world / "vocabulary").symlink_to(vocabulary)
    return world


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


def run_of(world: Path, out: Path, rows: int, buckets: tuple[int, ...] = (LENGTH,), **settings) -> EvaluateRun:
    """The evaluation of a world, in batches of so many rows of the longest bucket."""
    family, what = world.name.split(".")
    model = config_of(family, what)
    tokens = rows * (LENGTH + (DECODED if what == "greedy" else 0))
    # Continuations take a batch's room too: beams, samples, a decoder's choices (of two tokens at most, three of them).
    tokens *= DECODING[what].continuations if what in DECODING else 1
    tokens *= 4 if what == "rank" and family == "bloom" else 1
    if what == "span":
        settings |= {"null_threshold": "dev", "dev_task_name": "span"}
    if what == "rank":
        settings["ranking"] = Ranking("tokens")
    split = {"split": "queries"} if _PREDICTORS.get(what) == "embed" else {}
    if what in DECODING:
        settings["decoding"] = DECODING[what]
    return EvaluateRun(
        model, str(world / "checkpoints"), what, str(out), str((world / "vocabulary").resolve()),
        tokens_per_batch=tokens, length_buckets=buckets, max_decode_length=DECODED, doc_stride=5, max_query_length=6,
        max_answer_length=5, data_dir=".", **(split | settings),
    )  # fmt: skip


def evaluate(run: EvaluateRun, tasks: str = "plain") -> list:
    """`engine.evaluate` on a world's own tasks."""
    folder = Path(run.checkpoint_path).parent / "tasks" / tasks
    cached, engine._cached = engine._cached, lambda run, names: {name: [CachedTask.open(folder)] for name in names}
    try:
        return engine.evaluate(run)
    finally:
        engine._cached = cached


def main(worlds: str, out: str, names: str, settings: str = "{}") -> None:
    """The program.

    Args:
      settings: JSON, of `EvaluateRun`; and `shard_rows` of an index, `stop`, `die`, `halt`, `pace` (see `_disturb`) and
        the watchdog's `period`.
    """
    from xtr.parallel import distributed

    distributed.initialize()
    settings = json.loads(settings)
    index.SHARD_ROWS = settings.pop("shard_rows", index.SHARD_ROWS)
    watchdog.PERIOD = settings.pop("period", watchdog.PERIOD)
    _disturb(*(settings.pop(name, 0) for name in ("stop", "die", "halt", "pace")))
    for name in names.split(","):
        try:
            evaluate(run_of(Path(worlds) / name, Path(out) / name, rows=8, **settings))
            print("evaluated", name, flush=True)
        except Preempted:
            print("preempted", name, flush=True)
            preemption._requested.clear()


def _disturb(stop: int, die: int, halt: int, pace: float) -> None:
    """Asks the last process alone to stop when so many shards of a journal are written, or so many batches begun; and
    kills the first one when so many shards of an index are written. A batch takes `pace` seconds more."""

    def at(count: int, write: Callable, then: Callable) -> Callable:
        calls = iter(range(1, count + 1))

        def writing(*arguments):
            result = write(*arguments)
            if next(calls, None) == count:
                then()
            return result

        return writing

    def slow(spread_batch: Callable) -> Callable:
        def spread(*arguments):
            time.sleep(pace)
            return spread_batch(*arguments)

        return spread

    is_last = jax.process_index() == jax.process_count() - 1
    if stop and is_last:
        journal.Journal.add = at(stop, journal.Journal.add, preemption._requested.set)
    for module in (predictor, continuous) if halt else ():
        module.spread_batch = slow(module.spread_batch)
        if is_last:
            module.spread_batch = at(halt, module.spread_batch, preemption._requested.set)
    if die and jax.process_index() == 0:
        index._write = at(die, index._write, lambda: os.kill(os.getpid(), signal.SIGKILL))


if __name__ == "__main__":
    main(*sys.argv[1:])
