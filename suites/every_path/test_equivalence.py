"""Does the output still agree with eager?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.equivalence
def test_equivalence(judge):
    """An engaged path errs no more than its tolerance class allows, in float32 and in the native dtype."""
    judge(Property.EQUIVALENCE)
