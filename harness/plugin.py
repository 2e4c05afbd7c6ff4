"""The pytest plugin: options, markers, cases as parameters, verdicts as test results, and the run's folder.

A `conftest.py` says what there is to run by implementing `pytest_harness_catalogue`.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.judging.gate import gate_line, left_out_line, tier_line
from harness.machine.inventory import processor, take_inventory
from harness.machine.jobs import cores
from harness.options import add_options, as_words
from harness.profiles.expectations import sound_profiles
from harness.records.enums import CASE_PROPERTIES, Dtype, Outcome, Property, Technique, Tier
from harness.records.run import Run, Verdict
from harness.records.run_files import any_run
from harness.records.workload import ModelRecipe, Workload
from harness.reports.failures import failure_lines
from harness.reports.headline import headline
from harness.reports.overview import overview_table
from harness.reports.place import machine_line
from harness.reports.tables import (
    aligned,
    case_table,
    changed_numerics,
    judged_cases,
    skipped_paths,
    tally_outcomes,
    untrue_claims,
)
from harness.reports.text import one_line
from harness.session.checkout import refuse_unused
from harness.session.costs import Costs
from harness.session.plan import Catalogue, Planned, find_model, in_tiers, plan
from harness.session.run_folder import refuse_other_tests, refuse_other_tier
from harness.session.session import Judging, Measuring, Replan, Session

MARKERS = {
    "cuda": "runs on a CUDA device",
    "multi_gpu": "runs on several devices",
    "kernels": "needs the kernels package",
    "hub": "needs a model or a kernel from the Hugging Face Hub",
    "flash_attn": "needs a package of flash-attention",
    "slow": "runs only with --run-slow",
    **{str(technique): f"cases of the technique {technique}" for technique in Technique if technique != "kernels"},
    **{str(asked): f"judges the {asked} of cases" for asked in CASE_PROPERTIES},
    str(Property.CLAIM): "judges what the optimization overview says",
}


SLOWEST = 10
"""Number of slowest steps that are listed at the end."""
FAILING = {str(outcome) for outcome in Outcome if outcome.fails}


class Hooks:
    """Hooks that a conftest.py can implement for the plugin."""

    @pytest.hookspec(firstresult=True)
    def pytest_harness_catalogue(self, config: pytest.Config) -> Catalogue | None:
        """Return the paths, models and workloads to run."""

    @pytest.hookspec(firstresult=True)
    def pytest_harness_plan(self, config: pytest.Config, replan: Replan) -> list[Planned] | None:
        """Return the cases for the tests of a folder, or None to use the catalogue's own.

        `replan` plans the session's paths, models and dtypes with other workloads, for all tiers. Given `recipes` it
        plans these models, and given `path` only that path.
        """


SESSION = pytest.StashKey[Session]()
STOP = pytest.StashKey[BaseException]()
"""Reason why there can be no session. Raised during collection, it would count as an error of the collected file."""


REFUSED = "harness_refused"
TOLD = pytest.StashKey[str]()
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
        asked = {mark.name for mark in metafunc.definition.iter_markers()}
        timed = any(entry.measured and str(entry) in asked for entry in Property)
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
    if told := getattr(node, "workeroutput", {}).get(REFUSED):
        node.config.stash[TOLD] = told


def _drop_empty(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of cases for which no case is planned: pytest would report each as skipped."""
    empty = [item for item in items if "planned" in getattr(item, "fixturenames", ()) and not _case_of(item)]
    if empty:
        config.hook.pytest_deselected(items=empty)
        items[:] = [item for item in items if item not in empty]


def _is_alone(item: pytest.Item) -> bool:
    """Return whether a test has its device alone, since it measures something."""
    return any(asked.alone for asked in _properties_of(item))


def _note_what_is_done(config: pytest.Config, folder: Path, run: Run) -> None:
    """Note what the resumed run has done, so that the outlook counts only what is left."""
    if known := config.stash.get(SESSION, None):
        known.done = {(verdict.case, verdict.property) for verdict in run.verdicts}
        known.ran = {path.stem for path in (folder / "evidence").glob("*.json")}


