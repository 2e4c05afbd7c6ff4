"""The statement on a machine: which line it begins with for what, and that all its forms say the same."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.commands.validate.records import Check, Grade
from harness.commands.validate.statement import Acceptance, Machine, Suites, state
from harness.commands.validate.statement_files import (
    statement_html,
    statement_markdown,
    write_statement,
)
from harness.records.enums import Outcome, Property
from suites.meta.builders.documents import fence, section
from suites.meta.builders.made_up_run import HOSTILE
from suites.meta.builders.recorded_cards import card
from suites.meta.builders.recorded_runs import CUDA, ENVIRONMENT, FLASH, SDPA, STATIC, verdict
from suites.meta.builders.statements import (
    BAD,
    DATE,
    DIFFERENT,
    GOOD,
    OPEN,
    PASS,
    SAME,
    every,
    read_statement,
    run_of,
    statement,
    verdicts,
)


def test_machine_on_which_all_is_well_is_accepted():
    made = statement(*PASS)
    assert made.line == "accepted: NVIDIA H200, 3 verdicts pass"
    assert (made.acceptance, made.rejections, made.exceptions) == (Acceptance.ACCEPTED, (), ())
    assert made.outcomes == {"PASS": 2, "IMPROVED": 1}


def test_reported_speed_is_no_exception_and_does_not_count_as_passed():
    made = statement(Outcome.PASS, Outcome.PASS, Outcome.REPORTED)
    assert made.line == "accepted: NVIDIA H200, 2 verdicts pass"
    assert made.outcomes["REPORTED"] == 1


@pytest.mark.parametrize(
    "outcome", [each for each in Outcome if not each.fails and each not in (*PASS, Outcome.REPORTED)]
)
def test_verdict_that_neither_passes_nor_fails_is_an_exception(outcome):
    asked = Property.CLAIM if outcome is Outcome.DISCLAIMED else Property.EQUIVALENCE
    made = statement(Outcome.PASS, Outcome.PASS)
    told = replace(verdict(FLASH, outcome, asked=asked), message=f"{FLASH.id}: it is so")
    found = replace(run_of(), verdicts=(*verdicts(Outcome.PASS, Outcome.PASS), told))
    made = state(Machine("cuda", CUDA, (GOOD,), (card(),), (SAME,)), Suites(found, 0), date=DATE)
    assert made.line == f"accepted with exceptions: NVIDIA H200, 2 verdicts pass; exceptions: 1 {outcome}"
    [line] = made.exceptions
    assert line.startswith(f"{outcome}: ")
    assert "it is so" in line


@pytest.mark.parametrize("outcome", [each for each in Outcome if each.fails])
def test_verdict_that_fails_rejects(outcome):
    made = statement(Outcome.PASS, outcome, code=1)
    assert made.line == f"rejected: NVIDIA H200, {outcome} {STATIC.id}: it is so"


def test_every_outcome_is_weighed():
    """One that is new must be a pass, an exception or a rejection."""
    weighed = {statement(Outcome.PASS, outcome).acceptance for outcome in Outcome}
    assert weighed == {*Acceptance}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"checks": (GOOD, OPEN)},
            "accepted with exceptions: NVIDIA H200, 3 verdicts pass; exceptions: 1 of the preflight",
        ),
        (
            {"asked": ("-k", "ragged_b4 and not eager")},
            (
                "accepted with exceptions: NVIDIA H200, 3 verdicts pass; exceptions: only -k 'ragged_b4 and not eager' "
                "was asked"
            ),
        ),
        (
            {"cards": (card(), card())},
            "accepted with exceptions: NVIDIA H200, 3 verdicts pass; exceptions: suites on one card alone",
        ),
        (
            {"checks": (BAD, OPEN)},
            "rejected: NVIDIA H200, cuda:0: row remapping is failed, but should be possible (return the card)",
        ),
        (
            {"printed": (DIFFERENT,)},
            (
                "rejected: NVIDIA H200, cuda:0: fp32 products in repetition 7 of 40 is 222222222222, but "
                "should be 111111111111 as in the first (the card corrupts data without a word: do not use it, and "
                "have it replaced)"
            ),
        ),
        (
            {"finished": None},
            (
                "rejected: NVIDIA H200, suites: the run is not finished, but should be (it was interrupted or killed: "
                "validate again)"
            ),
        ),
        (
            {"verdicts": ()},
            (
                "rejected: NVIDIA H200, suites: the number of cases judged is 0, but should be more (read why in the "
                "run's report)"
            ),
        ),
        (
            {"code": 3, "selected": 50},
            (
                "rejected: NVIDIA H200, suites: pytest's exit code is 3, but should be 0 (the session broke off, or "
                "its record could not be written: read its output); and 1 more reason"
            ),
        ),
    ],
)
def test_first_line_says_why(changes, line):
    assert statement(*PASS, **changes).line == line


def test_documented_lines_are_given():
    """The examples of docs/machines.md, with numbers that are made up there."""
    shown = fence(section("docs/machines.md", "### The statement"), "text").splitlines()
    lost = Check(
        "cuda:0", "row remapping", "failed", Grade.REJECTING, "possible", "no spare row is left: return the card"
    )
    skipped = (Outcome.INCONCLUSIVE, Outcome.UNSUPPORTED, Outcome.PASS)
    made = [statement(*PASS), statement(*skipped, checks=(GOOD, OPEN)), statement(*PASS, checks=(lost,))]
    same = [re.sub(r"\d+ (verdict|INC|UNS)(s pass)?", r"N \1", each) for each in shown]
    assert same == [re.sub(r"\d+ (verdict|INC|UNS)(s pass|s? passes)?", r"N \1", each.line) for each in made]


def test_cases_of_which_none_was_judged_reject():
    """Skipped all of them: green must mean proved."""
    made = statement(Outcome.UNSUPPORTED, Outcome.INCONCLUSIVE, code=1)
    assert made.line.startswith("rejected: NVIDIA H200, suites: the number of cases judged is 0, but should be more")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"selected": 50}, "suites: 47 of 50 selected tests gave no verdict (read their output)"),
        ({"failed_otherwise": 1}, "suites: 1 test failed and gave no failing verdict (read their output)"),
    ],
)
def test_what_was_not_told_is_no_proof(changes, told):
    """Whatever pytest's exit code says."""
    assert statement(*PASS, **changes).line == f"rejected: NVIDIA H200, {told}"


