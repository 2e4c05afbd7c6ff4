"""Examining a device: in which order it is read and worked on, and that nothing but CUDA's own assumes CUDA."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harness.commands.validate import examining
from harness.commands.validate.examining import examine_card
from harness.commands.validate.records import Build
from harness.execution.memory.gauges import gauge_of
from harness.machine import inventory, peaks
from harness.machine.conditions import open_conditions
from harness.machine.devices import device_names
from harness.machine.health import Examined
from suites.meta.builders.recorded_cards import RecordedNvml, card, record
from suites.meta.builders.timings import PEAKS

EXAMINED = Examined("some card", "", 0, {}, PEAKS)


@pytest.fixture
def device(monkeypatch):
    """Any type of device can be worked on: tensors are without data. Lists what was asked for."""
    asked = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **how: zeros(*size, **how | {"device": "meta"}))
    monkeypatch.setattr(
        examining, "random_square", lambda rows, _, dtype: zeros(rows, rows, dtype=dtype, device="meta")
    )
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: asked.append(f"device {index}"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: asked.append("synchronized"))
    module = SimpleNamespace(get_device_name=lambda _: "NVIDIA H200", device_count=lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    monkeypatch.setattr(examining, "examine", lambda *_, **__: asked.append("examined") or EXAMINED)
    return asked


@pytest.fixture
def nvidia(device, monkeypatch):
    """A healthy H200, which works from when it is examined; what NVML is asked stands in the list, too."""
    made = record("healthy")
    played = RecordedNvml(made)
    monkeypatch.setitem(sys.modules, "pynvml", played)
    told = SimpleNamespace(uuid=made["uuid"].removeprefix("GPU-"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(examining, "examine", lambda *_, **__: device.append("examined") or played.work() or EXAMINED)
    return device


def test_nvidia_card_is_read_before_its_work_and_in_the_middle_of_it(nvidia):
    """The last synchronization comes after the second reading."""
    found = examine_card("cuda", 1)
    assert nvidia == ["device 1", "examined", "synchronized"]
    expected = replace(card(), about="cuda:1", examined=EXAMINED, build=Build("13.0", (9, 0), ("sm_90",)))
    assert found == expected


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_device_of_another_maker_is_examined_without_cuda(device, kind):
    found = examine_card(kind, 0)
    assert (found.about, found.idle, found.busy, found.build) == (f"{kind}:0", None, None, Build())
    assert found.unread == "NVML reads NVIDIA's cards alone"


def test_amd_card_is_cuda_to_torch_and_not_to_nvml(nvidia, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    found = examine_card("cuda", 0)
    assert (found.busy, found.build, found.unread) == (None, Build(), "NVML reads NVIDIA's cards alone")


def test_amd_card_is_not_looked_for_in_nvml_while_it_is_timed(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    told = open_conditions("cuda").facts()
    assert told["gpu_throttling"] == "is not watched: NVML reads NVIDIA's cards alone"


def test_device_whose_name_torch_does_not_tell_has_that_of_its_type(device, monkeypatch):
    assert device_names("cuda") == "NVIDIA H200, NVIDIA H200"
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(device_count=lambda: 1))
    assert device_names("mps") == "mps"


def test_accelerator_of_any_maker_is_found(monkeypatch):
    """It is used if it is asked for: the default stays CUDA, or the CPU."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    found = inventory.take_inventory.__wrapped__()
    assert found.devices == {"xpu": 2, "cpu": 1}
    assert found.default_device == "cpu"
    assert found.why_no_cuda.startswith("torch ")


def test_free_memory_is_asked_of_any_accelerator(monkeypatch):
    """As torch 2.10 has it, and as 2.9 does."""
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (70, 80), raising=False)
    assert peaks.free_bytes() == 70
    monkeypatch.delattr(torch.accelerator, "get_memory_info")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(mem_get_info=lambda: (60, 80)))
    assert peaks.free_bytes() == 60


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_memory_of_any_accelerator_is_what_torch_counts(monkeypatch, kind):
    """Each time after the device is done; a new peak begins without what is cached."""
    asked = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.accelerator, name, lambda name=name: asked.append(name))
    for name, told in (("memory_allocated", 1), ("max_memory_allocated", 2), ("max_memory_reserved", 3)):
        monkeypatch.setattr(torch.accelerator, name, lambda told=told: told)
    gauge = gauge_of(kind)
    assert (gauge.now(), gauge.peak(), gauge.reserved()) == (1, 2, 3)
    asked.clear()
    gauge.restart()
    assert asked == ["synchronize", "empty_cache", "reset_peak_memory_stats"]


def test_processor_is_examined_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(examining, "examine", lambda *_, **__: EXAMINED)
    found = examine_card("cpu", 0)
    assert (found.about, found.name, found.unread, found.busy) == ("cpu", "", "", None)
