"""Made-up studies whose truth is known: results as rows and contributions, for the very code that reads real ones.

An example's contribution is a sum of normal effects, in points and not cut to 0..100, so that the truth is exact:

    level + difficulty of the example + effect of the run                              without an intermediate task
    the same with effects of its own + gain of the size, language and example          with one

Everything is shared as in real studies: an example is as hard for every run; all gains of a seed and target share the
run without an intermediate; all targets of an intermediate and seed share the run of the intermediate task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import pandas as pd

from xtr.evaluate.results import ContributionKey
from xtr.study.panels import ENGLISH, NONE
from xtr.study.transfer import RETRIEVAL

MT5_SIZES = (
    ("mt5-small", 300_176_768),
    ("mt5-base", 582_401_280),
    ("mt5-large", 1_229_581_312),
    ("mt5-xl", 3_742_619_648),
    ("mt5-xxl", 12_921_057_280),
)


@dataclass(frozen=True)
class Design:
    """What a made-up study consists of; standard deviations are in points.

    Attributes:
      sizes: (name, parameters) of the family's models.
      intermediates: their names, without `NONE`.
      targets: target -> languages; retrieval targets are named as XTREME-R's, the others as one likes.
      seeds: training seeds of every model.
      examples: of each target, translations of each other in all of its languages.
      family: of the models.
      level: score without an intermediate task.
      run_sd: effect of a training seed on one target's run.
      intermediate_sd: effect of a training seed on an intermediate task's run, the same for all its targets.
      language_sd: how the gains of languages differ; their mean over a target is exactly the gain.
      example_sd: difficulty of the examples.
      gain_sd: how the gains of examples differ.
      noise_sd: what is left: of each run on each example.
    """

    sizes: Sequence[tuple[str, int]] = MT5_SIZES
    intermediates: Sequence[str] = ("mnli", "squad_v1")
    targets: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: MappingProxyType(
            {"xnli": ("en", "de", "sw"), "tydiqa": ("en", "fi", "te"), "tatoeba": ("de", "sw")}
        )
    )
    seeds: int = 5
    examples: int = 300
    family: str = "mt5"
    level: float = 60.0
    run_sd: float = 0.5
    intermediate_sd: float = 0.3
    language_sd: float = 1.0
    example_sd: float = 20.0
    gain_sd: float = 5.0
    noise_sd: float = 15.0


@dataclass(frozen=True)
class Study:
    """A made-up study, in the arguments of `transfer.build`.

    Attributes:
      rows: results on the test split, with the columns of `ResultRow`.
      development: the same on English development data, of the targets that are trained on.
      contributions: key -> {example id: contribution}, from `load`.
      languages: target -> languages.
    """

    rows: pd.DataFrame
    development: pd.DataFrame
    contributions: Mapping[ContributionKey, np.ndarray]
    languages: Mapping[str, Sequence[str]]

    def load(self, key: ContributionKey) -> dict[str, float]:
        """The contributions of one run, target and language."""
        values_N = self.contributions[key]
        return dict(zip(_ids(len(values_N)), values_N.tolist(), strict=True))


def simulate(design: Design, gains: Sequence[float], seed: int) -> Study:
    """Makes one study.

    Args:
      gains: true zero-shot gain of every intermediate task on every target, in points, one a size.
      seed: another seed is another study of the same truth.
    """
    rng = np.random.default_rng(seed)
    worlds = {target: _World.of(design, languages, rng) for target, languages in design.targets.items()}
    rows, development, contributions = [], [], {}
    for (model, parameters), gain in zip(design.sizes, gains, strict=True):
        for name in (NONE, *design.intermediates):
            helped = name != NONE
            intermediate_S = rng.normal(0, design.intermediate_sd, design.seeds) * helped
            for target, languages in design.targets.items():
                run_S = intermediate_S + rng.normal(0, design.run_sd, design.seeds)
                noise_SLN = rng.normal(0, design.noise_sd, (design.seeds, len(languages), design.examples))
                world = worlds[target]
                common_LN = design.level + world.difficulty_N + (gain + world.gain_LN) * helped
                values_SLN = common_LN + run_S[:, None, None] + noise_SLN
                for seed_of_run, values_LN in enumerate(values_SLN):
                    run = f"{model}.{name}.{target}.seed{seed_of_run}"
                    shared = {
                        **{"run_id": run, "family": design.family, "model": model, "parameters": parameters},
                        **{"stage": "evaluate", "intermediate": name, "target": target, "seed": seed_of_run},
                        **{"step": 1000, "metric": _METRICS.get(target, "accuracy"), "n": design.examples},
                        "higher_is_better": True,
                    }
                    for language, values_N in zip(languages, values_LN, strict=True):
                        row = shared | {"language": language, "split": "test", "value": float(values_N.mean())}
                        rows.append(row)
                        contributions[ContributionKey(*(row[name] for name in ContributionKey._fields))] = values_N
                    if target not in RETRIEVAL:
                        dev = design.level + gain * helped + run_S[seed_of_run] + rng.normal(0, 0.3)
                        development.append(shared | {"language": ENGLISH, "split": "validation", "value": float(dev)})
    return Study(pd.DataFrame(rows), pd.DataFrame(development), contributions, design.targets)


@lru_cache(maxsize=8)
def _ids(count: int) -> tuple[str, ...]:
    return tuple(f"{n:06d}" for n in range(count))


# One metric a target is enough where it is the target's score alone.
_METRICS = {"mewslix": "map@20", "lareqa": "map@20"}


@dataclass(frozen=True)
class _World:
    """What all runs on one target share: difficulty [N] and how gains depart from the truth [L, N]."""

    difficulty_N: np.ndarray
    gain_LN: np.ndarray

    @classmethod
    def of(cls, design: Design, languages: Sequence[str], rng: np.random.Generator) -> "_World":
        foreign_L = np.array([language != ENGLISH for language in languages])
        of_language_L = rng.normal(0, design.language_sd, len(languages))
        of_language_L[foreign_L] -= of_language_L[foreign_L].mean()
        of_example_N = rng.normal(0, design.gain_sd, design.examples)
        return cls(rng.normal(0, design.example_sd, design.examples), of_language_L[:, None] + of_example_N)