def _is_skipped(item: pytest.Item) -> bool:
    """Return whether a plugin marked a test to be skipped, as pytest-benchmark does if only benchmarks are wanted."""
    return item.get_closest_marker("skip") is not None


def _properties_of(item: pytest.Item) -> list[Property]:
    marked = {mark.name for mark in item.iter_markers()}
    return [asked for asked in Property if asked in marked]


def _asked_of(item: pytest.Item) -> tuple[Property, bool]:
    """Return the property that a test judges, and whether the evidence of its case decides."""
    [asked, *_] = [*_properties_of(item), Property.EQUIVALENCE]
    return asked, "judged" in getattr(item, "fixturenames", ())


def _keep_shard(config: pytest.Config, items: list[pytest.Item], place: int, count: int) -> None:
    """Keep every `count`th selected case with all its tests. Other tests stay only in the first shard."""
    cases = {case: index for index, case in enumerate(dict.fromkeys(filter(None, map(_case_of, items))))}
    shards = [cases.get(_case_of(item), 0) % count == place - 1 for item in items]
    if others := [item for item, own in zip(items, shards, strict=True) if not own]:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item, own in zip(items, shards, strict=True) if own]


@pytest.hookimpl(tryfirst=True)  # before the terminal asks what there is to tell of it
def pytest_collection_finish(session: pytest.Session) -> None:
    names = sorted(item.nodeid for item in session.items)
    selection = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    if session.config.option.resume:  # before anything runs, and also where no case is selected
        folder = Path(session.config.option.resume).expanduser()
        try:
            run = any_run(folder)
            refuse_other_tests(folder, run, selection)
            refuse_other_tier(folder, run, session.config.option.tier)
            _note_what_is_done(session.config, folder, run)
        except HarnessError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    if SESSION in session.config.stash:
        known = session.config.stash[SESSION]
        known.selected, known.selection = sum(bool(_case_of(item)) for item in session.items), selection
        known.tests = tuple(
            (planned, *_asked_of(item))
            for item in session.items
            if (planned := _planned_of(item)) and not _is_skipped(item)
        )


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what there is to do, and about how long that takes."""
    known = config.stash.get(SESSION, None)
    return [known.outlook] if known and known.tests else []


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after those who turn a failure into what was expected
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count tests that fail without a verdict that says so."""
    report = yield
    known = item.config.stash.get(SESSION, None)
    if known and report.failed and str(dict(report.user_properties).get("outcome")) not in FAILING:
        known.failed_otherwise += 1
    return report


@pytest.fixture
def recorded(request: pytest.FixtureRequest, planned: Planned) -> Callable[..., Verdict]:
    """Records a verdict on the case, and hands it to `then`. Skips the test if nothing was judged."""

    def record(asked: Property, judging: Judging, then: Callable[[Verdict], None] | None = None) -> Verdict:
        try:
            verdict = _session(request.config).verdict(planned, asked, judging)
        except HarnessError as error:  # not the case's fault: a full disk, a folder that is gone
            pytest.exit(str(error), returncode=pytest.ExitCode.INTERNAL_ERROR)
        request.node.user_properties.append(("outcome", str(verdict.outcome)))
        request.node.user_properties.extend(verdict.numbers.items())
        if then:
            then(verdict)
        if verdict.outcome.skips:
            pytest.skip(f"{verdict.outcome}: {verdict.message}")
        return verdict

    return record


@pytest.fixture
def judged(
    request: pytest.FixtureRequest, planned: Planned, recorded: Callable[..., Verdict]
) -> Callable[..., Verdict]:
    """Judges one property by the evidence of the case. `then` is given the verdict, also one that skips the test."""

    def judge(asked: Property, *, then: Callable[[Verdict], None] | None = None) -> Verdict:
        return recorded(asked, partial(_session(request.config).judge, planned, asked), then)

    return judge


@pytest.fixture
def measurements(request: pytest.FixtureRequest) -> Measuring:
    """Runs and measures a case. For judgements that are not of one property of one case."""
    return _session(request.config).measurements


