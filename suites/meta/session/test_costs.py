"""What a session tells of its length: from what ran here before, else from stated figures."""

from __future__ import annotations

import pytest

from harness.records.enums import Property, Technique
from harness.session.costs import FILE, START_SECONDS, STATED, Costs, Step, in_words

RUN = Step("case", Technique.ATTENTION)
JUDGED = Step("case", Technique.ATTENTION, Property.SPEED)


def test_what_ran_here_is_known_in_the_next_session(tmp_path):
    costs = Costs.read(tmp_path, "here")
    costs.add(RUN, 61.234)
    costs.write(tmp_path)
    again = Costs.read(tmp_path, "here")
    assert again.of(RUN) == 61.23
    assert Costs.read(tmp_path, "elsewhere").of(RUN) == STATED["evidence"][Technique.ATTENTION]


def test_sessions_keep_what_others_learned(tmp_path):
    first, second = Costs.read(tmp_path, "here"), Costs.read(tmp_path, "here")
    first.add(RUN, 1.0)
    first.write(tmp_path)
    second.add(JUDGED, 2.0)
    second.write(tmp_path)
    again = Costs.read(tmp_path, "here")
    assert (again.of(RUN), again.of(JUDGED)) == (1.0, 2.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1, "seconds": 3}', '{"schema": 99, "seconds": {}}'])
def test_file_that_cannot_be_read_costs_nothing_but_the_estimate(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    costs = Costs.read(tmp_path, "here")
    assert costs.of(RUN) == STATED["evidence"][Technique.ATTENTION]
    costs.add(RUN, 1.0)
    costs.write(tmp_path)
    assert Costs.read(tmp_path, "here").of(RUN) == 1.0


def test_folder_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    costs = Costs.read(tmp_path / "file", "here")
    costs.add(RUN, 1.0)
    costs.write(tmp_path / "file")
    assert not list(tmp_path.glob("file/*"))


def test_what_runs_beside_others_is_shared_out_and_what_is_alone_is_not():
    costs = Costs("here", {RUN.key: 120.0, JUDGED.key: 60.0})
    assert costs.minutes([RUN], [JUDGED], jobs=1) == pytest.approx(3 + START_SECONDS / 60)
    assert costs.minutes([RUN], [JUDGED], jobs=4) == pytest.approx(1.5 + START_SECONDS / 60)


def test_what_never_ran_has_the_stated_cost_of_its_technique():
    costs = Costs("here")
    assert costs.of(Step("x", Technique.COMPILATION)) > costs.of(Step("x", Technique.ATTENTION))
    assert costs.of(Step("x", Technique.COMPILATION, Property.CLAIM)) == STATED["claim"][None]
    assert costs.of(Step("x", Technique.CACHING, Property.MEMORY)) == STATED["memory"][None]
    assert costs.of(Step("x", Technique.CACHING, Property.ENGAGEMENT)) == STATED[""][None]


def test_slowest_are_told_first():
    costs = Costs("here")
    for name, seconds in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        costs.add(Step(name, Technique.CACHING), seconds)
    assert costs.slowest(2) == [("b evidence", 3.0), ("c evidence", 2.0)]


@pytest.mark.parametrize(
    ("minutes", "expected"), [(0.4, "less than a minute"), (0.9, "about 1 min"), (35.2, "about 35 min")]
)
def test_minutes_are_told_as_a_person_says_them(minutes, expected):
    assert in_words(minutes) == expected
