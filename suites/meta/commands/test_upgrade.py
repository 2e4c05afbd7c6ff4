"""`harness upgrade`: the effect of a version on each path, and environments that differ in one package."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib import metadata

import pytest

from harness.commands.compare.cases import Weight
from harness.commands.confirm.confirm import NOT_COMPARED, CaseResult
from harness.commands.upgrade.command import _waited
from harness.commands.upgrade.environments import Environment, make_environment, requirement, settings
from harness.commands.upgrade.techniques import Effect, acceptable, claims, effects, summary, table, unconfirmed
from harness.errors import HarnessError
from harness.records.enums import Outcome, Property
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.made_up_upgrade import upgraded
from suites.meta.builders.recorded_runs import FLASH, SDPA, STATIC, Checkout, case, verdict
from suites.meta.builders.two_runs import SLOWDOWN, UPGRADED, found, side, timed
from suites.meta.builders.two_runs import STATIC as TIMED

CASES = (SDPA, FLASH, STATIC)
OTHER = case("attention.sdpa", workload="ragged_b4")
"""A second case of the first path."""


def judged(asked=Property.ENGAGEMENT, **outcomes):
    """Verdicts of three paths, passing but for those that are named, by the end of the path's name."""
    named = [(of, outcomes.get(of.path.rpartition(".")[2], Outcome.PASS)) for of in CASES]
    made = (verdict(of, outcome, asked=asked) for of, outcome in named)
    return tuple(replace(each, message=f"{each.case}: so") for each in made)


def effect_of(path, was, now, *, second=None):
    old, new = side({}, verdicts=was), side({}, verdicts=now, environment=UPGRADED)
    every = effects(old.run, new.run, found(new, old), second or {})
    return next(each for each in every if each.path == path)


@pytest.mark.parametrize(
    ("was", "now", "effect"),
    [
        (Outcome.PASS, Outcome.PASS, Effect.SAME),
        (Outcome.PASS, Outcome.NOT_ENGAGED, Effect.IGNORED),
        (Outcome.UNSUPPORTED, Outcome.NOT_ENGAGED, Effect.IGNORED),
        (Outcome.PASS, Outcome.MISMATCH, Effect.WORSE),
        (Outcome.PASS, Outcome.UNSUPPORTED, Effect.REFUSED),
        (Outcome.MISMATCH, Outcome.UNSUPPORTED, Effect.REFUSED),
        (Outcome.PASS, Outcome.INCONCLUSIVE, Effect.UNCERTAIN),
        (Outcome.MISMATCH, Outcome.MISMATCH, Effect.RED),
        (Outcome.NOT_ENGAGED, Outcome.NOT_ENGAGED, Effect.RED),
        (Outcome.NOT_ENGAGED, Outcome.MISMATCH, Effect.RED),
        (Outcome.CRASHED, Outcome.NOT_ENGAGED, Effect.IGNORED),
        (Outcome.MISMATCH, Outcome.PASS, Effect.BETTER),
        (Outcome.UNSUPPORTED, Outcome.PASS, Effect.BETTER),
        (Outcome.INCONCLUSIVE, Outcome.PASS, Effect.SAME),
        (Outcome.UNSUPPORTED, Outcome.UNSUPPORTED, Effect.ABSENT),
    ],
)
def test_effect_on_a_path_follows_from_its_outcomes(was, now, effect):
    got = effect_of("attention.sdpa", judged(sdpa=was), judged(sdpa=now))
    assert got.effect is effect
    assert bool(got.told) is (effect not in {Effect.SAME, Effect.ABSENT})
    assert bool(got.red) is now.fails
    assert acceptable([got]) is (effect not in {Effect.IGNORED, Effect.WORSE, Effect.REFUSED})


@pytest.mark.parametrize(
    ("second", "effect"),
    [
        (Outcome.PASS, Effect.SAME),
        (Outcome.UNSUPPORTED, Effect.REFUSED),
        (Outcome.MISMATCH, Effect.WORSE),
        (None, Effect.REFUSED),
    ],
)
def test_most_serious_of_its_cases_decides_on_a_path(second, effect):
    was = (*judged(), verdict(OTHER, asked=Property.ENGAGEMENT))
    now = (*judged(), *([verdict(OTHER, second, asked=Property.ENGAGEMENT)] if second else []))
    assert effect_of("attention.sdpa", was, now).effect is effect


def test_known_failure_counts_as_what_it_would_be():
    forgiven = [replace(each, outcome=Outcome.KNOWN_FAILURE, forgiven=Outcome.MISMATCH) for each in judged()]
    assert effect_of("attention.sdpa", judged(), forgiven).effect is Effect.WORSE
    assert effect_of("attention.sdpa", forgiven, forgiven).effect is Effect.RED


