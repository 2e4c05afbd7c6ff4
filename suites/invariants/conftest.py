"""Plans a case for every relation that a path is asked for, and asks."""

from __future__ import annotations

import random

import pytest

from harness.options import INVARIANT_EXAMPLES
from suites.invariants.asking import Asking
from suites.invariants.relations import relations_planned
from suites.invariants.search import SearchBudget

BUDGET = pytest.StashKey[SearchBudget]()


def pytest_harness_plan(config, replan):
    return relations_planned(replan, named=bool(config.option.model))


def pytest_terminal_summary(terminalreporter, config):
    budget = config.stash.get(BUDGET, None)
    if budget and budget.seed:
        terminalreporter.write_line(
            f"{budget.examples} examples of each relation from seed {budget.seed} (--hypothesis-seed={budget.seed} "
            "draws them again)"
        )


@pytest.fixture(scope="session")
def budget(pytestconfig):
    """A few examples, the same in every run; or as many as were asked for, new ones unless a seed is given."""
    examples = pytestconfig.option.invariant_examples
    given = pytestconfig.getoption("--hypothesis-seed")
    if examples is None and given is None:
        drawn = SearchBudget(INVARIANT_EXAMPLES)
    else:
        seed = int(given) if given and given != "random" else random.SystemRandom().randrange(1, 2**32)
        drawn = SearchBudget(examples or INVARIANT_EXAMPLES, seed)
    pytestconfig.stash[BUDGET] = drawn
    return drawn


@pytest.fixture(scope="module")  # its worker keeps models, and must be gone when anything is timed
def asking(pytestconfig, tmp_path_factory):
    made = Asking(tmp_path_factory.mktemp("invariants"), pytestconfig.option.case_timeout)
    yield made
    made.close()
