"""bitsandbytes' CUDA operators, computed by what it registers for the CPU or for every device."""

from .compute import registered, take_over


def install() -> None:
    """Compute them from now on. Called once bitsandbytes is imported; it registers none where there is no device."""
    take_over("bitsandbytes", registered("bitsandbytes"))
