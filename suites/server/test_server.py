"""Does `transformers serve` answer every client as if it were alone, and end clearly when it is killed?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property
from suites.server.trials import verdict_on_server


@pytest.mark.equivalence
def test_server(planned, judge_by, tmp_path):
    """Over HTTP, with 64 clients, of which some leave, and with a kill in the middle."""
    judge_by(
        Property.EQUIVALENCE,
        lambda cases: verdict_on_server(planned.case, planned.optimization, cases.folder.path, tmp_path),
    )
