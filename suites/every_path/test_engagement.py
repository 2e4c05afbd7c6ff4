"""Did the requested optimization really run?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.engagement
def test_engagement(judge):
    """Everything that the path claims was seen, and nothing else was exchanged."""
    judge(Property.ENGAGEMENT)
