"""How many cases run side by side: no more than processors, memory and the fullest device have room for."""

from __future__ import annotations

import math

import pytest

from fixtures.models import MODELS, MORE_MODELS
from harness.machine.host import available_memory, processors_granted
from harness.machine.jobs import MOST, default_jobs, is_small, threads_of
from harness.recipes import Folder, ModelRecipe

GIB = 2**30


@pytest.mark.parametrize(
    ("processors", "host", "device", "expected"),
    [
        (2, 24, None, 2),
        (1, 24, None, 1),
        (64, 512, None, MOST),
        (64, 5, None, 2),
        (64, 0, None, 1),  # not told
        (64, 512, 139, MOST),
        (64, 512, 7, 3),
        (64, 512, 0, 1),  # not told, or full
    ],
)
def test_jobs_fit_the_machine(processors, host, device, expected):
    free = None if device is None else device * GIB
    assert default_jobs(free, host_free=host * GIB, processors=processors) == expected


def test_workers_share_the_processors():
    """One alone has as many threads as torch chooses; each of several has two at least, so that operators that split
    their work are proved too."""
    assert [threads_of(jobs, processors=16) for jobs in (1, 2, 4, 8, 16)] == [0, 8, 4, 2, 2]


def test_small_models_lie_in_folders(tmp_path):
    assert all(is_small(recipe) for recipe in MODELS)
    assert not any(is_small(recipe) for recipe in MORE_MODELS)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)
    assert not is_small(ModelRecipe("large", Folder(str(tmp_path))))


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
    group(tmp_path, memory_max="max", memory_current=str(GIB))
    assert available_memory(tmp_path) == 8 * GIB
