"""`harness report`: a finished run judged again from its files, by what stands in its profile today. No torch."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from harness.commands.report.rejudge import NEVER_ENDED
from harness.judging.claims import UNTRUE
from harness.judging.measured import expectation_for, judge_evidence, judge_measured
from harness.profiles.exceptions import Disclaimer
from harness.profiles.expectations import Expectations
from harness.profiles.profile import Match, write_profile
from harness.profiles.thresholds import Threshold
from harness.records.codec import read_record, write_lines, write_record
from harness.records.enums import Outcome, Property
from harness.records.evidence import Evidence
from harness.records.run import EXAMPLES, Run
from harness.records.run_files import VERDICTS
from suites.conftest import CATALOGUE
from suites.meta.builders.commands import CONFTEST, harness, refusal, write_evidence
from suites.meta.builders.recorded_runs import ENVIRONMENT, Checkout, case, verdict
from suites.meta.builders.timings import measured, speed

TIMED = case(workload="decode_b1")
PROPERTIES = (Property.EQUIVALENCE, Property.SPEED, Property.MEMORY, Property.REGRESSION)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The folder that the command runs in."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    return Checkout(tmp_path)


@pytest.fixture
def report(monkeypatch, capsys):
    """Runs `harness report`; (code, output, errors)."""
    return lambda *arguments: harness(monkeypatch, capsys, "report", *arguments)


def judged(of, *, made):
    """The verdicts that a session gives, of good float32 runs."""
    expectations = Expectations("here")
    shown = read_record(Evidence, made / "evidence" / f"{of.id}.json")
    optimization = next(path for path in CATALOGUE.paths if path.name == of.path)
    for asked in PROPERTIES:
        first = judge_evidence(of, asked, shown, expectations=expectations)
        expectation = expectation_for(of, optimization, expectations=expectations)
        yield judge_measured(of, asked, first, measured(of.id), expectation) if asked.measured else first


def session(checkout, of=TIMED, **changes):
    """The folder of a run of one timed case that is twice as fast as eager, judged without a profile's thresholds."""
    folder = write_evidence(checkout.root / "run", of)
    return checkout.run({of: measured(of.id)}, verdicts=[*judged(of, made=folder)], **changes)


def threshold(checkout, **limits):
    held = Threshold(TIMED.path, "decode_b1", "the test wants it", **limits)
    write_profile(replace(checkout.profile, thresholds=(held,)))


def outcomes(folder):
    return {each.property: each.outcome for each in read_record(Run, folder / "run.json").verdicts}


def test_run_judged_by_the_same_stays_as_it_is(checkout, report):
    """To the last number; its files are rendered, and nothing is kept beside them."""
    run = session(checkout)
    report(run)  # says in other words why there is no baseline
    (run / "run.before.json").unlink()
    before = read_record(Run, run / "run.json")
    code, out, _ = report(run)
    assert code == 0
    assert out.splitlines() == [
        "judged by profile here",
        "4 verdicts given again, 0 of them changed",
        "2 PASS, 1 REPORTED, 1 NO_BASELINE",
        f"written: {run}",
    ]
    after = read_record(Run, run / "run.json")
    assert after == before
    told = (run / "report.md").read_text()
    assert told.startswith("# Passed: 1 optimization path works ")
    assert "\n2 PASS" in told
    assert not (run / "run.before.json").exists()


def test_stricter_threshold_fails_a_run_that_passed(checkout, report):
    """Was and now are told, the exit code says so, and the record as the session wrote it is kept."""
    run = session(checkout)
    written = (run / "run.json").read_text()
    threshold(checkout, speed_min=3.0)
    code, out, _ = report(run)
    assert code == 1
    first = out.splitlines()[0]
    assert first.startswith(f"{TIMED.id}: speed was REPORTED, now SLOW: speed over eager's is 2")
    assert "but should be at least 3, since the test wants it" in first
    assert "4 verdicts given again, 1 of them changed" in out
    assert outcomes(run)[Property.SPEED] is Outcome.SLOW
    assert (run / "run.before.json").read_text() == written
    assert "SLOW" in (run / "report.md").read_text()
    assert ET.parse(run / "junit.xml").find("testsuite").get("failures") == "1"


