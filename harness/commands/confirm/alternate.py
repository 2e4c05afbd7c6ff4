"""Time one case in two environments that take turns: fresh loads of both, runs in random order. Imports no torch.

Both sides are loaded at once, so that the two runs of a pair follow each other and a disturbance of a shared machine
hits both. If a device cannot hold two models, or something breaks, the sides are loaded one after the other. Each then
has all its runs of a load at once, and the drift from one block to the next is part of the interval.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.commands.confirm.environment import CaseFailed, EnvironmentClient
from harness.commands.confirm.records import Couple, Load, LoadSummary, Role, TimedRun, Turns, Who
from harness.commands.confirm.rules import BLOCK, BLOCK_MOST, FEWEST, LOADS
from harness.errors import NO_ROOM, HarnessError
from harness.machine.locks import Hold, hold_nothing
from harness.records.enums import Outcome

Stand = tuple[Role, Who]


@dataclass(frozen=True)
class Timing:
    """Settings of the timing."""

    seconds: float
    """Seconds after which no further load of a case begins, once `fewest` are done."""
    loads: int = LOADS
    fewest: int = FEWEST


@dataclass(frozen=True)
class Ask:
    """Case to time, and how."""

    case: str
    roles: tuple[Role, ...]
    timing: Timing
    hold: Hold = hold_nothing
    """Locks the devices for one load at a time, so that nobody waits for a whole case."""


How = Callable[[Mapping[Who, EnvironmentClient], Ask, random.Random], Load]
"""Function that makes one load of all models."""


def take_turns(sides: Mapping[Who, EnvironmentClient], ask: Ask) -> Turns:
    """Time a case that both sides proved, in all its loads.

    A load that breaks is tried once more, without other models on the device, since these may be the cause.

    Raises CaseFailed if a side breaks twice or refuses to be timed, and HarnessError if a side does not answer.
    """
    order = random.Random(0)
    loads: list[Load] = []
    broke: dict[Who, str] = {}
    how: How = _together
    started = time.monotonic()
    late = False
    while len(loads) < ask.timing.loads and not late:
        made = _held(how, sides, ask, order)
        if isinstance(made, CaseFailed):
            # A path may declare that there is no room for it: beside other models, that may be true of them alone.
            crowded = how is _together and NO_ROOM in made.failure.message
            if (made.failure.outcome is Outcome.UNSUPPORTED and not crowded) or made.who in broke:
                raise made
            if not crowded:
                broke[made.who] = f"{made.failure.outcome}: {made}"
            if how is _together:
                how, loads = _apart, []
        else:
            loads.append(made)
        late = len(loads) >= ask.timing.fewest and time.monotonic() - started >= ask.timing.seconds
    return Turns(
        tuple(loads),
        together=how is _together,
        late=late and len(loads) < ask.timing.loads,
        seconds=time.monotonic() - started,
        broke=tuple(broke.values()),
    )


def _held(how: How, sides: Mapping[Who, EnvironmentClient], ask: Ask, order: random.Random) -> Load | CaseFailed:
    """Return a load, or the error that broke it. Then nothing stays loaded when others may use the devices."""
    with ask.hold(alone=True):
        try:
            return how(sides, ask, order)
        except CaseFailed as error:
            for side in sides.values():
                side.clear()
            return error
        except HarnessError:  # a side does not answer: nothing more is asked of it
            for side in sides.values():
                with suppress(HarnessError):
                    side.clear()
            raise


def _together(sides: Mapping[Who, EnvironmentClient], ask: Ask, order: random.Random) -> Load:
    stands = [stand for role in ask.roles for stand in _shuffled(role, order)]
    begun = time.monotonic()
    for role, who in stands:
        sides[who].load(ask.case, role, own=len(stands))
    loading = time.monotonic() - begun
    timed: dict[Stand, list[TimedRun]] = {stand: [] for stand in stands}
    spent = dict.fromkeys(ask.roles, 0.0)
    for number in range(BLOCK_MOST):
        wanted = [role for role in ask.roles if number < BLOCK or spent[role] < loading]
        for role in order.sample(wanted, len(wanted)):
            begun = time.monotonic()
            for stand in _shuffled(role, order):
                timed[stand].append(sides[stand[1]].run(role))
            spent[role] += time.monotonic() - begun
    return _load(timed, {(role, who): sides[who].end(role) for role, who in stands})


def _apart(sides: Mapping[Who, EnvironmentClient], ask: Ask, order: random.Random) -> Load:
    """Load one model at a time. The second side runs as often as the first."""
    timed: dict[Stand, list[TimedRun]] = {}
    ended: dict[Stand, LoadSummary] = {}
    for role in order.sample(ask.roles, len(ask.roles)):
        runs = 0
        for stand in _shuffled(role, order):
            side = sides[stand[1]]
            begun = time.monotonic()
            side.load(ask.case, role, own=1)
            timed[stand] = _alone(side, role, runs, loading=time.monotonic() - begun)
            runs = len(timed[stand])
            ended[stand] = side.end(role)
    return _load(timed, ended)


def _alone(side: EnvironmentClient, role: Role, runs: int, *, loading: float) -> list[TimedRun]:
    """Time `runs` runs; if that is 0, as many as fit into the time of loading, from BLOCK to BLOCK_MOST."""
    begun = time.monotonic()
    timed: list[TimedRun] = []
    while len(timed) < (runs or BLOCK) or (not runs and len(timed) < BLOCK_MOST and time.monotonic() - begun < loading):
        timed.append(side.run(role))
    return timed


def _shuffled(role: Role, order: random.Random) -> list[Stand]:
    return [(role, who) for who in order.sample(list(Who), len(Who))]


def _load(timed: Mapping[Stand, Sequence[TimedRun]], ended: Mapping[Stand, LoadSummary]) -> Load:
    return Load(
        path=_couples(timed, Role.PATH),
        eager=_couples(timed, Role.EAGER),
        ended={f"{who} {role}": end for (role, who), end in ended.items()},
    )


def _couples(timed: Mapping[Stand, Sequence[TimedRun]], role: Role) -> tuple[Couple, ...]:
    old, new = (timed.get((role, who), ()) for who in Who)
    return tuple(Couple(a.sample, b.sample, a.dropped or b.dropped) for a, b in zip(old, new, strict=True))
