"""The simulated devices themselves: names, memory, how many there are, forks, threads, and what is refused."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, byref, c_uint, c_ulonglong, c_void_p, create_string_buffer
from pathlib import Path

import pytest

from suites.simulated_cuda.simulated import NAME, answer_of, skip_elsewhere
from suites.simulated_cuda.symbols import NVIDIA

skip_elsewhere()

import torch  # noqa: E402

COUNTS = """
import ctypes, json, torch
nvml, count = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_uint()
started = nvml.nvmlInit_v2()
nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
print(json.dumps({
    "available": torch.cuda.is_available(), "count": len(devices), "nvml": started, "nvml_count": count.value,
    "driver": ctypes.CDLL("libcuda.so.1").cuInit(0), "uuids": [str(each.uuid) for each in devices],
    "computed": [torch.ones(2, device=index).sum().item() for index in range(len(devices))],
}))
"""
BETWEEN_DEVICES = """
import json, torch
first, second = torch.arange(3.0, device="cuda:0"), torch.arange(3.0, device="cuda:1")
torch.cuda.set_device(1)
made = torch.ones(1, device="cuda") + 1
print(json.dumps([str((first.to("cuda:1") + second).device), (first.to("cuda:1") + second).tolist(), str(made.device)]))
"""


def test_it_calls_itself_simulated_everywhere():
    nvml, driver, handle = CDLL("libnvidia-ml.so.1"), CDLL("libcuda.so.1"), c_void_p()
    of_nvml, of_driver = create_string_buffer(96), create_string_buffer(96)
    assert nvml.nvmlInit_v2() == 0
    nvml.nvmlDeviceGetHandleByIndex_v2(0, byref(handle))
    nvml.nvmlDeviceGetName(handle, of_nvml, 96)
    driver.cuDeviceGetName(of_driver, 96, 0)
    assert {torch.cuda.get_device_name(), of_nvml.value.decode(), of_driver.value.decode()} == {NAME}


def test_no_library_of_nvidias_is_loaded():
    """Even where its packages are installed: torch would load them from there, and its calls would go to them."""
    torch.ones(1, device="cuda")
    loaded = {Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    assert not [path for path in loaded if path.name.startswith(NVIDIA) and "site-packages" in path.parts]


def test_it_has_the_capability_of_hopper():
    assert torch.cuda.get_device_capability() == (9, 0)
    assert torch.cuda.is_bf16_supported()


def test_free_memory_is_the_hosts_and_nvml_agrees():
    nvml, handle, told = CDLL("libnvidia-ml.so.1"), c_void_p(), (c_ulonglong * 3)()
    nvml.nvmlDeviceGetHandleByIndex_v2(0, byref(handle))
    nvml.nvmlDeviceGetMemoryInfo(handle, told)
    free, total = torch.cuda.mem_get_info()
    assert told[0] == total == torch.cuda.get_device_properties(0).total_memory
    assert 0 < free < total
    assert abs(told[1] - free) < 0.1 * total  # other processes run between the two questions


def test_allocations_are_counted():
    before = torch.cuda.memory_allocated()
    held = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() - before == held.numel()


def test_more_memory_than_there_is_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


def test_pinned_memory_is_known():
    assert torch.ones(3).pin_memory().is_pinned()
    assert not torch.ones(3).is_pinned()


def test_events_tell_time():
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.randn(200, 200, device="cuda") @ torch.randn(200, 200, device="cuda")
    end.record()
    torch.cuda.synchronize()
    assert 0 < start.elapsed_time(end) < 10_000


def test_threads_compute_at_the_same_time():
    numbers = torch.arange(1000.0, device="cuda")
    barrier = threading.Barrier(4)

    def work(factor):
        barrier.wait()
        return [(numbers * factor).sum().item() for _ in range(50)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    assert answers == [[499500.0 * factor] * 50 for factor in range(4)]


def _sum_in_child(pipe):
    pipe.send((torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork(), torch.ones(3, device="cuda").sum().item()))


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_child_of_a_process_that_only_imported_torch_can_use_the_device(method):
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["torch"])
    ours, theirs = context.Pipe()
    child = context.Process(target=_sum_in_child, args=(theirs,))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == (False, False, 3.0)
    child.join()


def test_a_child_of_a_process_that_used_the_device_cannot():
    code = """
import json, os, torch
torch.ones(1, device="cuda")
reader, writer = os.pipe()
if os.fork() == 0:
    try:
        torch.ones(1, device="cuda")
        os.write(writer, b"worked")
    except RuntimeError as error:
        os.write(writer, str(error).encode())
    os._exit(0)
os.wait()
print(json.dumps(os.read(reader, 1000).decode()))
"""
    assert "Cannot re-initialize CUDA in forked subprocess" in answer_of(code)


def test_no_device():
    told = answer_of(COUNTS, SIMULATED_CUDA_DEVICES="0")
    assert (told["available"], told["count"], told["nvml_count"]) == (False, 0, 0)
    assert told["nvml"] != 0
    assert told["driver"] == 100  # CUDA_ERROR_NO_DEVICE


def test_two_devices():
    told = answer_of(COUNTS, SIMULATED_CUDA_DEVICES="2")
    assert (told["available"], told["count"], told["nvml_count"]) == (True, 2, 2)
    assert told["computed"] == [2.0, 2.0]
    assert len(set(told["uuids"])) == 2


def test_devices_can_be_hidden_and_reordered():
    every = answer_of(COUNTS, SIMULATED_CUDA_DEVICES="2")["uuids"]
    for visible, seen in (("1", every[1:]), ("1,0", every[::-1]), ("", []), (f"GPU-{every[1]}", every[1:])):
        told = answer_of(COUNTS, SIMULATED_CUDA_DEVICES="2", CUDA_VISIBLE_DEVICES=visible)
        assert told["uuids"] == seen, visible


def test_tensors_go_between_devices():
    assert answer_of(BETWEEN_DEVICES, SIMULATED_CUDA_DEVICES="2") == ["cuda:1", [0.0, 2.0, 4.0], "cuda:1"]


def test_a_healthy_card_to_nvml():
    nvml, handle = CDLL("libnvidia-ml.so.1"), c_void_p()
    nvml.nvmlDeviceGetHandleByIndex_v2(0, byref(handle))
    clock, most, reasons = c_uint(), c_uint(), c_ulonglong(1)
    nvml.nvmlDeviceGetClockInfo(handle, 1, byref(clock))
    nvml.nvmlDeviceGetMaxClockInfo(handle, 1, byref(most))
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle, byref(reasons))
    assert clock.value == most.value > 0
    assert reasons.value == 0


def test_what_the_device_lacks_is_an_error_that_says_so():
    with pytest.raises(NotImplementedError, match="cannot compute aten::_cudnn_ctc_loss"):
        torch.ops.aten._cudnn_ctc_loss(
            torch.randn(5, 1, 3, device="cuda"), torch.ones(1, 1, dtype=torch.int32), [5], [1], 0, False, False
        )
    with pytest.raises(RuntimeError, match="runs no kernels"):
        torch.cuda._sleep(1)
