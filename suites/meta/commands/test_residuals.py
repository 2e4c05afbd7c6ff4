"""What the times of a run say against those predicted: a slow path, or a slow card. Made-up verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.commands.validate.records import Grade
from harness.commands.validate.residuals import FEWEST, STRAGGLER, residual_checks
from harness.commands.validate.statement import Acceptance, Machine, Suites, state
from harness.records.enums import Property
from suites.meta.builders.recorded_cards import card
from suites.meta.builders.recorded_runs import CUDA, SDPA, verdict
from suites.meta.builders.statements import DATE, GOOD, SAME, run_of


def timed(*ratios):
    """Verdicts on the speed of paths that took so many times what was predicted."""
    return tuple(
        replace(
            verdict(SDPA, asked=Property.SPEED),
            case=f"case-{index}",
            numbers={"seconds": 0.2 * ratio, "predicted.seconds": 0.2},
        )
        for index, ratio in enumerate(ratios)
    )


def told(*ratios):
    return [(check.about, check.grade, str(check)) for check in residual_checks(timed(*ratios))]


def test_times_as_predicted_are_good():
    [(about, grade, text)] = told(1.0, 1.1, 0.9, 1.2, 1.05)
    assert (about, grade) == ("machine", Grade.GOOD)
    assert text == "machine: the time of 5 timed paths over the predicted one, in the median, is 1.05"


def test_one_slow_path_is_the_paths():
    [(_, good, _), (about, grade, text)] = told(1.0, 1.1, 0.9, 2.0, 1.05)
    assert (good, about, grade) == (Grade.GOOD, "case-3", Grade.EXCEPTION)
    assert "is 2.00, but should be at most 1.43 times that of the others" in text
    assert "it is this path's own kernels" in text


def test_all_slow_is_the_cards():
    [(about, grade, text)] = told(1.6, 1.7, 1.5, 1.8, 1.6)
    assert (about, grade) == ("machine", Grade.EXCEPTION)
    assert "is 1.60, but should be at most 1.43" in text
    assert "it is the card or its host" in text


def test_few_paths_tell_nothing():
    [(_, grade, text)] = told(*[3.0] * (FEWEST - 1))
    assert (grade, text) == (
        Grade.GOOD, "machine: the number of timed paths with a prediction is 4, too few to compare",
    )  # fmt: skip
    unpredicted = [replace(each, numbers={"seconds": 1.0}) for each in timed(*[3.0] * FEWEST)]
    [check] = residual_checks(unpredicted)
    assert "is 0, too few to compare" in str(check)


@pytest.mark.parametrize(("ratio", "acceptance"), [(1.0, Acceptance.ACCEPTED), (2.0, Acceptance.WITH_EXCEPTIONS)])
def test_slow_card_is_accepted_with_exceptions_alone(ratio, acceptance):
    """The statement names it, and a person decides: what was predicted rests on assumptions."""
    run = replace(run_of(), verdicts=timed(*[ratio] * 6))
    made = state(Machine("cuda", CUDA, (GOOD,), (card(),), (SAME,)), Suites(run, 0), date=DATE)
    assert made.acceptance is acceptance
    assert any("over the predicted one" in str(check) for check in made.checks)


def test_share_of_a_straggler_is_the_published_one():
    assert STRAGGLER == 0.7


def test_processor_is_not_compared():
    """A shared one changes its speed by itself."""
    run = replace(run_of(), verdicts=timed(*[2.0] * 6))
    made = state(Machine("cpu", {**CUDA, "processor": "some"}, (GOOD,), (card(),), (SAME,)), Suites(run, 0), date=DATE)
    assert not any("predict" in str(check) for check in made.checks)