def test_properties_that_changed_alike_are_one_line():
    """A path that does not engage has no other property either."""
    was = (*judged(), *judged(Property.EQUIVALENCE))
    now = (*judged(sdpa=Outcome.NOT_ENGAGED), *judged(Property.EQUIVALENCE, sdpa=Outcome.NOT_ENGAGED))
    assert effect_of("attention.sdpa", was, now).told == (
        f"{SDPA.id}, engagement, equivalence: PASS → NOT_ENGAGED: so",
    )


def test_path_that_is_not_planned_any_more_is_refused():
    got = effect_of("attention.sdpa", judged(), judged()[1:])
    assert got.effect is Effect.REFUSED
    assert got.told == (f"{SDPA.id}, engagement: PASS → not planned any more",)


@pytest.mark.parametrize(
    ("label", "weight", "effect"),
    [
        ("REGRESSED", Weight.WORSE, Effect.WORSE),
        ("UNCHANGED", Weight.SAME, Effect.UNCERTAIN),
        ("INCONCLUSIVE", Weight.OTHER, Effect.UNCERTAIN),
        ("IMPROVED", Weight.BETTER, Effect.BETTER),
        (NOT_COMPARED, Weight.OTHER, Effect.WORSE),
    ],
)
def test_second_look_decides_on_a_speed(label, weight, effect):
    """What no second look could compare stays as it was seen."""
    old, new = side(timed(seed=1)), side(timed(seed=2, slower=SLOWDOWN), environment=UPGRADED)
    comparison = found(new, old)
    assert unconfirmed(comparison) == (TIMED.id,)
    second = {TIMED.id: CaseResult(TIMED.id, label, weight, "so")}
    [got] = [each for each in effects(old.run, new.run, comparison, second) if each.path == "caching.static"]
    assert got.effect is effect
    assert got.told[-1] == f"second look: {label} {TIMED.id}: so"


@pytest.mark.parametrize(
    ("asked", "outcome", "label", "weight", "effect"),
    [
        (Property.ENGAGEMENT, Outcome.CRASHED, "UNCHANGED", Weight.SAME, Effect.UNCERTAIN),
        (Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "UNCHANGED", Weight.SAME, Effect.UNCERTAIN),
        (Property.ENGAGEMENT, Outcome.NOT_ENGAGED, "FAILS NOW", Weight.WORSE, Effect.IGNORED),
        (Property.EQUIVALENCE, Outcome.MISMATCH, "FAILS ON BOTH", Weight.OTHER, Effect.UNCERTAIN),
        (Property.EQUIVALENCE, Outcome.MISMATCH, "FAILS NOW", Weight.WORSE, Effect.WORSE),
        (Property.SPEED, Outcome.SLOW, "INCONCLUSIVE", Weight.OTHER, Effect.UNCERTAIN),
        (Property.MEMORY, Outcome.OVER_MEMORY, "UNCHANGED", Weight.SAME, Effect.WORSE),
        # It lost against eager, of which SLOW is; and it was proved, whatever its time.
        (Property.SPEED, Outcome.SLOW, "LAGS", Weight.OTHER, Effect.WORSE),
        (Property.ENGAGEMENT, Outcome.CRASHED, "REGRESSED", Weight.WORSE, Effect.UNCERTAIN),
    ],
)
def test_second_look_denies_only_what_it_tried(asked, outcome, label, weight, effect):
    second = {SDPA.id: CaseResult(SDPA.id, label, weight, "so")}
    got = effect_of("attention.sdpa", judged(asked), judged(asked, sdpa=outcome), second=second)
    assert got.effect is effect


@pytest.mark.parametrize(
    ("label", "weight", "effect"),
    [
        ("PASSES NOW", Weight.BETTER, Effect.BETTER),
        ("FAILS ON BOTH", Weight.OTHER, Effect.UNCERTAIN),
        ("FAILS NOW", Weight.WORSE, Effect.WORSE),
        (NOT_COMPARED, Weight.OTHER, Effect.BETTER),
    ],
)
def test_second_look_decides_on_what_became_better(label, weight, effect):
    second = {SDPA.id: CaseResult(SDPA.id, label, weight, "so")}
    got = effect_of("attention.sdpa", judged(sdpa=Outcome.CRASHED), judged(), second=second)
    assert got.effect is effect


