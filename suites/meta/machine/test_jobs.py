"""How many cases run side by side: no more than processors, memory and the fullest device have room for."""

from __future__ import annotations

import math

import pytest

from fixtures.models import MODELS, MORE_MODELS, SLICES, WHOLE
from harness.machine.host import available_memory, processors_granted
from harness.machine.jobs import MOST, default_jobs, is_small, threads_of_small
from harness.records.workload import Folder, ModelSpec

GIB = 2**30


@pytest.mark.parametrize(
    ("processors", "host", "device", "expected"),
    [
        (2, 24, None, 2),
        (1, 24, None, 1),
        (64, 512, None, MOST),
        (64, 7, None, 2),
        (64, 0, None, 1),  # not told
        (64, 512, 139, MOST),
        (64, 512, 7, 3),
        (64, 512, 0, 1),  # not told, or full
    ],
)
def test_jobs_fit_the_machine(processors, host, device, expected):
    free = None if device is None else device * GIB
    assert default_jobs(free, host_free=host * GIB, processors=processors) == expected


def test_threads_do_not_depend_on_how_many_run_side_by_side():
    """Numbers would."""
    assert [threads_of_small(processors=number) for number in (1, 2, 64)] == [1, 2, 2]


def test_small_models_lie_in_folders(tmp_path):
    assert all(is_small(recipe) for recipe in MODELS)
    assert not any(is_small(recipe) for recipe in (*SLICES, *WHOLE, *MORE_MODELS))
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / name).open("wb") as file:
            file.truncate(GIB)
        assert not is_small(ModelSpec("large", Folder(str(tmp_path / name))))


def group(root, **files):
    """A machine whose processes are in a control group of version 2."""
    for name, text in {"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.stat": "nr_throttled 0\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, text in files.items():
        (root / "sys/fs/cgroup/box" / name.replace("_", ".")).write_text(text)
    (root / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n")


@pytest.mark.parametrize(("limit", "expected"), [("150000 100000", 1.5), ("max 100000", math.inf), ("", math.inf)])
def test_processors_are_those_that_the_control_group_grants(tmp_path, limit, expected):
    group(tmp_path, cpu_max=limit)
    assert processors_granted(tmp_path) == expected


def test_memory_is_what_machine_and_control_group_leave(tmp_path):
    assert available_memory(tmp_path) == 0
    group(tmp_path)
    assert available_memory(tmp_path) == 8 * GIB
    group(tmp_path, memory_max=str(3 * GIB), memory_current=str(GIB))
    assert available_memory(tmp_path) == 2 * GIB
    group(tmp_path, memory_stat=f"anon 5\ninactive_file {GIB}\n")
    assert available_memory(tmp_path) == 3 * GIB
    group(tmp_path, memory_max="max", memory_current=str(GIB))
    assert available_memory(tmp_path) == 8 * GIB
