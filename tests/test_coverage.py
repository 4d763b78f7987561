"""Language coverage adds up to XTREME-R's 50 and to the counts its papers imply."""

import pytest

from xtr import coverage


@pytest.mark.parametrize(("family", "count"), [("mt5", 48), ("umt5", 48), ("xlmr", 46), ("mbert", 48), ("bloom", 21)])
def test_counts(family, count):
    covered, lacking = coverage.covered(family), coverage.lacking(family)
    assert len(covered) == count and sorted(covered + lacking) == sorted(coverage.XTREME_R_LANGUAGES)
    assert len(set(coverage.XTREME_R_LANGUAGES)) == 50
