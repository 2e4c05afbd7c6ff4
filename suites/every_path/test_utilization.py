"""How much of the hardware does it use?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.utilization
def test_utilization(judged):
    """The shares of measured bandwidth and arithmetic are possible ones, and reach the profile's threshold."""
    verdict = judged(Property.UTILIZATION)
    if verdict.outcome.fails:
        pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
