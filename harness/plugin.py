"""The pytest plugin: options, markers, cases as parameters, verdicts as test results, and the run's folder.

A `conftest.py` says what there is to run by implementing `pytest_harness_catalogue`.
"""

from __future__ import annotations

import hashlib
import shlex
import signal
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.formatting import one_line
from harness.machine.inventory import take_inventory, with_memory
from harness.machine.variables import warnings_of
from harness.options import add_options, session_options
from harness.profiles.defects import read_defects
from harness.profiles.expectations import sound_profiles
from harness.profiles.profile import BASELINES, Profile
from harness.records.enums import CASE_PROPERTIES, Dtype, Outcome, Property, Technique, Tier
from harness.records.run import Verdict
from harness.reports.failures import failure_lines
from harness.reports.headline import headline
from harness.reports.place import machine_line
from harness.session.checkout import refuse_unused
from harness.session.interruption import interrupted_by, undisturbed_by
from harness.session.plan import Catalogue, Planned, find_model
from harness.session.preconditions import refuse_device
from harness.session.request import CaseTest, Selection
from harness.session.run_folder import resumable_run
from harness.session.session import Judging, Session
from harness.session.session_plan import Replan, SessionPlan
from harness.session.summary import summary, why_nothing_is_selected

MARKERS = {
    "cuda": "runs on a CUDA device",
    "multi_gpu": "runs on several devices",
    "kernels": "needs the kernels package",
    "hub": "needs a model or a kernel from the Hugging Face Hub",
    "flash_attn": "needs a package of flash-attention",
    "slow": "runs only with --run-slow",
    **{str(technique): f"cases of the technique {technique}" for technique in Technique if technique != "kernels"},
    **{str(property_): f"judges the {property_} of cases" for property_ in CASE_PROPERTIES},
    str(Property.CLAIM): "judges what the optimization overview says",
}

FAILING = {str(outcome) for outcome in Outcome if outcome.fails}


class Hooks:
    """Hooks that a conftest.py can implement for the plugin."""

    @pytest.hookspec(firstresult=True)
    def pytest_harness_catalogue(self, config: pytest.Config) -> Catalogue | None:
        """Return the paths, models and workloads to run."""

    @pytest.hookspec(firstresult=True)
    def pytest_harness_plan(self, config: pytest.Config, replan: Replan) -> list[Planned] | None:
        """Return the cases for the tests of a folder, or None to use the catalogue's own.

        `replan` is `SessionPlan.replan`.
        """


PLAN = pytest.StashKey[SessionPlan]()
"""Cases that tests are parametrized with. Made when the first test needs them, so that other tests cost nothing."""
PROFILES = pytest.StashKey[tuple[Profile, ...]]()
"""Profiles that name only what the catalogue has. Read when the plan is made."""
SESSION = pytest.StashKey[Session]()
"""Session that runs these cases. Made when all tests are collected."""
STOP = pytest.StashKey[BaseException]()
"""Reason why there can be no session. Raised during collection, it would count as an error of the collected file."""


REFUSED = "harness_refused"
REFUSAL = pytest.StashKey[str]()
"""Reason why workers of pytest-xdist selected nothing."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser.getgroup("harness", "conformance of inference optimizations"))


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "planned" in metafunc.fixturenames:
        # Workers have deadlines of their own, which cost a verdict; pytest-timeout would cost the session its record.
        unlimited = pytest.mark.timeout(0)
        marked = {mark.name for mark in metafunc.definition.iter_markers()}
        timed = any(entry.measured and str(entry) in marked for entry in Property)
        cases = [
            pytest.param(entry, id=entry.id, marks=[unlimited, *(getattr(pytest.mark, m) for m in entry.markers)])
            for entry in _planned(metafunc)
            if entry.case.workload.timed or not timed
        ]
        metafunc.parametrize("planned", cases)


@pytest.hookimpl(trylast=True)  # shards are of what marks and keywords have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests, and keep those of this shard.

    Tests of no case come first, then those judged by evidence, which is gathered side by side, then those that have the
    device alone. Within each group all properties of a case stand together.
    """
    if STOP in config.stash:
        _stop(config, items)
        return
    _drop_empty(config, items)
    order: dict[str, int] = {}
    for item in items:
        order.setdefault(_case_of(item), len(order))
    items.sort(key=lambda item: (bool(_case_of(item)), _is_alone(item), order[_case_of(item)]))
    _keep_shard(config, items, *config.option.shard)