def test_session_is_not_rewritten(checkout, report):
    """Environment, start, end and the session's own exit code are those of the session."""
    run = session(checkout)
    before = read_record(Run, run / "run.json")
    threshold(checkout, speed_min=3.0)
    report(run)
    after = read_record(Run, run / "run.json")
    assert replace(after, verdicts=(), exit_again=None) == replace(before, verdicts=())
    assert (after.exit, after.exit_again) == (0, 1)
    assert "exit 0 when it ran, 1 as judged again." in (run / "report.md").read_text()
    assert "Exit 0 when it ran, 1 as judged again" in (run / "report.html").read_text()


def test_record_of_the_session_outlives_later_reports(checkout, report):
    run = session(checkout)
    written = (run / "run.json").read_text()
    for least in (3.0, 1.0, 3.0):
        threshold(checkout, speed_min=least)
        report(run)
    assert (run / "run.before.json").read_text() == written


def test_record_is_kept_if_only_a_number_changed(checkout, report):
    """No outcome did: the session wrote other numbers than its files give today."""
    run = session(checkout)
    report(run)
    (run / "run.before.json").unlink()
    written = read_record(Run, run / "run.json")
    first, *rest = written.verdicts
    moved = replace(first, numbers={**first.numbers, "fp32.rho": 0.5})
    write_record(run / "run.json", replace(written, verdicts=(moved, *rest)))
    code, out, _ = report(run)
    assert code == 0
    assert "4 verdicts given again, 0 of them changed" in out
    assert read_record(Run, run / "run.before.json").verdicts[0].numbers["fp32.rho"] == 0.5
    assert read_record(Run, run / "run.json") == written


def test_dry_run_writes_nothing(checkout, report):
    run = session(checkout)
    threshold(checkout, speed_min=3.0)
    before = {path: path.read_text() for path in run.rglob("*") if path.is_file()}
    code, out, _ = report(run, "--dry-run")
    assert code == 1
    assert out.endswith("\nnothing was written\n")
    assert {path: path.read_text() for path in run.rglob("*") if path.is_file()} == before


def test_json_holds_what_changed_and_what_fails(checkout, report):
    run = session(checkout)
    threshold(checkout, speed_min=3.0)
    found = json.loads(report(run, "--json")[1])
    [changed] = found["changed"]
    assert (changed["was"]["outcome"], changed["now"]["outcome"]) == ("REPORTED", "SLOW")
    assert [failing["property"] for failing in found["failing"]] == ["speed"]
    assert (found["judged"], found["kept"]) == (4, {})


def test_baseline_that_was_accepted_since_is_held_to(checkout, report):
    run = session(checkout)
    checkout.accept(run, case_ids={TIMED.id})
    _, out, _ = report(run)
    assert f"{TIMED.id}: regression was NO_BASELINE, now PASS: as recorded on 2026-01-02" in out


def test_evidence_is_held_to_its_rules(checkout, report):
    """What was measured of a case that does not agree with eager is worth nothing either."""
    run = session(checkout)
    write_evidence(run, TIMED, ratio=99.0)
    code, out, _ = report(run)
    assert code == 1
    assert set(outcomes(run).values()) == {Outcome.MISMATCH}
    assert out.count("now MISMATCH") == 4


def claim(of):
    return replace(verdict(of, asked=Property.CLAIM), case="overview.attention.speed")


def relation(of):
    return replace(verdict(of, Outcome.MISMATCH), workload="padding", numbers={EXAMPLES: 6.0})


