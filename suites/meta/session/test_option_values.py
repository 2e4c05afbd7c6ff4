"""The edges of what options take: a number that cannot be used is refused in a line, before anything runs."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
import typer

from harness.commands.options import parsed_seconds, parsed_seconds_or_0
from harness.session.option_values import LONGEST_SECONDS, MOST, gib, positive, seconds, shard


@pytest.mark.parametrize(
    "given", ["inf", "-inf", "nan", "NaN", "0", "-0.0", "-5", "1e7", "1e308", "1e999", "", "x", "5 s"]
)
@pytest.mark.parametrize("parse", [seconds, parsed_seconds])
def test_seconds_that_are_none(given, parse):
    """`--case-timeout inf` ended in a traceback without a verdict, and 0 and -5 were taken."""
    with pytest.raises(
        (ArgumentTypeError, typer.BadParameter), match=r"is .*, but should be a number of seconds above 0"
    ):
        parse(given)


@pytest.mark.parametrize(("given", "number"), [("0.5", 0.5), ("300", 300.0), ("1e3", 1000.0), ("1e6", LONGEST_SECONDS)])
def test_seconds_that_are_some(given, number):
    assert seconds(given) == parsed_seconds(given) == number


@pytest.mark.parametrize("given", ["0", 0.0])
def test_0_seconds_are_as_few_as_there_must_be(given):
    assert parsed_seconds_or_0(given) == 0.0
    with pytest.raises(typer.BadParameter):
        parsed_seconds_or_0("nan")


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "", "x", "²", "1e3", "9" * 5000, str(MOST + 1)])
def test_numbers_that_count_nothing(given):
    with pytest.raises(ArgumentTypeError, match=r"but should be a whole number, 1 to 1000000") as refused:
        positive(given)
    assert len(str(refused.value)) < 120


def test_numbers_that_count():
    assert [positive("1"), positive("16"), positive(str(MOST))] == [1, 16, MOST]


@pytest.mark.parametrize("given", ["0/1", "2/1", "1", "1/", "/1", "1/0", "-1/2", "1/2/3", "a/b", "9" * 5000 + "/1"])
def test_shards_that_are_none(given):
    with pytest.raises(ArgumentTypeError, match="but should be K/N, K from 1 to N"):
        shard(given)


def test_shards_that_are_some():
    assert [shard("1/1"), shard("2/3"), shard("3/3")] == [(1, 1), (2, 3), (3, 3)]


@pytest.mark.parametrize("given", ["inf", "nan", "0", "-4", "1e7", "", "x", "4G"])
def test_memory_that_is_none(given):
    with pytest.raises(ArgumentTypeError, match="but should be a number of GiB above 0, at most 1e"):
        gib(given)


def test_memory_that_is_some():
    assert [gib("0.5"), gib("80")] == [0.5, 80.0]