def _stop(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End pytest before anything runs.

    A worker of pytest-xdist cannot: it selects nothing, and passes the reason to the first process.
    """
    if not hasattr(config, "workeroutput"):
        raise config.stash[STOP]
    config.workeroutput[REFUSED] = str(config.stash[STOP])
    items.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the reason why a worker of pytest-xdist selected nothing."""
    if reason := getattr(node, "workeroutput", {}).get(REFUSED):
        node.config.stash[REFUSAL] = reason


def _drop_empty(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of cases for which no case is planned: pytest would report each as skipped."""
    empty = [item for item in items if "planned" in getattr(item, "fixturenames", ()) and not _case_of(item)]
    if empty:
        config.hook.pytest_deselected(items=empty)
        items[:] = [item for item in items if item not in empty]


def _is_alone(item: pytest.Item) -> bool:
    """Return whether a test has its device alone, since it measures something."""
    return any(property_.alone for property_ in _properties_of(item))


def _is_skipped(item: pytest.Item) -> bool:
    """Return whether a plugin marked a test to be skipped, as pytest-benchmark does if only benchmarks are wanted."""
    return item.get_closest_marker("skip") is not None


def _properties_of(item: pytest.Item) -> list[Property]:
    marked = {mark.name for mark in item.iter_markers()}
    return [property_ for property_ in Property if property_ in marked]


def _case_test(item: pytest.Item, planned: Planned) -> CaseTest:
    [property_, *_] = [*_properties_of(item), Property.EQUIVALENCE]
    return CaseTest(planned, property_, "judge" in getattr(item, "fixturenames", ()))


def _keep_shard(config: pytest.Config, items: list[pytest.Item], place: int, count: int) -> None:
    """Keep every `count`th selected case with all its tests. Other tests stay only in the first shard.

    Cases are counted by their ids, not by the order of their tests: a plugin may shuffle them anew in each session.
    """
    cases = {case: index for index, case in enumerate(sorted({*filter(None, map(_case_of, items))}))}
    shards = [cases.get(_case_of(item), 0) % count == place - 1 for item in items]
    if others := [item for item, own in zip(items, shards, strict=True) if not own]:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item, own in zip(items, shards, strict=True) if own]


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """End as Ctrl-C does when somebody ends the process: the record is closed, and says how to go on."""
    if SESSION not in session.config.stash:
        return (yield)
    with interrupted_by(signal.SIGTERM, signal.SIGHUP):
        return (yield)


@pytest.hookimpl(tryfirst=True)  # before the terminal asks what there is to tell of it
def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the session, and refuse a run that cannot be resumed before anything runs."""
    config = session.config
    tests = [(item, planned) for item in session.items if (planned := _planned_of(item))]
    selection = Selection(
        tests=tuple(_case_test(item, planned) for item, planned in tests if not _is_skipped(item)),
        count=len({(planned.id, _case_test(item, planned).property) for item, planned in tests}),
        digest=hashlib.sha256("\n".join(sorted(item.nodeid for item in session.items)).encode()).hexdigest()[:16],
    )
    try:
        options = session_options(config.option, config.rootpath)
        if PLAN in config.stash:
            plan, profiles = config.stash[PLAN], config.stash[PROFILES]
            defects = read_defects(config.rootpath / BASELINES)
            made = Session(options, plan, profiles, selection, defects=defects, notify=partial(_tell, config))
            if not config.option.collectonly:
                made.check()
            config.stash[SESSION] = made
        elif options.resume:  # also where no case is selected
            resumable_run(options.resume, selection.digest, options.tier)
    except HarnessError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what there is to do, and about how long that takes."""
    session = config.stash.get(SESSION, None)
    if not session or not session.selection.tests:
        return []
    return [session.first_line, *warnings_of(session.plan.inventory.variables)]


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after those who turn a failure into what was expected
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count tests that fail without a verdict that says so."""
    report = yield
    session = item.config.stash.get(SESSION, None)
    if session and report.failed and str(dict(report.user_properties).get("outcome")) not in FAILING:
        session.failures_without_verdict += 1
    return report


@pytest.fixture
def judge_by(request: pytest.FixtureRequest, planned: Planned) -> Callable[..., Verdict]:
    """Records the verdict that a function gives on the case. The test fails or is skipped as the verdict says.

    `then` is given the verdict first, whatever it says.
    """

    def record(property_: Property, judging: Judging, then: Callable[[Verdict], None] | None = None) -> Verdict:
        try:
            verdict = request.config.stash[SESSION].judge_by(planned, property_, judging)
        except HarnessError as error:  # not the case's fault: a full disk, a folder that is gone
            pytest.exit(str(error), returncode=pytest.ExitCode.INTERNAL_ERROR)
        request.node.user_properties.append(("outcome", str(verdict.outcome)))
        request.node.user_properties.extend(verdict.numbers.items())
        if then:
            then(verdict)
        if verdict.outcome.skips:
            pytest.skip(f"{verdict.outcome}: {verdict.message}")
        if verdict.outcome.fails:
            pytest.fail(f"{verdict.outcome}: {verdict.message}", pytrace=False)
        return verdict

    return record


@pytest.fixture
def judge(planned: Planned, judge_by: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Judges one property by the evidence and the measurements of the case, as `judge_by` records it."""

    def by_property(property_: Property, *, then: Callable[[Verdict], None] | None = None) -> Verdict:
        return judge_by(property_, lambda cases: cases.judge(planned, property_), then)

    return by_property


@pytest.fixture
def timed_seconds(request: pytest.FixtureRequest, planned: Planned) -> Callable[[], list[float]]:
    """Seconds of the candidate in all pairs of the case that count; none if it was not timed."""

    def seconds() -> list[float]:
        cases = request.config.stash[SESSION].cases
        measured = cases.measured.get(planned.case.id) if cases else None
        return [pair.candidate.seconds for pair in measured.speed.kept] if measured and measured.speed else []

    return seconds


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show the outcome's name instead of PASSED, FAILED or SKIPPED."""
    outcome = dict(report.user_properties).get("outcome") if isinstance(report, pytest.TestReport) else None
    if outcome is None or report.when != "call":
        return None
    return report.outcome, {"passed": ".", "failed": "F", "skipped": "s"}[report.outcome], str(outcome)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Close the run's record. The session fails if cases were selected and none was judged: green must mean proved."""
    harness_session = session.config.stash.get(SESSION, None)
    if REFUSAL in session.config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if session.config.option.collectonly:
        return
    if (
        session.config.option.gate
        and (harness_session is None or not harness_session.selection.count)
        and session.exitstatus == pytest.ExitCode.OK
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if harness_session is None:
        return
    try:
        with undisturbed_by(signal.SIGHUP):
            session.exitstatus = harness_session.close(int(session.exitstatus))
    except HarnessError as error:
        harness_session.problem = str(error)
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    refused = exitstatus == pytest.ExitCode.USAGE_ERROR  # pytest itself says why
    if REFUSAL in config.stash:
        terminalreporter.write_line(config.stash[REFUSAL])
    if config.option.gate and not (config.option.collectonly or refused) and (session is None or not session.cases):
        terminalreporter.write_line("gate: red: nothing was judged")
    if session is None or config.option.collectonly:
        return
    for line in summary(session):
        terminalreporter.write_line(line)
    if session.plan.all and not session.selection.count:
        terminalreporter.write_line(why_nothing_is_selected(session, config.option.markexpr, config.option.keyword))


@pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)  # below the list of failed tests
def pytest_harness_headline(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Generator[None]:
    """End with what failed and the next step for each, and with the headline and the machine below.

    A problem of the session itself, such as a record that cannot be written, takes the place of the run's headline.
    """
    yield
    session = config.stash.get(SESSION, None)
    if session is None or session.cases is None or config.option.collectonly:
        return
    run = session.cases.folder.run
    lines = [
        *failure_lines(
            run.verdicts, evidence=session.evidence, session_options=run.options, environment=run.environment
        )
    ]
    for line in ("", *lines, *([""] if lines else [])):
        terminalreporter.write_line(line)
    line = f"Failed: {one_line(session.problem)}" if session.problem else headline(run)
    good = line.startswith("Passed: ")
    terminalreporter.write_line(line, bold=True, green=good, red=not good)
    terminalreporter.write_line(machine_line(run))
    if run.exit == pytest.ExitCode.INTERRUPTED:
        terminalreporter.write_line(f"go on with: {_resuming(config, session.cases.folder.path)}")


def _resuming(config: pytest.Config, run: Path) -> str:
    """Return the command that goes on with a run: that of this session, with `--resume`."""
    words = [*config.invocation_params.args]
    if config.option.resume:
        words = [word for word in words if word != f"--resume={config.option.resume}"]
        if "--resume" in words:
            place = words.index("--resume")
            del words[place : place + 2]
    return shlex.join(["pytest", *words, f"--resume={run}"])


def _case_of(item: pytest.Item) -> str:
    """Return the id of the case that a test judges; empty for every other test."""
    planned = _planned_of(item)
    return planned.case.id if planned else ""


def _planned_of(item: pytest.Item) -> Planned | None:
    callspec = getattr(item, "callspec", None)
    planned = callspec.params.get("planned") if callspec else None
    return planned if isinstance(planned, Planned) else None


def _planned(metafunc: pytest.Metafunc) -> list[Planned]:
    config = metafunc.config
    if STOP in config.stash:
        return []
    try:
        if PLAN not in config.stash:
            config.stash[PLAN] = _new_plan(config)
    except HarnessError as error:
        config.stash[STOP] = pytest.exit.Exception(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
        return []
    planned = config.stash[PLAN]
    own = metafunc.definition.ihook.pytest_harness_plan(config=config, replan=planned.replan)
    return planned.own if own is None else planned.add(own)


def _tell(config: pytest.Config, line: str) -> None:
    """Show a line while tests run. It goes past pytest's capture, which would keep it until a test fails."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.write_line(line)


def _new_plan(config: pytest.Config) -> SessionPlan:
    if hasattr(config, "workerinput"):
        raise HarnessError(
            "pytest-xdist would time cases beside each other, in several runs (leave out -n; --jobs N runs "
            "cases side by side, and --shard K/N parts them among sessions)"
        )
    if getattr(config.option, "forked", False):
        raise HarnessError(
            "pytest-forked would run each test in a process of its own, and lose its verdict (leave out --forked: "
            "cases run in workers of their own)"
        )
    catalogue = config.hook.pytest_harness_catalogue(config=config)
    if catalogue is None:
        raise HarnessError("no catalogue: a conftest.py should implement pytest_harness_catalogue")
    config.stash[PROFILES] = sound_profiles(config.rootpath)
    refuse_unused(config.stash[PROFILES], catalogue)
    option, inventory = config.option, take_inventory()
    device = option.device or inventory.default_device
    refuse_device(device, inventory)
    if device != "cpu":
        inventory = with_memory(inventory)
        if option.memory is not None:
            given = int(option.memory * 2**30)
            inventory = replace(inventory, free_bytes=min(given, inventory.free_bytes or given))
    return SessionPlan(
        catalogue,
        inventory,
        device=device,
        dtypes=tuple(Dtype(name) for name in option.dtype),
        named_models=tuple(find_model(name, catalogue, trusted=option.trust_remote_code) for name in option.model),
        tier=Tier(option.tier),
    )
