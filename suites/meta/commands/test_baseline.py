"""`harness baseline`: from a run to what is recorded, in commands a person types. Refusals are one line and exit code
2."""

from __future__ import annotations

import json

import pytest

from harness.commands.baseline.command import app, case_ids
from harness.profiles.profile import Match, Profile, write_profile
from harness.records.enums import Outcome
from suites.conftest import CATALOGUE
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.recorded_runs import BETTER, FLASH, SDPA, STATIC, WORSE, Checkout, case, resealed, verdict


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The folder that the command runs in."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    return Checkout(tmp_path)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `harness baseline`; (code, output, errors)."""

    def run(*arguments):
        return harness(monkeypatch, capsys, "baseline", *arguments)

    return run


def test_proposing_comparing_and_accepting(command, checkout):
    """The whole way, twice."""
    run = checkout.run({SDPA: {}, FLASH: {}, STATIC: {}})
    assert command("propose", run) == (
        0,
        f"written: {run}/baselines/attention.json, 2 cases\nwritten: {run}/baselines/caching.json, 1 case\n",
        "",
    )
    _, out, _ = command("diff", run)
    assert [line.split()[-1] for line in out.splitlines()] == ["change", *["NEW"] * 6]
    assert command("accept", run) == (
        0,
        f"written: {checkout.folder}/attention.json\nwritten: {checkout.folder}/caching.json\n3 cases recorded\n",
        "",
    )
    later = checkout.run({SDPA: {}, FLASH: BETTER}, name="later")
    command("propose", later)
    code, out, _ = command("accept", later)
    assert code == 0
    assert out.splitlines()[-1] == "1 case recorded; 1 case as recorded before, being neither better nor worse"


def test_difference_stands_in_columns(command, checkout):
    run = checkout.run()
    command("propose", run)
    command("accept", run)
    _, out, _ = command("diff", checkout.run({SDPA: WORSE}, name="later"))
    header, speed, *others = out.splitlines()
    assert header.split() == ["case", "metric", "stored", "now", "change"]
    assert speed.split("  ")[0] == SDPA.id
    assert speed.index("2 (1.98 to 2.02)") == header.index("stored")
    assert speed.index("REGRESSED") == header.index("change")
    assert all(line.endswith("  UNCHANGED") for line in others)


def test_difference_as_json_has_numbers(command, checkout):
    run = checkout.run({SDPA: {}, FLASH: {}}, verdicts=[verdict(SDPA), verdict(FLASH, Outcome.MISMATCH)])
    found = json.loads(command("diff", run, "--json")[1])
    row = found["rows"][0]
    assert (row["case"], row["metric"], row["stored"], row["change"]) == (SDPA.id, "speedup", None, "NEW")
    assert row["now"] == pytest.approx(2, rel=0.02)
    assert found["notes"] == [
        f"{FLASH.id}: left out: its equivalence is MISMATCH, so that its numbers are worth nothing"
    ]
    assert command("diff", run)[1].endswith(f"\n{found['notes'][0]}\n")


def test_failing_case_is_told_when_proposing(command, checkout):
    run = checkout.run({SDPA: {}, FLASH: {}}, verdicts=[verdict(SDPA), verdict(FLASH, Outcome.MISMATCH)])
    assert command("propose", run)[1].splitlines()[1] == (
        f"left out: {FLASH.id}: its equivalence is MISMATCH, so that its numbers are worth nothing"
    )


def test_worse_needs_a_reason_on_the_command_line(command, checkout):
    """One case by name, or all of them."""
    first = checkout.run({SDPA: {}, FLASH: {}})
    command("propose", first)
    command("accept", first)
    run = checkout.run({SDPA: WORSE, FLASH: BETTER}, name="later")
    command("propose", run)
    code, out, told = command("accept", run)
    assert (code, out) == (2, "")
    assert refusal(told).startswith(f"{SDPA.id}: speedup is 1.5 (1.48 to 1.51), was 2 (1.98 to 2.02): baselines do ")
    assert command("accept", run, "--case", FLASH.id)[1].endswith("\n1 case recorded\n")
    assert command("accept", run, "--case", SDPA.id, "--worse", "safer kernel")[0] == 0
    assert checkout.stored().reason == "safer kernel"


@pytest.mark.parametrize("asked", ["propose", "diff", "accept"])
def test_what_cannot_be_recorded_is_one_line(command, checkout, asked):
    """No run, a run that is not finished, and one that matched no profile."""
    for changes, told in (
        ({"finished": None}, "the run is not finished, but should be"),
        ({"profile": None}, "the run matched no profile, but its numbers belong into one"),
        ({"profile": "gone"}, "baselines/gone/profile.toml: could not be read: "),
    ):
        code, out, errors = command(asked, checkout.run(**changes))
        assert (code, out) == (2, "")
        assert told in refusal(errors)
    code, _, errors = command(asked, "nowhere")
    assert code == 2
    assert refusal(errors).startswith("nowhere/run.json: could not be read: ")


def test_case_of_a_model_beyond_the_catalogue_is_refused(command, checkout):
    """What every session would call unused is not recorded."""
    run = checkout.run()
    command("propose", run)
    (checkout.root / "conftest.py").write_text(
        f"{CONFTEST}\nfrom dataclasses import replace\n"
        "NONE = dict.fromkeys(('models', 'slices', 'whole', 'more_models'), ())\n"
        "CATALOGUE = replace(CATALOGUE, **NONE)\n"
    )
    code, _, errors = command("accept", run)
    assert code == 2
    assert refusal(errors).startswith(f"{SDPA.id}: no path, model or workload of the catalogue gives it, ")


def test_pruning_removes_what_is_gone(command, checkout):
    """In all profiles, and nothing else."""
    write_profile(Profile("other", checkout.root / "baselines" / "other", Match("cuda", "x"), None))
    run = checkout.run({SDPA: {}, FLASH: {}})
    command("propose", run)
    command("accept", run)
    path = checkout.folder / "attention.json"
    entries = checkout.read().files[SDPA.technique].cases
    resealed(path, cases={FLASH.id: entries[FLASH.id], "cpu-fp32-tiny_qwen3-attention.gone-single": entries[SDPA.id]})
    assert command("prune") == (
        0,
        "removed from here: cpu-fp32-tiny_qwen3-attention.gone-single\nhere: 1 case removed\nother: 0 cases removed\n",
        "",
    )
    assert list(checkout.read().files[SDPA.technique].cases) == [FLASH.id]


def test_ids_of_a_catalogue_are_those_of_its_cases():
    """On the device asked for, in every dtype."""
    ids = case_ids(CATALOGUE, "cuda")
    assert case(device="cuda").id in ids
    assert case("eager", device="cuda").id.replace("fp32", "bf16") in ids
    assert SDPA.id not in ids


def test_help_names_every_command(command):
    """And bad usage is exit code 2, as everywhere."""
    code, out, _ = command("--help")
    assert code == 0
    for registered in app.registered_commands:
        assert registered.name in out
    assert command("accept")[0] == 2
