"""The overview with figures, and claims in reports."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from harness.judging.claims import claim_verdict, judge_claim
from harness.judging.verdicts import verdict_on
from harness.profiles.thresholds import TICKS
from harness.records.enums import Outcome, Property
from harness.records.run import Run
from harness.reports.overview import overview_table
from harness.reports.tables import case_table, claim_table, judged_cases, skipped_paths, tried_cases, untrue_claims
from suites.claims.__main__ import tables
from suites.claims.examples import last_error
from suites.claims.overview_examples import PLACES, deprecated
from suites.claims.registry import CLAIMS
from suites.meta.builders.made_up_answers import Answers
from suites.meta.builders.measurements import timed
from suites.meta.builders.overview_claims import CASE, FASTER, SLOWER, STATED


def test_overview_has_seven_rows_with_figures_and_what_they_say():
    assert overview_table([]) == []
    fast = Answers("overview.attention.speed").tried
    small = Answers("overview.attention.memory").tried
    slow = replace(
        Answers(
            "overview.parallelism.speed",
        ).tried,
        outcome=Outcome.UNSUPPORTED,
    )
    table = overview_table([fast, small, slow])
    assert [row[0] for row in table] == ["technique", *TICKS]
    rows = {row[0]: row[1:] for row in table}
    assert rows["attention"] == [
        "2 (1.98 to 2.02): holds",
        "0.952 (0.884 to 1.02): undecided",
        "1.01",
        "",
        "attention.sdpa tiny_llama3 prefill_b1",
    ]
    assert rows["parallelism"][0] == "2 (1.98 to 2.02): UNSUPPORTED"
    assert rows["caching"] == [""] * 5


def test_claims_have_a_table_of_their_own():
    """They are no cases: neither the table of these nor the list of what was not judged shows them."""
    verdict = replace(judge_claim(STATED, [FASTER]), outcome=Outcome.UNSUPPORTED)
    assert claim_table([verdict])[1][:2] == ["sentence.some", "UNSUPPORTED"]
    assert claim_table([]) == []
    assert untrue_claims([verdict]) == [f"UNSUPPORTED: {verdict.message}"]
    assert untrue_claims([judge_claim(STATED, [SLOWER]), judge_claim(STATED, [FASTER])]) == []
    assert judged_cases([verdict]) == []
    assert skipped_paths([verdict]) == {}
    assert tried_cases([verdict]) == []
    held = judge_claim(STATED, [FASTER])
    [shown] = tried_cases([held])
    assert (shown.case, shown.property) == (CASE.id, Property.CLAIM)
    assert case_table([replace(shown, numbers={"fp32.rho": 1.004})])[1] == [CASE.id, "PASS", "1.00"]
    turned = tried_cases([Answers("overview.caching.speed", speed=timed(0.5)).tried])
    assert case_table(turned)[0] == ["case", "claim", "fp32 error ratio"]
    assert case_table(turned)[1] == ["cpu-fp32-tiny_llama3-caching.none-decode_b1", "PASS", "1.01"]
    assert tried_cases([held, verdict_on(CASE, Property.SPEED, Outcome.PASS, "")]) == []
    assert len(case_table([])) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Traceback\n  File x\nImportError: no flash-attn\n", "ImportError: no flash-attn"),
        ("[rank0]: Traceback\n[rank0]: ValueError: 2 heads\nW123 more: noise\n", "ValueError: 2 heads"),
        ("KeyError: 'x'\ntorch.OutOfMemoryError: no room\n", "torch.OutOfMemoryError: no room"),
        ("ValueError: 2\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: failed\n", "ValueError: 2"),
        ("killed\n", ""),
        ("ValueError: shape [2]: bad\n", "ValueError: shape [2]: bad"),
    ],
)
def test_error_of_an_example_is_its_last_exception(text, told):
    assert last_error(text) == told


def warned(category, text, *, place=PLACES[0]):
    return warnings.WarningMessage(category(text), category, f"{place}/x.py" if place == PLACES[0] else place, 1)


def test_all_that_is_said_of_deprecation_is_told_once():
    """By logs and warnings, of the library and where it blames the example; not what others warn of."""
    leaving = "The `paged|` prefix is no longer needed. Support will be removed"
    told = deprecated(
        ["`torch_dtype` is deprecated!\nmore", "loading", leaving, leaving],
        [
            warned(FutureWarning, "use another"),
            warned(FutureWarning, "pass it elsewhere", place=PLACES[1]),
            warned(UserWarning, "this is deprecated"),
            warned(UserWarning, "this is slow"),
            warned(DeprecationWarning, "of others", place="torch.py"),
        ],
    )
    assert told == [
        "`torch_dtype` is deprecated!",
        leaving,
        "this is deprecated",
        "use another",
        "pass it elsewhere",
    ]


def test_tables_of_readme_are_printed_from_a_run():
    """A row for every claim, whatever came of it; a run that lacks one has no such table."""
    said = {claim.name: Answers(claim.name) for claim in CLAIMS}
    verdicts = [claim_verdict(name, asked.case, Outcome.PASS, f"{name}: well") for name, asked in said.items()]
    verdicts[-1] = replace(verdicts[-1], outcome=Outcome.UNSUPPORTED)
    run = Run(3, None, {}, "then", "later", 0, tuple(verdicts))
    overview, claims = tables(run)
    assert [row.split(" | ")[0] for row in overview[2:]] == [f"| {name.replace('_', ' ')}" for name in TICKS]
    assert claims[2] == "| `overview.compilation.speed` | compilation: it makes inference faster | holds: well |"
    assert claims[-1].endswith("| not here: well |")
    with pytest.raises(KeyError, match=CLAIMS[0].name):
        tables(replace(run, verdicts=tuple(verdicts[1:])))
