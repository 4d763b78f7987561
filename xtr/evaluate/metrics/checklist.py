"""MultiCheckList: how many of a test's cases a model fails, in percent.

A case is a set of contexts and questions with the same fill-ins, and fails if one of its answers is wrong (CheckList's
minimum functionality test). Source: google-research/xtreme, multichecklist/ (`expect_squad`, test_models.py).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from xtr.data.checklist import CaseId, normalise
from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned

NAME = "failure_rate"
Values = dict[str, tuple[float, np.ndarray]]


def failure_rate(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, ids: Sequence[str], language: str
) -> tuple[float, np.ndarray]:
    """The unweighted mean over tests of `failure_rate/<capability>/<test>`; arguments and errors as `failure_rates`."""
    return failure_rates(predictions, golds, ids=ids, language=language)[NAME]


def failure_rates_by_test(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, ids: Sequence[str], language: str
) -> Values:
    """`failure_rates` but for the mean over all tests."""
    values = failure_rates(predictions, golds, ids=ids, language=language)
    return {name: value for name, value in values.items() if name != NAME}


def failure_rates(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, ids: Sequence[str], language: str
) -> Values:
    """Percentage of failed cases: of each test, of each capability (mean of its tests), and of all (mean of tests).

    Args:
      predictions: [N] answers; None (no answer given) is wrong.
      golds: [N] lists of one or more answers; what `normalise` makes equal counts as the same.
      ids: [N] ids of cases' examples (`CaseId`).
      language: of the answers, which decides their articles.

    Returns:
      'failure_rate', 'failure_rate/<capability>' and 'failure_rate/<capability>/<test>' -> (value in 0..100,
      contributions_N float64). Their mean is the value: an example of another test contributes 0, the examples of a
      failed case have equal parts of its share.

    Raises:
      DataError: the lengths differ, there is no example, an example has no gold answer, or an id is none of a case.
    """
    check_aligned(predictions, golds)
    check_aligned(ids, golds)
    places = [CaseId.parse(name) for name in ids]
    cases = [place[:3] for place in places]
    size = Counter(cases)
    failed = {
        case
        for case, name, prediction, answers in zip(cases, ids, predictions, golds, strict=True)
        if not _is_right(name, prediction, answers, language)
    }
    cases_of = Counter(case[:2] for case in size)
    tests_of = Counter(capability for capability, _ in cases_of)

    def of(belongs, tests: int) -> tuple[float, np.ndarray]:
        """Over the examples whose place `belongs`, which are of so many tests."""
        contributions_N = np.zeros(len(cases))
        for n, case in enumerate(cases):
            if case in failed and belongs(case):
                contributions_N[n] = 100.0 * len(cases) / (tests * cases_of[case[:2]] * size[case])
        # Counted, since sums of parts are not exact.
        rates = [100.0 * sum(case[:2] == test for case in failed) / n for test, n in cases_of.items() if belongs(test)]
        return sum(rates) / tests, contributions_N

    values = {NAME: of(lambda case: True, len(cases_of))}
    for capability, tests in tests_of.items():
        values[f"{NAME}/{capability}"] = of(lambda case, own=capability: case[0] == own, tests)
    for test in cases_of:
        values["/".join((NAME, *test))] = of(lambda case, own=test: case[:2] == own, 1)
    return values


def _is_right(name: str, prediction: str | None, answers: Sequence[str], language: str) -> bool:
    if isinstance(answers, str) or not len(answers):
        raise DataError(f"example {name!r}: golds must be a list of one or more answers, not {answers!r}")
    if prediction is None:
        return False
    given = normalise(prediction, language)
    return any(given == normalise(answer, language) for answer in answers)
