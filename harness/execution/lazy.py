"""Functions and classes named without importing their module. The process that calls them imports it, mostly a worker.

transformers and torch's compiler take seconds to import, for which a session that only sends requests need not wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class LazyFunction:
    """Function or class given by its name. It can be pickled; calling it imports its module."""

    module: str
    name: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(import_module(self.module), self.name)(*arguments, **named)


@dataclass(frozen=True)
class LazyModule:
    """Stand-in for a module, whose functions and classes are lazy."""

    module: str

    def __getattr__(self, name: str) -> LazyFunction:
        if name.startswith("__"):  # what pickle and copy look for
            raise AttributeError(name)
        return LazyFunction(self.module, name)
