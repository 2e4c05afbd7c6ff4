"""All requests, by technique."""

from __future__ import annotations

from suites.silence.of_attention import ATTENTION
from suites.silence.of_batching import SERVING
from suites.silence.of_caches import CACHES
from suites.silence.of_compilation import COMPILATION
from suites.silence.of_kernels import KERNELS
from suites.silence.of_places import PLACES
from suites.silence.of_quantization import QUANTIZATION
from suites.silence.of_ranks import RANKS
from suites.silence.records import Request

REQUESTS: tuple[Request, ...] = (
    *(*ATTENTION, *KERNELS, *QUANTIZATION, *PLACES),
    *(*CACHES, *COMPILATION),
    *(*SERVING, *RANKS),
)


def request_named(name: str) -> Request:
    return next(request for request in REQUESTS if request.name == name)
