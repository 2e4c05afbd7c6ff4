"""README and docs/ (together: the documents), tox.ini and pyproject.toml tell no lies about options, markers, paths,
limits, commands, environments and requirements."""

from __future__ import annotations

import configparser
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from html import unescape

import pytest
from packaging.requirements import Requirement

from harness import statistics
from harness.cli import app, main
from harness.commands.calibrate import spread as calibration
from harness.commands.confirm import rules as confirming_rules
from harness.commands.confirm.command import confirm
from harness.judging import baseline_comparison as regression
from harness.judging import correctness_rules as rules
from harness.judging import memory as memory_rules
from harness.judging import speed as speed_rules
from harness.judging.gate import RULES
from harness.judging.roofline import IMPOSSIBLE
from harness.paths.registry import PATHS, STACKS
from harness.plugin import MARKERS, pytest_addoption
from harness.profiles.limits import KL_FLOOR, KL_P99_FLOOR, LIMITS, LOOSEST
from harness.profiles.numerics import L3_SHARE, R2_FACTOR
from harness.profiles.profile import Match, Profile, read_profile, read_profiles, write_profile
from harness.profiles.thresholds import TICKS
from harness.records.enums import Outcome, Property, Technique
from harness.reports.tables import markdown_table
from harness.session.request import TIMING_SECONDS
from suites.claims.registry import CLAIMS
from suites.claims.ticks import PLACES
from suites.conftest import REPOSITORY
from suites.meta.builders.documents import CORNERS, DOCUMENTS, FLOWING, fence, page, section
from suites.meta.judging.test_gate import TRIPS

TOX = configparser.ConfigParser()
TOX.read(REPOSITORY / "tox.ini")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def options():
    """Names of the options that the plugin adds."""
    names = []

    class Group:
        def addoption(self, name, **_):
            names.append(name)

    class Parser:
        def getgroup(self, *_):
            return Group()

    pytest_addoption(Parser())
    return names


@pytest.mark.parametrize("option", options())
def test_every_option_is_documented(option):
    assert re.search(rf"^\| `{option}[ `]", DOCUMENTS, re.MULTILINE)


def test_sections_of_the_page_stand_in_the_documented_order():
    template = (REPOSITORY / "harness" / "reports" / "report.html.jinja").read_text()
    links = re.findall(r'<a href="#([a-z]+)">([^<]+)</a>', template.partition("</nav>")[0])
    assert [name for name, _ in links] == re.findall(r'heading\("([a-z]+)"', template)
    named = re.search(r"Below the headline stand, [^:]*: ([^.]*)\.", " ".join(page("docs/results.md").split()))
    assert named[1].split(", ") == [title for _, title in links]


def test_documented_options_exist():
    assert set(re.findall(r"^\| `(--[a-z-]+)", DOCUMENTS, re.MULTILINE)) == set(options())


def test_documented_paths_are_the_registered_ones():
    table = section("docs/paths.md", "## Paths")
    alone = [path.name for path in PATHS if path not in STACKS]
    assert re.findall(r"^\| `([a-z0-9_.]+)` \|", table, re.MULTILINE) == alone


def test_documented_markers_are_the_registered_ones():
    sentence = DOCUMENTS.partition("Markers: ")[2].partition("Selecting")[0]
    assert set(re.findall(r"`([a-z_]+)`", sentence)) == set(MARKERS)


def test_every_outcome_that_can_occur_is_documented():
    """The others are not given yet."""
    files = [path for path in (REPOSITORY / "harness").rglob("*.py") if path.name != "enums.py"]
    source = "".join(path.read_text() for path in files)
    occurring = {outcome for outcome in Outcome if f"Outcome.{outcome}" in source}
    assert {outcome for outcome in Outcome if f"`{outcome}`" in DOCUMENTS} == occurring


