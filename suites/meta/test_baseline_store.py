"""Recorded baselines: every fault of a file, of a run and of a case is refused in one line, and nothing worse is
recorded by itself. No torch."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.baseline_proposals import NEW, accept, diff, propose
from harness.baseline_store import BaselineFile, digest, prune, read_baselines, read_file, unused
from harness.codec import to_plain, write_record
from harness.errors import CorruptRecord, HarnessError
from harness.machine.profile import Match, Profile, write_profile
from harness.measured import Measurements
from harness.measurement.regression import Recorded
from harness.records import Case, Run, Verdict
from harness.vocabulary import Dtype, Outcome, Property, Technique
from suites.conftest import CATALOGUE
from suites.meta.test_regression import MIB, measured, timed

HERE = Match("cpu", "x86_64")
ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "here",
    "processor": "some processor",
    "cpu_capability": "AVX2",
    "cores": "2",
    "accelerators": "none",
    "torch": "2.13.0",
    "transformers": "5.22.2",
    "pytest": "9",
}
CUDA = {**ENVIRONMENT, "accelerators": "NVIDIA H200", "driver": "580"}


def case(path="attention.sdpa", *, device="cpu", workload="single"):
    found = next(entry for entry in CATALOGUE.paths if entry.name == path)
    chosen = next(entry for entry in CATALOGUE.workloads if entry.name == workload)
    return Case(path, found.technique, CATALOGUE.models[0], chosen, device, Dtype.FP32)


SDPA = case()
FLASH = case("attention.sdpa_flash")
STATIC = case("caching.static")
KNOWN = {entry.id for entry in (SDPA, FLASH, STATIC)}
FILE = "attention.json"


def verdict(of, outcome=Outcome.PASS, *, asked=Property.EQUIVALENCE):
    return Verdict(
        of.id, asked, outcome, "", {}, of.technique, of.path, of.recipe.name, of.workload.name, of.device, of.dtype
    )


@pytest.fixture
def checkout(tmp_path):
    """A folder with one profile; `checkout.run(cases...)` makes a finished run in it."""
    return Checkout(tmp_path)


class Checkout:
    def __init__(self, root, *, match=HERE):
        self.root = root
        self.profile = Profile("here", root / "baselines" / "here", match, None)
        self.folder = self.profile.folder
        write_profile(self.profile)

    def run(self, cases=None, *, name="run", environment=ENVIRONMENT, verdicts=None, **changes):
        """`cases`: Measurements by case; the run passes everything."""
        cases = cases or {SDPA: {}}
        folder = self.root / name
        for of, made in cases.items():
            given = made if isinstance(made, Measurements) else measured(of.id, **made)
            write_record(folder / "measurements" / f"{of.id}.json", given)
        judged = tuple(verdicts if verdicts is not None else map(verdict, cases))
        run = Run(3, "here", environment, "2026-01-02T03:04:05", "2026-01-02T04:00:00+00:00", 0, judged)
        write_record(folder / "run.json", replace(run, **changes))
        return folder

    def accept(self, run, *, known=KNOWN, **options):
        propose(run, self.root)
        return accept(run, self.root, known=known, **options)

    def read(self):
        return read_baselines(self.profile)

    def stored(self, of=SDPA):
        return self.read().find(of.id, of.technique, environment=ENVIRONMENT)


def refusal(what, *arguments, **options):
    """The one line of a refusal."""
    with pytest.raises(HarnessError) as refused:
        what(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def resealed(path, **changes):
    """Write a file anew with other contents and a seal that fits."""
    write_record(path, replace(read_file(path), **changes).sealed())


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
    assert found == f"profile here was recorded on other hardware, which says nothing here: {told}"


def test_new_versions_are_compared_with(checkout):
    """A regression is exactly what they bring."""
    checkout.accept(checkout.run())
    found = checkout.read().find(SDPA.id, SDPA.technique, environment={**ENVIRONMENT, "torch": "3.0"})
    assert isinstance(found, Recorded)


def test_accelerators_are_told_apart_by_name_and_driver(tmp_path):
    """Not by the processor beside them; they have absolute seconds."""
    there = Checkout(tmp_path, match=Match("cuda", "NVIDIA H200"))
    sdpa = case(device="cuda")
    there.accept(there.run({sdpa: {}}, environment=CUDA), known={sdpa.id})
    find = there.read().find
    stored = find(sdpa.id, sdpa.technique, environment={**CUDA, "processor": "other"})
    assert stored.figures.speed.seconds == pytest.approx(1, rel=0.02)
    assert find(sdpa.id, sdpa.technique, environment={**CUDA, "driver": "590"}).endswith(
        "which says nothing here: driver 580 instead of 590"
    )


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


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"finished": None}, "the run is not finished, but should be (wait for it, or name another run)"),
        ({"profile": None}, "the run matched no profile, but its numbers belong into one (harness calibrate makes "),
        ({"verdicts": ()}, f"worth recording: {SDPA.id}: it was measured, but not judged (name another run)"),
        (
            {"verdicts": (verdict(SDPA), verdict(SDPA, Outcome.MISMATCH))},
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
    assert refusal(accept, run, checkout.root, known=KNOWN) == refusal(diff, run, checkout.root) == message
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
        (f"measurements/{SDPA.id}.json", '"kv"', '"kvs"', ": has unknown kvs, but Held knows "),
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
    run = checkout.run(verdicts=[verdict(SDPA), verdict(SDPA, outcome)])
    assert checkout.accept(run).taken == (SDPA.id,)


def test_accepting_needs_a_proposal_that_is_the_runs(checkout):
    """What is recorded is what could be read before."""
    run = checkout.run()
    assert refusal(accept, run, checkout.root, known=KNOWN) == (
        f"{run}/baselines: holds no proposal (first: harness baseline propose {run})"
    )
    propose(run, checkout.root)
    edited(run / "baselines" / FILE, '"pairs": 20', '"pairs": 30')
    assert "was edited by hand" in refusal(accept, run, checkout.root, known=KNOWN)
    propose(run, checkout.root)
    resealed(run / "baselines" / FILE, cases={})
    other = f"{run}/baselines: is not what the run's measurements and verdicts give (again: harness baseline propose "
    assert refusal(accept, run, checkout.root, known=KNOWN) == f"{other}{run})"
    propose(run, checkout.root)
    checkout.run({SDPA: {"peak": 300 * MIB}})
    assert refusal(accept, run, checkout.root, known=KNOWN) == f"{other}{run})"
    assert not (checkout.folder / FILE).exists()


WORSE = {"speed": timed(1.5)}
BETTER = {"speed": timed(3.0)}


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
    assert refusal(checkout.accept, checkout.run(), known={FLASH.id}) == (
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
    told = "could not be written: No space left on device (free the disk or "
    assert refusal(propose, run, checkout.root).startswith(f"{run}/baselines/attention.json: {told}")
    assert refusal(accept, run, checkout.root, known=KNOWN).startswith(f"{checkout.folder}/attention.json: {told}")
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
    there.accept(run, known={sdpa.id})
    rows = {row.metric: row for row in diff(run, there.root).rows}
    assert {rows[name].change for name in ("run", "output token", "first token")} == {"+0.0%"}


def test_seal_is_over_everything_else():
    bare = BaselineFile(1, HERE, {"cores": "2"}, {}).sealed()
    assert bare.whole
    for change in ({"match": Match("cpu", "other")}, {"hardware": {}}):
        assert not replace(bare, **change).whole
