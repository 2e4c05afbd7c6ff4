"""`harness machine`: which needs keep which paths out, and when a machine is not fit to be measured on."""

from __future__ import annotations

import json
import platform
from dataclasses import replace

import pytest

from harness.commands import machine as cli_machine
from harness.commands.validate.examining import examine
from harness.machine.health import Examined, health
from harness.machine.inventory import take_inventory
from harness.paths.registry import PATHS
from harness.profiles.profile import Match, Profile, write_profile
from suites.meta.builders.commands import CONFTEST, harness, refusal
from suites.meta.builders.recorded_runs import SDPA, Checkout
from suites.meta.builders.timings import PEAKS

QUIET = Examined("", "", 0, {"steal": "0.1%", "governor": "performance", "cpu_throttling": "watched"}, PEAKS)


@pytest.fixture
def machine(tmp_path, monkeypatch, capsys):
    """Runs `harness machine` on a machine of which `examined` was read; (code, lines, errors)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.getloadavg", lambda: (0.25, 0.0, 0.0))
    monkeypatch.setattr("harness.machine.requirements._hub_problem", lambda: "it is out of reach")

    def run(*arguments, examined=QUIET):
        asked = []
        monkeypatch.setattr(cli_machine, "_examined", lambda _, **options: asked.append(options) or examined)
        code, out, errors = harness(monkeypatch, capsys, "machine", *arguments)
        run.asked = asked
        return code, out.splitlines(), errors

    return run


def test_quiet_machine_is_well():
    found = health(QUIET, load=0.4, cores=2)
    assert all(finding.well for finding in found)
    assert [str(finding) for finding in found] == [
        "load: 0.40 of the whole host, beside 2 cores for this process",
        "stolen time: 0.1 %",
        "clock governor: performance",
        "throttling of the control group: watched",
    ]


@pytest.mark.parametrize(
    ("changes", "load", "told"),
    [
        (
            {},
            1.2,
            (
                "load: not well: 1.20 of the whole host, beside 2 cores for this process (others use the processors, "
                "and timed runs need one to themselves"
            ),
        ),
        ({"told": {"steal": "2.1%"}}, 0.0, "stolen time: not well: 2.1 % (the host gives the processors to other mach"),
        (
            {"happened": "throttled: hardware power brake"},
            0.0,
            "while it worked: not well: throttled: hardware power brake (cool it, give it more power or a larger sha",
        ),
        (
            {"happened": "foreign process", "foreign": 2},
            0.0,
            "processes of others on the device: not well: 2 (end them, or choose another device: ",
        ),
    ],
)
def test_whatever_spoils_timed_runs_is_not_well(changes, load, told):
    """And stands first, with what to do."""
    found = health(replace(QUIET, **changes), load=load, cores=2)
    assert [finding.well for finding in found].count(False) == 1
    assert str(found[0]).startswith(told)


@pytest.mark.parametrize(("told", "steal"), [({"steal": "unknown"}, "unknown"), ({"steal": "2.0%"}, "2.0 %")])
def test_what_is_not_known_is_not_called_unwell(told, steal):
    found = health(replace(QUIET, told=told), load=0.0, cores=1)
    assert all(finding.well for finding in found)
    assert f"stolen time: {steal}" in map(str, found)


def test_machine_tells_profile_needs_peaks_and_health(machine):
    code, lines, _ = machine("--device", "cpu")
    assert code == 0
    assert machine.asked == [{"peaks": True, "seconds": 300.0}]
    assert lines[0] == "device: cpu"
    assert lines[1:3] == [
        "profile: none",
        f"  no profile matches cpu on {platform.machine()}: harness calibrate makes one",
    ]
    assert f"  torch: {take_inventory().packages['torch']}" in lines
    cuda = [path.name for path in PATHS if "CUDA" in map(str, path.needs())]
    [line] = [line for line in lines if line.startswith("  needs cuda: ")]
    assert line.rpartition(": ")[2].split(", ") == cuda
    assert "  needs kernels-community/flash-attn2: it is out of reach: kernels.flash_attn2_hub" in lines
    assert "  2 devices: 9 paths" in lines
    assert "  copies: 10 GB/s, read and written" in lines
    assert "  fp32 products: 100 GFLOP/s" in lines
    assert "health: well" in lines


def test_machine_that_is_not_well_is_exit_code_1(machine):
    code, lines, _ = machine("--device", "cpu", examined=replace(QUIET, told={"steal": "40.0%"}))
    assert code == 1
    assert lines[lines.index("health: not well") + 1].startswith("  stolen time: not well: 40.0 % (")


def test_device_that_is_not_there_is_told_and_is_exit_code_1(machine):
    """What is known without it is told all the same."""
    code, lines, _ = machine("--device", "mps")
    assert code == 1
    assert machine.asked == []
    assert lines[-1] == (
        "  device: not well: needs mps: torch finds no such device (choose another --device, or set that right)"
    )
    assert any(line.startswith("  needs cuda: ") for line in lines)


def test_profile_that_matches_is_told_with_what_is_in_force(machine, tmp_path):
    checkout = Checkout(tmp_path, match=Match("cpu", platform.machine()))
    checkout.accept(checkout.run())
    _, lines, _ = machine("--device", "cpu")
    assert lines[1:3] == ["profile: here", "  limits: not calibrated: harness calibrate"]
    assert lines[3].startswith(f"  baselines of {SDPA.technique}: 1 case, of other hardware: processor some processor ")


def test_profile_of_an_accelerator_is_matched_by_its_name(machine, tmp_path, monkeypatch):
    """On a machine that has one."""
    inventory = replace(take_inventory(), devices={"cuda": 1, "cpu": 1}, why_no_cuda="")
    monkeypatch.setattr(cli_machine, "take_inventory", lambda: inventory)
    write_profile(Profile("gpu", tmp_path / "baselines" / "gpu", Match("cuda", "NVIDIA H200"), None))
    code, lines, _ = machine("--no-peaks", examined=replace(QUIET, names="NVIDIA H200", peaks=None))
    assert code == 0
    assert machine.asked[0]["peaks"] is False
    assert lines[:2] == ["device: cuda", "profile: gpu"]
    assert "  accelerators: NVIDIA H200" in lines
    assert "  CUDA: 23 paths" in lines
    assert "peaks:" not in lines


def test_json_holds_the_same(machine):
    code, lines, _ = machine("--device", "cpu", "--json")
    found = json.loads("\n".join(lines))
    assert code == 0
    assert (found["device"], found["profile"], found["peaks"]["launch"]) == ("cpu", None, 1e-6)
    [cuda] = [need for need in found["needs"] if need["need"] == "CUDA"]
    assert cuda["unmet"].startswith("needs cuda: ")
    assert "attention.sdpa_cudnn" in cuda["paths"]
    assert found["health"][0] == {
        "what": "load",
        "got": f"0.25 of the whole host, beside {found['environment']['cores']} cores for this process",
        "todo": "",
    }


def test_broken_profile_is_refused(machine, tmp_path):
    path = tmp_path / "baselines" / "here" / "profile.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[match]\n")
    code, _, errors = machine("--device", "cpu")
    assert code == 2
    assert "lacks device, machine" in refusal(errors)


def test_this_machine_can_be_examined(monkeypatch):
    """While it multiplies; what is read is what timing sessions record."""
    monkeypatch.setattr("harness.commands.validate.examining.SECONDS", 0.05)
    found = examine("cpu", peaks=False)
    assert found.peaks is None
    assert {"steal", "governor", "turbo", "load", "cpu_throttling"} <= found.told.keys()