def test_documented_limits_are_those_in_force():
    assert f"| ≤ {LIMITS.fp32_rho:g} | ≤ {LIMITS.half_rho:g} |" in DOCUMENTS
    assert f"| ≤ {LIMITS.fp32_rho_max:g} | ≤ {LIMITS.half_rho_max:g} |" in DOCUMENTS
    assert f"at most {rules.ULPS_OF_EAGER:g} unit roundoffs" in FLOWING
    assert f"recalls at least {rules.RECALL:.0%}".replace("%", " %") in FLOWING


def test_documented_budgets_are_those_in_force():
    eight, four = (rules.BUDGETS[f"kv_{bits}bit"] for bits in (8, 4))
    assert f"| {eight.nats:g} (8 bits), {four.nats:g} (4 bits) |" in DOCUMENTS
    assert f"at a share of {eight.flips:.0%} (8 bits) or {four.flips:.0%} (4 bits)".replace("%", " %") in DOCUMENTS
    assert f"| {rules.R6_LOSSY:.1f} / (2^bits − 1) ×" in DOCUMENTS
    assert f"| {LIMITS.kl:g} × eager's + {KL_FLOOR:.0e} |".replace("e-0", "e-") in DOCUMENTS
    assert f"| {LIMITS.kl_p99:g} × eager's + {KL_P99_FLOOR:.0e} |".replace("e-0", "e-") in DOCUMENTS


def test_documented_budgets_of_weights_are_those_in_force():
    eight, four = (rules.BUDGETS[f"weights_{bits}bit"] for bits in (8, 4))
    float8 = rules.BUDGETS["weights_float8"]
    assert eight.nats == float8.nats
    assert f"| {eight.nats:g} (8 bits, float8), {four.nats:g} (4 bits) |" in DOCUMENTS
    shares = f"| {eight.flips:.0%} (8 bits), {float8.flips:.0%} (float8), {four.flips:.0%} (4 bits) |"
    assert shares.replace("%", " %") in DOCUMENTS


def test_documented_commands_are_the_registered_ones():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    groups = {group.name for group in app.registered_groups}
    assert set(re.findall(r"^harness ([a-z]+)", DOCUMENTS, re.MULTILINE)) == commands | groups
    assert PROJECT["scripts"] == {"harness": f"{main.__module__}:{main.__name__}"}


def test_documented_spread_is_the_profiles():
    """And so is the rule that its limits follow."""
    [profile] = [each for each in read_profiles(REPOSITORY / "baselines") if each.name == "cpu-x86"]
    found = profile.calibration
    assert f"{found.judgements} correct runs (three models, three workloads), none over the table" in FLOWING
    assert (len(found.models), len(found.workloads), found.seeds, found.over_table) == (3, 3, 8, {})
    for number in dict.fromkeys(key.partition(".")[2] for key in found.q95):
        figures = " | ".join(f"{found.q95[f'{dtype}.{number}']:.2f}" for dtype in ("fp32", "fp16", "bf16"))
        assert re.search(rf"^\| `{number}`, .* \| {re.escape(figures)} \|$", DOCUMENTS, re.MULTILINE)
    assert f"{calibration.MARGIN} times the {calibration.QUANTILE * 100:.0f}th percentile" in FLOWING
    assert LOOSEST == 2
    assert f"errs more than {R2_FACTOR} times" in FLOWING
    assert f"| {L3_SHARE:.0%} of what was stored |".replace("%", " %") in DOCUMENTS


def test_documented_rules_of_timing_are_those_in_force():
    looks = ", ".join(map(str, statistics.LOOKS[:-1]))
    assert f"{len(statistics.LOOKS)} looks, at {looks} and {statistics.LOOKS[-1]} pairs" in FLOWING.replace("Five", "5")
    assert f"a chance of error of {statistics.ALPHA:.0%}".replace("%", " %") in FLOWING
    assert f"once {statistics.LEAST} pairs count" in FLOWING
    assert f"give or take {speed_rules.MET_BEYOND:.0%}".replace("%", " %") in FLOWING
    assert f"more than {speed_rules.MISSED_BEYOND:.0%} below".replace("%", " %") in FLOWING
    assert f"the interval is within {speed_rules.RESOLVED:.0%}".replace("%", " %") in FLOWING
    assert f"when it is within {speed_rules.PRECISE:.0%}".replace("%", " %") in FLOWING
    assert speed_rules.DROPPED == 1 / 5
    assert f"More than {IMPOSSIBLE} of a peak is impossible" in FLOWING
    assert regression.MARGIN == 1.05
    assert f"| {TIMING_SECONDS:g} | after which no more pairs" in DOCUMENTS


