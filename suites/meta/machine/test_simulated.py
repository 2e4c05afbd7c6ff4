"""Figures of a simulated device are never taken for a card's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.commands.baseline.proposals import accept, diff, propose
from harness.commands.calibrate import command as cli_calibrate
from harness.commands.validate.preflight import preflight
from harness.commands.validate.records import Grade
from harness.errors import HarnessError
from harness.execution.runner import Runner
from harness.machine.inventory import is_simulated
from harness.profiles.numerics import numerics_of
from harness.profiles.profile import Match, Profile, find_profile
from suites.conftest import REPOSITORY
from suites.meta.builders.commands import harness
from suites.meta.builders.commands import refusal as command_refusal
from suites.meta.builders.recorded_cards import card
from suites.meta.builders.recorded_runs import ENVIRONMENT, KNOWN, Checkout, refusal

NAME = "Simulated CUDA device"
WORDS = (
    f"the device is {NAME}, but should be a real one (nothing measured on a simulated device is a figure of hardware)"
)


@pytest.mark.parametrize("names", [NAME, f"{NAME}, {NAME}", f"NVIDIA H200, {NAME}", "simulated"])
def test_simulated_device_is_known_by_its_name(names):
    assert is_simulated(names)


@pytest.mark.parametrize("names", ["", "NVIDIA H200", "NVIDIA H200, NVIDIA H200", "none"])
def test_other_devices_are_not_simulated(names):
    assert not is_simulated(names)


def test_no_profile_matches_a_simulated_device(tmp_path):
    """A profile that somebody wrote by hand for its name does not match either."""
    match = Match("cuda", NAME)
    assert find_profile((Profile("made-up", tmp_path, match, None),), match) is None


def test_no_baseline_is_recorded_of_a_simulated_device(tmp_path):
    checkout = Checkout(tmp_path)
    propose(checkout.run(), checkout.root)
    run = checkout.run(environment={**ENVIRONMENT, "accelerators": NAME})
    refusals = [refusal(command, run, checkout.root) for command in (propose, diff)]
    assert [*refusals, refusal(accept, run, checkout.root, case_ids=KNOWN)] == [f"{run}: {WORDS}"] * 3


def test_no_numerics_are_kept_of_a_simulated_device(tmp_path):
    run = Checkout(tmp_path).run(environment={**ENVIRONMENT, "accelerators": NAME})
    with pytest.raises(HarnessError) as raised:
        numerics_of(run)
    assert str(raised.value) == f"{run}: {WORDS}"


def test_simulated_device_is_not_calibrated(monkeypatch, capsys):
    """It is refused before anything is measured."""
    monkeypatch.setattr(cli_calibrate, "take_inventory", lambda: SimpleNamespace(devices={"cuda": 1}, variables={}))
    monkeypatch.setattr(Runner, "device_names", lambda *_: NAME)
    monkeypatch.chdir(REPOSITORY)
    code, _, printed = harness(monkeypatch, capsys, "calibrate", "--device", "cuda")
    assert (code, command_refusal(printed)) == (2, f"calibrate: {WORDS}")


def test_simulated_device_is_rejected_by_validate():
    """It is rejected, however well everything else is."""
    checks = preflight((replace(card(), name=NAME),), load=0.1, cores=16)
    assert [str(check) for check in checks if check.grade is Grade.REJECTING] == [
        (
            f"cuda:0: the device is {NAME}, but should be a real one (validate the machine without it: what passes on "
            "a simulated device says nothing of a card)"
        )
    ]
