"""Who asks a server what, and when: drawn from a seed, so that each day can be lived again. No torch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

CLIENTS = 64
HOURS = 24
BEGINNINGS = (0, 90, 250, 380)
"""Lengths in characters of what prompts have in common; the server's pages hold 256 tokens, here one per character."""
BODIES = (3, 20, 60, 130)
"""Longest rest of a prompt in characters; each is drawn up to one of them."""
PROMPTS = 48
"""Number of different prompts. A server should see some of them again."""
MOST_TOKENS = 24
LEAVING = 0.1
"""Share of the requests whose client is gone before the answer is whole."""


@dataclass(frozen=True)
class Visit:
    """One request of a client."""

    client: int
    at: float
    """Seconds after the day began. A client that still waits sends it when it has its answer."""
    prompt: str
    tokens: int
    """Most tokens of the answer."""
    streams: bool
    leaves: bool = False
    """Whether the client disconnects: from a stream after its first piece, else after a moment."""

    @property
    def leaves_at_once(self) -> bool:
        """Whether the client is gone after a moment, whatever comes. The server may never read such a request."""
        return self.leaves and not self.streams


def prompts(rng: random.Random) -> list[str]:
    """Texts that repeat themselves, so that attention has something to find, behind beginnings in common."""
    shared = [_repeated(rng, length) for length in BEGINNINGS]
    return [rng.choice(shared) + _repeated(rng, rng.randint(3, rng.choice(BODIES))) for _ in range(PROMPTS)]


def a_day(seed: int, *, requests: int, seconds: float, clients: int = CLIENTS) -> list[Visit]:
    """A day's requests within some seconds, soonest first.

    Every client comes when it begins, and once more when it ends. In between there are busy hours and quiet ones, by a
    random factor for each; half of the requests of an hour come at one moment.
    """
    rng = random.Random(seed)
    texts = prompts(rng)
    busy = [rng.lognormvariate(0, 1) * (1.2 - math.cos(2 * math.pi * (hour + 0.5) / HOURS)) for hour in range(HOURS)]
    moments = [hour + rng.random() for hour in range(HOURS)]
    times = [0.0] * clients + [seconds] * clients
    for hour in rng.choices(range(HOURS), busy, k=max(0, requests - len(times))):
        moment = moments[hour] if rng.random() < 0.5 else hour + rng.random()
        times.append(moment / HOURS * seconds)
    visits = [_visit(rng, number % clients, at, texts, leaves=0 < at < seconds) for number, at in enumerate(times)]
    return sorted(visits, key=lambda visit: visit.at)


def _visit(rng: random.Random, client: int, at: float, texts: list[str], *, leaves: bool) -> Visit:
    return Visit(
        client=client,
        at=at,
        prompt=rng.choice(texts),
        tokens=rng.randint(1, MOST_TOKENS),
        streams=rng.random() < 0.5,
        leaves=leaves and rng.random() < LEAVING,
    )


def _repeated(rng: random.Random, length: int) -> str:
    """Words that come again after a while, cut to a length."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 6))) for _ in range(rng.randint(2, 9))]
    text = " ".join(words) + " "
    return (text * (length // len(text) + 1))[:length]
