"""Made-up results: a small store, and one with every task and language of both benchmarks."""

import dataclasses
import random
from pathlib import Path

import pytest

from xtr.coverage import XTREME, XTREME_R
from xtr.evaluate.metrics.benchmark import SCORES
from xtr.evaluate.results import ResultRow, ResultStore, mean_rows

ROW = ResultRow(
    run_id="run", family="mt5", model="mt5-small", parameters=300_176_768, stage="target", intermediate="none",
    target="xnli", language="en", split="test", seed=0, step=1000, metric="accuracy", value=50.0, n=4,
)  # fmt: skip
GENERATED = ("xquad", "mlqa", "tydiqa", "udpos", "panx")


def record(number: int, prediction="yes", gold="no", **more) -> dict:
    return {"id": f"q{number}", "prediction": prediction, "gold": gold, "contributions": {}, **more}


def fill(directory: Path, targets, **changes) -> ResultStore:
    """Random values of {target: languages}, with means, layers of Tatoeba, shares, and a few predictions."""
    store, rows = ResultStore(directory), []
    generator = random.Random(f"{sorted(changes.items())}")
    base = dataclasses.replace(ROW, **changes)
    for target, languages in targets.items():
        own = []
        for language in languages:
            metrics = [*SCORES[target], *(("illegal_form", "wrong_language") if target in GENERATED else ())]
            metrics += [f"accuracy/layer_{layer}" for layer in range(3)] if target == "tatoeba" else []
            for metric in metrics:
                value = generator.uniform(0, 100)
                place = dict(target=target, language=language, metric=metric, value=value)
                own.append(dataclasses.replace(base, **place, higher_is_better=metric not in metrics[2:]))
            records = [record(n, f"{base.intermediate} <b>{n}</b> | *x*", input=f"text {n}") for n in range(7)]
            store.write_predictions(base.run_id, target, language, base.split, records)
        rows += [*own, *(mean_rows(own, languages) if len(languages) > 1 else ())]
    store.append(rows)
    return store


ALL = {target: codes.split() for target, codes in (XTREME | XTREME_R).items()}
FEW = {"xnli": ("en", "de", "sw"), "xquad": ("en", "de"), "tatoeba": ("de", "sw")}


@pytest.fixture
def row():
    """A row, to be changed."""
    return ROW


@pytest.fixture
def make():
    """`make(directory, targets, **fields of the rows)`."""
    return fill


@pytest.fixture
def few():
    """{target: languages} of a small store."""
    return FEW


@pytest.fixture(scope="session")
def complete(tmp_path_factory) -> Path:
    """An evaluation of everything in both benchmarks; to be read only."""
    directory = tmp_path_factory.mktemp("complete")
    fill(directory, ALL)
    (directory / "operative_config.gin").write_text("evaluate.limit = None\n")
    (directory / "environment.json").write_text('{"command": ["xtr", "eval"], "python": "3.11"}')
    return directory


@pytest.fixture
def study(tmp_path) -> Path:
    """Three intermediate tasks, two seeds, three targets, as a study's directory has them."""
    directory = tmp_path / "study"
    rows = []
    for intermediate in ("none", "mnli", "squad_v1"):
        for seed in (0, 1):
            run_id = f"{intermediate}-{seed}"
            own = fill(directory / "stages" / run_id, FEW, intermediate=intermediate, seed=seed, run_id=run_id)
            rows += [ResultRow(**values) for values in own.read().to_dict("records")]
    ResultStore(directory / "results").append(rows)
    return directory