def test_documented_rules_of_confirming_are_those_in_force():
    pairs = confirming_rules.LOADS * confirming_rules.BLOCK
    assert f"loaded afresh {confirming_rules.LOADS} times and run in at least {pairs} pairs" in FLOWING
    assert f"the one-sided {1 - confirming_rules.CHANCE:.0%} bound".replace("%", " %") in FLOWING
    margins = [confirming_rules.margin_of(serving=serving) for serving in (False, True)]
    told = "more than {:.0%} above 1 (continuous batching: {:.0%})".format(*margins)
    assert told.replace("%", " %") in FLOWING
    helped = " ".join((confirm.__doc__ or "").split())
    assert f"loaded afresh {confirming_rules.LOADS} times" in helped
    assert f"eager, at least {pairs} pairs each" in helped
    assert told.replace("%", " %") in helped
    assert f"{confirming_rules.FEWEST} at least" in str(confirm.__annotations__["timing_seconds"])


def test_documented_allowances_of_memory_are_those_in_force():
    process, device = memory_rules.PROCESS, memory_rules.ALLOCATOR
    told = [f"{s.peak:.0%} + {s.peak_bytes // 2**20} MiB".replace("%", " %") for s in (process, device)]
    assert f"+ {told[0]} of a process, + {told[1]} of CUDA's allocator" in DOCUMENTS
    told = [f"{s.growth:.0%} or {s.growth_bytes // 2**20} MiB".replace("%", " %") for s in (process, device)]
    assert f"| {told[0]} of a process, {told[1]} of CUDA's allocator |" in DOCUMENTS


def test_documented_thresholds_are_the_profiles():
    [profile] = [each for each in read_profiles(REPOSITORY / "baselines") if each.name == "cpu-x86"]
    rows = [["path", "workload", "limits", "reason"]]
    for each in profile.thresholds:
        limits = {name: getattr(each, name) for name in ("speed_min", "speed_max", "memory_max", "weights_max")}
        told = ", ".join(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)
        rows.append([f"`{each.path}`", f"`{each.workload}`", told, each.reason])
    shown = DOCUMENTS.partition("<!-- thresholds -->")[2].partition("<!-- end of thresholds -->")[0].strip()
    assert "\n".join(markdown_table(rows)) in shown


def test_documented_rules_of_the_gate_are_those_in_force():
    """With the test that trips each."""
    head = ["rule", "red if", "test in `suites/meta/judging/test_gate.py`"]
    rows = [[f"`{rule.__name__}`", rule.__doc__, f"`test_rule_trips[{rule.__name__}]`"] for rule in RULES]
    shown = DOCUMENTS.partition("<!-- gate -->")[2].partition("<!-- end of gate -->")[0].strip()
    assert shown == "\n".join(markdown_table([head, *rows]))
    assert list(TRIPS) == [rule.__name__ for rule in RULES]


def test_documented_allowances_can_be_read(tmp_path):
    """As they stand in the documents, in the files of a profile."""
    shown = fence(section("docs/gate.md", "## Exceptions"), "toml")
    skips, known = shown.split("[[known_failures]]")
    write_profile(Profile("here", tmp_path, Match("cpu", "x86_64"), None))
    (tmp_path / "profile.toml").write_text((tmp_path / "profile.toml").read_text() + skips)
    (tmp_path / "known_failures.toml").write_text(f"[[known_failures]]{known}")
    read = read_profile(tmp_path / "profile.toml")
    assert [entry.path for entry in read.skips] == ["attention.flash_attention_3"]
    assert [entry.path for entry in read.known_failures] == ["caching.offloaded*"]


