"""What a profile forgives: read strictly, and no more than it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import CorruptRecord
from harness.profiles.exceptions import Skip, forgiven
from harness.profiles.profile import Match, Profile, read_profile, write_profile
from harness.records.enums import Outcome, Property
from suites.meta.builders.gates import ISSUE, KNOWN
from suites.meta.builders.recorded_runs import FLASH, SDPA, STATIC, verdict

FILE = f"""
[[known_failures]]
path = "caching.*"
outcome = "MISMATCH"
reason = "it overflows"
issue = "{ISSUE}"
expires = "2026-06-01"
"""
SKIP = Skip(Outcome.UNSUPPORTED, "attention.*", "needs CUDA", 3)
BROKEN = replace(verdict(STATIC, Outcome.MISMATCH), message=f"{STATIC.id}: x is 2, but should be 1 (look)")


@pytest.fixture
def folder(tmp_path):
    write_profile(Profile("here", tmp_path, Match("cpu", "x86_64"), None, skips=(SKIP,)))
    return tmp_path


def test_profile_has_its_skips_and_the_known_failures_beside_it(folder):
    assert read_profile(folder / "profile.toml").known_failures == ()
    (folder / "known_failures.toml").write_text(FILE)
    read = read_profile(folder / "profile.toml")
    assert read.known_failures == (KNOWN,)
    assert read.skips == (SKIP,)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("MISMATCH", "PASS", "known failure of caching.* names PASS, which is no failure"),
        ("MISMATCH", "mismatch", ".outcome: is 'mismatch'"),
        (ISSUE, "ask Bob", "known failure of caching.* should have a reason, and the link of an issue"),
        ("it overflows", "", "known failure of caching.* should have a reason, and the link of an issue"),
        ("2026-06-01", "June", "known failure of caching.* expires 'June', but should on a day YYYY-MM-DD"),
        ('reason = "it overflows"', "", "reason"),
        ("path", "paths", "paths"),
        ("[[known_failures]]", "[[", "is no TOML: "),
    ],
)
def test_broken_known_failures_are_one_line(folder, old, new, told):
    (folder / "known_failures.toml").write_text(FILE.replace(old, new, 1))
    with pytest.raises(CorruptRecord) as refused:
        read_profile(folder / "profile.toml")
    assert str(folder / "known_failures.toml") in str(refused.value)
    assert told in str(refused.value)
    assert str(refused.value).endswith("(repair it, or restore it from version control)")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outcome": Outcome.INCONCLUSIVE}, "allows INCONCLUSIVE, but should UNSUPPORTED or NO_BASELINE"),
        ({"most": 0}, "should have a reason, and allow at least one"),
        ({"reason": ""}, "should have a reason, and allow at least one"),
    ],
)
def test_skips_that_allow_too_much_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        replace(SKIP, **changes)


def test_failure_that_is_known_is_forgiven_and_told():
    told = forgiven(BROKEN, (KNOWN,), on="2026-06-01T23:59:59+00:00")
    assert told.outcome is Outcome.KNOWN_FAILURE
    assert told.message == (
        f"{STATIC.id}: x is 2, but should be 1 (look); known until 2026-06-01 as MISMATCH: it overflows ({ISSUE})"
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(BROKEN, outcome=Outcome.NOT_ENGAGED),
        replace(BROKEN, path="attention.sdpa"),
        replace(BROKEN, property=Property.CLAIM),
        verdict(STATIC),
    ],
)
def test_nothing_else_is_forgiven(other):
    """Another failure, another path, a claim, or what passes."""
    assert forgiven(other, (KNOWN,), on="2026-01-01") is other


@pytest.mark.parametrize("name", ["workload", "recipe", "dtype"])
def test_entries_are_as_narrow_as_they_say(name):
    narrow = replace(KNOWN, **{name: "other"})
    assert forgiven(BROKEN, (narrow,), on="2026-01-01") is BROKEN
    own = replace(KNOWN, **{name: str(getattr(BROKEN, name))})
    assert forgiven(BROKEN, (own,), on="2026-01-01").outcome is Outcome.KNOWN_FAILURE
    assert str(own) == f"MISMATCH caching.* {getattr(BROKEN, name)}"


def test_expired_entry_forgives_nothing_and_says_so():
    told = forgiven(BROKEN, (KNOWN,), on="2026-06-02T00:00:00+00:00")
    assert told.outcome is Outcome.MISMATCH
    assert told.message.endswith("; its entry in known_failures.toml expired 2026-06-01")


def test_skips_cover_by_name():
    away = verdict(FLASH, Outcome.UNSUPPORTED)
    assert SKIP.covers(away)
    assert not SKIP.covers(verdict(SDPA))
    assert not SKIP.covers(verdict(STATIC, Outcome.UNSUPPORTED))
    assert not replace(SKIP, workload="other").covers(away)
    assert str(replace(SKIP, recipe="mine")) == "UNSUPPORTED attention.* mine"
