"""Conditions of timing: every reason to drop a pair fires when it should and at no other time; the rest is told.

NVML is played by a module of recorded-like readings, since most machines have no GPU.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch._dynamo import utils as dynamo
from torch._inductor import cudagraph_trees
from torch._inductor.runtime import triton_heuristics

from harness.machine.conditions import (
    AUTOTUNE,
    CAPTURE,
    COMPILE,
    Conditions,
    capture_seconds,
    compile_seconds,
    open_conditions,
    times_compiled,
)
from harness.machine.host import governor, oom_kills, read_ticks, throttle_files, times_throttled, turbo
from harness.machine.nvml import CAUSES, POWER_CAP, Gpu, find_gpu

UUID = "6d4f1c6e-0000-1111-2222-333344445555"
FIELDS = {name: 200 + index for index, name in enumerate([*CAUSES.values(), POWER_CAP])}
QUIET = "1000 0 500 8000 0 0 0 0 0 0"


class FakeNVMLError(Exception):
    def __str__(self):
        return {3: "Not Supported", 6: "Not Found", 15: "GPU is lost"}[self.args[0]]


class FakeNvml(ModuleType):
    """A healthy GPU at full clock, with this process on it; a test changes what it tells."""

    NVML_SUCCESS, NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 0, 1, 0
    NVMLError = FakeNVMLError

    def __init__(self):
        super().__init__("pynvml")
        self.counters = dict.fromkeys(FIELDS.values(), 1_000_000)
        self.clock, self.processes, self.refused = 1980, 1, {}
        vars(self).update(FIELDS)

    def nvmlInit(self):
        self._refuse("init")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != f"GPU-{UUID}":
            raise FakeNVMLError(6)
        return "handle"

    def nvmlDeviceGetFieldValues(self, handle, fields):
        (name,) = fields
        known = name in self.counters
        value = SimpleNamespace(ullVal=self.counters.get(name, 0))
        return [SimpleNamespace(nvmlReturn=0 if known else 3, value=value)]

    def nvmlDeviceGetClockInfo(self, handle, kind):
        self._refuse("clock")
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1980

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        self._refuse("processes")
        return [SimpleNamespace(pid=pid) for pid in range(self.processes)]

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 41

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return 700_000

    def _refuse(self, what):
        if what in self.refused:
            raise FakeNVMLError(self.refused[what])


@pytest.fixture
def nvml():
    return FakeNvml()


def watching(nvml, **options):
    gpu, why = find_gpu(UUID, nvml=nvml)
    assert why == ""
    return Conditions(gpu, **options)


def happened(made, change):
    """What is said of a pair during which `change` was called."""
    before = made.read()
    change()
    return made.between(before, made.read())


def moved(nvml, name):
    return lambda: nvml.counters.update({FIELDS[name]: nvml.counters[FIELDS[name]] + 5_000})


def linux(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_healthy_gpu_keeps_its_pairs(nvml):
    assert happened(watching(nvml), lambda: None) == ""


@pytest.mark.parametrize(("cause", "name"), CAUSES.items())
def test_thermal_slowdown_drops_the_pair(nvml, cause, name):
    """And only that one: the counter stays where it is afterwards."""
    made = watching(nvml)
    assert happened(made, moved(nvml, name)) == f"throttled: {cause}"
    assert happened(made, lambda: None) == ""


def test_power_limit_is_recorded_and_drops_nothing(nvml):
    made = watching(nvml)
    assert happened(made, lambda: nvml.counters.update({FIELDS[POWER_CAP]: 2_501_000_000})) == ""
    assert made.facts()["power_capped"] == "2.5 s"


@pytest.mark.parametrize(("clock", "said"), [(1485, ""), (1484, "throttled: SM clock at 1484 of 1980 MHz")])
def test_low_clock_drops_the_pair(nvml, clock, said):
    made = watching(nvml)
    nvml.clock = clock
    assert happened(made, lambda: None) == said


def test_clock_that_the_power_limit_holds_down_drops_nothing(nvml):
    """Small cards work so all the time, and both sides of a pair alike."""
    made = watching(nvml)
    nvml.clock = 1000
    assert happened(made, moved(nvml, POWER_CAP)) == ""


def test_clock_of_a_gpu_that_just_woke_up_drops_nothing(nvml):
    """What it was before the pair says little; what it is at the end counts."""
    nvml.clock = 345
    made = watching(nvml)
    assert happened(made, lambda: setattr(nvml, "clock", 1980)) == ""


@pytest.mark.parametrize(
    ("start", "later", "own", "foreign"), [
        (1, 1, 1, 0), (1, 2, 1, 1), (3, 3, 1, 2), (0, 0, 1, 0),
        (0, 1, 1, 1), (1, 2, 2, 0), (2, 3, 2, 1),
    ]
)  # fmt: skip
def test_processes_of_others_drop_the_pair(nvml, start, later, own, foreign):
    """More than the harness has itself; in a container that hides them, more than none."""
    nvml.processes = start
    made = watching(nvml, own=own)
    said = happened(made, lambda: setattr(nvml, "processes", later))
    assert (said, made.foreign) == ("foreign process" if foreign else "", foreign)


def test_most_foreign_processes_are_remembered(nvml):
    made = watching(nvml)
    for count in (2, 4, 1):
        happened(made, lambda count=count: setattr(nvml, "processes", count))
    assert made.foreign == 3


def test_compilation_drops_the_pair_and_tells_its_seconds():
    """By torch's own account; called again, nothing is compiled."""
    dynamo.compilation_time_metrics.clear()
    dynamo.clear_compilation_metrics()
    made, compiled = Conditions(), torch.compile(lambda x: x + 1, backend="eager")
    assert happened(made, lambda: compiled(torch.ones(3))) == "compiled"
    assert happened(made, lambda: compiled(torch.ones(3))) == ""
    told = sum(metric.entire_frame_compile_time_s for metric in dynamo.get_compilation_metrics())
    assert compile_seconds() == pytest.approx(told, abs=1e-4)
    assert capture_seconds() == 0


