"""Conversion of what a library refuses into Incompatible, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.errors import HarnessError, Incompatible
from harness.execution.loading import load_config
from harness.execution.setup import CaseRun, CaseSetup
from harness.observation.windows import windows_of
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
    heads = _entry(config, "num_attention_heads") or 0
    shared = _entry(config, "num_key_value_heads") or heads
    size = _entry(config, "head_dim") or ((_entry(config, "hidden_size") or 0) // heads if heads else 0)
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
        head_sizes=(_entry(config, "qk_head_dim") or size, _entry(config, "v_head_dim") or size),
        lengths=lengths,
        groups=tuple(
            length * len(batch) * shared * size // GROUP for length, batch in zip(lengths, batches, strict=True)
        ),
    )


def _entry(config: Any, name: str) -> Any:
    """Return an entry of a config; None if it is missing, or another in each layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001 - transformers raises errors of its own for an entry that layers set
        return None


def _accelerator(device: str) -> tuple[tuple[int, int], str]:
    """Return (compute capability of an NVIDIA GPU, architecture of an AMD GPU); torch calls both `cuda`."""
    if device != "cuda":
        return (0, 0), ""
    if torch.version.hip is None:
        return torch.cuda.get_device_capability(), ""
    return (0, 0), str(torch.cuda.get_device_properties().gcnArchName)
