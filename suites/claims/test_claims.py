"""Is what the optimization overview says true here?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property
from suites.claims.asking import ClaimTrial, try_claim
from suites.claims.registry import CLAIMS


@pytest.mark.claim
def test_claim(planned, judge_by, pytestconfig):
    """The numbers bear the claim out, or the profile of this hardware says why they do not."""
    [claim] = [claim for claim in CLAIMS if claim.name == planned.claim]
    named = bool(pytestconfig.option.model)
    judge_by(Property.CLAIM, lambda cases: try_claim(claim, ClaimTrial(planned, cases, named=named)))
