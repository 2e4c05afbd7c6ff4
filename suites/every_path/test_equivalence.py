"""Does the output still agree with eager?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.equivalence
def test_equivalence(judged):
    """An engaged path errs no more than its tolerance class allows, in float32 and in the native dtype."""
    verdict = judged(Property.EQUIVALENCE)
    if verdict.outcome.fails:
        pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
