"""Recorded baselines: every fault of a file is refused in one line. No torch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.commands.baseline.proposals import diff
from harness.errors import CorruptRecord
from harness.profiles.baselines import BaselineFile, digest, prune, unused
from harness.profiles.profile import Match
from harness.records.baseline import Recorded
from harness.records.codec import to_plain
from harness.records.enums import Technique
from suites.meta.builders.measurements import measured
from suites.meta.builders.recorded_runs import (
    CUDA,
    ENVIRONMENT,
    FILE,
    FLASH,
    HERE,
    KNOWN,
    SDPA,
    STATIC,
    Checkout,
    case,
    edited,
    refusal,
    resealed,
)


@pytest.fixture
def checkout(tmp_path):
    """A folder with one profile; `checkout.run(cases...)` makes a finished run in it."""
    return Checkout(tmp_path)


def test_accepted_measurements_are_found_again(checkout):
    """With what they came from, a file per technique; neither platform nor test tools."""
    run = checkout.run({SDPA: {}, STATIC: {}})
    done = checkout.accept(run)
    assert [path.name for path in done.paths] == [FILE, "caching.json"]
    assert done.taken == (SDPA.id, STATIC.id)
    stored = checkout.stored()
    assert isinstance(stored, Recorded)
    assert (stored.path, stored.recipe, stored.workload) == ("attention.sdpa", "tiny_qwen3", "single")
    assert (stored.recorded, stored.reason) == ("2026-01-02", "")
    assert stored.figures.speed.pairs == 20
    assert stored.samples == digest(to_plain(measured(SDPA.id)))
    assert set(ENVIRONMENT) - set(stored.environment) == {"platform", "pytest"}


def test_nothing_recorded_is_no_error(checkout):
    """But has a reason, which names what to do."""
    assert checkout.read().files == {}
    assert checkout.stored() == "nothing is recorded of it in profile here (harness baseline propose RUN)"
    checkout.accept(checkout.run())
    assert checkout.stored(FLASH) == "nothing is recorded of it in profile here (harness baseline propose RUN)"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"processor": "other"}, "processor some processor instead of other"),
        ({"cores": "64", "cpu_capability": ""}, "cpu_capability AVX2 instead of none, cores 2 instead of 64"),
    ],
)
def test_numbers_of_other_hardware_are_not_used(checkout, change, told):
    """Also if the profile matches both."""
    checkout.accept(checkout.run())
    found = checkout.read().find(SDPA.id, SDPA.technique, environment={**ENVIRONMENT, **change})
    assert found == (
        f"profile here was recorded on other hardware, which says nothing here: {told} (to record this machine "
        "instead: delete attention.json there, then harness baseline propose RUN)"
    )


def test_new_versions_are_compared_with(checkout):
    """A regression is exactly what they bring."""
    checkout.accept(checkout.run())
    found = checkout.read().find(SDPA.id, SDPA.technique, environment={**ENVIRONMENT, "torch": "3.0"})
    assert isinstance(found, Recorded)


def test_accelerators_are_told_apart_by_name_and_driver(tmp_path):
    """Not by the processor beside them; they have absolute seconds."""
    there = Checkout(tmp_path, match=Match("cuda", "NVIDIA H200"))
    sdpa = case(device="cuda")
    there.accept(there.run({sdpa: {}}, environment=CUDA), case_ids={sdpa.id})
    find = there.read().find
    stored = find(sdpa.id, sdpa.technique, environment={**CUDA, "processor": "other"})
    assert stored.figures.speed.seconds == pytest.approx(1, rel=0.02)
    found = find(sdpa.id, sdpa.technique, environment={**CUDA, "driver": "590"})
    assert "which says nothing here: driver 580 instead of 590 (" in found


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{", "{{", ": is no JSON: "),
        ('"schema": 1', '"schema": 2', ": schema is 2, but should be 1"),
        ('"match"', '"mach"', ": has unknown mach, but BaselineFile knows schema, match, "),
        ('"pairs": 20', '"pairs": 20, "runs": 9', ".figures.speed: has unknown runs, but SpeedFigures knows pairs, "),
        ('"pairs": 20', '"pairs": "20"', ".figures.speed.pairs: is '20', but should be a int"),
        ('"pairs": 20', '"pairs": 2', ".figures.speed: 2 pairs with a speedup of "),
        ('"pairs": 20', '"pairs": 21', ": was edited by hand: its seal is not that of its contents"),
        ('"reason": ""', '"reason": "so"', ": was edited by hand: its seal is not that of its contents"),
        ('"cores": "2"', '"cores": "4"', ": was edited by hand: its seal is not that of its contents"),
        ('"seal": "', '"seal": "0', ": was edited by hand: its seal is not that of its contents"),
    ],
)
def test_each_defect_of_a_file_is_refused_by_place(checkout, old, new, told):
    """A changed number included, and by every command that reads it."""
    run = checkout.run()
    checkout.accept(run)
    path = checkout.folder / FILE
    edited(path, old, new)
    message = refusal(checkout.read)
    assert message.startswith(str(path))
    assert told in message
    assert message.endswith("(restore it from version control, or delete it and record anew)")
    assert refusal(checkout.accept, run) == refusal(diff, run, checkout.root) == message


def test_file_that_cannot_be_read_is_refused(checkout):
    (checkout.folder / FILE).mkdir()
    with pytest.raises(CorruptRecord, match=r"attention\.json: could not be read: Is a directory \(restore it "):
        checkout.read()


def test_layout_of_a_file_is_nobodys_business(checkout):
    """The seal is over what it says."""
    checkout.accept(checkout.run())
    path = checkout.folder / FILE
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert isinstance(checkout.stored(), Recorded)


def test_file_from_another_machine_is_refused(checkout):
    checkout.accept(checkout.run())
    path = checkout.folder / FILE
    resealed(path, match=Match("cuda", "NVIDIA H200"))
    assert refusal(checkout.read) == (
        f"{path}: is from another machine: recorded on cuda NVIDIA H200, but profile here is for cpu x86_64 "
        "(delete it and record anew)"
    )


def test_file_that_no_technique_reads_is_refused(checkout):
    """Neither of no technique, nor with cases of another; stored numerics are another matter."""
    checkout.accept(checkout.run())
    path = checkout.folder / FILE
    (checkout.folder / "numerics.json").write_text("{}")
    path.rename(checkout.folder / "caching.json")
    assert refusal(checkout.read) == (
        f"{checkout.folder}/caching.json: holds {SDPA.id}, which belongs in another file (restore it from version "
        "control, or delete it and record anew)"
    )
    (checkout.folder / "caching.json").rename(checkout.folder / "atention.json")
    assert refusal(checkout.read).startswith(
        f"{checkout.folder}/atention.json: is unused: no technique is named atention, but one of eager, attention, "
    )


def test_entry_of_a_case_that_is_gone_is_told(checkout):
    """And can be removed, after which what is left is sound; a file without cases goes too."""
    checkout.accept(checkout.run({SDPA: {}, FLASH: {}, STATIC: {}}))
    baselines = checkout.read()
    assert unused(baselines, KNOWN) == []
    told = "is recorded, but no path, model or workload gives it any more (harness baseline prune)"
    assert unused(baselines, {FLASH.id}) == [
        f"{checkout.folder}/attention.json: {SDPA.id} {told}",
        f"{checkout.folder}/caching.json: {STATIC.id} {told}",
    ]
    assert prune(baselines, {FLASH.id}) == [SDPA.id, STATIC.id]
    left = checkout.read()
    assert {technique: list(file.cases) for technique, file in left.files.items()} == {Technique.ATTENTION: [FLASH.id]}
    assert prune(left, {FLASH.id}) == []


def test_seal_is_over_everything_else():
    bare = BaselineFile(1, HERE, {"cores": "2"}, {}).sealed()
    assert bare.whole
    for change in ({"match": Match("cpu", "other")}, {"hardware": {}}):
        assert not replace(bare, **change).whole
