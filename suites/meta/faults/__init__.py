"""Faults to plant into workers, in the library under test and never in the judge.

Each is a context manager without arguments, named in a request as `module:function`; `lies` serve something else than
was asked for, the others compute something else. `catalogue` says into which cases they are planted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[Any]:
    """`owner.name` is `replacement` meanwhile; yields what it was."""
    original = getattr(owner, name)
    # Of a class, as it stands there: what one asks a class for may be bound already.
    inherited = isinstance(owner, type) and name not in owner.__dict__
    kept = owner.__dict__.get(name, original) if isinstance(owner, type) else original
    setattr(owner, name, replacement)
    try:
        yield original
    finally:
        if inherited:
            delattr(owner, name)  # so that it is that of the class above again
        else:
            setattr(owner, name, kept)


@contextmanager
def attention(implementation: str, function: Any) -> Iterator[Any]:
    """transformers' attention `implementation` is `function` meanwhile; yields what it was."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    with registered(ALL_ATTENTION_FUNCTIONS, implementation, function) as original:
        yield original


@contextmanager
def registered(functions: Any, name: str, function: Any) -> Iterator[Any]:
    """An interface of transformers' functions leads from `name` to `function` meanwhile; yields what it led to."""
    original = functions[name]
    functions.register(name, function)
    try:
        yield original
    finally:
        functions.register(name, original)
