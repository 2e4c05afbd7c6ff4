"""Calls that requests of several techniques are made of."""

from __future__ import annotations

from functools import partial
from typing import Any

from harness.records.enums import Technique
from suites.silence.records import Call, Request


def loaded(**options: Any) -> Call:
    """A plain call of `from_pretrained` with these keywords."""
    return Call(load=lambda: options)


quantizing = partial(Request, technique=Technique.QUANTIZATION)
STATIC = Call(generate=lambda: {"cache_implementation": "static"})


def with_options(**options: Any) -> Call:
    """A plain call of `generate` with these keywords."""
    return Call(generate=lambda: options)


QUANTIZED = with_options(cache_implementation="quantized")
