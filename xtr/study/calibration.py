"""What the study's statistics do on made-up data with a known truth: the tables of docs/statistics.md.

    coverage    how often the 95 % interval of a gain holds the true gain
    familywise  how often a study in which no intermediate task does anything claims that one does
    verdicts    how often `scaling` gives the right verdict

A table is a list of lines; each line is one setting, `measure`d on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.errors import UserError
from xtr.evaluate.metrics import value_of_mean
from xtr.study import transfer
from xtr.study.scaling import (
    ABSENT,
    GROWS,
    PERSISTS,
    SHRINKS,
    UNDERPOWERED,
    VANISHES,
    VERDICTS,
    headline,
    scalings,
    slope_coefficients,
)
from xtr.study.simulate import MT5_SIZES, Design, simulate
from xtr.study.statistics import combine, estimate, example_draws, holm, sample

TABLES = ("coverage", "familywise", "verdicts")
SEEDS = (3, 5, 10)
STUDIES = {"coverage": 2000, "familywise": 1000, "verdicts": 200}
_RESAMPLES = 400


@dataclass(frozen=True)
class Coverage:
    """One setting of `coverage`: a gain, the mean over languages, with seeds and examples.

    Attributes:
      metric: 'accuracy' (0 or 100: runs differ at random on each example), 'graded' (0..100, the same from run to run
        but for the seed's effect: examples make the noise) or 'span F1' (counts).
      seed_sd: of a run's effect on its score, in points.
      languages: how many, translations of the same examples.
      seeds, examples: how many.
    """

    metric: str
    seed_sd: float
    languages: int
    seeds: int
    examples: int = 200

    def measure(self, studies: int, seed: int) -> dict:
        rng = np.random.default_rng([seed, self.seeds, round(10 * self.seed_sd), self.languages, len(self.metric)])
        held = widths = 0.0
        for _ in range(studies):
            gain = estimate(*self._study(rng))
            held += gain.low <= _TRUE_GAIN <= gain.high
            widths += gain.high - gain.low
        return {
            **{"metric": self.metric, "seed sd": self.seed_sd, "languages": self.languages, "seeds": self.seeds},
            **{"studies": studies, "coverage": 100 * held / studies, "mean half-width": widths / studies / 2},
        }

    def _study(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """(value_S, draws_RS, examples) of the gain of one study."""
        shape = (2, self.seeds, self.languages, self.examples)
        run = rng.normal(0, self.seed_sd / 100, (2, self.seeds, 1, 1))
        # Bounded effects, so that no share leaves 0..1: the true gain is exact.
        hard = rng.uniform(-0.25, 0.25, self.examples)
        gain = _TRUE_GAIN / 100 + rng.uniform(-0.1, 0.1, self.examples)
        share = 0.55 + hard + run + gain * np.array([0, 1]).reshape(2, 1, 1, 1) + np.zeros(shape)
        if self.metric == "accuracy":
            values = 100.0 * (rng.random(shape) < share)
        elif self.metric == "graded":
            values = 100.0 * share
        else:
            entities = 1 + rng.poisson(2, self.examples)
            right = rng.binomial(entities, np.clip(share, 0, 1))
            values = np.stack([right, entities - right, entities - right], axis=-1).astype(float)
        counts = values.ndim == 5
        vectors = np.moveaxis(values, 3, -1)
        draws = example_draws(vectors.reshape(-1, self.examples), _RESAMPLES, rng)
        draws = value_of_mean(draws.reshape(_RESAMPLES, *vectors.shape[:-1]), counts).mean(axis=-1)
        value = value_of_mean(vectors.mean(axis=-1), counts).mean(axis=-1)
        return value[1] - value[0], draws[:, 1] - draws[:, 0], self.examples * self.languages


_TRUE_GAIN = 3.0


@dataclass(frozen=True)
class SlopeCoverage:
    """One setting of `coverage`: the slope of the gain over mT5's sizes, one language, contributions 0..100.

    Attributes:
      seed_sd: of a run's effect on its gain, in points.
      seeds, examples: how many; all sizes see the same examples, which differ in how much they gain.
    """

    seed_sd: float
    seeds: int
    examples: int = 200

    def measure(self, studies: int, seed: int) -> dict:
        rng = np.random.default_rng([seed, self.seeds, round(10 * self.seed_sd)])
        sizes_M = np.log10([parameters for _, parameters in MT5_SIZES])
        weights_M = slope_coefficients(sizes_M)
        held = widths = 0.0
        for _ in range(studies):
            gains_N = rng.normal(_TRUE_GAIN, 10, self.examples)
            run_MS1 = rng.normal(0, self.seed_sd, (len(sizes_M), self.seeds, 1))
            own_M1N = rng.normal(0, 10, (len(sizes_M), 1, self.examples))  # examples that this size gains by
            noise_MSN = rng.normal(0, 15, (len(sizes_M), self.seeds, self.examples))
            values_MSN = gains_N + run_MS1 + own_M1N + noise_MSN
            draws = example_draws(values_MSN.reshape(-1, self.examples), _RESAMPLES, rng)
            draws_MRS = np.moveaxis(draws.reshape(_RESAMPLES, len(sizes_M), self.seeds), 1, 0)
            pairs = zip(values_MSN, draws_MRS, strict=True)
            samples = [sample(values_SN.mean(1), draws_RS, self.examples) for values_SN, draws_RS in pairs]
            slope = combine(samples, weights_M)
            held += slope.low <= 0 <= slope.high
            widths += slope.half_width
        return {
            **{"metric": "slope over 5 sizes", "seed sd": self.seed_sd, "languages": 1, "seeds": self.seeds},
            **{"studies": studies, "coverage": 100 * held / studies, "mean half-width": widths / studies},
        }


@dataclass(frozen=True)
class Familywise:
    """One setting of `familywise`: a matrix of gains that are all 0, tested with Holm's correction.

    Attributes:
      run_sd: of a run's effect on its score, in points; `unstable`: the first intermediate task's is ten times it.
      seeds: how many.
      intermediates, targets: the size of the matrix.
    """

    run_sd: float
    unstable: bool
    seeds: int
    intermediates: int = 9
    targets: int = 10
    examples: int = 300

    def measure(self, studies: int, seed: int) -> dict:
        rng = np.random.default_rng([seed, self.seeds, round(10 * self.run_sd), self.unstable])
        claims = single = 0
        for _ in range(studies):
            p_values = np.array([gain.p_value for gain in self._study(rng)])
            claims += (holm(p_values) < transfer.SIGNIFICANCE).any()
            single += (p_values < transfer.SIGNIFICANCE).mean()
        return {
            **{"run sd": self.run_sd, "unstable": self.unstable, "seeds": self.seeds, "studies": studies},
            **{"false claims": float(100 * claims / studies), "single p < 0.05": float(100 * single / studies)},
        }

    def _study(self, rng: np.random.Generator):
        sd_I = np.full(self.intermediates + 1, self.run_sd)
        sd_I[1] *= 10 if self.unstable else 1
        of_intermediate = rng.normal(0, 0.5, (self.intermediates + 1, self.seeds)) * sd_I[:, None]
        of_intermediate[0] = 0
        for _ in range(self.targets):
            run_IS = of_intermediate + rng.normal(0, 1, of_intermediate.shape) * sd_I[:, None]
            share_ISN = 0.6 + rng.uniform(-0.2, 0.2, self.examples) + np.clip(run_IS, -15, 15)[..., None] / 100
            right = 100.0 * (rng.random(share_ISN.shape) < share_ISN)
            draws = example_draws(right.reshape(-1, self.examples), _RESAMPLES, rng).reshape(_RESAMPLES, *run_IS.shape)
            value = right.mean(axis=-1)
            for i in range(1, self.intermediates + 1):
                yield estimate(value[i] - value[0], draws[:, i] - draws[:, 0], self.examples)


# True gain at each size, and the verdicts that are right. A gain that grows persists.
TRUTHS = {
    "persists": ((3.0, 3.0, 3.0, 3.0, 3.0), (PERSISTS, GROWS)),
    "grows": ((0.5, 1.5, 2.5, 3.5, 4.5), (GROWS,)),
    "shrinks": ((6.0, 5.0, 4.0, 3.0, 2.0), (SHRINKS,)),
    "vanishes": ((5.0, 3.5, 2.0, 0.5, 0.0), (VANISHES,)),
    "absent": ((0.0, 0.0, 0.0, 0.0, 0.0), (ABSENT,)),
    "turns into a loss": ((3.0, 2.0, 1.0, -1.0, -3.0), (VANISHES,)),
}


@dataclass(frozen=True)
class Verdicts:
    """One setting of `verdicts`: the opening verdict of whole studies, through `transfer.build` and `scalings`.

    Attributes:
      truth: one of `TRUTHS`.
      seeds: how many.
    """

    truth: str
    seeds: int

    def measure(self, studies: int, seed: int) -> dict:
        gains, right = TRUTHS[self.truth]
        targets = {"xnli": ("de", "sw"), "tatoeba": ("de", "sw")}
        design = Design(targets=targets, seeds=self.seeds, examples=200, gain_sd=4.0, noise_sd=10.0)
        given = dict.fromkeys(VERDICTS, 0)
        adequate = good = wrong = 0
        for n in range(studies):
            study = simulate(design, gains, seed * 1_000_000 + n)
            table = transfer.build(study.rows, study.load, study.languages, overlaps={}, resamples=_RESAMPLES, seed=n)
            (opening,) = headline(scalings(table, mixed=False))
            given[opening.verdict] += 1
            adequate += opening.power.adequate
            good += opening.power.adequate and opening.verdict in right
            wrong += opening.verdict not in (*right, UNDERPOWERED)
        return {
            **{"truth": self.truth, "seeds": self.seeds, "studies": studies},
            # Of the adequate studies how many are right; of all how many claim what is not so.
            **{"adequate": adequate, "right": 100 * good / adequate if adequate else None},
            "wrong": 100 * wrong / studies,
            **given,
        }


Setting = Coverage | SlopeCoverage | Familywise | Verdicts


def settings(table: str, seeds: Sequence[int] = SEEDS) -> list[Setting]:
    """The lines of one of `TABLES`.

    Raises:
      UserError: fewer than 2 seeds, of which no variance can be told.
    """
    if min(seeds) < 2:
        raise UserError(f"--seeds {min(seeds)}: what seeds do can be told from 2 or more of them.")
    if table == "coverage":
        return [
            Coverage(metric, sd, languages, s)
            for metric in ("accuracy", "graded", "span F1")
            for languages in (1, 4)
            for sd in (0.0, 0.5, 2.0)
            for s in seeds
        ] + [SlopeCoverage(sd, s) for sd in (0.0, 0.5, 2.0) for s in seeds]
    if table == "familywise":
        return [
            Familywise(sd, unstable, s) for sd, unstable in ((0.5, False), (2.0, False), (0.5, True)) for s in seeds
        ]
    return [Verdicts(truth, s) for truth in TRUTHS for s in seeds]
