"""What the tests of sessions share."""

from __future__ import annotations

import pytest

from suites.meta.builders.sessions import session
from suites.meta.session.session_server import session_server

__all__ = ["session"]  # a fixture


@pytest.fixture(autouse=True)
def no_session_of_a_test_outlives_it():
    """One that hangs, or whose test failed, would hold its devices."""
    yield
    session_server.kill_all()
