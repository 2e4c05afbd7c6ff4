"""Random numbers: those of the CPU, seeded from the state of CUDA's generator, which moves on as on a device."""

import torch

OFFSET = 4
"""By how much one draw moves a generator; CUDA moves it by multiples of 4."""
SPREAD = 0x9E3779B97F4A7C15
"""2⁶⁴ over the golden ratio: neighbouring seeds are far apart."""

_of_graphs = 0


def generator(given: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Return a CPU generator for one draw, which CUDA's generator and its state decide."""
    source = given if given is not None else torch.cuda.default_generators[device.index]
    seed = (source.initial_seed() * SPREAD + _next_offset(source)) % 2**63
    return torch.Generator().manual_seed(seed)


def _next_offset(source: torch.Generator) -> int:
    global _of_graphs  # noqa: PLW0603 - a generator's state cannot be read while a graph is captured
    if torch.cuda.is_current_stream_capturing():
        _of_graphs += OFFSET
        return _of_graphs
    offset = source.get_offset()
    source.set_offset(offset + OFFSET)
    return offset
