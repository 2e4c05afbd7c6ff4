"""How much of the hardware does it use?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.utilization
def test_utilization(judge):
    """The shares of measured bandwidth and arithmetic are possible ones, and reach the profile's threshold."""
    judge(Property.UTILIZATION)