GONE = replace(case("attention.sdpa_math"), path="attention.gone")
OTHER = case("attention.sdpa_flash", workload="single")


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (claim(TIMED), "claims rest on several cases"),
        (relation(TIMED), "relations were asked of examples that no file holds"),
        (verdict(OTHER, Outcome.UNSUPPORTED), "it could not run there"),
        (verdict(OTHER), "there is no evidence file"),
        (verdict(TIMED, asked=Property.SPEED), "there is no measurements file"),
        (verdict(GONE), "the catalogue has no path of that name"),
        (replace(verdict(TIMED), workload="gone"), "the catalogue has no workload of that name"),
    ],
)
def test_what_no_file_holds_keeps_its_verdict(checkout, report, kept, why):
    """And is counted, with the reason."""
    run = checkout.run({OTHER: {}}, verdicts=[kept])
    write_evidence(run, TIMED, GONE)
    code, out, _ = report(run)
    assert code == (1 if kept.outcome.fails else 0)
    assert "0 verdicts given again, 0 of them changed; 1 verdict kept" in out
    assert f"kept: 1, since {why}" in out
    assert read_record(Run, run / "run.json").verdicts == (kept,)


@pytest.mark.parametrize(
    ("outcome", "disclaimed", "now"),
    [
        (Outcome.DOES_NOT_HOLD, True, Outcome.DISCLAIMED),
        (Outcome.DOES_NOT_HOLD, False, Outcome.DOES_NOT_HOLD),
        (Outcome.PASS, True, Outcome.PASS),
        (Outcome.INCONCLUSIVE, True, Outcome.INCONCLUSIVE),
    ],
)
def test_claim_that_the_profile_disclaims_since_is_disclaimed(checkout, report, outcome, disclaimed, now):
    """No file is needed: the numbers contradict it still, and the profile says why."""
    why = UNTRUE if outcome is Outcome.DOES_NOT_HOLD else ""
    said = replace(claim(TIMED), outcome=outcome, message=f"overview.attention.speed: x is 1 ({why})")
    if disclaimed:
        write_profile(replace(checkout.profile, disclaimers=(Disclaimer("overview.attention.speed", "it is slow"),)))
    run = checkout.run({TIMED: {}}, verdicts=[said])
    code, out, _ = report(run)
    assert code == int(now.fails)
    [verdict] = read_record(Run, run / "run.json").verdicts
    assert verdict.outcome is now
    changed = "claim was DOES_NOT_HOLD, now DISCLAIMED: x is 1 (its profile says so: it is slow)"
    assert (changed in out) is (now is not outcome)


def test_model_beyond_the_catalogue_is_judged_by_its_name(checkout, report):
    """As `--model FOLDER` brings it: the verdict records all that judging asks of a model."""
    mine = replace(TIMED, recipe=replace(TIMED.recipe, name="mine"))
    run = session(checkout, of=mine)
    threshold(checkout, speed_min=3.0)
    assert report(run)[0] == 1
    assert outcomes(run)[Property.SPEED] is Outcome.SLOW


@pytest.mark.parametrize(
    ("named", "platform", "told"),
    [
        ("here", "elsewhere", "judged by profile here\n"),
        (None, "Linux-6.1-x86_64-with-glibc2.36", "judged by profile here\nprofile here instead of none\n"),
        ("gone", "Linux-6.1-x86_64-with-glibc2.36", "judged by profile here\nprofile here instead of gone\n"),
        ("gone", "Linux-6.1-aarch64-with-glibc2.36", "no profile matches\nprofile none instead of gone\n"),
    ],
)
def test_profile_is_that_of_the_run(checkout, report, named, platform, told):
    """By its name, or else by the machine that it ran on, which need not be this one."""
    run = session(checkout, profile=named, environment={**ENVIRONMENT, "platform": platform})
    assert told in report(run)[1]


