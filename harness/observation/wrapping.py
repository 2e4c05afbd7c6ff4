"""Calls of a function that belongs to others, sent through one of ours for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def wrapped(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Send calls of `owner.name` to `replacement(original, ...)` inside `with`."""
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        return replacement(original, *arguments, **options)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, original)
