"""Two real environments, both of them this one: what is planted into the newer is found, by the real workers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.commands.confirm import alternate as turns
from harness.commands.confirm.alternate import Timing
from harness.commands.confirm.command import Options, confirmed
from harness.commands.confirm.confirm import Confirmation
from harness.commands.confirm.records import Role, Who
from harness.commands.confirm.rules import BLOCK, FEWEST
from harness.records.codec import read_record
from suites.conftest import REPOSITORY
from suites.meta.builders.two_sides import ID

pytestmark = pytest.mark.workers

RAGGED = ID.replace("decode_b1", "ragged_b4")
RANKS = ID.replace("attention.sdpa", "parallelism.tp2")


@pytest.fixture
def confirm(tmp_path, monkeypatch):
    """(what was found, its record) of one case, in a few loads of few runs."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(turns, "BLOCK_MOST", BLOCK)

    def run(case, *, fault="", loads=FEWEST):
        python = Path(sys.executable)
        timing = Timing(1e9, loads, loads)
        return confirmed(Options((python, python), (case,), (), 120.0, timing, tmp_path), fault=fault)

    return run


def test_slowdown_of_the_newer_is_found(confirm):
    """By so much that few loads decide on a busy machine too. The record holds what was timed."""
    found, record = confirm(ID, fault="suites.meta.faults.of_speed:three_times_as_slow")
    [finding] = found.findings
    assert finding.label == "REGRESSED", finding.told
    assert "the path's own" in finding.told
    assert found.differences == ()
    assert len(finding.notes) == 1
    assert finding.notes[0].startswith("fp32 kernels are the same: ")
    kept = read_record(Confirmation, record)
    timed = kept.tried[ID].turns
    assert timed.together
    assert len(timed.couples) >= FEWEST * BLOCK
    assert len(timed.voices(Role.EAGER)) == FEWEST
    assert not any(timed.wrong(who) for who in Who)


def test_wrong_mask_of_the_newer_is_found_and_not_timed(confirm):
    found, record = confirm(RAGGED, fault="suites.meta.faults.of_attention:decode_mask_off_by_one")
    [finding] = found.findings
    assert finding.label == "MISMATCH", finding.told
    assert "; old passes: " in finding.told
    assert read_record(Confirmation, record).tried[RAGGED].turns is None
    assert [each.case for each in found.worse] == [RAGGED]


def test_cheat_of_the_newer_is_found_though_it_was_proved(confirm):
    """It skips a layer where it is timed, and nowhere else."""
    found, _ = confirm(ID, fault="suites.meta.faults.of_speed:cheats_while_timed", loads=1)
    [finding] = found.findings
    assert finding.label == "TIMED WRONG", finding.told
    assert "new path: timed runs with other tokens than the verified one are " in finding.told


def test_ranks_take_turns_too(confirm):
    """One load decides nothing, and says so."""
    found, record = confirm(RANKS, loads=1)
    [finding] = found.findings
    assert finding.label == "INCONCLUSIVE", finding.told
    assert "(0 to inf)" in finding.told
    assert len(read_record(Confirmation, record).tried[RANKS].turns.couples) >= BLOCK
