"""Record traces: rounds of eager and of a second eager, as it is and slowed down, in random order."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from harness.execution.setup import CaseSetup
from harness.execution.speed.timed_model import load_timed_model, no_garbage
from harness.execution.speed.warm_model import warm_up
from harness.machine.conditions import open_conditions
from harness.records.enums import Dtype

FAULT = "suites.meta.faults.of_speed:slower_by_{}_percent"
EAGER, SAME, SLOWED = "eager", "0", ("3", "5", "10")
"""The baseline; a second load of it as it is, and slowed down by that percentage of what each run takes."""


@dataclass(frozen=True)
class Trace:
    """One process: seconds of the runs of every arm, the first of each from the first round and so on."""

    seconds: dict[str, tuple[float, ...]]
    dropped: tuple[bool, ...]
    """Rounds in which something happened for which a verdict would drop a pair."""


def record_trace(setup: CaseSetup, dtype: Dtype, rounds: int, seed: int, slowed: tuple[str, ...]) -> Trace:
    """Time two loads of eager in this worker, the second as it is and `slowed`, once each in every round."""
    eager, other = (load_timed_model(setup.eager(dtype)) for _ in range(2))
    arms = {EAGER: eager} | {
        arm: other if arm == SAME else replace(other, fault=FAULT.format(arm)) for arm in (SAME, *slowed)
    }
    conditions = open_conditions(setup.device)
    for subject in (eager, other):
        warm_up(subject, conditions)
    order, seconds, dropped = random.Random(seed), {arm: [] for arm in arms}, []
    with no_garbage():
        for _ in range(rounds):
            before = conditions.read()
            for arm in order.sample(sorted(arms), len(arms)):
                timed, _ = arms[arm].run()
                seconds[arm].append(timed.seconds)
            dropped.append(bool(conditions.between(before, conditions.read())))
    return Trace({arm: tuple(values) for arm, values in seconds.items()}, tuple(dropped))