@pytest.mark.parametrize(
    ("suites", "told"),
    [
        (Suites(), "suites: the number of verdicts is 0, but should be more (they were not started)"),
        (
            Suites(None, -9),
            "suites: their record is missing, but should be there (pytest ended with -9: read its output)",
        ),
    ],
)
def test_suites_without_a_record_reject(suites, told):
    made = state(Machine("cuda", CUDA, (GOOD,), (card(),), (SAME,)), suites, date=DATE)
    assert made.line == f"rejected: NVIDIA H200, {told}"


def test_preflight_that_rejects_is_reason_enough_without_suites():
    made = state(Machine("cuda", CUDA, (BAD,), (), ()), Suites(), date=DATE)
    assert made.rejections == (str(BAD),)


def test_further_reasons_are_counted_and_all_told():
    """What fails two properties of a case by one message is one reason."""
    failing = (
        replace(verdict(SDPA, Outcome.MISMATCH), message=f"{SDPA.id}: it is so"),
        replace(verdict(SDPA, Outcome.MISMATCH, asked=Property.SPEED), message=f"{SDPA.id}: it is so"),
        replace(verdict(STATIC, Outcome.CRASHED), message=f"{STATIC.id}: it\nis so"),
    )
    made = statement(checks=(BAD,), verdicts=failing, code=1)
    assert made.line.endswith("(return the card); and 2 more reasons")
    assert made.rejections == (str(BAD), f"MISMATCH {SDPA.id}: it is so", f"CRASHED {STATIC.id}: it")


