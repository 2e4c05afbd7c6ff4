"""Environment variables on which results and times may depend. They are recorded with every run. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from harness.formatting import one_line
from harness.machine.jobs import compile_threads

WORKER_VARIABLES = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of a busy machine turn 0.1 s into 8 s
    "TORCHINDUCTOR_COMPILE_THREADS": str(compile_threads()),
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA must not initialise it before the fork
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
}
"""Variables of worker processes, set where the user has not set them."""

PREFIXES = (
    *("TORCH", "PYTORCH_", "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "BLIS_"),
    *("CUBLAS_", "CUBLASLT_", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_MAX_CONNECTIONS"),
    *("NCCL_", "TRITON_", "HIPBLASLT_", "ROCBLAS_", "MIOPEN_", "HSA_", "USE_HUB_KERNELS", "DISABLE_KERNEL_MAPPING"),
    *("MALLOC_", "GLIBC_TUNABLES", "TCMALLOC_", "MIMALLOC_", "LD_PRELOAD"),
)
"""Beginnings of the names that are recorded. Of all other variables not even the name is."""
BESIDE = re.compile(
    r"(_DIR|_DIRS|_HOME|_PATH|_FILE|_ROOT|_PREFIX|_INTERFACE|_IFNAME|_PLACES|AFFINITY)$|^TORCHELASTIC_|"
    r"(_LOGS|_OUT|_TRACE|_DEBUG|_LOG_LEVEL|_VERBOSE|_STACKTRACES)$|_DEBUG_"
)
"""Names that only say where files lie, where a process runs, what is printed, or who is whose rank.

Runs of one kind differ in them: shards, for example, each on processors of its own.
"""
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY|AUTH", re.IGNORECASE)
"""Names that may hold a secret."""
LONGEST = 200
"""Characters of a value that are recorded."""

OFF = frozenset({"", "0", "false", "off", "no"})
"""Values by which a switch is off, in lower case."""
SWITCHES: Mapping[str, str] = {
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "makes products of float32 lose 13 bits on cards of Ampere and later",
    "TORCHINDUCTOR_USE_FAST_MATH": "makes compiled code round more",
    "TORCHINDUCTOR_EMULATE_PRECISION_CASTS": "makes compiled code round as eager does",
    "TORCHDYNAMO_SUPPRESS_ERRORS": "lets torch.compile fall back to eager without an error",
    "DISABLE_KERNEL_MAPPING": "keeps the kernels package from exchanging layers",
    "TORCH_COMPILE_DISABLE": "keeps torch.compile from compiling",
    "TORCHDYNAMO_DISABLE": "keeps torch.compile from compiling",
    "CUDA_LAUNCH_BLOCKING": "makes the host wait for every kernel",
}
"""Effects of variables that switch something, unless they are off."""
SETTINGS: Mapping[str, str] = {
    "NVIDIA_TF32_OVERRIDE": "decides on TF32 in all of CUDA's libraries, whatever torch requests",
    "ATEN_CPU_CAPABILITY": "chooses the instructions of torch's own kernels on the CPU",
    "ONEDNN_MAX_CPU_ISA": "limits the instructions of oneDNN",
    "DNNL_MAX_CPU_ISA": "limits the instructions of oneDNN",
    "ONEDNN_DEFAULT_FPMATH_MODE": "lets oneDNN compute float32 in fewer bits",
    "DNNL_DEFAULT_FPMATH_MODE": "lets oneDNN compute float32 in fewer bits",
    "MKL_CBWR": "chooses MKL's order of additions",
    "MKL_ENABLE_INSTRUCTIONS": "limits the instructions of MKL",
    "CUBLAS_WORKSPACE_CONFIG": "changes which products cuBLAS can choose",
    "TORCH_BLAS_PREFER_CUBLASLT": "chooses the library of products",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "lets torch.compile choose kernels by their times",
    "LD_PRELOAD": "puts other functions in place of a library's",
}
"""Effects of variables that change something by any value."""


def variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables to record, by name in order, without those that workers have by default anyway.

    `environment` is that of this process unless it is given.
    """
    environment = os.environ if environment is None else environment
    return {
        name: one_line(value)[:LONGEST]
        for name, value in sorted(environment.items())
        if name.startswith(PREFIXES)
        and not BESIDE.search(name)
        and not SECRET.search(name)
        and "://" not in value  # an address may hold a password
        and WORKER_VARIABLES.get(name) != value
    }


def warnings_of(recorded: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each recorded variable that changes numbers or what runs at all."""
    for name, value in recorded.items():
        if effect := SETTINGS.get(name) or (SWITCHES.get(name) if value.strip().lower() not in OFF else None):
            yield f"{name}={value} {effect} (unset it, unless that is what you test)"
