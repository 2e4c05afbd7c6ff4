"""What the page of a run says, and that nothing of a run's folder or its messages can break it."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
import tomllib
from argparse import Namespace
from dataclasses import replace
from fnmatch import fnmatch

import matplotlib as mpl
import pytest

from harness.errors import HarnessError
from harness.options import CASE_TIMEOUT, as_words
from harness.records.codec import write_record
from harness.records.enums import Dtype, Outcome, Property
from harness.records.measurements import Peaks
from harness.records.run import EXAMPLES, Run
from harness.reports.heat import matrix
from harness.reports.html import html, write_reports
from harness.reports.page import Badge, Table, badges
from harness.reports.page_roofline import roofline
from harness.reports.pictures import COLOUR, draw
from harness.reports.reproduce import command
from harness.session.request import TIMING_SECONDS
from harness.session.run_folder import RunFolder
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.made_up_run import (
    AWAY,
    COUNTED,
    HOSTILE,
    LOST,
    RELATION,
    SDPA,
    SLOWER,
    STATIC,
    TIMED,
    made_up,
)
from suites.meta.builders.predictions import CONSTANTS
from suites.meta.builders.predictions import run as run_of
from suites.meta.builders.recorded_runs import case, verdict
from suites.meta.builders.timings import PEAKS, measured, speed


@pytest.fixture
def run(tmp_path):
    return made_up(tmp_path)


def part_of(page, of):
    """What the page holds of one case."""
    return page.partition(f'id="case-{of.id}"')[2].partition("</details>")[0]


def test_page_holds_nothing_that_leaves_it_or_runs(tmp_path, run):
    """No script, no address but those within the page, no picture that stands beside it."""
    page = html(run, tmp_path)
    assert not re.search(r"<script|javascript:|\son\w+=|<iframe|@import|url\(", page)
    assert {link[0] for link in re.findall(r'href="([^"]+)', page)} == {"#", "d"}
    assert re.findall(r'href="(d[^"]*)', page) == ["data:,"]
    assert "src=" not in page


def test_hostile_message_is_escaped(tmp_path, run):
    page = html(run, tmp_path)
    assert "red &lt;script&gt;console.error(&#39;run&#39;)&lt;/script&gt;&lt;/details&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", page)
    assert HOSTILE not in page


def test_failures_of_one_message_stand_once_with_all_properties(tmp_path, run):
    page = html(run, tmp_path)
    assert page.count('class="failed"') == sum(verdict.outcome.fails for verdict in run.verdicts) - 1
    assert "engagement, equivalence" in page


def test_case_tells_requested_and_observed_broken_claims_first(tmp_path, run):
    part = part_of(html(run, tmp_path), SDPA)
    assert part.index("✕ no") < part.index("✓ yes")
    assert '<td role="cell">8 × aten::_scaled_dot_product_*</td><td role="cell">8 × aten::_softmax</td>' in part


def test_folded_case_shows_its_figures(tmp_path, run):
    """Those of the table of cases."""
    shown = html(run, tmp_path).partition(f'id="case-{TIMED.id}"')[0].rpartition("<summary>")[2]
    assert "fp32 error ratio 1.00 of 3, bf16 error ratio 1.00 of 4, speed × 2.01 (" in shown
    assert "memory × 2.25, MBU 0.4, MFU 0.5</span></summary>" in shown


def test_error_ratios_by_token_are_told_and_drawn(tmp_path, run):
    """Of what is bit for bit eager in words alone."""
    page = html(run, tmp_path)
    assert "fp32: 0 to inf times eager&#39;s, most at token 7." in part_of(page, STATIC)
    assert "bf16: eager&#39;s own error at every token." in part_of(page, STATIC)
    assert ">beyond</text>" in part_of(page, STATIC)
    assert 'aria-label="error ratio' not in part_of(page, case("eager"))


def test_pairs_tell_interval_threshold_and_what_was_dropped(tmp_path, run):
    part = part_of(html(run, tmp_path), TIMED)
    assert re.search(r"Eager&#39;s time over the path&#39;s: 2\.\d+ \(.* to .*\) over 40 pairs, 3 dropped", part)
    assert "It should be at least 1.1." in part
    assert "Dropped: throttled: the test." in part
    assert ">dropped</text>" in part
    assert ">dropped</text>" not in part_of(html(run, tmp_path), SLOWER)


def test_memory_stands_against_its_lower_bound(tmp_path, run):
    part = part_of(html(run, tmp_path), TIMED)
    rows = dict(re.findall(r'<td role="cell">([a-z, ]+)</td><td role="cell" class="figure">([\d.]+)</td>', part))
    assert rows["peak"] == "90.00"
    parts = [float(rows[name]) for name in ("weights", "keys and values", "logits")]
    assert float(rows["least, their sum"]) == pytest.approx(sum(parts), abs=0.01)


def test_matrix_counts_outcomes_the_worst_first():
    good, bad = verdict(SDPA), replace(verdict(SDPA, Outcome.MISMATCH), case="b")
    away = verdict(AWAY, Outcome.UNSUPPORTED, asked=Property.ENGAGEMENT)
    claim = verdict(SDPA, asked=Property.CLAIM)
    table = matrix([good, good, bad, away, claim])
    assert table.head == ["path", "engagement", "equivalence"]
    assert table.rows[0] == ["attention.sdpa", (), (Badge(Outcome.MISMATCH, 1), Badge(Outcome.PASS, 2))]
    assert table.rows[1] == ["attention.flash_attention_2", (Badge(Outcome.UNSUPPORTED, 1),), ()]


def test_every_outcome_has_a_sign_and_a_colour():
    """And what nobody judged is worse than what passed."""
    order = [badge.kind for badge in badges(verdict(SDPA, outcome) for outcome in Outcome)]
    assert list(dict.fromkeys(order)) == ["bad", "open", "none", "good"]
    assert {Badge(outcome).kind == "bad" for outcome in Outcome if outcome.fails} == {True}
    assert len({Badge(outcome).sign for outcome in Outcome}) == 4


def test_numbers_are_aligned_and_words_are_not():
    assert Table(["a", "b", "c"], [["x", "1.2", ""], ["2", "−3 of 4", ""]]).figures == [False, True, False]


@pytest.mark.parametrize("kind", ["evidence", "measurements"])
@pytest.mark.parametrize("text", ["no json", "{}", None])
def test_file_that_is_missing_or_unreadable_costs_only_itself(tmp_path, run, kind, text):
    """The page says so, without naming a folder of this machine."""
    file = tmp_path / kind / f"{TIMED.id}.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    page = html(run, tmp_path)
    part = part_of(page, TIMED)
    told = f"The run&#39;s folder holds no {kind} of this case." if text is None else f"{kind}/{TIMED.id}.json: "
    assert told in part
    assert str(tmp_path) not in page
    assert ("Paired samples" in part) is (kind == "evidence")


def test_relation_without_evidence_is_not_told_to_lack_it(tmp_path, run):
    """Invariants keep none; a case that crashed before it had any does."""
    page = html(run, tmp_path)
    assert "holds no evidence" not in part_of(page, RELATION)
    assert "holds no evidence" in part_of(page, LOST)


def test_run_without_verdicts_or_end_has_a_page(tmp_path):
    page = html(Run(3, None, {}, "now", None, None, ()), tmp_path)
    assert "no verdict" in page
    assert "started now, never finished" in page
    assert "Interrupted:</span> the session did not come to its end" in page
    assert "no optimization path was judged" in page
    assert "No verdict fails." not in page


def test_page_says_that_no_verdict_fails_only_where_the_run_passed(tmp_path):
    """A red gate, an interrupt, or skips alone are no verdicts that fail, and nothing to be calm about."""
    said = "<p>No verdict fails.</p>"
    passed = Run(3, None, {}, "now", "later", 0, (verdict(SDPA),), selected=1, failed_otherwise=0)
    assert said in html(passed, tmp_path)
    for other in (
        replace(passed, gate=("a skip is not allowed",), exit=1),
        replace(passed, exit=2),
        replace(passed, failed_otherwise=1, exit=1),
        replace(passed, verdicts=(verdict(SDPA, Outcome.UNSUPPORTED),), exit=1),
        replace(passed, verdicts=(verdict(SDPA, Outcome.SLOW),), exit=1),
    ):
        page = html(other, tmp_path)
        assert said not in page
        assert "Nothing failed." not in page


def test_page_that_cannot_be_written_is_one_line(tmp_path, run):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(HarnessError, match=r"report.html: could not be written: .* \(free the disk") as refused:
        write_reports(tmp_path, run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_package_that_is_missing_costs_the_page_alone(tmp_path, run, monkeypatch, package):
    """In one line that says how to have it; every other file is written, and the folder is free for others."""
    monkeypatch.setitem(sys.modules, package, None)
    folder = RunFolder(tmp_path, run)
    with pytest.raises(HarnessError) as refused:
        folder.finish(1)
    assert str(refused.value) == (
        f"{tmp_path}/report.html: cannot be drawn: import of {package} halted; None in sys.modules (pip install -e . "
        f"adds what it needs; then: harness report {tmp_path})"
    )
    assert {"run.json", "report.md", "junit.xml"} <= {path.name for path in tmp_path.iterdir()}
    monkeypatch.undo()
    RunFolder(tmp_path, run).finish(1)
    assert (tmp_path / "report.html").exists()


def test_equal_runs_give_equal_pages_whatever_matplotlib_is_set_to(tmp_path, run, monkeypatch):
    """And its settings stay as they were."""
    page = html(run, tmp_path)
    monkeypatch.setitem(mpl.rcParams, "font.size", 31.0)
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    assert html(run, tmp_path) == page
    assert mpl.rcParams["font.size"] == 31.0


def test_no_two_elements_of_a_page_have_one_id(tmp_path, run):
    page = html(run, tmp_path)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in re.findall(r'href="(#[^"]+)"', page)} <= set(ids)


def test_pictures_have_the_pages_colours():
    """And neither a style for all of the page nor numbers longer than can be seen."""

    def paint(axes):
        axes.plot([1, 2], color=COLOUR["b"], marker="o")

    drawn = draw(paint, name="one", label="a <picture>")
    assert drawn.startswith('<svg role="img" aria-label="a &lt;picture&gt;" viewBox="0 0 360 165">')
    assert not re.search("<style|clip|#[0-9a-f]{6}", drawn)
    assert {"stroke: var(--b)", "fill: var(--b)", "fill: var(--ink)"} <= set(re.findall(r"\w+: var\(--\w+\)", drawn))
    assert not re.search(r"\d\.\d\d", drawn)


def test_equal_pictures_have_no_id_in_common():
    """Only what a picture refers to has an id."""
    first, second = (draw(lambda axes: axes.plot([1], marker="o"), name=name, label="l") for name in ("one", "two"))
    ids, others = (re.findall(r'\bid="([^"]+)"', drawn) for drawn in (first, second))
    assert set(ids) == set(re.findall(r'href="#([^"]+)"', first))
    assert not set(ids) & set(others)


def test_picture_keeps_its_text():
    text = draw(lambda axes: axes.set_xlabel("1.2345 < 1.26"), name="n", label="l")
    assert ">1.2345 &lt; 1.26</text>" in text


def test_roofline_is_arithmetic_over_medians():
    """At 1 ms a token 2e6 operations over 4e6 bytes; at 20 ms 1e9 over 5e6."""
    part = roofline([(Dtype.FP32, measured("a", speed=speed(work=COUNTED)))])
    decode, prefill = part.table.rows
    assert decode == ["1", "a", "decode step", "0.5", "2", "", "40"]
    assert prefill == ["1", "a", "prefill", "200", "50", "", "50"]
    assert ">fp32 peaks</text>" in part.picture


def test_roofline_has_hollow_points_where_something_is_predicted():
    """A step of 2e6 operations that is predicted to take 200 us is at 10 Gop/s."""
    operators = {"operators": run_of(100.0), "eager_operators": run_of(100.0)}
    made = measured("a", speed=speed(work=COUNTED, **operators), peaks=replace(PEAKS, constants=CONSTANTS))
    part = roofline([(Dtype.FP32, made)])
    assert part.table.rows[0] == ["1", "a", "decode step", "0.5", "2", "10", "40"]
    assert ">decode step, predicted</text>" in part.picture


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "a: its first tokens were not seen apart, or an older version counted less of its work."),
        ({"work": None, "uncounted": "it is packed"}, "a: it is packed."),
        ({"work": None}, "a: its work was not counted."),
    ],
)
def test_case_without_a_point_says_why(changes, told):
    part = roofline([(Dtype.FP32, measured("a", speed=speed(**changes)))])
    bare = roofline([(Dtype.FP32, measured("a", speed=speed(), peaks=None))])
    assert told in part.words
    assert part.table is bare.table is None
    mixed = [measured("a", speed=speed(**changes)), measured("b", speed=speed(work=COUNTED))]
    assert told in roofline((Dtype.FP32, each) for each in mixed).words
    assert roofline([(Dtype.FP32, measured("a", speed=None))]) is None


def test_rate_of_a_dtype_without_a_peak_is_held_to_the_bandwidth():
    peaks = Peaks(1e10, 8e9, {Dtype.FP32: 1e11}, 1e-6)
    both = [(dtype, measured(dtype, speed=speed(work=COUNTED), peaks=peaks)) for dtype in (Dtype.FP32, Dtype.BF16)]
    rows = [row for row in roofline(both).table.rows if row[2] == "prefill"]
    assert [row[-1] for row in rows] == ["50", f"{100 * 5e10 / (200 * 1e10):.3g}"]


LLAMA3, OLMO3 = CATALOGUE.models[1:3]
SELECTED = {
    "a workload whose name begins another's": (replace(TIMED, recipe=LLAMA3), Property.SPEED, {}, True),
    "a slow case": (replace(SLOWER, recipe=OLMO3), Property.MEMORY, {}, True),
    "what a stack's name holds": (case("stacks.sdpa+static"), Property.ENGAGEMENT, {}, True),
    "a relation that is daily on one model": (
        replace(STATIC, recipe=OLMO3, workload=replace(STATIC.workload, name="padding")),
        Property.EQUIVALENCE,
        {EXAMPLES: 9.0, "seed": 5.0},
        False,
    ),
    "a relation that crashed": (RELATION, Property.EQUIVALENCE, {}, False),
    "a case that crashed": (LOST, Property.EQUIVALENCE, {}, False),
}


@pytest.mark.workers
@pytest.mark.parametrize("what", SELECTED)
def test_command_selects_that_test_alone(what):
    of, asked, numbers, has_evidence = SELECTED[what]
    told = command(replace(verdict(of, Outcome.ERROR, asked=asked), numbers=numbers), has_evidence=has_evidence)
    program, *arguments = shlex.split(told)
    assert program == "pytest"
    collect = [sys.executable, "-m", "pytest", *arguments, "--collect-only", "-q", "-p", "no:cacheprovider"]
    shown = subprocess.run(collect, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    [test] = [line for line in shown.splitlines() if "::" in line]
    assert test.endswith(f"[{of.id}]")
    assert (f"test_{asked}.py" in test) is ("relation" not in what)


def test_command_of_a_relation_draws_the_same_examples():
    """As far as they were not those of every run."""
    drawn = replace(verdict(RELATION), numbers={EXAMPLES: 17.0, "seed": 5.0})
    assert "--invariant-examples 17 --hypothesis-seed=5 -m equivalence" in command(drawn, has_evidence=False)
    usual = replace(drawn, numbers={EXAMPLES: 6.0, "seed": 0.0})
    assert "seed" not in command(usual, has_evidence=False)


def test_command_has_the_options_of_the_session():
    """A model as it was asked for, by folder or hub id, and times that were not the default; of claims too."""
    told = ("--model", "my models/qwen", "--timing-seconds", "5", "--case-timeout", "900")
    given = "--dtype fp32 --model 'my models/qwen' --timing-seconds 5 --case-timeout 900 "
    one = command(verdict(TIMED, asked=Property.SPEED), has_evidence=True, session_options=told)
    assert f"{given}--run-slow -m speed -k " in one
    claim = replace(verdict(TIMED, asked=Property.CLAIM), case="overview.caching.speed")
    assert f"{given}--nightly -k overview.caching.speed" in command(claim, has_evidence=False, session_options=told)
    assert f"--model {TIMED.recipe.name} --timing-seconds 5" in command(
        verdict(TIMED), has_evidence=True, session_options=("--timing-seconds", "5")
    )


def test_page_reproduces_with_the_options_of_the_run(tmp_path, run):
    page = html(replace(run, options=("--model", "owner/name")), tmp_path)
    assert page.count("--model owner/name") == page.count("<pre")


def test_options_of_a_session_are_those_that_are_not_the_defaults():
    usual = {"timing_seconds": TIMING_SECONDS, "case_timeout": CASE_TIMEOUT, "reference": "auto", "memory": None}
    asked = Namespace(model=["tiny_qwen3", "a/b"], trust_remote_code=True, **usual)
    assert [*as_words(asked)] == ["--model", "tiny_qwen3", "--model", "a/b", "--trust-remote-code"]
    given = {"timing_seconds": 0.5, "case_timeout": 900.0, "reference": "by_layer", "memory": 4.5}
    asked = Namespace(model=[], trust_remote_code=False, **given)
    words = ["--reference", "by_layer", "--memory", "4.5", "--timing-seconds", "0.5", "--case-timeout", "900"]
    assert [*as_words(asked)] == words


def test_speed_that_was_not_judged_is_not_said_to_have_no_limit(tmp_path):
    """Its verdict came before the limit was asked for."""
    of = verdict(TIMED, Outcome.MISMATCH, asked=Property.SPEED)
    write_record(tmp_path / "measurements" / f"{TIMED.id}.json", measured(TIMED.id))
    page = html(Run(3, None, {}, "now", None, None, (of,)), tmp_path)
    assert "It was not held to a limit here." in page
    assert "No limit" not in page


def test_command_of_a_claim_names_it():
    claim = replace(verdict(TIMED, asked=Property.CLAIM), case="overview.caching.speed")
    assert (
        command(claim, has_evidence=False)
        == "pytest suites/claims --device cpu --dtype fp32 --nightly -k overview.caching.speed"
    )


def test_commands_of_failures_stand_in_the_page(tmp_path, run):
    page = html(run, tmp_path)
    failed = next(each for each in run.verdicts if each.outcome is Outcome.SLOW)
    assert f"<code>{command(failed, has_evidence=True).replace(chr(39), '&#39;')}</code>" in page


def test_what_a_page_is_made_of_is_installed_with_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    shipped = project["tool"]["setuptools"]["package-data"]
    files = [path for path in (REPOSITORY / "harness").rglob("*.*") if path.suffix not in {".py", ".pyc", ".md"}]
    assert {path.name for path in files} == {"parts.jinja", "report.css", "report.html.jinja", "statement.html.jinja"}
    for path in files:
        package = ".".join(path.parent.relative_to(REPOSITORY).parts)
        assert any(fnmatch(path.name, pattern) for pattern in shipped[package])


@pytest.mark.workers
def test_drawing_is_loaded_when_a_page_is_rendered_and_not_before():
    """Listing cases costs nothing; and no picture needs the global state of pyplot."""
    script = (
        "import sys, harness.session.run_folder; from harness.reports.pictures import draw; "
        "loaded = lambda: {'jinja2', 'matplotlib', 'matplotlib.pyplot', 'torch'} & set(sys.modules); "
        "before = loaded(); draw(lambda axes: None, name='n', label='l'); print(sorted(before), sorted(loaded()))"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout == "[] ['matplotlib']\n"


def test_infinite_interval_is_drawn(tmp_path, run):
    """Of a handful of pairs: nothing bounds the median."""
    write_record(tmp_path / "measurements" / f"{TIMED.id}.json", measured(TIMED.id, speed=speed(count=3)))
    assert f"(0 to {math.inf})" in part_of(html(run, tmp_path), TIMED)


def test_work_of_a_page_grows_as_its_rows():
    """Each cell looked at the whole table: 20,000 verdicts took a quarter of an hour."""
    counted = 0

    class Row(tuple):
        __slots__ = ()

        def __iter__(self):
            nonlocal counted
            counted += 1
            return super().__iter__()

    table = Table(("a", "b"), [Row(("x", "1")) for _ in range(50)])
    for _ in range(100):
        assert table.figures == [False, True]
    assert counted == 50
