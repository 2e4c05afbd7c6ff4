"""Kinds of rotary embeddings, as the modules of a model compute them. Runs in workers."""

from __future__ import annotations

from typing import Any


def rope_kinds(module: Any) -> frozenset[str]:
    """Return the kinds of rope that a module computes: `default`, `dynamic`, ...; none if it computes no rope.

    Where layers differ, a module has a kind for each type of layer.
    """
    kinds = getattr(module, "rope_type", None) or ()
    return frozenset(kinds.values() if isinstance(kinds, dict) else [kinds] if isinstance(kinds, str) else kinds)
