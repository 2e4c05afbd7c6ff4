"""Is it as good as last recorded on this hardware?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.regression
def test_regression(judged):
    """Speed and memory are those of the profile's baseline, or better."""
    verdict = judged(Property.REGRESSION)
    if verdict.outcome.fails:
        pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