def test_what_the_run_was_judged_by_is_told():
    judged = CUDA | {"judged_by": "numerics.json is not compared with"}
    assert statement(*PASS, environment=judged).environment == judged


def test_processor_is_named_where_there_is_no_accelerator():
    made = state(Machine("cpu", ENVIRONMENT, (GOOD,), (), (SAME,)), Suites(run_of(*PASS), 0), date=DATE)
    assert made.line == "accepted: some processor, 3 verdicts pass"


def test_machine_no_card_of_which_could_be_examined_is_named_by_its_device():
    nameless = CUDA | {"accelerators": "none"}
    made = state(Machine("cuda", nameless, (BAD,), (), ()), Suites(), date=DATE)
    assert made.line.startswith("rejected: cuda, cuda:0: row remapping is failed")


def test_cards_of_one_kind_are_counted():
    two = CUDA | {"accelerators": "NVIDIA H200, NVIDIA L4, NVIDIA H200"}
    assert Machine("cuda", two, (), (), ()).name == "2 × NVIDIA H200, NVIDIA L4"


def test_statement_that_contradicts_itself_cannot_be_made():
    made = statement(*PASS, checks=(BAD,))
    with pytest.raises(ValueError, match="but should say accepted"):
        replace(made, rejections=())
    with pytest.raises(ValueError, match="but should say rejected"):
        replace(made, acceptance=Acceptance.ACCEPTED)


@pytest.mark.parametrize("made", list(every()), ids=lambda made: str(made.acceptance).replace(" ", "-"))
def test_all_forms_say_the_same(made, tmp_path):
    """The line first; every reason, exception, check, digest and step; and the record is read back as it was."""
    paths = write_statement(tmp_path, made)
    assert [path.name for path in paths] == ["statement.md", "statement.html", "statement.json"]
    assert read_statement(tmp_path) == made
    markdown, page = (path.read_text() for path in paths[:2])
    assert markdown.splitlines()[0] == f"# {made.line}"
    said = re.sub(r"<[^>]+>", "", page.partition("</head>")[2])
    said = " ".join(said.replace("&#39;", "'").split())
    assert said.startswith(f"{ {'accepted': '✓', 'rejected': '✕'}.get(made.acceptance, '?') } {made.line}")
    lines = [*made.rejections, *made.exceptions, *made.proposal.files, *made.proposal.steps]
    lines += [check.got for check in made.checks]
    lines += [digest[:12] for each in made.fingerprints for digest in each.digests.values()]
    lines += [*made.environment.values(), *(f"{n} {outcome}" for outcome, n in made.outcomes.items())]
    assert [line for line in lines if line not in markdown] == []
    assert [line for line in lines if " ".join(line.split()) not in said] == []


def test_page_holds_nothing_that_leaves_it_or_runs(tmp_path):
    (tmp_path / "report.html").touch()
    for made, beside in ((statement(*PASS), True), (statement(Outcome.MISMATCH), False)):
        page = statement_html(made, has_report=beside)
        assert not re.search(r"<script|javascript:|\son\w+=|<iframe|@import|url\(|src=", page)
        outside = {link for link in re.findall(r'href="([^"]+)', page) if not link.startswith("#")}
        assert outside == {"data:,", *(["report.html"] if beside else [])}


def test_hostile_message_is_escaped():
    told = replace(verdict(SDPA, Outcome.CRASHED), message=f"{SDPA.id}: {HOSTILE}")
    made = statement(verdicts=(told,), code=1)
    page = statement_html(made, has_report=False)
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", page)
    assert "{{ 7 * 7 }}" in page
    assert statement_markdown(made).splitlines()[0].startswith("# rejected: ")
