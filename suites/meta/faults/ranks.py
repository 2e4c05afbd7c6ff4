"""Faults of one rank of two, or between them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps

from suites.meta.faults import patched


def in_forward(act):
    """On rank 1, `act` runs in the second forward pass of any attention layer: the ranks are at work by then."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    print("runs as", os.getpid(), flush=True)
    if os.environ["RANK"] != "1":
        return nullcontext()
    calls = []

    def forward(module, *arguments, **options):
        calls.append(module)
        if len(calls) == 6:
            act()
        return original(module, *arguments, **options)

    original = Qwen3Attention.forward
    return patched(Qwen3Attention, "forward", forward)


@contextmanager
def rank_is_killed() -> Iterator[None]:
    """Rank 1 is killed while it generates."""
    with in_forward(lambda: os.kill(os.getpid(), signal.SIGKILL)):
        yield


@contextmanager
def rank_hangs() -> Iterator[None]:
    """Rank 1 stops while it generates, and rank 0 waits for it."""

    def hang():
        print("hangs", flush=True)
        time.sleep(3600)

    with in_forward(hang):
        yield


@contextmanager
def rank_raises() -> Iterator[None]:
    """Rank 1 raises while it generates."""

    def give_up():
        raise RuntimeError("rank 1 gives up")

    with in_forward(give_up):
        yield


@contextmanager
def all_reduce_is_missing() -> Iterator[None]:
    """No rank adds what the others computed to its own."""
    import torch.distributed

    with patched(torch.distributed, "all_reduce", lambda *_, **__: None):
        yield


@contextmanager
def all_reduce_is_wrong() -> Iterator[None]:
    """Sums over the ranks come out a thousandth too large, on all ranks alike."""
    import torch.distributed

    def all_reduce(tensor, *arguments, **options):
        original(tensor, *arguments, **options)
        tensor.mul_(1.001)

    with patched(torch.distributed, "all_reduce", all_reduce) as original:
        yield


@contextmanager
def shards_are_swapped() -> Iterator[None]:
    """One linear layer's halves are loaded by the wrong ranks."""
    import torch
    import torch.distributed
    from transformers import AutoModelForCausalLM

    def load(cls, *places, **options):
        model = original(*places, **options)
        own = model.model.layers[1].mlp.down_proj.weight.to_local()
        halves = [torch.empty_like(own) for _ in range(2)]
        torch.distributed.all_gather(halves, own.contiguous())
        with torch.no_grad():
            own.copy_(halves[1 - int(os.environ["RANK"])])
        return model

    with patched(AutoModelForCausalLM, "from_pretrained", classmethod(load)) as original:
        yield


@contextmanager
def rank_computes_alone() -> Iterator[None]:
    """Rank 1 gives logits of its own."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

    @wraps(Qwen3ForCausalLM.forward)
    def forward(model, *arguments, **options):
        output = original(model, *arguments, **options)
        output.logits = output.logits * (1.001 if os.environ["RANK"] == "1" else 1.0)
        return output

    with patched(Qwen3ForCausalLM, "forward", forward) as original:
        yield


@contextmanager
def vocabulary_is_gathered_backwards() -> Iterator[None]:
    """Parts of a tensor that ranks gather are put together in the wrong order."""
    import torch
    from torch.distributed.tensor import Shard

    def to_replicate(shard, *arguments, **options):
        whole = original(shard, *arguments, **options)
        return torch.cat(list(reversed(whole.chunk(2, shard.dim))), shard.dim)

    with patched(Shard, "_to_replicate_tensor", to_replicate) as original:
        yield
