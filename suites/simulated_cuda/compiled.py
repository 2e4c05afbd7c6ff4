"""Compiled code: inductor calls torch's operators, since its Triton kernels would launch nothing.

Dynamo, inductor's passes, its graphs and its CUDA graphs are real. What it fuses on a card stays apart here. With
`SIMULATED_CUDA_TRITON=1` inductor makes its Triton kernels as on a card: flex attention has nothing else, and what they
compute is garbage.
"""

import os

from torch._inductor import config


def install() -> None:
    """Let inductor call every operator as it is. Touches no device."""
    if os.environ.get("SIMULATED_CUDA_TRITON") == "1":
        return
    config.fallback_by_default = True
    config.selective_decompose = True  # or inductor would cut operators into pieces before it sees them
