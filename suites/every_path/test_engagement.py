"""Did the requested optimization really run?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.engagement
def test_engagement(judged):
    """Everything that the path claims was seen, and nothing else was exchanged."""
    verdict = judged(Property.ENGAGEMENT)
    if verdict.outcome.fails:
        pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
