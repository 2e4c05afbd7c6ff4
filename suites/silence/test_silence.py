"""Is what a user asks for honoured, refused in words, or ignored?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property
from harness.reports.reproduce import OF_REQUESTS
from suites.silence.holding import held_to_record
from suites.silence.released import all_releases, installed_versions
from suites.silence.requests import request_named


@pytest.mark.engagement
def test_request(planned, judge_by, trials):
    """Nothing is ignored that the record of this release, or else of the nearest one, calls honoured or refused."""
    request = request_named(planned.case.workload.name.removeprefix(OF_REQUESTS))
    installed, releases = installed_versions(), all_releases()
    judge_by(
        Property.ENGAGEMENT,
        lambda _cases: held_to_record(planned.case, request, trials, installed=installed, releases=releases),
    )
