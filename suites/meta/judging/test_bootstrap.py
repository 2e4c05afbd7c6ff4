"""The bound below the mean of a sample of sequences: how often it errs, and that sequences are what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.statistics import CHANCE, at_least

SEQUENCES = 32
"""As many as the text has."""
TRIALS = 1000


def test_what_a_sample_shows_at_least_is_less_than_its_mean():
    """Nothing is taken off what does not vary; two that differ show nothing."""
    assert at_least((0.5, 0.5)) == 0.5
    assert at_least((0.0, 1.0)) == 0.0
    assert at_least((0.1, 0.2, 0.3, 0.4)) < 0.25
    assert math.isnan(at_least((math.nan, 0.0, 0.0)))


def test_bound_is_the_same_for_the_same_sample():
    sample = tuple(np.random.default_rng(1).normal(size=SEQUENCES))
    assert at_least(sample) == at_least(sample)


def too_high(draw):
    """Share of samples whose bound lies above the true mean, which is 1."""
    random = np.random.default_rng(7)
    return sum(at_least(tuple(draw(random))) > 1 for _ in range(TRIALS)) / TRIALS


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (lambda random: random.normal(1, 0.5, SEQUENCES), 0.03),
        (lambda random: random.exponential(1, SEQUENCES), CHANCE),
    ],
    ids=["normal", "exponential"],
)
def test_bound_lies_above_the_true_mean_as_rarely_as_it_says(draw, most):
    """One in a hundred; three bounds the percentile bootstrap of 32 normal values, which takes z for t (1.5 %), and
    the chance of 1,000 trials. Divergences are skewed as exponential values are, where it errs to the safe side."""
    assert too_high(draw) <= most


def test_positions_drawn_one_by_one_would_err_far_more_often():
    """Eight positions of one sequence that agree are one fact: drawn apart they make a bound that is wrong one time in
    five. So a sequence is one number."""

    def positions(random):
        return np.repeat(random.normal(1, 0.5, SEQUENCES), 8)

    assert too_high(positions) > 0.1


def test_bound_is_that_of_the_normal_approximation_where_that_holds():
    """For many values: mean less 2.33 standard errors."""
    sample = np.random.default_rng(3).normal(1, 0.5, 400)
    normal = sample.mean() - 2.3263 * sample.std(ddof=1) / math.sqrt(len(sample))
    assert at_least(tuple(sample)) == pytest.approx(normal, abs=0.1 * (sample.mean() - normal))
