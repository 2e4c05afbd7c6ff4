"""CI runs what README names, all of it within days, and each stage within its budget."""

from __future__ import annotations

import re
import subprocess

import pytest

from suites.meta.builders.documents import CI, CORNERS, DOCUMENTS
from suites.meta.conftest import THIRDS
from suites.meta.reports import test_html as test_report_html


def named_on(days, name):
    """What the script of CI sets a variable to on each day of the year."""
    needed = "; ".join(line for line in CI.splitlines() if line.startswith(("corners=", "day=", f"{name}=")))
    scripts = (f"date() {{ echo {day:03}; }}; {needed}; echo ${name}" for day in days)
    told = [subprocess.run(["bash", "-c", each], capture_output=True, text=True, check=True).stdout for each in scripts]
    return [each.strip() for each in told]


@pytest.mark.workers
def test_ci_tries_every_corner_within_as_many_days():
    assert sorted(named_on(range(100, 100 + len(CORNERS)), "corner")) == sorted(CORNERS)


def test_ci_runs_the_tox_commands_of_readme():
    """The tests with their set-up, as they stand there; the others in the environment that is made by then, some of
    them in part."""
    commands = [line for line in DOCUMENTS.splitlines() if line.startswith("python3 -m venv")]
    assert next(line for line in commands if line.endswith("tox run -e tests")) in CI
    assert len(commands) == 6
    told = [line.partition("tox run -e ")[2] for line in commands]
    corners = [each for each in told if each.partition(" ")[0] in CORNERS]
    assert corners == ["cpu-tf517 -- --tier smoke"]
    assert '\nstage "$corner" 3 .venv/bin/tox run -e "$corner" -- --tier smoke\n' in CI
    told = [each for each in told if each not in corners]
    fewer = ' -- (?:--seeds 7 --shard "\\$part"|-m "not workers or \\$third")'
    assert all(re.search(rf"\.venv/bin/tox run -e {re.escape(each)}({fewer})?\n", CI) for each in told)
    nightly = '.venv/bin/tox run -e cpu -- --nightly --timing-seconds 10 --shard "$part"\n'
    faults = '.venv/bin/tox run -e faults -- --seeds 7 --shard "$part"\n'
    assert '.venv/bin/tox run -e tests -- -m "not workers or $third"\n' in CI
    assert re.search(rf"if \(\(day % 2\)\); then\n.*{re.escape(faults)}else\n.*{re.escape(nightly)}fi\n", CI)


@pytest.mark.workers
@pytest.mark.parametrize("first", [8, 9, 99])
def test_ci_runs_all_tests_in_three_days(first):
    """Three days in a row have all thirds, but around New Year."""
    assert sorted(named_on(range(first, first + 3), "third")) == list(THIRDS)


def test_every_test_is_in_one_third(request):
    """The third of a test is that of its function, with all its parameters."""
    thirds = {}
    for item in request.session.items:
        marks = {mark.name for mark in item.iter_markers() if mark.name in THIRDS}
        assert len(marks) == 1, item.nodeid
        assert thirds.setdefault(item.nodeid.partition("[")[0], marks) == marks


def test_stages_of_a_day_have_budgets_of_75_minutes_together():
    """Of the indented ones a day has the first or the second."""
    stages = re.findall(r'^( *)stage (?:\S+|"[^"]+") (\d+) ', CI, re.MULTILINE)
    assert len(stages) == len(re.findall(r"^ *stage ", CI, re.MULTILINE))
    odd, even = [int(minutes) for indented, minutes in stages if indented]
    assert sum(int(minutes) for indented, minutes in stages if not indented) + max(odd, even) <= 75


@pytest.mark.workers
@pytest.mark.parametrize("first", [8, 9])
def test_ci_runs_all_parts_in_twice_as_many_days(first):
    """Whatever day of the year it is, so many even or odd days in a row have all parts; but around New Year."""
    assert sorted(named_on(range(first, first + 28, 2), "part")) == sorted(f"{place}/14" for place in range(1, 15))


def test_ci_needs_a_browser_and_tries_the_page_of_the_daily_run():
    """Also where whoever starts it did not say that it is CI; after the run that the page is of."""
    assert CI.index('export CI="${CI:-true}"\n') < CI.index("tox run")
    given = f"{test_report_html.RUN}=runs/latest .tox/tests/bin/python -m pytest suites/meta/reports/test_html.py::"
    assert f"{given}{test_report_html.test_page_of_a_given_run_is_readable.__name__}\n" in CI
    stages = re.findall(r'^ *stage (\S+|"[^"]+") ', CI, re.MULTILINE)
    assert stages[stages.index("daily") + 1] == "page"
