"""The server that forks workers imports this module first; no other process should."""

from __future__ import annotations

from harness.execution.preloading import preload

PRELOADED = preload()
