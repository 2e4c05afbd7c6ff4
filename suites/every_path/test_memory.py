"""Is it as small as it should be?"""

from __future__ import annotations

import pytest

from harness.records.enums import Property


@pytest.mark.memory
def test_memory(judge):
    """What the case holds is what arithmetic says, and no more than its threshold allows over eager."""
    judge(Property.MEMORY)