def test_compilations_are_counted_beyond_what_torch_keeps_records_of(monkeypatch):
    """It keeps 64, and their number would stand still."""
    monkeypatch.setitem(dynamo.compilation_time_metrics, COMPILE, [0.5] * 100)
    before = times_compiled()
    dynamo.compilation_time_metrics[COMPILE].append(0.5)
    assert times_compiled() == before + 1


@pytest.mark.parametrize("name", [CAPTURE, AUTOTUNE])
def test_recorded_graph_or_tuned_kernel_drops_the_pair(monkeypatch, name):
    monkeypatch.setitem(dynamo.compilation_time_metrics, name, [0.25])
    assert happened(Conditions(), lambda: dynamo.compilation_time_metrics[name].append(0.5)) == "compiled"
    assert capture_seconds() == (0.75 if name == CAPTURE else 0)


def test_torch_still_keeps_times_under_these_names():
    """Otherwise recording a CUDA graph would go unseen on machines without one."""
    assert f'"{CAPTURE}"' in inspect.getsource(cudagraph_trees)
    assert f'"{AUTOTUNE}"' in inspect.getsource(triton_heuristics)


V1 = {
    "proc/self/cgroup": "2:cpu,cpuacct:/\n1:memory:/a\n",
    "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nnr_throttled 4\n",
}
V2 = {"proc/self/cgroup": "0::/user/job\n", "sys/fs/cgroup/user/job/cpu.stat": "nr_throttled 4\n"}
ABOVE = {"proc/self/cgroup": "0::/user/job\n", "sys/fs/cgroup/user/cpu.stat": "usage_usec 1\nnr_throttled 4\n"}


@pytest.mark.parametrize("files", [V1, V2, ABOVE], ids=["v1", "v2", "above"])
def test_exhausted_share_of_the_processors_drops_the_pair(tmp_path, files):
    """In the process's own control group or one above it."""
    made = Conditions(root=linux(tmp_path, files))
    (file,) = throttle_files(tmp_path)
    assert times_throttled((file,)) == 4
    said = happened(made, lambda: file.write_text("nr_throttled 5\n"))
    assert said == "throttled: control group used up its share of the processors"
    assert happened(made, lambda: None) == ""
    assert made.facts()["cpu_throttling"] == "watched"


