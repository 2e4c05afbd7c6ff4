"""Plans the cases of all architectures."""

from __future__ import annotations

from suites.architectures.cases import cases_of


def pytest_harness_plan(config, replan):
    return [] if config.option.model else cases_of(replan)
