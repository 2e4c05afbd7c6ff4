"""Bars, the map of outcomes, and failures with their next step: what the first screens of a report are made of."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from harness.judging.measured import judge_measured
from harness.judging.verdicts import failed
from harness.records.enums import Outcome, Property, Technique
from harness.records.evidence import Failure
from harness.records.run import Run
from harness.reports.bars import MOST_TICKS, SHOWN, chart, ratio_table
from harness.reports.failures import AGAIN, FOLDED, LONGEST, MOST_LISTED, READ_ON, failure_lines, message_and_next
from harness.reports.heat import heat, legend
from harness.reports.html import UNFOLDED, html
from harness.reports.markdown import markdown
from harness.reports.standings import path_table
from suites.meta.builders.judging import expectation
from suites.meta.builders.made_up_run import HOSTILE
from suites.meta.builders.recorded_runs import ENVIRONMENT, FLASH, SDPA, STATIC, case, verdict

EAGER, TIMED = case("eager"), case("attention.sdpa", workload="decode_b1")
BROKEN = "x is 1, but should be 2"


def fast(of, mid, low=None, high=None, *, outcome=Outcome.PASS, **limits):
    """A verdict on a speed."""
    numbers = {"speedup": mid, "speedup.low": low or mid / 1.1, "speedup.high": high or mid * 1.1}
    numbers |= {f"speedup.{name}": limit for name, limit in limits.items()}
    return replace(verdict(of, outcome, asked=Property.SPEED), numbers=numbers)


def light(of, ratio, outcome=Outcome.PASS):
    return replace(verdict(of, outcome, asked=Property.MEMORY), numbers={"memory_ratio": ratio})


def bars_of(drawn):
    return [bar for some in drawn.groups.values() for bar in some]


def run_of(*verdicts):
    return Run(3, None, ENVIRONMENT, "2026-01-02T03:04:05+00:00", "later", 1, verdicts)


def failing(number=0, message=f"{BROKEN} (look)"):
    name = f"{SDPA.id}{number}"
    return replace(verdict(SDPA, Outcome.MISMATCH), case=name, message=f"{name}: {message}")


def test_bar_reaches_from_one_to_the_ratio():
    """To the right of what is faster, to the left of what is slower; the interval is around its end."""
    drawn = chart([fast(SDPA, 2.0, at_least=1.5), fast(STATIC, 0.5)], Property.SPEED, name="n")
    faster, slower = bars_of(drawn)
    assert (faster.ratio.path, slower.ratio.path) == ("attention.sdpa", "caching.static")
    assert faster.start == drawn.one == pytest.approx(slower.start + slower.width, abs=0.02)
    assert faster.low < faster.start + faster.width < faster.high
    assert drawn.one < faster.limits[0] < faster.low
    assert faster.ratio.figure == "2 (1.82 to 2.2)"
    assert slower.width == pytest.approx(faster.width, abs=0.02)


def test_ratio_without_an_interval_is_a_bar_alone():
    [bar] = bars_of(chart([light(SDPA, 0.5)], Property.MEMORY, name="n"))
    assert bar.low == bar.high
    assert bar.ratio.figure == "0.5"


def test_nothing_measured_is_no_chart():
    strange = [replace(verdict(SDPA, asked=Property.SPEED), numbers={"speedup": value}) for value in (0, -1, math.nan)]
    for verdicts in ([], [verdict(SDPA)], strange):
        assert chart(verdicts, Property.SPEED, name="n") is None
        assert ratio_table(verdicts) == []


def test_interval_that_nothing_bounds_ends_at_the_edges():
    numbers = {"speedup": 2.0, "speedup.low": 0.0, "speedup.high": math.inf}
    [bar] = bars_of(chart([replace(fast(SDPA, 2.0), numbers=numbers)], Property.SPEED, name="n"))
    assert (bar.low, bar.high) == (0, 100)
    assert bar.ratio.figure == "2 (0 to inf)"


@pytest.mark.parametrize("most", [1.0, 1.01, 1.4, 3.0, 50.0, 1e6, 1e-5])
def test_axis_has_few_marks_and_one_among_them(most):
    drawn = chart([fast(SDPA, most)], Property.SPEED, name="n")
    assert (drawn.one, "1×") in drawn.ticks
    assert len(drawn.ticks) <= MOST_TICKS + 1
    places = [place for place, _ in drawn.ticks]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 100


def test_label_tells_bars_of_a_path_apart():
    """By what varies, and by nothing else."""
    first, second = bars_of(chart([fast(SDPA, 2.0), fast(TIMED, 1.5)], Property.SPEED, name="n"))
    assert (first.ratio.caption, second.ratio.caption) == ("single", "decode_b1")
    assert bars_of(chart([fast(SDPA, 2.0)], Property.SPEED, name="n"))[0].ratio.caption == ""


def test_what_the_overview_claims_is_drawn_too():
    tick = replace(fast(SDPA, 2.0), property=Property.CLAIM, case="overview.attention.speed")
    [bar] = bars_of(chart([tick], Property.SPEED, name="n"))
    assert bar.ratio.caption == "claim of the overview"
    assert chart([replace(tick, case="sentence.other")], Property.SPEED, name="n") is None
    assert ratio_table([tick]) == []


def test_what_fails_comes_first_then_the_best():
    """The best is the fastest, and what needs the least memory."""
    some = [fast(SDPA, 1.5), fast(FLASH, 3.0), fast(TIMED, 2.0, outcome=Outcome.SLOW)]
    assert [bar.ratio.figure[:3] for bar in bars_of(chart(some, Property.SPEED, name="n"))] == ["2 (", "3 (", "1.5"]
    some = [light(SDPA, 0.9), light(FLASH, 0.4)]
    assert [bar.ratio.figure for bar in bars_of(chart(some, Property.MEMORY, name="n"))] == ["0.4", "0.9"]


def test_many_bars_are_folded_and_none_is_lost(tmp_path):
    """Those that fail stay in sight."""
    many = [replace(fast(SDPA, 1 + number / 100), path=f"attention.p{number}") for number in range(60)]
    many += [replace(each, technique=Technique.CACHING) for each in many]
    many[:SHOWN] = [replace(each, outcome=Outcome.SLOW) for each in many[:SHOWN]]
    drawn = chart(many, Property.SPEED, name="n")
    assert len(bars_of(drawn)) + drawn.more == len(many)
    assert sum(bar.ratio.badge.kind == "bad" for bar in bars_of(drawn)) == SHOWN
    page = html(run_of(*many), tmp_path)
    assert f"<summary>{drawn.more} more bars</summary>" in page
    assert page.count('role="listitem"') == len(many)


def test_table_of_ratios_has_a_row_per_case():
    table = ratio_table([fast(SDPA, 2.0), light(SDPA, 0.5, Outcome.OVER_MEMORY), light(STATIC, 0.8)])
    assert table == [
        ["path", "case", "speed ×", "memory ×"],
        ["attention.sdpa", SDPA.id, "2 (1.82 to 2.2)", "0.5: OVER_MEMORY"],
        ["caching.static", STATIC.id, "", "0.8"],
    ]
    text = markdown(run_of(fast(SDPA, 2.0)))
    assert f"| attention.sdpa | {SDPA.id} | 2 (1.82 to 2.2) |  |" in text


def test_map_has_a_cell_for_each_path_and_property():
    """Failing paths come first, and those that could not be tried stand apart."""
    shown = heat(
        [
            verdict(SDPA),
            verdict(SDPA, Outcome.UNSUPPORTED),
            verdict(FLASH, Outcome.UNSUPPORTED),
            verdict(TIMED, asked=Property.SPEED),
            replace(verdict(SDPA, Outcome.MISMATCH), path="attention.last"),
            replace(verdict(SDPA), property=Property.CLAIM, case="claim"),
        ]
    )
    assert [name for name, _ in shown.head] == ["equiv.", "speed"]
    broken, sdpa = shown.tried[Technique.ATTENTION]
    assert (broken.path, broken.cells[0].kind, broken.cells[0].in_words) == ("attention.last", "bad", "1 MISMATCH")
    assert (sdpa.path, sdpa.cells[0].signs, sdpa.cells[0].in_words) == ("attention.sdpa", "–✓", "1 UNSUPPORTED, 1 PASS")
    assert (sdpa.cells[1].kind, broken.cells[1].kind) == ("good", "")
    assert [row.path for row in shown.untried[Technique.ATTENTION]] == ["attention.sdpa_flash"]
    assert shown.number_untried == 1
    assert [(badge.kind, told) for badge, told in legend(shown)] == [
        ("bad", "MISMATCH"), ("none", "UNSUPPORTED"), ("good", "PASS"),
    ]  # fmt: skip
    assert heat([]) is None


def test_page_shows_the_map(tmp_path):
    """Its words are heard, and what could not be tried is folded."""
    page = html(run_of(verdict(SDPA), verdict(FLASH, Outcome.UNSUPPORTED)), tmp_path)
    assert '<td role="cell" class="good" title="1 PASS">' in page
    assert '<span class="heard">1 PASS</span>' in page
    assert "<summary>1 path could not be tried here</summary>" in page
    assert html(run_of(), tmp_path).count("<svg") == 0


def test_paths_are_counted_by_technique():
    """The baseline is none."""
    table = path_table([verdict(EAGER), verdict(SDPA), verdict(FLASH, Outcome.UNSUPPORTED), failing(1)])
    assert table == [["technique", "fail", "not tried"], ["attention", "1", "1"]]
    assert path_table([verdict(EAGER)]) == []
    text = markdown(run_of(verdict(SDPA), verdict(FLASH, Outcome.UNSUPPORTED)))
    assert "| technique | work | not tried |\n| --- | --- | --- |\n| attention | 1 | 1 |\n" in text


def test_columns_tell_how_paths_stand():
    """Of a path that only engages, fails as known, or is disclaimed."""
    engaged = verdict(STATIC, asked=Property.ENGAGEMENT)
    known, untrue = verdict(FLASH, Outcome.KNOWN_FAILURE), verdict(SDPA, Outcome.DISCLAIMED)
    assert path_table([engaged, known, untrue]) == [
        ["technique", "only engage", "fail as known", "not as claimed"],
        ["caching", "1", "", ""],
        ["attention", "", "1", "1"],
    ]


@pytest.mark.parametrize(
    ("message", "found", "step"),
    [
        (f"{BROKEN} (look)", BROKEN, "look"),
        (f"{BROKEN} (look (twice) at it)", BROKEN, "look (twice) at it"),
        ("f(x)", "f(x)", AGAIN),
        ("x) (", "x) (", AGAIN),
        ("x))", "x))", AGAIN),
        ("(all of it)", "(all of it)", AGAIN),
        ("", "", AGAIN),
        ("shape is (3, 4) (3, 4)", "shape is (3, 4) (3, 4)", AGAIN),
        ("it is slow (2 shared cores)", "it is slow (2 shared cores)", AGAIN),
        ("it is wrong (fp32)", "it is wrong (fp32)", AGAIN),
    ],
)
def test_next_step_is_taken_from_the_message(message, found, step):
    assert message_and_next(failing(0, message)) == (found, step)


@pytest.mark.parametrize("outcome", READ_ON)
@pytest.mark.parametrize("message", ["ValueError: bad shape (3, 4)", "RuntimeError: no kernel (set DEBUG to see)"])
def test_brackets_of_a_foreign_message_are_no_step(outcome, message):
    """What the harness adds behind it is one."""
    assert message_and_next(replace(failing(0, message), outcome=outcome)) == (message, READ_ON[outcome])
    logged = replace(failing(0, f"{message} (read logs/a.log)"), outcome=outcome)
    found, step = message_and_next(logged)
    assert found == message
    assert step.endswith("read logs/a.log")
    assert step == "read logs/a.log" or outcome is Outcome.TIMED_OUT


@pytest.mark.parametrize("log", ["logs/a.log", ""])
def test_step_of_a_failure_that_judging_adds_is_taken(log):
    told = failed(SDPA, Property.SPEED, Failure(Outcome.ERROR, "ValueError: bad shape (3, 4)", log=log))
    found, step = message_and_next(told)
    assert found == "ValueError: bad shape (3, 4)"
    assert step == (f"read {log}" if log else "set it right and run again")
    lacking = judge_measured(SDPA, Property.SPEED, verdict(SDPA), None, expectation())
    assert message_and_next(lacking) == ("the record holds no speed", "run the case again")


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.fails])
def test_every_failure_has_a_next_step(outcome):
    _, step = message_and_next(replace(failing(0, "boom"), outcome=outcome))
    assert step == READ_ON.get(outcome, AGAIN)
    text = markdown(run_of(replace(failing(0, "boom"), outcome=outcome)))
    assert f"  Next: {step}.\n  `pytest " in text


def test_markdown_says_the_next_step_once():
    """Where the message names it, it stands there; the command follows."""
    text = markdown(run_of(failing()))
    assert text.count("look") == 1
    assert "Next: " not in text
    assert re.search(r"\(look\)\n  `pytest suites/every_path .*`\n", text)


def test_terminal_tells_the_first_failures_with_what_to_do():
    """In single lines that no terminal obeys."""
    options = ("--timing-seconds", "5")
    lines = [*failure_lines(map(failing, range(MOST_LISTED + 2)), evidence=(), session_options=options)]
    assert len(lines) == 3 * MOST_LISTED + 1
    assert lines[0] == f"MISMATCH equivalence of {SDPA.id}0: {BROKEN}"
    assert lines[1] == "  next: look"
    assert lines[2].startswith("  again: pytest suites/every_path suites/invariants ")
    assert "--timing-seconds 5" in lines[2]
    assert lines[-1] == "2 more failures in report.html"
    odd, *_ = failure_lines([failing(0, f"a\nb {HOSTILE}" + "x" * 999)], evidence=(), session_options=())
    assert len(odd) == LONGEST
    assert not re.search(r"[\n\x1b\x00]", odd)
    assert [*failure_lines([verdict(SDPA)], evidence=(), session_options=())] == []


def test_long_message_and_many_failures_are_folded(tmp_path):
    """All of it is still there."""
    long = failing(99, "word " * FOLDED + "(look)")
    page = html(run_of(long, *map(failing, range(UNFOLDED + 4))), tmp_path)
    assert "<summary>5 more</summary>" in page
    assert page.count('class="failed"') == UNFOLDED + 5
    assert f'<p class="message">{"word " * FOLDED}'.rstrip() in page
    assert page.count("<strong>Next:</strong> look") == UNFOLDED + 5


def test_names_of_a_record_are_text(tmp_path):
    """In the headline, beside bars, in the map and in failures."""
    odd = {"path": f"<script>x.{HOSTILE}", "workload": '"><b>'}
    page = html(run_of(*(replace(each, **odd) for each in (fast(SDPA, 2.0), light(SDPA, 2.0), failing()))), tmp_path)
    assert not re.search(r"<script|<b>|[\x00\x1b]", page)
    assert page.count("&lt;script&gt;x.") > 4


def test_settings_that_may_be_the_cause_stand_above_the_failures():
    """They were told at the start of the session, and the command without them did something else."""
    environment = {
        "torch": "2.13.0",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "4",
        "kernel local/layers": "0123 in /my/folder",
        "kernel local/flash-attn2": "4567",
    }
    lines = [*failure_lines([failing(0)], evidence=(), session_options=(), environment=environment)]
    assert lines[0].startswith("note: TORCHDYNAMO_DISABLE=1 keeps torch.compile from compiling (unset it, ")
    assert lines[1].startswith("note: local/layers is served from /my/folder, and not from this repository (unset ")
    [again] = [line for line in lines if line.startswith("  again: ")]
    assert again.startswith("  again: TORCHDYNAMO_DISABLE=1 LOCAL_KERNELS=local/layers=/my/folder pytest ")
    passed = [verdict(SDPA)]
    assert [*failure_lines(passed, evidence=(), session_options=(), environment=environment)] == []


def test_deadline_is_told_before_the_log():
    late = replace(failing(0), outcome=Outcome.TIMED_OUT, message="case: no answer within 0.1 s (read /logs/a.log)")
    lines = [*failure_lines([late], evidence=(), session_options=())]
    assert (
        "  next: give it more time by --case-timeout (300 s unless it is set), or a quiet machine; read /logs/a.log"
        in lines
    )
