"""A second opinion on the slope of gain on log10(parameters): a linear mixed model of the gains by language."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class MixedModel:
    """A second opinion on the slope, in points per tenfold parameters: a linear mixed model (statsmodels).

    Attributes:
      slope, low, high: the fixed effect of log10(parameters) and its interval; NaN where it did not converge.
      note: what was fitted, and where it did not converge or has too little data.
    """

    slope: float
    low: float
    high: float
    note: str


def fit(lines: Sequence[tuple[float, str, str, float]], confidence: float = 0.95) -> MixedModel:
    """Fits gain ~ log10(parameters), with an intercept and a slope of each target's own and an intercept of each
    language within its target (restricted maximum likelihood).

    It takes targets and languages for a sample of those there might be and the scatter of sizes about the line for
    noise, and knows nothing of seeds and examples: it answers for other tasks, languages and sizes.

    Args:
      lines: (log10(parameters), target, language, gain in points).
      confidence: level of the (normal) interval.
    """
    frame = pd.DataFrame(lines, columns=["size", "target", "language", "gain"])
    nothing = float("nan")
    if frame["target"].nunique() < 2 or frame["size"].nunique() < 2:
        return MixedModel(nothing, nothing, nothing, "not fitted: it needs two targets and two sizes")
    import statsmodels.formula.api as smf  # takes a second to import

    frame["size"] -= frame["size"].mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warnings are of convergence, which is asked for below
        try:
            model = smf.mixedlm(
                "gain ~ size", frame, groups="target", re_formula="~size", vc_formula={"language": "0 + C(language)"}
            )
            found = model.fit(reml=True, method=["lbfgs", "powell"])
            low, high = found.conf_int(1 - confidence).loc["size"]
        except (np.linalg.LinAlgError, ValueError) as error:
            return MixedModel(nothing, nothing, nothing, f"not fitted: {error}")
    if not found.converged or not np.isfinite([low, high]).all():
        return MixedModel(nothing, nothing, nothing, "did not converge")
    sizes = frame["size"].nunique()
    note = (
        f"gain by language on log10(parameters), random intercept and slope of each of {frame['target'].nunique()}"
        f" targets, random intercept of each language in its target; degrees of freedom about the line: {sizes - 2}"
    )
    return MixedModel(float(found.params["size"]), float(low), float(high), note)
