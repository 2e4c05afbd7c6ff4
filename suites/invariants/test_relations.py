"""Does what must hold for any input hold for those that hypothesis draws?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.equivalence
def test_relation(planned, recorded, asking, budget):
    """An engaged path keeps the relation on every example, in float32 and in the native dtype."""

    def judging(folder, runner, standard):
        return asking.verdict(
            planned.case, planned.optimization, runner, budget=budget, folder=folder.path, limits=standard.limits
        )

    verdict = recorded(Property.EQUIVALENCE, judging)
    if verdict.outcome.fails:
        pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
