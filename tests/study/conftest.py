"""A made-up study: rows and predictions with known gains, written through the real result store."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from xtr.evaluate.results import ResultRow, ResultStore

EXPECTED = {
    "xnli": ("en", "de", "fr", "sw"),
    "xquad": ("en", "de", "zh"),
    "tatoeba": ("de", "fr", "sw"),
}
CHANCE = {"xnli": 100 / 3, "tatoeba": {"de": 1.0, "fr": 1.0, "sw": 2.0}}
GAINS = {"mnli": {"xnli": 8.0, "xquad": 0.0, "tatoeba": 4.0}, "squad_v1": {"xnli": 0.0, "xquad": 6.0, "tatoeba": 15.0}}
BASE = {"xnli": 55.0, "xquad": 40.0, "tatoeba": 20.0}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What `make_study` generates.

    Attributes:
      models: (name, parameters); the gains shrink by half from one to the next.
      seeds, examples: how many seeds, and examples of each language.
      skip: places left out, as (intermediate, target, language) with None for any.
    """

    models: Sequence[tuple[str, int]] = (("mt5-small", 300_176_768),)
    intermediates: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=lambda: GAINS)
    expected: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: EXPECTED)
    seeds: Sequence[int] = (0, 1, 2)
    examples: int = 120
    skip: Sequence[tuple] = ()


@pytest.fixture(scope="session")
def make_study(tmp_path_factory):
    """`make_study(recipe) -> ResultStore`; without a recipe always the same store, to be read only."""
    common: list[ResultStore] = []

    def make(recipe: Recipe | None = None) -> ResultStore:
        if recipe is None:
            if not common:
                common.append(make(Recipe()))
            return common[0]
        store = ResultStore(tmp_path_factory.mktemp("study"))
        rows = []
        for size, (model, parameters) in enumerate(recipe.models):
            for intermediate in ("none", *recipe.intermediates):
                for target, languages in recipe.expected.items():
                    for seed in recipe.seeds:
                        for language in languages:
                            place = (intermediate, target, language)
                            if any(_matches(skip, place) for skip in recipe.skip):
                                continue
                            gain = recipe.intermediates.get(intermediate, {}).get(target, 0.0) / 2**size
                            gain += 5.0 * size
                            rows += _evaluate(store, model, parameters, *place, seed, gain, recipe.examples)
        store.append(rows)
        return store

    return make


def _matches(skip: tuple, place: tuple) -> bool:
    return all(wanted in (None, name) for wanted, name in zip(skip, place, strict=True))


def _evaluate(store, model, parameters, intermediate, target, language, seed, gain, examples):
    run_id = f"{model}-{intermediate}-{target}-seed{seed}"
    world = np.random.default_rng([*target.encode(), *language.encode()])
    difficulty_N = world.normal(0, 18, examples)  # shared by all systems, so that gains are paired
    own = np.random.default_rng([*run_id.encode()])
    level = BASE.get(target, 50.0) + gain + (12 if language == "en" else 0) + own.normal(0, 1.0)
    chance_N = np.clip((level + difficulty_N) / 100, 0, 1)
    right_N = world.random(examples) * 0.5 + own.random(examples) * 0.5 < chance_N
    records = []
    for n, right in enumerate(right_N):
        contributions = {"accuracy": 100.0 * right}
        if target == "xquad":
            contributions = {"em": 100.0 * right, "f1": 100.0 if right else 40.0 * (chance_N[n] > 0.5)}
        records.append(
            {
                "id": f"{target}-{n}",
                "prediction": f"answer {n} | with a bar" if right else "wrong",
                "gold": [f"answer {n} | with a bar"],
                "contributions": contributions,
            }
        )
    store.write_predictions(run_id, target, language, "test", records)
    shared = dict(
        run_id=run_id, family="mt5", model=model, parameters=parameters, stage="evaluate", intermediate=intermediate,
        target=target, language=language, split="test", seed=seed, step=1000, n=examples,
    )  # fmt: skip
    names = records[0]["contributions"]
    metrics = {name: float(np.mean([record["contributions"][name] for record in records])) for name in names}
    if target == "tatoeba":
        metrics |= {f"accuracy/layer_{i}": float(i) for i in range(2)}
    return [ResultRow(**shared, metric=name, value=value) for name, value in metrics.items()]


@pytest.fixture(scope="session")
def recipe():
    """The `Recipe` class, for tests that want another study."""
    return Recipe


@pytest.fixture(scope="session")
def expected():
    return EXPECTED


@pytest.fixture(scope="session")
def chance():
    return CHANCE
