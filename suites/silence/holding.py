"""Try a request, and hold what it showed to what is on record."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import WorkerFailed, first_line
from harness.judging.verdicts import failed
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case, Failure
from harness.records.run import Verdict
from suites.silence.expecting import verdict_of
from suites.silence.records import ControlFails, Request
from suites.silence.released import Release, expected_of
from suites.silence.trying import Trials


def held_to_record(
    case: Case, request: Request, trials: Trials, *, installed: Mapping[str, str], releases: tuple[Release, ...]
) -> Verdict:
    """Return the verdict on a request. A process that dies or is late fails it, whatever is on record.

    Raises DiskRefuses.
    """
    from harness.execution.runner import failure_of  # imports torch, which is there if a worker was

    try:
        answer = trials.answer(request)
    except ControlFails as error:
        return failed(case, Property.ENGAGEMENT, Failure(Outcome.ERROR, first_line(error)))
    except WorkerFailed as error:
        return failed(case, Property.ENGAGEMENT, failure_of(error, request.words))
    expected = expected_of(installed["transformers"], request.name, releases)
    return verdict_of(case, request, answer, installed=installed, expected=expected)
