"""Does what must hold for any input hold for those that hypothesis draws?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.equivalence
def test_relation(planned, judge_by, asking, budget):
    """An engaged path keeps the relation on every example, in float32 and in the native dtype."""
    judge_by(
        Property.EQUIVALENCE,
        lambda cases: asking.verdict(
            planned.case,
            planned.optimization,
            cases.runner,
            budget=budget,
            folder=cases.folder.path,
            limits=cases.expectations.limits,
        ),
    )
