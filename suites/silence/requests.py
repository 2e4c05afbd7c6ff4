"""All requests, by technique."""

from __future__ import annotations

from suites.silence.of_generation import OF_GENERATION
from suites.silence.of_loading import OF_LOADING
from suites.silence.of_serving import OF_SERVING
from suites.silence.records import Request

REQUESTS: tuple[Request, ...] = (*OF_LOADING, *OF_GENERATION, *OF_SERVING)


def request_named(name: str) -> Request:
    return next(request for request in REQUESTS if request.name == name)
