"""Is what the optimization overview says true here?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property
from suites.claims.asking import ClaimTrial, try_claim
from suites.claims.registry import CLAIMS


@pytest.mark.claim
def test_claim(planned, recorded, measurements, pytestconfig):
    """The numbers bear the claim out, or the profile of this hardware says why they do not."""
    [claim] = [claim for claim in CLAIMS if claim.name == planned.claim]

    def judging(folder, runner, standard):
        option = pytestconfig.option
        asked = ClaimTrial(
            planned, measurements, folder, runner, standard, option.timing_seconds, named=bool(option.model)
        )
        return try_claim(claim, asked)

    verdict = recorded(Property.CLAIM, judging)
    if verdict.outcome.fails:
        pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
