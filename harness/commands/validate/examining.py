"""Examine a machine while its device works. Runs in a worker."""

from __future__ import annotations

import time

import torch

from harness.commands.validate.card_reader import WatchedCard, find_card
from harness.commands.validate.cards import Build, Card, CardReading
from harness.machine.conditions import open_conditions
from harness.machine.devices import computes_on_cpu, device_name, device_names
from harness.machine.health import Examined
from harness.machine.nvml import NOT_NVIDIA
from harness.machine.peaks import measure_peaks, random_square, synchronize

SECONDS = 1.0
"""Seconds of work: long enough for clocks to rise and for shares of time to show."""
QUEUED, ROWS = 200, 4096
"""Number and rows of products queued while a card is read: 27 TFLOP, at least 10 ms on any card of 2026."""
SIMULATED_ROWS = 64
"""Rows of the products on a simulated device, which would take hours for those of a card."""


def examine(device: str, *, peaks: bool) -> Examined:
    """Return what the machine reports of a period of work, which measures its peaks if `peaks` is true."""
    names = "" if device == "cpu" else device_names(device)
    conditions = open_conditions(device)
    _work(device)  # so that clocks are up
    before = conditions.read()
    measured = measure_peaks(device) if peaks else None
    if not peaks:
        _work(device)
    happened = conditions.between(before, conditions.read())
    return Examined(names, happened, conditions.foreign, conditions.told(), measured)


def examine_card(device: str, index: int) -> Card:
    """Examine one device of a type, with its peaks and NVML's readings before and during its work."""
    if device == "cpu":
        return Card("cpu", "", examine(device, peaks=True))
    torch.accelerator.set_device_index(index)
    name = device_name(device, index)
    torch.zeros(1, device=device)  # so that our own process is on it
    card, unread = _watched(device, index)
    idle = card.read() if card else None
    examined = examine(device, peaks=True)
    busy = _read_at_work(device, card) if card else None
    return Card(f"{device}:{index}", name, examined, _build(device, index), idle, busy, unread)


def _watched(device: str, index: int) -> tuple[WatchedCard | None, str]:
    if device != "cuda" or torch.version.hip:  # AMD's cards are `cuda` to torch
        return None, NOT_NVIDIA
    return find_card(str(torch.cuda.get_device_properties(index).uuid))


def _read_at_work(device: str, card: WatchedCard) -> CardReading:
    """Read the card while products are queued: torch returns before they are done."""
    square = random_square(SIMULATED_ROWS if computes_on_cpu(device) else ROWS, device, torch.bfloat16)
    for _ in range(QUEUED):
        torch.mm(square, square)
    reading = card.read()
    synchronize(device)
    return reading


def _build(device: str, index: int) -> Build:
    if device != "cuda" or torch.version.hip:
        return Build()
    capability = torch.cuda.get_device_capability(index)
    return Build(torch.version.cuda or "", capability, tuple(torch.cuda.get_arch_list()))


def _work(device: str) -> None:
    square = random_square(1024, device)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        torch.mm(square, square)
        synchronize(device)
