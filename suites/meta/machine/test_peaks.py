"""Peaks of the machine: what is tried, what counts of it, and what is left out. No times are asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.execution.worker import Worker
from harness.formatting import MIB
from harness.machine import peaks
from harness.machine.host import last_cache
from harness.machine.peaks import CPU_BYTES, bytes_beyond_cache, measure_peaks
from harness.records.enums import Dtype
from harness.records.measurements import Peaks


def scripted(monkeypatch, seconds):
    """Tries take as long as written, one after another; gives the list of what is left."""
    left = list(seconds)
    monkeypatch.setattr(peaks, "_seconds", lambda device, work: left.pop(0))
    return left


@pytest.mark.workers
def test_peaks_are_measured_in_a_worker(tmp_path):
    """In every format that the processor knows, as a record that survives pickling."""
    with Worker(log=tmp_path / "worker.log") as worker:
        found = worker.call(measure_peaks, "cpu", seconds=120)
    assert found.flops[Dtype.FP32] > 0
    assert found.bandwidth == max(found.copy_bandwidth, found.read_bandwidth)


def test_one_thread_is_used_and_the_setting_restored(monkeypatch):
    """Since timed runs on the CPU use one."""
    used, threads = [], torch.get_num_threads()
    monkeypatch.setattr(peaks, "_matmul_rate", lambda device, dtype: used.append(torch.get_num_threads()))
    monkeypatch.setattr(peaks, "_bytes_to_touch", lambda device: MIB)
    torch.set_num_threads(2)
    found = measure_peaks("cpu")
    assert (torch.get_num_threads(), used, found.flops) == (2, [1, 1, 1], {})
    torch.set_num_threads(threads)


def test_better_of_before_and_after_counts(monkeypatch):
    """A neighbour that was busy at one of both times does not lower a peak."""
    for name, told in {"_copied": [1.0, 2.0], "_read": [4.0, 3.0], "_launch_seconds": [0.5, 0.25]}.items():
        monkeypatch.setattr(peaks, name, lambda what, told=told: told.pop(0))
    monkeypatch.setattr(peaks, "_matmul_rate", lambda device, dtype: 7.0 if dtype == torch.float32 else None)
    monkeypatch.setattr(peaks, "_bytes_to_touch", lambda device: MIB)
    assert measure_peaks("cpu") == Peaks(2.0, 4.0, {Dtype.FP32: 7.0}, 0.25)


def test_fastest_try_counts_and_the_first_starts_things(monkeypatch):
    left = scripted(monkeypatch, [9.0, 0.3, 0.2, 0.1, 0.4, 0.5, 0.01])
    assert peaks._fastest("cpu", lambda: None) == 0.1
    assert left == [0.01]


def test_what_is_multiplied_and_moved_is_random_and_the_same_each_time(monkeypatch):
    """On constant values cards are faster by an eighth, since fewer bits change."""
    factors = []
    monkeypatch.setattr(torch, "mm", lambda left, right: factors.append(left))
    monkeypatch.setattr(peaks, "_fastest", lambda device, work, **_: work() or 1.0)
    for _ in range(2):
        peaks._matmul_rate("cpu", torch.bfloat16)
    moved = peaks._random_bytes(3 * MIB, "cpu")
    for values in (factors[0].float(), moved):
        assert values.std() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(*factors)
    assert factors[0].dtype == torch.bfloat16
    assert moved.nbytes == 3 * MIB
    assert moved.is_contiguous()


def test_emulated_format_is_left_out_after_two_tries(monkeypatch):
    """It would take minutes to measure what nobody computes in."""
    left = scripted(monkeypatch, [3.0, 1.0, 0.5])
    assert peaks._matmul_rate("cpu", torch.float16) is None
    assert left == [0.5]


def test_matrices_grow_until_a_product_takes_long_enough(monkeypatch):
    """The best rate of all sizes counts."""
    left = scripted(monkeypatch, [0.001] * 6 + [0.004] * 6 + [0.1] * 6 + [7.0])
    assert peaks._matmul_rate("cpu", torch.float32) == 2 * 512**3 / 0.004
    assert left == [7.0]


def test_copy_counts_bytes_twice_and_reading_once(monkeypatch):
    """Half of what is held is copied to the other half; the faster of both ways to read counts."""
    held = torch.ones(MIB // 4).view(-1, peaks.COLUMNS)
    scripted(monkeypatch, [0.5] * 6 + [0.25] * 6 + [0.125] * 6)
    assert (peaks._copied(held), peaks._read(held)) == (MIB / 0.5, MIB / 0.125)


@pytest.mark.parametrize(
    ("cache", "touched"), [(0, CPU_BYTES[0]), (8 * MIB, 256 * MIB), (100 * MIB, 400 * MIB), (480 * MIB, CPU_BYTES[1])]
)
def test_bytes_exceed_the_cache_within_bounds(cache, touched):
    assert bytes_beyond_cache(cache) == touched


def test_last_cache_is_the_largest(tmp_path):
    assert last_cache(tmp_path) == 0
    for index, size in enumerate(["48K", "2048K", "32M"]):
        folder = tmp_path / Path(f"sys/devices/system/cpu/cpu0/cache/index{index}")
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert last_cache(tmp_path) == 32 * MIB


@pytest.mark.parametrize(
    "wrong", [{"copy_bandwidth": 0.0}, {"read_bandwidth": -1.0}, {"launch": 0.0}, {"flops": {Dtype.FP32: 0.0}}]
)
def test_peak_of_nothing_is_refused(wrong):
    right = {"copy_bandwidth": 1.0, "read_bandwidth": 1.0, "flops": {Dtype.FP32: 1.0}, "launch": 1.0}
    assert Peaks(**right)
    with pytest.raises(ValueError, match="peaks should be positive"):
        Peaks(**right | wrong)
