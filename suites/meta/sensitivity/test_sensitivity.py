"""The study of what timing finds: on traces whose answer is known, and as its page shows it. No model runs."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from suites.meta.builders.documents import page
from suites.meta.sensitivity.__main__ import MEASURED, main
from suites.meta.sensitivity.record import EAGER, Trace
from suites.meta.sensitivity.report import ARMS, results_of, table_of
from suites.meta.sensitivity.study import (
    THRESHOLD,
    by_absolute,
    by_baseline,
    by_threshold,
    lengthened,
    trials_of,
    widths,
)


def trace(seed, *, noise=0.03, drift=1.0, rounds=200, dropped=()):
    """Rounds of 60 ms, each arm slower by its percentage; the whole session `drift` times as slow."""
    draw = random.Random(seed)
    seconds = {}
    for arm in (EAGER, *ARMS):
        factor = drift * (1 + (0 if arm == EAGER else int(arm)) / 100)
        seconds[arm] = tuple(0.06 * factor * draw.lognormvariate(0.0, noise) for _ in range(rounds))
    return Trace(seconds, tuple(index in dropped for index in range(rounds)))


@pytest.fixture(scope="module")
def traces():
    """Sessions of a machine that is now fast, now slow."""
    return [trace(seed, drift=drift) for seed, drift in enumerate((1.0, 1.3, 0.9, 1.2))]


def test_threshold_catches_what_is_slower_and_nothing_else(traces):
    assert by_threshold(trials_of(traces, "0")).caught == 0
    assert by_threshold(trials_of(traces, "10")).caught == 12
    assert by_threshold(trials_of(traces, "5")).missed == 0


def test_baseline_catches_what_is_slower_than_recorded(traces):
    same, improved = by_baseline(traces, trials_of(traces, "0", recorded=True))
    assert (same.caught, improved, same.trials) == (0, 0, 9)
    slower, _ = by_baseline(traces, trials_of(traces, "10", recorded=True))
    assert slower.caught == 9


def test_a_stored_time_cries_wolf_where_the_machine_drifts(traces):
    """As is known of it: what it measures is the machine."""
    assert by_absolute(traces, "0").caught == 2
    assert by_absolute([trace(seed) for seed in range(6)], "0").caught == 0


def test_a_lengthened_trace_is_slower_by_so_much():
    """Run by run, and nothing else changes."""
    before = trace(3)
    after = lengthened(before, "5")
    assert after.seconds["5"] == tuple(1.05 * seconds for seconds in before.seconds["0"])
    assert after.seconds["0"] == before.seconds["0"]


def test_dropped_rounds_do_not_count():
    """And end a trial if they are many."""
    clean, spoiled = trace(1), trace(1, dropped=range(0, 200, 3))
    assert trials_of([clean], "0")[0].pairs >= 20
    assert trials_of([spoiled], "0")[0].pairs < 20


def test_intervals_narrow_with_pairs(traces):
    rows = widths(traces)
    assert [row[0] for row in rows] == [20, 40, 80, 140, 200]
    assert all(more[2] < fewer[2] for fewer, more in pairwise(rows))
    assert all(median <= worst for _, _, median, worst in rows)


def test_what_was_recorded_is_what_readme_shows(traces):
    """Rendered again from the results, with every rule and arm."""
    results = json.loads((MEASURED / "results.json").read_text())
    table = (MEASURED / "table.md").read_text().strip()
    assert "\n".join(table_of(results)) == table
    shown = (
        page("docs/measured/sensitivity.md")
        .partition("<!-- sensitivity -->")[2]
        .partition("<!-- end of sensitivity -->")[0]
    )
    assert table in shown
    assert results_of(traces, traces, environment={}).keys() == results.keys()


def test_study_adds_no_traces_when_none_is_asked_for(traces, tmp_path, capsys):
    lines = [json.dumps({"seconds": each.seconds, "dropped": each.dropped}) for each in traces]
    for name in ("alone.jsonl", "slowed.jsonl"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert main(["--sessions", "0", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["traces"] == 4


def test_the_limit_under_study_is_that_of_a_path_without_threshold():
    [aim] = THRESHOLD.limits
    assert (aim.limit, aim.at_least) == (1.0, True)
