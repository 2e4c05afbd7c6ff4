"""Examine a machine while its device works. Runs in a worker."""

from __future__ import annotations

import time

import torch

from harness.execution.tasks import device_names
from harness.machine.health import Examined
from harness.machine.peaks import measure_peaks, synchronize
from harness.measurement.conditions import open_conditions

SECONDS = 1.0
"""Of work: long enough for clocks to rise and for shares of time to show."""


def examine(device: str, *, peaks: bool) -> Examined:
    """What the machine tells between the begin and the end of some work, which measures its peaks if asked for."""
    names = "" if device == "cpu" else device_names(device)
    conditions = open_conditions(device)
    _work(device)  # so that clocks are up
    before = conditions.read()
    measured = measure_peaks(device) if peaks else None
    if not peaks:
        _work(device)
    happened = conditions.between(before, conditions.read())
    return Examined(names, happened, conditions.foreign, conditions.told(), measured)


def _work(device: str) -> None:
    square = torch.ones(1024, 1024, device=device)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        torch.mm(square, square)
        synchronize(device)