def test_profile_of_an_accelerator_is_matched_by_its_name(checkout, report):
    write_profile(replace(checkout.profile, match=Match("cuda", "NVIDIA H200")))
    gpu = replace(TIMED, device="cuda")
    run = session(checkout, of=gpu, profile=None, environment={**ENVIRONMENT, "accelerators": "NVIDIA H200"})
    assert "judged by profile here\n" in report(run)[1]


def test_what_is_no_finished_run_is_one_line(checkout, report):
    code, _, errors = report("nowhere")
    assert code == 2
    assert refusal(errors) == (
        "nowhere/run.json: could not be read: No such file or directory (name the folder of a run, for example "
        "runs/latest)"
    )


def test_run_that_was_killed_is_rendered_and_stays_as_it_is(checkout, report):
    """Its verdicts are those that a session that goes on with it will take up."""
    run = session(checkout, finished=None, exit=None)
    record = read_record(Run, run / "run.json")
    write_lines(run / VERDICTS, record.verdicts)
    write_record(run / "run.json", replace(record, verdicts=()))
    threshold(checkout, speed_min=3.0)
    written = (run / "run.json").read_text()
    code, out, _ = report(run)
    assert code == 1
    assert NEVER_ENDED.endswith("run.json is left as it is (pytest --resume goes on with it)")
    assert out.splitlines() == [
        NEVER_ENDED,
        "0 verdicts given again, 0 of them changed; 4 verdicts kept",
        "kept: 4, since the run is not finished",
        "2 PASS, 1 REPORTED, 1 NO_BASELINE",
        f"written: {run}",
    ]
    assert (run / "run.json").read_text() == written
    assert not (run / "run.before.json").exists()
    assert "never finished" in (run / "report.html").read_text()
    assert "finished never" in (run / "report.md").read_text()


def rewritten(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


RESTORE = "(restore the file, or run again)"


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("run.json", '"schema": 3', '"schema": 2', "schema is 2, but should be 3 (run again, or use the version that "),
        ("run.json", '"finished"', '"fin', f" {RESTORE}"),
        (
            "run.json",
            '"recipe": "tiny_qwen3"',
            '"recipe": "a/b"',
            "what cannot be judged: ValueError model recipe",
        ),
        ("evidence", '"dtype": "fp32"', '"dtype": "bf16"', f"holds what cannot be judged: StopIteration {RESTORE}"),
        ("evidence", '"budget": ""', '"budget": "odd"', f"holds what cannot be judged: KeyError 'odd' {RESTORE}"),
        ("evidence", '"tolerance": "reordered"', '"tolerance": "odd"', f" {RESTORE}"),
        ("measurements", '"new_tokens": 33', '"new_tokens": 1', "1 rows of 1 new tokens cannot be timed step by step "),
    ],
)
def test_file_that_holds_nonsense_is_one_line(checkout, report, *, file, old, new, told):
    """Of the right types, but nothing that a session writes; the line names the file and what to do."""
    run = session(checkout)
    path = run / file if file.endswith(".json") else run / file / f"{TIMED.id}.json"
    rewritten(path, old, new)
    code, out, errors = report(run)
    assert (code, out) == (2, "")
    assert refusal(errors).startswith(str(path))
    assert told in refusal(errors)


def test_evidence_of_another_case_is_refused(checkout, report):
    run = session(checkout)
    (run / "evidence" / f"{TIMED.id}.json").rename(run / "evidence" / "other.json")
    code, _, errors = report(run)
    assert code == 2
    assert refusal(errors).endswith(f"other.json: holds {TIMED.id}, but should hold other (run the case again)")
    assert not (run / "report.md").exists()


def test_regression_of_what_was_recorded_is_found_again(checkout, report):
    """A run twice as fast as eager, against a baseline three times as fast."""
    faster = checkout.run({TIMED: measured(TIMED.id, speed=speed(3.0))}, name="faster")
    checkout.accept(faster, case_ids={TIMED.id})
    run = session(checkout)
    assert report(run)[0] == 1
    assert outcomes(run)[Property.REGRESSION] is Outcome.REGRESSED