GATING = fence(section("docs/gate.md", "## Commands")).splitlines()


@pytest.mark.workers
def test_commands_that_gate_succeed(tmp_path):
    """The second goes on with the run of the first, which leaves it nothing to do."""
    for command in GATING:
        words = [word.replace("runs/latest", str(tmp_path / "latest")) for word in shlex.split(command)]
        done = subprocess.run(
            [sys.executable, "-m", *words, "--run-dir", str(tmp_path)],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "gate: green: 2 verdicts given, 0 skipped as the profile allows" in done.stdout
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir() and not entry.is_symlink()]) == 1


def test_tox_environments_in_readme_exist():
    named = {f"testenv:{name}" for name in re.findall(r"tox run -e ([a-z0-9-]+)", DOCUMENTS)}
    plain = {section for section in TOX.sections() if "{" not in section}
    assert {"testenv:cpu", "testenv:cpu-tf517"} <= named <= plain | {f"testenv:{name}" for name in environments()}


def environments():
    """Names of the environments of `cpu` with one factor of each kind or none."""
    [factors] = [section for section in TOX.sections() if section.startswith("testenv:cpu{")]
    name, *choices = re.findall(r"cpu|\{([^}]*)\}", factors.removeprefix("testenv:"))
    assert not name
    return ["cpu" + "".join(chosen) for chosen in itertools.product(*(choice.split(",") for choice in choices))]


def test_documented_releases_are_the_factors_of_tox():
    """And CI has each of them in a corner, and the nightly workflow too."""
    pinned = {name: line.partition(": ")[2] for line in TOX["testenv"]["deps"].splitlines()
              for name in re.findall(r"^(tf\d+|torch\d+): (?=torch|transformers)", line)}  # fmt: skip
    shown = section("docs/running.md", "### Releases")
    for name, pin in pinned.items():
        assert f"`{name}`" in shown
        assert pin.partition("==")[2] in shown
    assert set(CORNERS) <= set(environments())
    nightly = (REPOSITORY / ".github" / "workflows" / "nightly.yml").read_text()
    every_night = re.findall(r"^ +- (cpu-[a-z0-9-]+)$", nightly, re.MULTILINE)
    assert set(CORNERS) <= set(every_night) <= set(environments())
    newest = max(pin.partition("==")[2] for pin in pinned.values() if pin.startswith("transformers"))
    assert f"transformers {newest} git+https://github.com/huggingface/transformers" in nightly
    tried, nightly = (
        {factor for corner in some for factor in corner.split("-")[1:]} for some in (CORNERS, every_night)
    )
    assert nightly == set(pinned)
    assert tried == nightly - {"torch215"}  # which could not be installed yet


def test_readme_has_a_figure_wherever_one_was_to_be_measured():
    assert re.findall(r"@[A-Z]+@", DOCUMENTS) == []


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_installing_replaces_nothing(requirement):
    """Lower bounds only: an environment that brings its own torch keeps it."""
    assert {specifier.operator for specifier in Requirement(requirement).specifier} == {">="}


def test_tox_pins_the_main_requirements():
    """What is tested is one exact set of versions."""
    wanted = {Requirement(line).name for line in PROJECT["dependencies"]}
    for place in ("testenv", "cuda_build"):
        lines = [*TOX[place]["deps"].split(), *TOX["always"]["deps"].split()]
        assert wanted - {Requirement(line).name for line in lines if "==" in line} <= {"packaging"}
    extra = {Requirement(line).name for line in PROJECT["optional-dependencies"]["quantization"]}
    assert extra == {Requirement(line).name for line in TOX["optional"]["deps"].split()}


CHOOSING = fence(section("docs/running.md", "## Choosing")).splitlines()


