"""Conversion of what a library refuses into Incompatible, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import HarnessError, Incompatible
from harness.execution.loading import load_config
from harness.execution.setup import CaseRun, CaseSetup
from harness.observation.watch import windows_of
from harness.paths.base import RunContext
from harness.records.enums import Dtype
from harness.records.evidence import GROUP


@contextmanager
def refusals(run: CaseRun) -> Iterator[None]:
    """Turn an error by which a library refuses the optimization into Incompatible. Its message gives the reason and the
    library's words."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:  # whatever it is, it goes on unless the optimization knows its words
        context = _context(run.setup, run.dtype)
        for line in str(error).splitlines():
            if why := run.optimization.refuses(line, context):
                # A compiler's line begins with the path of a file that no one keeps.
                reason = line.rpartition(" error: ")[2].strip()
                raise Incompatible(f"{why} ({type(error).__name__}: {reason})") from error
        raise


def _context(setup: CaseSetup, dtype: Dtype) -> RunContext:
    """Return the facts that a refusal may depend on. Entries that a config does not have stay empty, since the caller
    handles another error already."""
    config = load_config(setup.recipe).get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    batches = setup.workload.batches
    lengths = tuple(max(prompt.length for prompt in batch) for batch in batches)
    try:
        windows = windows_of(config)
    except Incompatible:
        windows = ()
    positions = max(lengths) + setup.workload.new_tokens - 1
    capability, architecture = _accelerator(setup.device)
    return RunContext(
        device=setup.device,
        dtype=dtype,
        capability=capability,
        architecture=architecture,
        padded=setup.workload.padded,
        masks=setup.workload.padded or any(0 < window < positions for window in windows),
        windows=windows,
        heads=(heads, shared),
        head_sizes=(getattr(config, "qk_head_dim", None) or size, getattr(config, "v_head_dim", None) or size),
        lengths=lengths,
        groups=tuple(
            length * len(batch) * shared * size // GROUP for length, batch in zip(lengths, batches, strict=True)
        ),
    )


def _accelerator(device: str) -> tuple[tuple[int, int], str]:
    """Return (compute capability of an NVIDIA GPU, architecture of an AMD GPU); torch calls both `cuda`."""
    if device != "cuda":
        return (0, 0), ""
    if torch.version.hip is None:
        return torch.cuda.get_device_capability(), ""
    return (0, 0), str(torch.cuda.get_device_properties().gcnArchName)