def test_claims_are_told_by_themselves():
    """They are of a whole technique, and on a shared machine change by chance."""
    was = [replace(each, property=Property.CLAIM, case="claim") for each in judged()[:1]]
    now = [replace(each, outcome=Outcome.DOES_NOT_HOLD) for each in was]
    old, new = side({}, verdicts=[*judged(), *was]), side({}, verdicts=[*judged(), *now])
    assert {each.effect for each in effects(old.run, new.run, found(new, old), {})} == {Effect.SAME}
    assert list(claims(old.run, new.run)) == ["claim: PASS → DOES_NOT_HOLD"]


def test_table_counts_what_is_the_same_and_names_the_rest():
    old, new = side({}, verdicts=judged()), side({}, verdicts=judged(sdpa=Outcome.NOT_ENGAGED), environment=UPGRADED)
    every = effects(old.run, new.run, found(new, old), {})
    assert list(table(every)) == [
        "| technique | ignored now | same |",
        "| --- | --- | --- |",
        "| attention | attention.sdpa | 1 |",
        "| caching |  | 1 |",
    ]
    assert summary(every) == "1 ignored now, 2 same"
    assert not acceptable(every)


@pytest.fixture
def upgrade(tmp_path, monkeypatch, capsys):
    """Runs the command on a made-up upgrade; (code, output, errors)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    checkout = Checkout(tmp_path)

    def run(*arguments, **found):
        run.seen = upgraded(monkeypatch, checkout, **found)
        return harness(monkeypatch, capsys, "upgrade", "transformers", "5.22.2", "5.24.0", *arguments)

    return run


def test_command_writes_what_a_pull_request_needs(upgrade, tmp_path):
    code, out, errors = upgrade("--", "-k", "x", old=judged(), new=judged(sdpa=Outcome.NOT_ENGAGED))
    assert code == 1
    assert upgrade.seen.given == [
        ("5.22.2", ["--case-timeout", "300", "-k", "x"]),
        ("5.24.0", ["--case-timeout", "300", "-k", "x"]),
    ]
    assert upgrade.seen.looked == [(SDPA.id,)]
    [folder] = tmp_path.glob("runs/upgrade-*")
    page = (folder / "upgrade.md").read_text()
    assert page.startswith("# transformers 5.22.2 to 5.24.0: 1 ignored now, 2 same\n")
    assert "| attention | attention.sdpa | 1 |" in page
    assert "**attention.sdpa: ignored now**" in page
    assert f"`runs/{folder.name}/new/bin/python -m pytest suites/every_path --device cpu" in page
    assert "transformers 5.22.2 → 5.24.0" in page
    assert "- with transformers 5.24.0, kernels 0.17.2 is not accepted" in page
    assert out.splitlines()[-1] == f"written: {folder / 'upgrade.md'}"
    assert "1 case changed: trying each again in both environments" in errors
    assert json.loads((folder / "upgrade.json").read_text())["versions"] == ["5.22.2", "5.24.0"]


def test_command_is_content_where_nothing_changed(upgrade, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--nightly")
    code, out, errors = upgrade(old=judged(), new=judged())
    assert code == 0
    assert "PYTEST_ADDOPTS is left out: both environments run without it" in errors
    assert "5.24.0: 3 same" in out
    assert upgrade.seen.looked == []


def test_second_look_that_fails_loses_nothing(upgrade, tmp_path):
    code, out, _ = upgrade(old=judged(), new=judged(sdpa=Outcome.MISMATCH), broken="old: ended by SIGKILL")
    assert code == 1
    assert "- no second look: old: ended by SIGKILL" in out
    assert "1 worse, 2 same" in next(tmp_path.glob("runs/upgrade-*/upgrade.md")).read_text()


def test_case_that_cannot_be_tried_by_itself_gets_no_second_look(upgrade):
    """A relation has an id like a case's, and is none."""
    relation = replace(judged()[0], case=f"{SDPA.id.rpartition('-')[0]}-repetition")
    code, _, errors = upgrade(old=[relation], new=[replace(relation, outcome=Outcome.MISMATCH)])
    assert code == 1
    assert upgrade.seen.looked == []
    assert "trying each again" not in errors


def test_failures_without_a_verdict_are_not_acceptable(upgrade):
    code, out, _ = upgrade(old=judged(), new=judged(), failed=2)
    assert code == 1
    assert "- tests that failed without a verdict: 0 → 2" in out


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("5.24.0", "transformers==5.24.0"),
        (
            "git+https://github.com/huggingface/transformers",
            "transformers @ git+https://github.com/huggingface/transformers",
        ),
    ],
)
def test_version_may_be_an_address(version, asked):
    assert requirement("transformers", version) == asked


