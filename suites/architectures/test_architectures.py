"""Does a technique engage on an architecture, and agree with its eager?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.equivalence
def test_architecture(judge):
    """The path engages, and errs no more than its tolerance class allows. Weights are seeded."""
    judge(Property.EQUIVALENCE)
