"""Preflight: what a healthy card shows, and that each rule finds the card that it is for."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest

from harness.commands.validate.command import FINGERPRINT_SECONDS
from harness.commands.validate.datasheets import COPIES, DATASHEETS, PRODUCTS
from harness.commands.validate.examining import find_card
from harness.commands.validate.preflight import RULES, preflight
from harness.commands.validate.records import LEAST, Build, Card, Check, Grade, graded
from harness.machine.health import Examined
from harness.machine.nvml import FULL_SPEED
from harness.records.codec import from_plain, to_plain
from harness.records.enums import Dtype
from suites.meta.builders.documents import FLOWING
from suites.meta.builders.recorded_cards import NAMES, RecordedNvml, card, record, unread
from suites.meta.builders.timings import PEAKS

QUIET = {"load": 0.2, "cores": 16}
CARD = "cuda:0"


def wrong(*cards, **where):
    """(lines that reject, lines that are exceptions)."""
    checks = preflight(cards, **QUIET | where)
    return tuple([str(check) for check in graded(checks, grade)] for grade in (Grade.REJECTING, Grade.EXCEPTION))


def test_healthy_card_passes_every_rule():
    assert wrong(card()) == ([], [])
    assert [str(check) for check in preflight((card(),), **QUIET)] == [
        "machine: load is 0.20 of the whole host, beside 16 cores for this process",
        "machine: stolen time is 0.0 %",
        f"{CARD}: ECC is on",
        f"{CARD}: what slows it while it works is nothing",
        f"{CARD}: its SM clock at work is 1755 of 1980 MHz at the power limit",
        f"{CARD}: its power limit is 700 W",
        f"{CARD}: its temperature at work is 58 °C",
        f"{CARD}: the number of processes of others on it is 0",
        f"{CARD}: CUDA of the driver is 13.0 (driver 580.95.05), torch is built for 13.0",
        f"{CARD}: what torch is compiled for is sm_80, sm_90, sm_100, compute_120; this is sm_90",
        f"{CARD}: the rate of copies is 4.3 TB/s, 90 % of the data sheet's 4.8 TB/s",
        f"{CARD}: the rate of bfloat16 products is 760 TFLOP/s, 77 % of the data sheet's 989 TFLOP/s",
    ]


def test_throttled_card_is_rejected():
    """For what slows it, its clock, and its products; its power limit is an exception."""
    rejecting, exceptions = wrong(card("throttled"))
    assert rejecting == [
        (
            f"{CARD}: what slows it while it works is software thermal slowdown, hardware thermal slowdown, but should "
            "be nothing (look at airflow, power cables and the rack's limits and validate again)"
        ),
        (
            f"{CARD}: its SM clock at work is 1110 of 1980 MHz, but should be at least 75 % of that (reset clocks that "
            "were set with nvidia-smi -rgc, or look why it does not rise, and validate again)"
        ),
        (
            f"{CARD}: the rate of bfloat16 products is 320 TFLOP/s, 32 % of the data sheet's 989 TFLOP/s, but should "
            "be at least 50 % (look at clocks, power and others on the card and validate again; if it stays so, return "
            "it)"
        ),
    ]
    assert exceptions == [
        (
            f"{CARD}: its power limit is 500 W, but should be the default of 700 W (nvidia-smi -pl sets it; agree to "
            "it if it is meant: speeds hold for this limit alone)"
        )
    ]
    assert f"{CARD}: what slowed it before, since the driver was loaded, is software thermal slowdown 91 s" in map(
        str, preflight((card("throttled"),), **QUIET)
    )


def test_card_with_memory_errors_is_rejected():
    rejecting, exceptions = wrong(card("ecc"))
    assert rejecting == [
        (
            f"{CARD}: the number of uncorrected memory errors since the driver was loaded is 3, but should be 0 (reset "
            "the card with nvidia-smi -r and validate again; if they come back, return it)"
        ),
        f"{CARD}: row remapping is failed, but should be possible (no spare row is left: return the card)",
        (
            f"{CARD}: row remapping is pending, but should be done (a bad row is in use until nvidia-smi -r or a "
            "reboot: do that and validate again)"
        ),
    ]
    assert exceptions == [
        (
            f"{CARD}: the number of rows remapped after uncorrected errors is 4, but should be 0 (a new card should "
            "have none, and spare rows are few: ask its seller)"
        )
    ]


def test_shared_card_is_rejected():
    rejecting, exceptions = wrong(card("shared"))
    assert rejecting == [
        (
            f"{CARD}: the number of processes of others on it is 2, but should be 0 (end them and validate again: "
            "beside them nothing that is timed counts)"
        )
    ]
    assert exceptions == []


@pytest.mark.parametrize(
    ("readings", "told"),
    [
        ({"DeviceGetEccMode": [0, 0]}, "ECC is off: memory may err without a word, but should be on (nvidia-smi -e 1 "),
        ({"DeviceGetEccMode": [1, 0]}, "ECC is on, and off after a reboot, but should be on (nvidia-smi -e 1)"),
        (
            {"DeviceGetTotalEccErrors": {"volatile": 0, "aggregate": 2}},
            "the number of uncorrected memory errors of its life is 2, but should be 0 (a new card should have none: ",
        ),
        ({"DeviceGetEccMode": None}, "what NVML does not tell is ECC mode (Not Supported), but should be nothing (a "),
    ],
)
def test_what_a_person_may_agree_to_is_an_exception(readings, told):
    rejecting, exceptions = wrong(card(idle=readings))
    assert rejecting == []
    [line] = exceptions
    assert line.startswith(f"{CARD}: {told}")


def test_driver_of_an_older_generation_than_torch_rejects():
    told = (
        f"{CARD}: CUDA of the driver is 12.8 (driver 580.95.05), but should be at least torch's 13.0 (install a newer "
        "driver, or a torch for CUDA 12.8)"
    )
    assert wrong(card(idle={"SystemGetCudaDriverVersion_v2": 12080})) == ([told], [])


def test_errors_are_found_though_ecc_is_not_told():
    rejecting, _ = wrong(
        card(idle={"DeviceGetEccMode": None, "DeviceGetTotalEccErrors": {"volatile": 1, "aggregate": 1}})
    )
    assert "uncorrected memory errors since the driver was loaded is 1" in rejecting[0]


def test_older_driver_of_the_same_generation_is_an_exception():
    made = replace(card(), build=replace(card().build, cuda="13.2"))
    assert wrong(made) == (
        [],
        [
            (
                f"{CARD}: CUDA of the driver is 13.0 (driver 580.95.05), but should be at least torch's 13.2 (install "
                "a newer driver, or a torch for CUDA 13.0: a driver of the same major version runs most of it, and "
                "compiles no newer PTX)"
            )
        ],
    )


@pytest.mark.parametrize(
    ("capability", "arches", "grade"),
    [
        ((9, 0), ["sm_90"], Grade.GOOD),
        ((9, 0), ["sm_90a"], Grade.GOOD),
        ((8, 9), ["sm_80", "sm_90"], Grade.GOOD),  # code for 8.0 runs on 8.9
        ((10, 3), ["sm_100f"], Grade.GOOD),
        ((10, 3), ["sm_100a"], Grade.REJECTING),
        ((12, 0), ["sm_90", "compute_90"], Grade.EXCEPTION),
        ((10, 0), ["sm_80", "sm_90"], Grade.REJECTING),
        ((8, 0), ["sm_86", "compute_90"], Grade.REJECTING),
    ],
)
def test_torch_must_be_compiled_for_the_card(capability, arches, grade):
    made = replace(card(), build=Build("13.0", capability, tuple(arches)))
    [found] = [check for check in preflight((made,), **QUIET) if check.what == "what torch is compiled for"]
    assert found.grade is grade


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"copy_bandwidth": 0.99 * COPIES * 4.8e12}, "copies"),
        ({"flops": {Dtype.BF16: 0.99 * PRODUCTS * 989e12}}, "products"),
    ],
)
def test_rate_far_below_the_data_sheet_rejects(changes, what):
    made = card()
    slow = replace(made, examined=replace(made.examined, peaks=replace(made.examined.peaks, **changes)))
    [line], _ = wrong(slow)
    assert what in line
    assert "of the data sheet's" in line


def test_card_without_a_data_sheet_is_told_and_not_judged():
    """A slice of a card is no card: its name is another."""
    made = replace(card(), name="NVIDIA H200 MIG 1g.18gb")
    slow = replace(made, examined=replace(made.examined, peaks=PEAKS))
    assert wrong(slow) == ([], [])
    assert f"{CARD}: the rate of copies is 10 GB/s; no data sheet of it is known here" in map(
        str, preflight((slow,), **QUIET)
    )


def test_low_clock_at_the_power_limit_is_how_small_cards_work():
    held = {"DeviceGetClockInfo": 1000}
    assert wrong(card(busy=held)) == ([], [])
    uncapped = dict.fromkeys(record("healthy")["busy"]["FieldValues"], 0)
    [line], _ = wrong(card(busy=held | {"FieldValues": uncapped}))
    assert line.startswith(f"{CARD}: its SM clock at work is 1000 of 1980 MHz, but should be at least 75 % of that")


def test_low_clock_is_an_exception_where_the_power_limit_is_not_told():
    """A driver may not count it: what is not known rejects no card."""
    untold = {k: v for k, v in record("healthy")["busy"]["FieldValues"].items() if "POWER_CAP" not in k}
    assert untold != record("healthy")["busy"]["FieldValues"]
    rejecting, exceptions = wrong(card(busy={"DeviceGetClockInfo": 1000, "FieldValues": untold}))
    assert rejecting == []
    assert any("its SM clock at work is 1000 of 1980 MHz" in line for line in exceptions)


def test_counter_that_rises_rejects_though_no_reason_is_in_force():
    """It was slowed between two looks."""
    fields = record("healthy")["busy"]["FieldValues"] | {"HW_POWER_BRAKE_SLOWDOWN": 5_000}
    [line], _ = wrong(card(busy={"FieldValues": fields}))
    assert line.startswith(f"{CARD}: what slows it while it works is hardware power brake, but should be nothing")


def test_missing_module_is_an_exception_and_no_silence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watched, why = find_card("some uuid")
    assert (watched, why) == (None, "install nvidia-ml-py")
    assert wrong(unread(why)) == (
        [],
        [
            (
                f"{CARD}: its state (ECC, remapped rows, throttling, clocks, power, processes) is not read: install "
                "nvidia-ml-py, but should be read through NVML (set that right, or look with the maker's own tool, and "
                "validate again)"
            )
        ],
    )


def test_card_whose_processes_are_hidden_is_an_exception():
    """By a container, say: not even our own worker is seen, so that others may be there."""
    healthy = card()
    hidden = replace(healthy, busy=replace(healthy.busy, processes=0))
    rejecting, [line] = wrong(hidden)
    assert rejecting == []
    assert line.startswith(f"{CARD}: the number of processes on it is 0, not even ours, but should be at least 1 (look")


def test_processes_that_conditions_saw_count_without_nvml():
    made = unread("install nvidia-ml-py")
    [line], _ = wrong(replace(made, examined=replace(made.examined, foreign=3)))
    assert "the number of processes of others on it is 3, but should be 0" in line


def test_card_that_nvml_does_not_know_is_told():
    made = record("healthy")
    assert find_card("another", nvml=RecordedNvml(made)) == (None, "NVML says Not Found of GPU another")


def test_processor_is_only_ever_an_exception():
    """A busy neighbour is no fault of a machine."""
    busy = Card("cpu", "", Examined("", "throttled: control group used up its share", 0, {"steal": "9.0%"}, PEAKS))
    rejecting, exceptions = wrong(busy, load=5.0, cores=2)
    assert rejecting == []
    quiet = "but should be quiet enough to time on"
    assert [line.partition(" (")[0] for line in exceptions] == [
        f"machine: load is 5.00 of the whole host, beside 2 cores for this process, {quiet}",
        "machine: stolen time is 9.0 %, but should be quiet enough to time on",
        "machine: what slowed it while it worked is throttled: control group used up its share, but should be nothing",
    ]


def test_every_card_of_a_machine_is_looked_at():
    second = replace(card("shared"), about="cuda:1")
    rejecting, _ = wrong(card(), second)
    assert [line.partition(": ")[0] for line in rejecting] == ["cuda:1"]


def test_machine_of_which_no_card_could_be_examined_has_no_checks():
    assert preflight((), **QUIET) == ()


def test_complaint_without_a_next_step_cannot_be_made():
    with pytest.raises(ValueError, match="machine: load is exception, but says no limit or no next step"):
        Check("machine", "load", "9", Grade.EXCEPTION, "low")


@pytest.mark.parametrize("name", NAMES)
def test_recorded_readings_say_what_they_are(name):
    assert record(name)["about"].startswith("Made up after NVML's documented functions and fields")


def test_cards_survive_being_written():
    made = card("ecc")
    assert from_plain(Card, to_plain(made)) == made


def test_data_sheets_are_plausible():
    """Each line was typed by hand: a card is balanced within a factor of what others are."""
    for sheet in DATASHEETS.values():
        assert 100e9 < sheet.bandwidth < 20e12
        assert sheet.products is None or 100 < sheet.products / sheet.bandwidth < 500


def test_names_are_those_of_the_real_module():
    """What is played here exists there."""
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    asked = set()

    class Asking(RecordedNvml):
        def __getattribute__(self, name):
            if name.startswith(("nvml", "NVML")):
                asked.add(name)
            return super().__getattribute__(name)

    watched, _ = find_card(record("healthy")["uuid"], nvml=Asking(record("healthy")))
    watched.read()
    assert len(asked) > 15
    assert [name for name in asked if not hasattr(real, name)] == []


def test_documented_shares_and_cards_are_those_in_force():
    shares = f"must reach {COPIES:.0%} and {PRODUCTS:.0%} of what".replace("%", " %")
    assert shares in FLOWING
    assert f"a clock below {FULL_SPEED:.0%} without need".replace("%", " %") in FLOWING
    assert f"for {FINGERPRINT_SECONDS:g} seconds, at least {['no', 'one', 'two', 'three'][LEAST]} times" in FLOWING
    families = sorted({re.search(r"[A-Z]\d+S?", name)[0] for name in DATASHEETS})
    assert f"({', '.join(families)}; of an L4 copies alone)" in FLOWING
    assert [name for name, sheet in DATASHEETS.items() if sheet.products is None] == ["NVIDIA L4"]


def test_every_rule_is_in_force():
    """A rule that stands in the module and not in RULES would check nothing."""
    names = [rule.__name__ for rule in RULES]
    assert len(set(names)) == len(names) == 12