def test_missing_control_group_is_told(tmp_path):
    """A root group of version 2 has the file, but does not count."""
    linux(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\n"})
    made = Conditions(root=tmp_path)
    assert happened(made, lambda: None) == ""
    assert made.facts()["cpu_throttling"] == "is not watched: no control group counts it"


def test_facts_of_the_machine_are_told(tmp_path):
    files = {
        "proc/stat": f"cpu  {QUIET}\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    }
    made = Conditions(root=linux(tmp_path, files))
    linux(tmp_path, {"proc/stat": "cpu  1050 0 500 8040 0 0 0 10 0 0\n"})
    told = made.facts()
    assert (told["governor"], told["turbo"], told["steal"]) == ("powersave", "off", "10.0%")
    assert told["threads"] == str(torch.get_num_threads())
    assert int(told["involuntary_switches"]) >= 0
    assert told["load"].count(",") == 2
    assert not [name for name in told if "gpu" in name or "clock" in name]


def test_what_linux_does_not_tell_is_unknown(tmp_path):
    assert (governor(tmp_path), turbo(tmp_path), read_ticks(tmp_path)) == ("unknown", "unknown", None)
    assert Conditions(root=tmp_path).facts()["steal"] == "unknown"


@pytest.mark.parametrize(("boost", "said"), [("1", "on"), ("0", "off")])
def test_turbo_of_other_processors(tmp_path, boost, said):
    assert turbo(linux(tmp_path, {"sys/devices/system/cpu/cpufreq/boost": boost})) == said


def test_facts_of_the_gpu_are_told(nvml):
    told = watching(nvml).facts()
    assert (told["sm_clock"], told["temperature"], told["power_limit"]) == ("1980 of 1980 MHz", "41 °C", "700 W")
    assert (told["gpu_throttling"], "nvml_untold" in told) == ("watched", False)


def test_what_nvml_does_not_tell_drops_nothing_and_is_told(nvml):
    """An old driver lacks a counter, an old module its name, a container the processes."""
    lost, unnamed, _ = CAUSES.values()
    del nvml.counters[FIELDS[lost]]
    delattr(nvml, unnamed)
    nvml.refused = {"processes": 3, "clock": 15}
    made = watching(nvml)
    assert happened(made, lambda: None) == ""
    assert made.facts()["nvml_untold"] == (
        f"{lost} (Not Supported), {unnamed} (this nvidia-ml-py is too old), "
        "SM clock (GPU is lost), processes (Not Supported)"
    )


def test_missing_module_is_told_and_drops_nothing(monkeypatch):
    """None in the list of modules makes their import fail, wherever the tests run."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpu, why = find_gpu(UUID)
    made = Conditions(gpu, unwatched=why)
    assert happened(made, lambda: None) == ""
    assert made.facts()["gpu_throttling"] == "is not watched: install nvidia-ml-py"


def test_gpu_that_nvml_does_not_know_is_told(nvml):
    """Its place in NVML's list would say nothing: CUDA_VISIBLE_DEVICES reorders what torch sees."""
    assert find_gpu("other", nvml=nvml) == (None, "NVML says Not Found of GPU other")
    assert isinstance(find_gpu(f"GPU-{UUID}", nvml=nvml)[0], Gpu)
    nvml.refused = {"init": 15}
    assert find_gpu(UUID, nvml=nvml) == (None, f"NVML says GPU is lost of GPU {UUID}")


def test_cpu_needs_no_nvml():
    assert "gpu_throttling" not in open_conditions("cpu").facts()


def test_kills_for_want_of_memory_are_counted(tmp_path):
    assert oom_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 100\noom_kill 3\noom_kill_failed 1\n")
    assert oom_kills(tmp_path) == 3