def test_version_may_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkouts" / "main").mkdir(parents=True)
    assert requirement("transformers", "checkouts/main") == f"transformers @ file://{tmp_path}/checkouts/main"


@pytest.mark.parametrize("version", ["latest", "no/such/folder", "git@host:transformers"])
def test_version_that_is_none_is_refused(version, upgrade, monkeypatch, capsys):
    code, _, errors = harness(monkeypatch, capsys, "upgrade", "transformers", "5.22.2", version)
    assert code == 2
    assert "is no version, and there is no such folder (name a version, a folder, or git+https://...)" in refusal(
        errors
    )


def wheel(folder, version, *, name="upgraded_thing"):
    """A package of one module, as pip installs it without an index."""
    made = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return made


@pytest.mark.workers
def test_environment_differs_in_the_package_alone(tmp_path, monkeypatch):
    """It reads the packages of this one, and leaves them as they are."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    first, second = (
        make_environment(tmp_path / version, "upgraded-thing", str(wheel(tmp_path, version)))
        for version in ("1.0", "2.0")
    )
    assert (first.version, second.version) == ("1.0", "2.0")
    (tmp_path / "upgraded_thing.py").write_text("version = 'of PYTHONPATH'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = "import upgraded_thing, torch; print(upgraded_thing.version, torch.__file__)"
    for made in (first, second):
        told = subprocess.run(
            [made.python, "-c", program], capture_output=True, text=True, check=True, env=settings()
        ).stdout.split()
        assert told == [made.version, sys.modules["torch"].__file__ if "torch" in sys.modules else told[1]]
        assert str(tmp_path) not in told[1]


@pytest.mark.workers
def test_environment_that_holds_something_else_is_refused(tmp_path, monkeypatch):
    """A wheel of another package, and one of the version that is installed here, which pip leaves in place."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HarnessError, match="pip did not install it: "):
        make_environment(tmp_path / "x", "typer", str(wheel(tmp_path, "7.0")))
    same = wheel(tmp_path, metadata.version("typer"), name="typer")
    with pytest.raises(
        HarnessError, match=r"pip left typer .* of this environment in place \(give its version another"
    ):
        make_environment(tmp_path / "y", "typer", str(same))


@pytest.mark.workers
def test_build_of_a_version_is_that_version(tmp_path, monkeypatch):
    """As torch's for a CPU are, `2.13.0+cpu`; one that is asked for by its whole name must be that."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path, "1.0+cpu")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert make_environment(tmp_path / "x", "upgraded-thing", "1.0").version == "1.0+cpu"
    assert make_environment(tmp_path / "y", "upgraded-thing", "1.0+cpu").version == "1.0+cpu"


@pytest.mark.workers
def test_folder_of_no_environment_is_told(tmp_path):
    with pytest.raises(HarnessError, match=r"no environment could be made: .* \(choose another --run-dir"):
        make_environment(tmp_path / "with:colon", "typer", "0.1")


CLOSING = """
import pathlib, signal, sys, time
def close(*_):
    pathlib.Path("closed").touch()
    sys.exit(2)
signal.signal(signal.SIGINT, close)
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.workers
def test_interrupted_session_closes_its_record(tmp_path):
    """The signal is passed on, and waited for."""
    process = subprocess.Popen([sys.executable, "-c", CLOSING], cwd=tmp_path, stdout=subprocess.PIPE)
    process.stdout.readline()

    class Interrupted:
        """The process, whose first wait is interrupted."""

        def __init__(self):
            self.waits = 0

        def wait(self, *seconds):
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt
            return process.wait(*seconds)

        def send_signal(self, number):
            process.send_signal(number)

    with pytest.raises(KeyboardInterrupt):
        _waited(Interrupted())
    process.stdout.close()
    assert process.returncode == 2
    assert (tmp_path / "closed").exists()


@pytest.mark.workers
def test_version_that_is_not_on_the_index_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        HarnessError, match=r"upgraded-thing==9: pip did not install it: .*No matching.*\(read .*pip.log"
    ):
        make_environment(tmp_path / "x", "upgraded-thing", "9")


@pytest.mark.workers
def test_run_without_a_record_is_told_with_its_output(tmp_path, monkeypatch, capsys):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    here = Environment(sys.executable, "transformers", "5.22.2")
    monkeypatch.setattr("harness.commands.upgrade.command.make_environment", lambda *_: here)
    code, _, errors = harness(monkeypatch, capsys, "upgrade", "transformers", "5", "6", "--", "--no-such-option")
    assert code == 2
    line = refusal(errors)
    assert "ended with 4, so nothing is compared (read " in line
