"""Is what a user asks for honoured, refused in words, or ignored?"""

from __future__ import annotations

import pytest

from harness.errors import first_line
from harness.judging.verdicts import failed
from harness.records.enums import Outcome, Property
from harness.records.evidence import Failure
from harness.reports.reproduce import OF_REQUESTS
from suites.silence.expecting import verdict_of
from suites.silence.records import ControlFails
from suites.silence.released import all_releases, expected_of, installed_versions
from suites.silence.requests import request_named


@pytest.mark.engagement
def test_request(planned, judge_by, trials):
    """Nothing is ignored that the record of this release, or else of the newest one, calls honoured or refused."""
    request = request_named(planned.case.workload.name.removeprefix(OF_REQUESTS))
    installed = installed_versions()["transformers"]
    expected = expected_of(installed, request.name, all_releases())

    def judging(_cases):
        try:
            answer = trials.answer(request)
        except ControlFails as error:
            failure = Failure(Outcome.ERROR, first_line(error))
            return failed(planned.case, Property.ENGAGEMENT, failure)
        return verdict_of(planned.case, request, answer, installed=installed, expected=expected)

    judge_by(Property.ENGAGEMENT, judging)
