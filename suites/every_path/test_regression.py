"""Is it as good as last recorded on this hardware?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.regression
def test_regression(judge):
    """Speed and memory are those of the profile's baseline, or better."""
    judge(Property.REGRESSION)
