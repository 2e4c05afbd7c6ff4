"""Module that the fork server imports first. No other process should import it."""

from __future__ import annotations

from harness.execution.preloading import preload

PRELOADED = preload()
