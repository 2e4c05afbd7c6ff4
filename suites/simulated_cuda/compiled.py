"""Compiled code: inductor calls torch's operators, since its Triton kernels would launch nothing.

Dynamo, inductor's passes, its graphs and its CUDA graphs are real. What it fuses on a card stays apart here.
"""

from torch._inductor import config


def install() -> None:
    """Let inductor call every operator as it is. Touches no device."""
    config.fallback_by_default = True
    config.selective_decompose = True  # or inductor would cut operators into pieces before it sees them
