"""Plans a case for each request, and keeps what was seen of calls that many share."""

from __future__ import annotations

import pytest

from suites.silence.cases import requests_planned
from suites.silence.trying import Trials


def pytest_harness_plan(config, replan):
    return [] if config.option.model else requests_planned(replan)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    return Trials(tmp_path_factory.mktemp("silence"))
