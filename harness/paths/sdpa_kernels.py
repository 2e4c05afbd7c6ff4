"""Reasons why torch's scaled_dot_product_attention has no kernel of a pinned backend.

They are those of `can_use_cudnn_attention`, `can_use_flash_attention` and `can_use_mem_efficient_attention` in torch's
aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, as of torch 2.13. Torch itself says no more than "No available
kernel", so a reason must follow from the circumstances.
"""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from harness.machine.inventory import installed
from harness.paths.base import RunContext
from harness.records.enums import Dtype

FLASH, EFFICIENT, CUDNN = "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"
"""Backends, by their names in torch.nn.attention.SDPBackend."""

READ = SpecifierSet("<2.14")
"""Releases of torch whose reasons are known. A later one may have the kernel, so there an error stays an error."""
AMPERE = (8, 0)
"""Lowest compute capability on which flash and cuDNN kernels run, and efficient ones in bfloat16."""
NEWEST = (12, 1)
"""Highest compute capability for which torch 2.13 has any of these kernels."""
CUDNN_WIDE = (9, 0)
"""Compute capability for which torch 2.13 lets cuDNN take heads of up to 256."""
SUPPORTED_AMD = ("gfx90a", "gfx942", "gfx950")
"""AMD architectures on which AOTriton's kernels are not experimental. Elsewhere torch wants an environment variable."""
GROUPED_SIZE = 256
"""Largest head size for which transformers leaves grouped keys to torch. For larger heads it repeats them."""


def why_no_kernel(backend: str, case: RunContext) -> str:
    """Return why torch has no kernel of a pinned backend in these circumstances; empty if it should have one."""
    reasons = (_of_device(backend, case), _of_heads(backend, case), _of_inputs(backend, case))
    return next(filter(None, reasons), "")


def _of_device(backend: str, case: RunContext) -> str:
    if case.architecture:
        return _of_amd(backend, case.architecture)
    number = ".".join(map(str, case.capability))
    if case.capability > NEWEST and (version := version_as_read()):
        return f"the device has compute capability {number}, and torch {version} knows none above 12.1"
    if case.capability < AMPERE and backend != EFFICIENT:
        return f"the device has compute capability {number}, less than 8.0"
    if case.capability < AMPERE and case.dtype is Dtype.BF16:
        return f"the device has compute capability {number}, and this backend takes bfloat16 from 8.0 on"
    return ""


def _of_amd(backend: str, architecture: str) -> str:
    if backend == CUDNN:
        return "torch is built without cuDNN for AMD's GPUs"
    if not architecture.startswith(SUPPORTED_AMD) and (version := version_as_read()):
        return (
            f"torch {version} has no kernel of this backend for {architecture}, or an experimental one "
            "(TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 asks for it)"
        )
    return ""


def _of_heads(backend: str, case: RunContext) -> str:
    keys, values = case.head_sizes or (0, 0)
    largest = max(keys, values)
    sizes = f"heads have {keys} values" if keys == values else f"heads have {keys}, {values}"
    amd = bool(case.architecture)
    if keys != values and (backend == FLASH or (backend == EFFICIENT and amd)):
        return f"{sizes}, and this backend takes none whose keys and values differ in size"
    if largest > 256 and (backend == FLASH or amd):
        return f"{sizes}, and this backend takes 256 at most (512 in some versions for AMD's GPUs)"
    if largest > 128 and backend == CUDNN and not (case.capability == CUDNN_WIDE and largest <= 256):
        return f"{sizes}, and this backend takes 128 at most (256 on some GPUs by some versions of cuDNN)"
    step = _step(backend, case)
    if keys % step or values % step:
        return f"{sizes}, and this backend takes multiples of {step} in {case.dtype}"
    return ""


def _step(backend: str, case: RunContext) -> int:
    """Return the number of which the size of a head must be a multiple. Flash pads heads by itself."""
    half = case.dtype in {Dtype.FP16, Dtype.BF16}
    if backend == CUDNN:
        return 8
    if backend == FLASH:
        return 1
    if half:
        return 8
    return 4 if case.architecture or case.capability >= AMPERE else 1


def _of_inputs(backend: str, case: RunContext) -> str:
    if backend == FLASH and case.masks:
        return "this backend takes no mask on CUDA"
    if backend == EFFICIENT and _has_groups(case) and (version := version_as_read()):
        return (
            "without a mask, transformers leaves grouped heads to torch, and this backend takes no groups in torch "
            f"{version}"
        )
    if backend == CUDNN and 1 in case.lengths:
        return "this backend takes no keys of a single position, and a prompt has one token"
    return ""


def _has_groups(case: RunContext) -> bool:
    """Return whether torch groups the heads in a prefill. Otherwise transformers repeats keys and values."""
    # As `use_gqa_in_sdpa` of transformers 5.22 decides: without a mask, and where keys and values have one size of at
    # most GROUPED_SIZE.
    keys, values = case.head_sizes or (0, 0)
    grouped = len(set(case.heads)) > 1 and keys == values <= GROUPED_SIZE
    return grouped and not case.padded and _some_layer_has_no_mask(case)


def _some_layer_has_no_mask(case: RunContext) -> bool:
    """Return whether some layer has no mask in an unpadded prefill: one whose window is wider than a row."""
    shortest = min(case.lengths, default=0)
    return not case.windows or any(window == 0 or window > shortest for window in case.windows)


def version_as_read() -> str:
    """Return the version of the installed torch; empty if its release is not among READ."""
    version = installed("torch")
    return version if READ.contains(version or "0", prereleases=True) else ""