@pytest.fixture
def timed_seconds(request: pytest.FixtureRequest, planned: Planned) -> Callable[[], list[float]]:
    """Seconds of the candidate in all pairs of the case that count; none if it was not timed."""

    def seconds() -> list[float]:
        measured = _session(request.config).measured.get(planned.case.id)
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
    known = session.config.stash.get(SESSION, None)
    if TOLD in session.config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if session.config.option.collectonly:
        return
    if (
        session.config.option.gate
        and (known is None or not known.selected)
        and session.exitstatus == pytest.ExitCode.OK
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if known is None:
        return
    try:
        session.exitstatus = known.close(int(session.exitstatus))
    except HarnessError as error:
        known.problem = str(error)
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    known = config.stash.get(SESSION, None)
    if TOLD in config.stash:
        terminalreporter.write_line(config.stash[TOLD])
    if config.option.gate and not config.option.collectonly and (known is None or not known.folder):
        terminalreporter.write_line("gate: red: nothing was judged")
    if known is None or config.option.collectonly:
        return
    for line in _summary(known):
        terminalreporter.write_line(line)
    if (known.planned or known.elsewhere) and not known.selected:
        terminalreporter.write_line(_why_nothing_is_selected(known, config.option.markexpr, config.option.keyword))


@pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)  # below the list of failed tests
def pytest_harness_headline(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Generator[None]:
    """End with what failed and the next step for each, and with the headline and the machine below.

    A problem of the session itself, such as a record that cannot be written, takes the place of the run's headline.
    """
    yield
    known = config.stash.get(SESSION, None)
    if known is None or known.folder is None or config.option.collectonly:
        return
    run = known.folder.run
    told = [*failure_lines(run.verdicts, evidence=known.evidence, told=run.options)]
    for line in ("", *told, *([""] if told else [])):
        terminalreporter.write_line(line)
    line = f"Failed: {one_line(known.problem)}" if known.problem else headline(run)
    good = line.startswith("Passed: ")
    terminalreporter.write_line(line, bold=True, green=good, red=not good)
    terminalreporter.write_line(machine_line(run))


def _summary(known: Session) -> Iterator[str]:
    """Yield the last lines of a session: what was not judged and why, the table, and where the record is."""
    skipped = skipped_paths(known.verdicts)
    if known.folder:
        yield ""
        if cases := judged_cases(known.verdicts):
            yield from aligned(case_table(cases))
        if overview := overview_table(known.verdicts):
            yield from ("", *aligned(overview), "")
        yield from untrue_claims(known.verdicts)
        yield from (f"{reason}: {', '.join(paths)}" for reason, paths in skipped.items())
        yield from changed_numerics(known.verdicts)
        yield from known.standard.notes
        if slowest := known.costs.slowest(SLOWEST):
            yield f"slowest: {', '.join(f'{what} {seconds:.0f} s' for what, seconds in slowest)}"
        yield f"{tally_outcomes(known.verdicts)}; record: {known.folder.path}"
    if known.folder and known.left_out_by_tier:
        yield f"{tier_line(known.folder.run)} ({_later(known.tier)})"
    if known.selected and not known.judged:
        yield f"nothing was judged: {'; '.join(skipped) or 'the session ended before a verdict'}"
    if known.problem:
        yield known.problem
    if known.folder and (gate := gate_line(known.folder.run)):
        yield gate


def _why_nothing_is_selected(known: Session, markers: str, keywords: str) -> str:
    chosen = " ".join(f"{flag} {shlex.quote(value)}" for flag, value in (("-m", markers), ("-k", keywords)) if value)
    no_cuda = known.inventory.why_no_cuda if "cuda" in markers else ""
    why = f"; there is no CUDA here: {no_cuda}" if no_cuda else ""
    why += (
        f"{left_out_line(known.left_out_by_tier)} of tier {known.tier} ({_later(known.tier)})"
        if known.left_out_by_tier
        else ""
    )
    chosen = chosen or "the selection"
    cases = [*known.planned, *known.elsewhere]
    return f"nothing was judged: {chosen} selects none of the {len(cases)} cases planned here{why}"


def _later(tier: Tier) -> str:
    """Return how to run what a tier leaves out."""
    later = {Tier.SMOKE: "--tier daily, --nightly and --run-slow run them", Tier.NIGHTLY: "--run-slow runs them"}
    return later.get(tier, "--nightly and --run-slow run them")


def _case_of(item: pytest.Item) -> str:
    """Return the id of the case that a test judges; empty for every other test."""
    planned = _planned_of(item)
    return planned.case.id if planned else ""


def _planned_of(item: pytest.Item) -> Planned | None:
    callspec = getattr(item, "callspec", None)
    planned = callspec.params.get("planned") if callspec else None
    return planned if isinstance(planned, Planned) else None


def _planned(metafunc: pytest.Metafunc) -> list[Planned]:
    try:
        session = _session(metafunc.config)
    except pytest.exit.Exception as stop:
        metafunc.config.stash[STOP] = stop
        return []
    own = metafunc.definition.ihook.pytest_harness_plan(config=metafunc.config, replan=session.replan)
    if own is None:
        return session.planned
    kept = [entry for entry in own if session.tier.holds(entry.tier)]
    session.elsewhere += kept
    session.left_out += [entry for entry in own if not session.tier.holds(entry.tier)]
    return kept


def _tell(config: pytest.Config, line: str) -> None:
    """Show a line while tests run. It goes past pytest's capture, which would keep it until a test fails."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.write_line(line)


def _session(config: pytest.Config) -> Session:
    if SESSION not in config.stash:
        try:
            config.stash[SESSION] = _new_session(config)
        except HarnessError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    return config.stash[SESSION]


def _new_session(config: pytest.Config) -> Session:
    if hasattr(config, "workerinput"):
        raise HarnessError(
            "pytest-xdist would time cases beside each other, in several runs (leave out -n; --jobs N runs "
            "cases side by side)"
        )
    catalogue = config.hook.pytest_harness_catalogue(config=config)
    if catalogue is None:
        raise HarnessError("no catalogue: a conftest.py should implement pytest_harness_catalogue")
    inventory = take_inventory()
    asked = config.option
    models = tuple(find_model(name, catalogue) for name in asked.model) or catalogue.models
    device = asked.device or inventory.default_device
    dtypes = tuple(Dtype(name) for name in asked.dtype)

    def replan(
        workloads: tuple[Workload, ...], *, recipes: tuple[ModelRecipe, ...] = (), path: str = ""
    ) -> list[Planned]:
        paths = tuple(entry for entry in catalogue.paths if path in {"", entry.name})
        known = replace(catalogue, workloads=workloads, paths=paths)
        planned = plan(known, inventory, models=recipes or models, device=device, dtypes=dtypes)
        # What somebody named is asked for each of its models, and not for the first alone.
        return in_tiers(planned, models=recipes or models) if recipes or asked.model else planned

    planned = replan(catalogue.workloads)
    tier = Tier(asked.tier)
    kept = [entry for entry in planned if tier.holds(entry.tier)]
    parent = Path(config.rootpath, asked.run_dir).expanduser()
    profiles = sound_profiles(config.rootpath)
    refuse_unused(profiles, catalogue)
    left_out = [entry for entry in planned if not tier.holds(entry.tier)]
    session = Session(catalogue, inventory, profiles, kept, left_out, asked.case_timeout, parent, replan)
    session.tier = tier
    session.jobs = asked.jobs
    session.costs = Costs.read(parent, f"{processor()}, {cores()} cores, {', '.join(inventory.devices)}")
    session.options = tuple(as_words(asked))
    session.timing_seconds = asked.timing_seconds
    session.gate = asked.gate
    session.resume = Path(asked.resume).expanduser() if asked.resume else None
    if session.resume:
        any_run(session.resume)  # refused as misuse, before anything runs
    place, count = asked.shard
    session.shard = f"{place}/{count}" if count > 1 else ""
    session.told = partial(_tell, config)
    return session
