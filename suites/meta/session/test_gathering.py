"""Cases run side by side: in their order, none twice, and whatever ends the session ends them too."""

from __future__ import annotations

import re
import threading
import time
from types import SimpleNamespace

import pytest

from harness.errors import HarnessError
from harness.session.gathering import Gathering, Stopped


def planned(name):
    return SimpleNamespace(case=SimpleNamespace(id=name))


CASES = [planned(name) for name in "abcdef"]


class Work:
    """Runs cases as told: each waits until it is let go."""

    def __init__(self, *, free=True):
        self.begun, self.kept, self.most = [], [], 0
        self.running = 0
        self.guard, self.go = threading.Lock(), threading.Event()
        if free:
            self.go.set()

    def make(self, entry):
        with self.guard:
            self.begun.append(entry.case.id)
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(20)
        with self.guard:
            self.running -= 1
        return f"evidence of {entry.case.id}"

    def keep(self, evidence, seconds):
        assert seconds >= 0
        self.kept.append(evidence)


def gathered(work, jobs, **more):
    gathering = Gathering(work.make, work.keep, jobs, **more)
    gathering.start(CASES)
    return gathering


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("jobs", [1, 4])
def test_so_many_run_at_once_in_the_order_of_the_tests(jobs):
    work = Work(free=False)
    gathering = gathered(work, jobs)
    until(lambda: work.running == jobs)
    assert set(work.begun) == set("abcdef"[:jobs])
    work.go.set()
    assert [gathering.take(name) for name in "abcdef"] == [f"evidence of {name}" for name in "abcdef"]
    assert work.most <= jobs
    assert sorted(work.begun) == list("abcdef")
    assert sorted(work.kept) == [f"evidence of {name}" for name in "abcdef"]


def test_evidence_is_taken_once():
    gathering = gathered(Work(), 2)
    assert gathering.holds("a")
    gathering.take("a")
    assert not gathering.holds("a")


def test_whoever_wants_the_device_alone_waits_for_all():
    """And what was made meanwhile can still be taken."""
    work = Work()
    gathering = gathered(work, 2)
    gathering.finish()
    assert (work.running, len(work.kept)) == (0, len(CASES))
    assert gathering.take("f") == "evidence of f"


@pytest.mark.parametrize("error", [HarnessError("disk is full"), TimeoutError("disk is full")])
def test_what_is_not_the_fault_of_a_case_is_raised_where_it_is_taken(error):
    """The others are not harmed."""

    def make(entry):
        if entry.case.id == "b":
            raise error
        return entry.case.id

    kept = []
    gathering = Gathering(make, lambda evidence, _: kept.append(evidence), 2)
    gathering.start(CASES)
    gathering.finish()
    with pytest.raises(type(error), match="disk is full"):
        gathering.take("b")
    assert sorted(kept) == list("acdef")


def test_session_that_ends_ends_all_and_keeps_nothing_of_it():
    """What a killed worker gave is no evidence, and nothing that waits is begun."""
    work = Work(free=False)
    gathering = gathered(work, 2)
    until(lambda: work.running == 2)
    gathering.stop(work.go.set)  # as the death of their workers does
    assert (work.running, work.kept, len(work.begun)) == (0, [], 2)


def test_thread_that_waits_for_a_device_learns_of_the_end():
    gathering = Gathering(lambda _: None, lambda *_: None, 2)
    gathering.refuse_if_stopped()
    gathering.stop(lambda: None)
    with pytest.raises(Stopped):
        gathering.refuse_if_stopped()


def test_person_is_told_what_runs_and_how_long_it_will_take(monkeypatch):
    monkeypatch.setattr("harness.session.gathering.BETWEEN_LINES", 0.0)
    work, told = Work(free=False), []
    gathering = gathered(work, 2, cost=lambda _: 600.0, notify=told.append, minutes_behind=10.0)
    until(lambda: work.running == 2)
    for _ in range(3):  # each thread that waits
        gathering.note("waiting for cpu, which another session holds")
    waiting = threading.Thread(target=gathering.finish)
    waiting.start()
    until(lambda: len(told) > 1)
    work.go.set()
    waiting.join()
    assert told[0] == "waiting for cpu, which another session holds"
    assert re.fullmatch(r"0 of 6 cases have run; now a for \d+ s, b for \d+ s; about 40 min left", told[1])
