"""From a run to recorded baselines: every fault of a run and of a case is refused in one line, and nothing worse is
recorded by itself. No torch."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands.baseline.proposals import NEW, accept, diff, propose
from harness.formatting import MIB
from harness.profiles.baselines import prune
from harness.profiles.profile import Match
from harness.records.enums import Outcome, Property
from harness.records.measurements import Measurements
from suites.meta.builders.measurements import measured, timed
from suites.meta.builders.recorded_runs import (
    BETTER,
    CUDA,
    ENVIRONMENT,
    FILE,
    FLASH,
    KNOWN,
    SDPA,
    STATIC,
    WORSE,
    Checkout,
    case,
    edited,
    refusal,
    resealed,
    verdict,
)


@pytest.fixture
def checkout(tmp_path):
    """A folder with one profile; `checkout.run(cases...)` makes a finished run in it."""
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"finished": None}, "the run is not finished, but should be (wait for it, or name another run)"),
        ({"profile": None}, "the run matched no profile, but its numbers belong into one (harness calibrate makes "),
        ({"verdicts": ()}, f"worth recording: {SDPA.id}: it was measured, but not judged (name another run)"),
        (
            {"verdicts": (verdict(SDPA, asked=Property.ENGAGEMENT), verdict(SDPA, Outcome.MISMATCH))},
            f"worth recording: {SDPA.id}: its equivalence is MISMATCH, so that its numbers are worth nothing (name ",
        ),
        (
            {"verdicts": (verdict(SDPA, Outcome.NOT_ENGAGED, asked=Property.ENGAGEMENT),)},
            f"worth recording: {SDPA.id}: its engagement is NOT_ENGAGED, so that its numbers are worth nothing (name ",
        ),
    ],
)
def test_run_that_is_worth_nothing_is_refused(checkout, changes, told):
    """By every command."""
    run = checkout.run()
    propose(run, checkout.root)
    run = checkout.run(**changes)
    message = refusal(propose, run, checkout.root)
    assert message.startswith(f"{run}: ")
    assert told in message
    assert refusal(accept, run, checkout.root, case_ids=KNOWN) == refusal(diff, run, checkout.root) == message
    assert not (checkout.folder / FILE).exists()


def test_run_that_measured_nothing_is_refused(checkout):
    """None at all, or neither speed nor memory."""
    run = checkout.run({SDPA: Measurements(SDPA.id)})
    assert refusal(propose, run, checkout.root) == (
        f"{run}: the run measured nothing that is worth recording: {SDPA.id}: neither its speed nor its memory was "
        "measured (name another run)"
    )
    (run / "measurements" / f"{SDPA.id}.json").unlink()
    assert refusal(propose, run, checkout.root) == (
        f"{run}: the run measured nothing that is worth recording (name another run)"
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("run.json", "{", "", ": is no JSON: "),
        ("run.json", '"exit"', '"exits"', ": has unknown exits, but Run knows "),
        (f"measurements/{SDPA.id}.json", "{", "", ": is no JSON: "),
        (f"measurements/{SDPA.id}.json", '"kv"', '"kvs"', ": has unknown kvs, but MemoryUsage knows "),
        (f"measurements/{SDPA.id}.json", f'"{SDPA.id}"', '"other"', f": holds other, but should hold {SDPA.id} (run "),
    ],
)
def test_corrupt_file_of_a_run_is_refused_by_place(checkout, file, old, new, told):
    run = checkout.run()
    edited(run / file, old, new)
    message = refusal(propose, run, checkout.root)
    assert message.startswith(str(run / file))
    assert told in message


def test_what_is_no_run_is_refused(checkout):
    assert refusal(propose, checkout.root, checkout.root).startswith(
        f"{checkout.root}/run.json: could not be read: No such file"
    )


def test_failing_case_is_left_out_and_told(checkout):
    """The others are recorded; asking for it is refused."""
    verdicts = [verdict(SDPA), verdict(FLASH, Outcome.CRASHED)]
    run = checkout.run({SDPA: {}, FLASH: {}}, verdicts=verdicts)
    why = "its equivalence is CRASHED, so that its numbers are worth nothing"
    proposal, _ = propose(run, checkout.root)
    assert proposal.left_out == {FLASH.id: why}
    assert diff(run, checkout.root).notes == (f"{FLASH.id}: left out: {why}",)
    assert checkout.accept(run).taken == (SDPA.id,)
    assert refusal(checkout.accept, run, cases=[FLASH.id]) == f"{FLASH.id}: {why} (set that right and run again)"


@pytest.mark.parametrize("outcome", [Outcome("REGRESSED"), Outcome("NO_BASELINE"), Outcome.UNSUPPORTED])
def test_what_baselines_themselves_lead_to_keeps_nothing_from_being_recorded(checkout, outcome):
    """Nor does a property that cannot be asked here."""
    run = checkout.run(verdicts=[verdict(SDPA), verdict(SDPA, outcome, asked=Property.REGRESSION)])
    assert checkout.accept(run).taken == (SDPA.id,)


def test_accepting_needs_a_proposal_that_is_the_runs(checkout):
    """What is recorded is what could be read before."""
    run = checkout.run()
    assert refusal(accept, run, checkout.root, case_ids=KNOWN) == (
        f"{run}/baselines: holds no proposal (first: harness baseline propose {run})"
    )
    propose(run, checkout.root)
    edited(run / "baselines" / FILE, '"pairs": 20', '"pairs": 30')
    assert "was edited by hand" in refusal(accept, run, checkout.root, case_ids=KNOWN)
    propose(run, checkout.root)
    resealed(run / "baselines" / FILE, cases={})
    other = f"{run}/baselines: is not what the run's measurements and verdicts give (again: harness baseline propose "
    assert refusal(accept, run, checkout.root, case_ids=KNOWN) == f"{other}{run})"
    propose(run, checkout.root)
    checkout.run({SDPA: {"peak": 300 * MIB}})
    assert refusal(accept, run, checkout.root, case_ids=KNOWN) == f"{other}{run})"
    assert not (checkout.folder / FILE).exists()


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (WORSE, ": speedup is 1.5 (1.48 to 1.51), was 2 (1.98 to 2.02): baselines do not get worse by themselves ("),
        ({"speed": timed(1.94)}, ": speedup is 1.94 (1.92 to 1.96), was 2 (1.98 to 2.02): baselines do not get "),
        ({"peak": 500 * MIB}, ": peak memory is 500.0 MiB, was 400.0 MiB: baselines do not get worse by "),
        ({"weights": 10 * MIB + 1}, ": weights is 10485761 bytes, was 10485760 bytes: baselines do not get worse "),
        ({**BETTER, "peak": 500 * MIB}, ": peak memory is 500.0 MiB, was 400.0 MiB: baselines do not get worse by "),
    ],
)
def test_worse_is_refused_without_a_reason(checkout, now, told):
    """Within the margin of a regression too, and if another metric has gained; no other case is recorded either."""
    checkout.accept(checkout.run())
    before = (checkout.folder / FILE).read_text()
    run = checkout.run({SDPA: now, FLASH: {}}, name="later")
    message = refusal(checkout.accept, run)
    assert message.startswith(SDPA.id + told)
    assert message.endswith("(nothing was recorded; tell why with --worse REASON, or choose other cases with --case)")
    assert refusal(checkout.accept, run, worse=" ") == message
    assert (checkout.folder / FILE).read_text() == before
    assert checkout.accept(run, cases=[FLASH.id]).taken == (FLASH.id,)


def test_worse_is_recorded_with_its_reason(checkout):
    """Which stays with that case alone, until something better is recorded."""
    checkout.accept(checkout.run({SDPA: {}, FLASH: {}}))
    later = checkout.run({SDPA: WORSE, FLASH: BETTER}, name="later")
    assert checkout.accept(later, worse="torch 3 is slower").taken == (SDPA.id, FLASH.id)
    assert checkout.stored(SDPA).reason == "torch 3 is slower"
    assert checkout.stored(SDPA).figures.speed.speedup.mid < 1.6
    assert checkout.stored(FLASH).reason == ""
    checkout.accept(checkout.run({SDPA: BETTER}, name="last"))
    assert checkout.stored(SDPA).reason == ""


def test_several_losses_are_one_line(checkout):
    checkout.accept(checkout.run({SDPA: {}, FLASH: {}}))
    run = checkout.run({SDPA: {**WORSE, "peak": 500 * MIB}, FLASH: WORSE}, name="later")
    message = refusal(checkout.accept, run)
    assert "was 2 (1.98 to 2.02) and peak memory is 500.0 MiB, was 400.0 MiB, and 1 more case loses: " in message


def test_reason_for_nothing_is_refused(checkout):
    assert refusal(checkout.accept, checkout.run(), worse="so") == (
        "--worse so: no case is worse than recorded (leave the option out)"
    )


def test_neither_better_nor_worse_keeps_what_is_recorded(checkout):
    """So that it does not drift; it is replaced if it is named."""
    checkout.accept(checkout.run())
    run = checkout.run({SDPA: {"speed": timed(2.01)}, FLASH: {}}, name="later")
    done = checkout.accept(run)
    assert (done.taken, done.kept) == ((FLASH.id,), (SDPA.id,))
    before = checkout.stored()
    assert checkout.accept(run, cases=[SDPA.id]).taken == (SDPA.id,)
    assert checkout.stored().figures.speed.speedup.mid > before.figures.speed.speedup.mid


def test_metric_that_was_not_recorded_is_news(checkout):
    bare = replace(measured(SDPA.id), memory=None)
    checkout.accept(checkout.run({SDPA: bare}))
    assert checkout.accept(checkout.run(name="later")).taken == (SDPA.id,)
    message = refusal(checkout.accept, checkout.run({SDPA: bare}, name="last"))
    assert message.startswith(f"{SDPA.id}: peak memory is not measured, was 400.0 MiB: baselines do not get worse ")


def test_unknown_case_is_refused(checkout):
    assert refusal(checkout.accept, checkout.run(), cases=["nosuch"]) == (
        f"case 'nosuch' is unknown, but should be one of: {SDPA.id}"
    )


def test_case_outside_the_catalogue_is_not_recorded(checkout):
    """Every later session would call it unused."""
    assert refusal(checkout.accept, checkout.run(), case_ids={FLASH.id}) == (
        f"{SDPA.id}: no path, model or workload of the catalogue gives it, so that every later session would refuse "
        "what is recorded of it (add its model to the catalogue first, or choose others with --case)"
    )


def test_one_file_holds_numbers_of_one_machine(checkout):
    checkout.accept(checkout.run())
    run = checkout.run({FLASH: {}}, name="there", environment={**ENVIRONMENT, "cores": "8"})
    assert refusal(checkout.accept, run) == (
        f"{checkout.folder}/attention.json: was recorded on other hardware: cores 2 instead of 8 (a file holds numbers "
        "of one machine: delete it to record this one instead)"
    )


def test_disk_that_refuses_is_one_line(checkout, monkeypatch):
    """And leaves nothing half written."""
    run = checkout.run()
    propose(run, checkout.root)
    checkout.accept(checkout.run({STATIC: {}}, name="earlier"))

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    told = "could not be written: No space left on device (free the disk, or make its folder writable)"
    assert refusal(propose, run, checkout.root) == f"{run}/baselines/attention.json: {told}"
    assert refusal(accept, run, checkout.root, case_ids=KNOWN) == f"{checkout.folder}/attention.json: {told}"
    monkeypatch.setattr(Path, "unlink", refuse)
    assert refusal(prune, checkout.read(), set()) == (
        f"{checkout.folder}/caching.json: could not be deleted: No space left on device (delete it)"
    )
    assert sorted(path.name for path in checkout.folder.iterdir() if path.suffix == ".json") == ["caching.json"]


def test_difference_is_told_by_metric(checkout):
    """What is not recorded is new."""
    checkout.accept(checkout.run())
    found = diff(checkout.run({SDPA: WORSE, FLASH: BETTER}, name="later"), checkout.root)
    told = {(row.case, row.metric): (row.was, row.got, row.change) for row in found.rows}
    assert told[SDPA.id, "speedup"] == ("2 (1.98 to 2.02)", "1.5 (1.48 to 1.51)", "REGRESSED")
    assert told[SDPA.id, "weights"] == ("10485760 bytes", "10485760 bytes", "UNCHANGED")
    assert told[FLASH.id, "speedup"][0::2] == ("not stored", NEW)
    assert {row.metric for row in found.rows} == {"speedup", "peak memory", "weights", "kv cache"}
    assert found.notes == ()


def test_difference_to_other_hardware_is_not_told(checkout):
    checkout.accept(checkout.run())
    found = diff(checkout.run(name="later", environment={**ENVIRONMENT, "cores": "8"}), checkout.root)
    assert {row.change for row in found.rows} == {NEW}
    assert found.notes == (
        "attention.json is not compared with: it was recorded on other hardware: cores 2 instead of 8",
    )


def test_seconds_of_an_accelerator_are_told(tmp_path):
    """Beside the speedup, by how much they differ."""
    there = Checkout(tmp_path, match=Match("cuda", "NVIDIA H200"))
    sdpa = case(device="cuda")
    run = there.run({sdpa: {}}, environment=CUDA)
    fresh = {row.metric: row for row in diff(run, there.root).rows}
    assert {fresh[name].change for name in ("run", "output token", "first token")} == {NEW}
    there.accept(run, case_ids={sdpa.id})
    rows = {row.metric: row for row in diff(run, there.root).rows}
    assert {rows[name].change for name in ("run", "output token", "first token")} == {"+0.0%"}