@pytest.mark.workers
@pytest.mark.parametrize("command", CHOOSING)
def test_commands_that_choose_succeed(command, tmp_path):
    """As the documents show them; those that run something leave a folder whose three files tell the same."""
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    run = [sys.executable, "-m", "pytest", *arguments, "--run-dir", tmp_path]
    told = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    latest = tmp_path / "latest"
    assert latest.exists() is ("--collect-only" not in command)
    assert latest.exists() or "::test_engagement[cpu-bf16-tiny_qwen3-eager-ragged_b4]" in told.stdout
    if latest.exists():
        verdicts = json.loads((latest / "run.json").read_text())["verdicts"]
        passed = [verdict["case"] for verdict in verdicts if verdict["outcome"] == "PASS"]
        assert {verdict["outcome"] for verdict in verdicts} <= {"PASS", "UNSUPPORTED"}
        report = (latest / "report.md").read_text()
        assert report.startswith("# Passed: ")
        assert f"\n{len(passed)} PASS" in report
        assert (latest / "junit.xml").read_text().count('name="outcome" value="PASS"') == len(passed) > 0
        assert {path.stem for path in (latest / "evidence").iterdir()} == set(passed)


TIMING = page("docs/performance.md")
MEASURING = [line for block in TIMING.split("```\n")[1::2] for line in block.splitlines() if line.startswith("pytest")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("measuring")


@pytest.mark.workers
@pytest.mark.parametrize("command", MEASURING)
def test_commands_that_measure_succeed(command, folder):
    """In the page's order, since the last compares what the one before it saved; in less time, which decides less."""
    program, *arguments = shlex.split(command.replace("runs/", f"{folder}/"))
    ours = ["pytest", "--run-dir", folder, "--timing-seconds", "2"]
    run = [sys.executable, "-m", *(ours if program == "pytest" else ["pytest_benchmark"])]
    told = subprocess.run([*run, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    undecided = False
    if program == "pytest":
        verdicts = json.loads((folder / "latest" / "run.json").read_text())["verdicts"]
        outcomes = {verdict["outcome"] for verdict in verdicts}
        assert outcomes <= {"PASS", "UNSUPPORTED", "INCONCLUSIVE"}, told.stdout
        undecided = "PASS" not in outcomes  # on a busy machine: then nothing was judged, which is no success
    assert told.returncode == int(undecided), told.stdout
    assert (folder / "speed.json").exists() is any(
        "--benchmark-json" in line for line in MEASURING[: MEASURING.index(command) + 1]
    )
    assert program == "pytest" or "static-decode_b1" in told.stdout


def test_every_command_that_measures_is_tried():
    """Those of `harness baseline` in commands/test_baseline.py."""
    assert [line.split()[0] for line in MEASURING] == ["pytest"] * 4 + ["pytest-benchmark"]


CLAIMING = next(line for line in DOCUMENTS.splitlines() if line.startswith("pytest suites/claims"))
READING = section("README.md", "## A failure, taken apart")
FAILING, LINE, AGAIN = (block.strip().removeprefix("text\n") for block in READING.split("```")[1::2])


def ran(command, folder):
    """(exit code, output) of a line of the documents that runs pytest, which may set variables before."""
    words = shlex.split(command)
    program = words.index("pytest")
    environment = {**os.environ, **dict(word.split("=") for word in words[:program])}
    run = [sys.executable, "-m", "pytest", *words[program + 1 :], "--run-dir", folder]
    told = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)
    return told.returncode, told.stdout


@pytest.mark.workers
def test_failure_of_readme_fails_as_shown(tmp_path):
    """Its line, its evidence, and the command that reproduces it; which passes without the cause."""
    code, told = ran(FAILING, tmp_path)
    assert (code, LINE in told.splitlines()) == (1, True), told
    assert AGAIN in unescape((tmp_path / "latest" / "report.html").read_text())
    [file] = (tmp_path / "latest" / "evidence").iterdir()
    for rung in json.loads(file.read_text())["rungs"]:
        [claim] = [claim for claim in rung["engagement"]["claims"] if claim["what"] == "compiled calls"]
        assert all(f'"{name}": {json.dumps(claim[name])}' in READING for name in ("requested", "observed", "holds"))
    code, told = ran(AGAIN, tmp_path / "again")
    assert code == 0, told


INVARIANT = next(line for line in DOCUMENTS.splitlines() if "--invariant-examples 200" in line)


@pytest.mark.workers
def test_command_that_draws_examples_succeeds(tmp_path):
    """Fewer of them."""
    code, told = ran(INVARIANT.replace("200", "2"), tmp_path)
    assert code == 0, told
    verdicts = json.loads((tmp_path / "latest" / "run.json").read_text())["verdicts"]
    assert {(verdict["workload"], verdict["outcome"]) for verdict in verdicts} == {("padding", "PASS")}


ARCHITECTURE = next(line for line in DOCUMENTS.splitlines() if line.startswith("pytest suites/architectures"))


@pytest.mark.workers
def test_command_that_tries_an_architecture_finds_its_known_defect(tmp_path):
    """It is skipped, with its reason, and all else works."""
    code, told = ran(ARCHITECTURE, tmp_path)
    assert code == 0, told
    verdicts = json.loads((tmp_path / "latest" / "run.json").read_text())["verdicts"]
    outcomes = {verdict["path"]: verdict["outcome"] for verdict in verdicts}
    assert outcomes.pop("caching.static") == "KNOWN_FAILURE"
    assert outcomes.pop("quantization.quanto_int8") == "PASS"
    assert set(outcomes.values()) <= {"PASS", "UNSUPPORTED"}
    assert "baselines/defects/gpt_neo_static.py" in told


SILENCE = [line for line in DOCUMENTS.splitlines() if re.match(r"(pytest|python -m) suites[./]silence ", line)]


@pytest.mark.workers
def test_commands_that_try_requests_succeed(tmp_path):
    """One prints their words, the other holds the installed release to its record."""
    printing, judging = SILENCE
    _, *arguments = shlex.split(printing)
    told = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "| `generate(prefill_chunk_size=8)` | prefill | honoured |" in told.stdout
    code, told = ran(judging, tmp_path)
    assert code == 0, told
    verdicts = json.loads((tmp_path / "latest" / "run.json").read_text())["verdicts"]
    outcomes = {verdict["workload"]: verdict["outcome"] for verdict in verdicts}
    assert outcomes["request_chunks"] == "PASS"
    assert outcomes["request_chunks_of_lookup"] == "REPORTED"


SIMULATING = (
    "python -m suites.simulated_cuda run -- pytest suites/every_path --device cuda "
    '-k "ragged_b4 and attention.sdpa-" -m engagement'
)
UNTRIED = {
    'git clone "$URL" transformers-conformance && cd transformers-conformance': "tests run in a clone",
    "pip install -e . && pytest -m cuda": "needs a GPU; what it says without one is tried in session/test_session.py",
    "pytest suites/invariants --device cpu --nightly": "is part of the nightly tier, of which CI runs a part each day",
    **dict.fromkeys(
        (
            SIMULATING,
            "python -m suites.simulated_cuda run --devices 2 -- pytest -m multi_gpu",
            "python -m suites.simulated_cuda table ragged_b4",
        ),
        "needs a CUDA build of torch; CI runs its environment, whose tests judge the same paths",
    ),
    **dict.fromkeys(
        (
            "rm -f runs/gpu0/latest runs/gpu1/latest runs/both/latest",
            'CUDA_VISIBLE_DEVICES=0 pytest --nightly -m "cuda and not multi_gpu" --shard 1/2 --run-dir runs/gpu0 &',
            'CUDA_VISIBLE_DEVICES=1 pytest --nightly -m "cuda and not multi_gpu" --shard 2/2 --run-dir runs/gpu1; wait',
            'pytest --nightly -m "cuda and multi_gpu" --run-dir runs/both',
        ),
        "needs two GPUs; shards are tried in session/test_session.py, what merges them in commands/test_merge.py",
    ),
    **dict.fromkeys(
        ('pip download --dest wheels "setuptools>=77" ".[nvidia]"', "hf download Qwen/Qwen3-0.6B --local-dir model"),
        "downloads gigabytes, and from the hub",
    ),
    **dict.fromkeys(
        (
            'pip install --no-index --find-links wheels -e ".[nvidia]"',
            "export HF_HUB_OFFLINE=1",
            "pytest suites/every_path --model model",
        ),
        "needs what those two have downloaded",
    ),
}
"""Commands of the documents that no test runs, and why."""


def commands(readme):
    """Every line of fences that are not of another language."""
    blocks = readme.split("```")[1::2]
    return [line for block in blocks if block.startswith("\n") for line in block.strip().splitlines()]


def left_out(readme):
    """Those that no test runs and that have no reason either. commands/test_help.py tries `harness`, CI tries tox."""
    known = {*CHOOSING, *MEASURING, *GATING, CLAIMING, FAILING, AGAIN, INVARIANT, ARCHITECTURE, *SILENCE, *UNTRIED}
    return [
        line for line in commands(readme) if line not in known and not line.startswith(("harness ", "python3 -m venv"))
    ]


def test_every_command_of_readme_is_tried():
    assert left_out(DOCUMENTS) == []
    assert set(UNTRIED) <= set(commands(DOCUMENTS))


def test_command_of_readme_that_is_not_tried_is_found():
    more = f"{DOCUMENTS}\n```\npytest suites/nowhere\n```\n```toml\n[match]\n```\n"
    assert left_out(more) == ["pytest suites/nowhere"]


def between(name):
    """Cells of the table between comments of that name."""
    lines = DOCUMENTS.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_documented_claims_are_the_registered_ones():
    """With what the overview says, and what the profile of the machine that the figures are of disclaims."""
    [profile] = [each for each in read_profiles(REPOSITORY / "baselines") if each.name == "cpu-x86"]
    rows = between("claims")
    assert [row[:2] for row in rows] == [[f"`{claim.name}`", claim.says] for claim in CLAIMS]
    assert {row[2].partition(":")[0] for row in rows} <= {"holds", "does not hold", "undecided", "not here"}
    denied = {row[0].strip("`") for row in rows if row[2].startswith("does not hold")}
    assert denied == {disclaimer.claim for disclaimer in profile.disclaimers}


def test_documented_overview_has_a_figure_for_every_tick():
    rows = between("overview")
    assert [row[0] for row in rows] == [technique.replace("_", " ") for technique in TICKS]
    for row, ticked in zip(rows, TICKS.values(), strict=True):
        assert f" {PLACES[Technique(row[0].replace(' ', '_')), Property.SPEED]['cpu'].workload.name}" in row[5]
        cells = dict(zip((Property.SPEED, Property.MEMORY), row[1:3], strict=True))
        assert {about for about, cell in cells.items() if ": " in cell} == set(ticked)


@pytest.mark.workers
def test_command_that_tries_claims_succeeds(tmp_path):
    """As its page shows it: what does not hold is disclaimed, what the machine is too noisy for is undecided."""
    _, *arguments = shlex.split(CLAIMING)
    run = [sys.executable, "-m", "pytest", *arguments, "--run-dir", tmp_path]
    told = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    verdicts = json.loads((tmp_path / "latest" / "run.json").read_text())["verdicts"]
    assert {verdict["case"] for verdict in verdicts} == {"overview.attention.speed", "sentence.kernels_fuse"}
    assert {verdict["outcome"] for verdict in verdicts} <= {"PASS", "DISCLAIMED", "INCONCLUSIVE"}
    assert "| attention.sdpa tiny_llama3 prefill_b1 |" in (tmp_path / "latest" / "report.md").read_text()
