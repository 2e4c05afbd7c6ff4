"""Environment variables that change results are recorded and told; secrets and places are not."""

from __future__ import annotations

import pytest

from harness.machine.variables import LONGEST, WORKER_VARIABLES, variables, warnings_of


def test_what_libraries_read_is_recorded():
    """Each of these was seen to change numbers, times or memory, and was in no record."""
    given = {
        "ATEN_CPU_CAPABILITY": "default",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MKL_CBWR": "COMPATIBLE",
        "NVIDIA_TF32_OVERRIDE": "1",
        "OMP_NUM_THREADS": "1",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "TORCHDYNAMO_DISABLE": "1",
    }
    assert variables(given) == given


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "TORCH_HUB_TOKEN", "PYTORCH_API_KEY", "MKL_SECRET", "TORCH_AUTH", "HOME", "AWS_SECRET_ACCESS_KEY"],
)
def test_secrets_and_all_else_are_not(name):
    """Not even the name of a variable is kept that libraries of computing do not read."""
    assert variables({name: "hunter2"}) == {}


@pytest.mark.parametrize(
    "name",
    [
        "TORCHINDUCTOR_CACHE_DIR",
        "TORCH_HOME",
        "TORCH_LOGS",
        "TORCHELASTIC_RUN_ID",
        "OMP_PLACES",
        "GOMP_CPU_AFFINITY",
        "NCCL_DEBUG",
    ],
)
def test_places_and_what_is_printed_are_not_recorded(name):
    """Runs of one kind differ in them, and could not be merged or resumed."""
    assert variables({name: "/somewhere"}) == {}


def test_defaults_of_workers_are_not_recorded():
    """They are set in this process too, once it starts the first worker."""
    assert variables(WORKER_VARIABLES) == {}
    assert variables({"OMP_WAIT_POLICY": "ACTIVE"}) == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_values_are_one_short_line():
    [value] = variables({"OMP_SCHEDULE": "a\nb" + "c" * 1000}).values()
    assert value.startswith("a bc")
    assert len(value) == LONGEST


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("NVIDIA_TF32_OVERRIDE", "1", "NVIDIA_TF32_OVERRIDE=1 decides on TF32 "),
        ("ATEN_CPU_CAPABILITY", "default", "ATEN_CPU_CAPABILITY=default chooses the instructions "),
        ("TORCHDYNAMO_DISABLE", "1", "TORCHDYNAMO_DISABLE=1 keeps torch.compile from compiling "),
        ("NVIDIA_TF32_OVERRIDE", "0", "NVIDIA_TF32_OVERRIDE=0 decides on TF32 "),
        ("TORCHDYNAMO_SUPPRESS_ERRORS", "1", "TORCHDYNAMO_SUPPRESS_ERRORS=1 lets torch.compile fall back "),
        ("DISABLE_KERNEL_MAPPING", "1", "DISABLE_KERNEL_MAPPING=1 keeps the kernels package "),
        ("TORCHDYNAMO_DISABLE", "0", ""),
        ("CUDA_LAUNCH_BLOCKING", "0", ""),
        ("OMP_NUM_THREADS", "1", ""),
    ],
)
def test_what_changes_numbers_is_told(name, value, told):
    assert [line[: len(told)] for line in warnings_of(variables({name: value}))] == ([told] if told else [])


def test_address_with_a_password_is_not_recorded():
    assert variables({"TORCHINDUCTOR_REDIS_URL": "redis://user:hunter2@host"}) == {}
