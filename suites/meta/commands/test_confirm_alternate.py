"""How two environments take turns, with scripted answers: loads, orders, and how many runs."""

from __future__ import annotations

import pytest

from harness.commands.confirm import alternate as turning
from harness.commands.confirm.alternate import Ask, Timing, take_turns
from harness.commands.confirm.environment import CaseFailed
from harness.commands.confirm.records import Role, Who
from harness.commands.confirm.rules import BLOCK, BLOCK_MOST, FEWEST, LOADS
from harness.records.enums import Outcome
from harness.records.evidence import Failure
from suites.meta.builders.two_sides import CRASH, FULL, ID, no_time_passes, two


@pytest.fixture(autouse=True)
def still(monkeypatch):
    no_time_passes(monkeypatch)


REFUSED = Failure(Outcome.UNSUPPORTED, "timing: there is no room for copies (OutOfMemoryError: CUDA out of memory.)")


def test_path_that_has_no_room_beside_others_is_tried_alone():
    """Whether it is refused in words or not. Alone, the same words are the end."""
    sides = two(new={"breaks": (REFUSED,)})
    turns = take_turns(sides, Ask(ID, (Role.PATH, Role.EAGER), Timing(0.0)))
    assert (turns.together, turns.broke) == (False, ())
    with pytest.raises(CaseFailed, match="no room for copies"):
        take_turns(two(new={"breaks": (REFUSED,) * 2}), Ask(ID, (Role.PATH, Role.EAGER), Timing(0.0)))


@pytest.mark.parametrize("failure", [CRASH, FULL], ids=["crash", "somebody took the memory for a moment"])
def test_load_that_broke_alone_costs_that_load_and_no_other(failure):
    """The device holds one model: sides take turns before anything breaks."""
    sides = two(old={"room": 1}, new={"room": 1})
    loads = []
    load = sides[Who.NEW].load
    crashing = {15: failure}

    def counted(case, role, *, own):
        loads.append(role)
        if len(loads) in crashing:
            raise CaseFailed(Who.NEW, crashing[len(loads)])
        load(case, role, own=own)

    sides[Who.NEW].load = counted
    found = take_turns(sides, Ask(ID, tuple(Role), Timing(1e9)))
    assert (len(found.loads), found.together) == (LOADS, False)
    assert found.broke == (f"{failure.outcome}: new: {failure.message}",)
    assert len(loads) <= 2 * LOADS + 4
    crashing |= dict.fromkeys(range(len(loads) + 1, len(loads) + 100), CRASH)
    with pytest.raises(CaseFailed, match="new: fp32 run: worker ended by SIGSEGV"):
        take_turns(sides, Ask(ID, tuple(Role), Timing(1e9)))


def test_loads_are_fresh_and_orders_random():
    """Each load has four pairs of path and of eager, each pair has both sides one after the other."""
    made = two()
    log = []
    for side in made.values():
        side.asked = log
    found = take_turns(made, Ask(ID, tuple(Role), Timing(1e9)))
    assert len(found.loads) == LOADS
    assert found.together
    assert not found.late
    assert log.count(("load", ID, Role.PATH, 4)) == log.count(("load", ID, Role.EAGER, 4)) == 2 * LOADS
    runs = [what[1] for what in log if what[0] == "run"]
    assert len(runs) == 4 * 4 * LOADS
    assert all(first == second for first, second in zip(runs[::2], runs[1::2], strict=True))
    assert {*runs[::8]} == set(Role)


def test_sides_alternate_in_both_orders():
    made = two()
    order = []
    for who, side in made.items():
        run = side.run
        side.run = lambda role, who=who, run=run: (order.append(who), run(role))[1]
    take_turns(made, Ask(ID, (Role.PATH,), Timing(1e9)))
    firsts = order[::2]
    assert {firsts.count(who) > LOADS for who in Who} == {True}
    assert all({*order[i : i + 2]} == set(Who) for i in range(0, len(order), 2))
    again = two()
    asked = Ask(ID, (Role.PATH,), Timing(1e9))
    assert take_turns(again, asked).loads == take_turns(two(), asked).loads


class Clock:
    """Moves by what loading and running take."""

    def __init__(self, sides, *, load, run):
        self.now = 0.0
        for side in sides.values():
            for name, taken in (("load", load), ("run", run)):
                setattr(side, name, self.taking(taken, getattr(side, name)))

    def taking(self, seconds, function):
        def timed(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return timed

    def monotonic(self):
        return self.now


def test_no_load_is_begun_after_its_time(monkeypatch):
    sides = two()
    monkeypatch.setattr(turning, "time", Clock(sides, load=1.0, run=1.0))
    found = take_turns(sides, Ask(ID, (Role.PATH,), Timing(1.0)))
    assert (len(found.loads), found.late) == (FEWEST, True)
    sides = two()
    monkeypatch.setattr(turning, "time", Clock(sides, load=1.0, run=1.0))
    found = take_turns(sides, Ask(ID, (Role.PATH,), Timing(100.0)))  # a load takes ten seconds, here
    assert (len(found.loads), found.late) == (10, True)


@pytest.mark.parametrize("room", [2, 1], ids=["together", "apart"])
@pytest.mark.parametrize(
    ("load", "apart", "together"), [(0.1, BLOCK, BLOCK), (6.0, 6, 12), (1e3, BLOCK_MOST, BLOCK_MOST)]
)
def test_runs_take_the_time_that_loading_took(monkeypatch, room, load, apart, together):
    """Within bounds; of path and eager alike, where they take as long. Together, four are loaded and two are a pair."""
    sides = two(old={"room": room}, new={"room": room})
    pairs = together if room == 2 else apart
    monkeypatch.setattr(turning, "time", Clock(sides, load=load, run=1.0))
    found = take_turns(sides, Ask(ID, tuple(Role), Timing(1e9)))
    assert found.together is (room == 2)
    assert {len(couples) for each in found.loads for couples in (each.path, each.eager)} == {pairs}


def test_longer_runs_are_fewer(monkeypatch):
    """Eager's, of a prefill that writes every score: the path is not held up."""
    sides = two()
    clock = Clock(sides, load=6.0, run=1.0)
    for side in sides.values():
        run = side.run
        side.run = lambda role, run=run: (clock.taking(3.0 * (role is Role.EAGER), run))(role)
    monkeypatch.setattr(turning, "time", clock)
    loads = take_turns(sides, Ask(ID, tuple(Role), Timing(1e9))).loads
    assert {(len(each.path), len(each.eager)) for each in loads} == {(12, BLOCK)}
