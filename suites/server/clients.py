"""Clients of a server, each a thread with connections of its own; the standard library alone."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from suites.server.day import Visit

SILENCE = 120.0
"""Seconds for which a client hears nothing before it holds its request to be lost."""
MOMENT = 0.05
"""Seconds after which a client that will not wait is gone."""
EVENT = "data: "
OK = 200


@dataclass(frozen=True)
class Reply:
    """What a client got for a request."""

    visit: Visit
    text: str = ""
    tokens: int = 0
    """Tokens of the answer, as the server counts them."""
    finish: str = ""
    """`length` or `stop`; empty if the answer has no end."""
    error: str = ""
    silent: bool = False
    """Whether nothing came in time."""
    began: float = 0.0
    ended: float = 0.0
    """`time.monotonic()` when it was sent, and when there was nothing more to come."""

    @property
    def answered(self) -> bool:
        return not self.error and not self.visit.leaves

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Answered:
    """What of an answer its prompt alone decides."""

    prompt: str
    text: str
    tokens: int
    ended: bool
    """Whether it says that the sequence is at its end."""

    @classmethod
    def by(cls, reply: Reply) -> Answered:
        return cls(reply.visit.prompt, reply.text, reply.tokens, reply.finish == "stop")


@dataclass
class Crowd:
    """Clients that live a day together. `replies` grows while they do."""

    port: int
    model: str
    silence: float = SILENCE

    def __post_init__(self) -> None:
        self.replies: list[Reply] = []
        self.open: int = 0
        """Number of requests that have got something, and not yet everything."""
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, visits: Sequence[Visit]) -> None:
        """Let each client send its requests, none before its time."""
        by_client: dict[int, list[Visit]] = defaultdict(list)
        for visit in visits:
            by_client[visit.client].append(visit)
        began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._live, args=(own, began), daemon=True) for own in by_client.values()
        ]
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> int:
        """Wait until all clients are done, and return the number of those that are not in time."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def send(self, visit: Visit) -> Reply:
        """Send one request, and wait for its answer or for what takes its place."""
        began = time.monotonic()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=MOMENT if visit.leaves_at_once else self.silence)
        try:
            got = self._exchange(connection, visit)
        except TimeoutError:
            gone = visit.leaves_at_once
            got = {} if gone else {"error": f"nothing came for {self.silence:g} seconds", "silent": True}
        except (HTTPException, OSError, ValueError) as error:
            got = {"error": f"{type(error).__name__}: {error}"}
        finally:
            connection.close()
        return Reply(visit, began=began, ended=time.monotonic(), **got)

    def _live(self, visits: Sequence[Visit], began: float) -> None:
        for visit in visits:
            time.sleep(max(0.0, began + visit.at - time.monotonic()))
            reply = self.send(visit)
            with self._lock:
                self.replies.append(reply)

    def _exchange(self, connection: HTTPConnection, visit: Visit) -> dict[str, Any]:
        body = {"model": self.model, "prompt": visit.prompt, "max_tokens": visit.tokens, "stream": visit.streams}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != OK:
            return {"error": f"HTTP {response.status}: {response.read(200).decode(errors='replace')}"}
        return self._stream(response, visit) if visit.streams else _whole(json.loads(response.read()))

    def _stream(self, response: HTTPResponse, visit: Visit) -> dict[str, Any]:
        """The pieces of a stream together. One that stops before it says why is an error."""
        text, begun = "", False
        try:
            for line in response:
                event = line.decode().strip()
                if not event.startswith(EVENT):
                    continue
                self._count(1 if not begun else 0)
                begun = True
                piece = json.loads(event.removeprefix(EVENT))
                if "error" in piece:
                    return {"error": f"the stream says: {piece['error']}"}
                text += piece["choices"][0].get("text", "")
                if visit.leaves:
                    return {"text": text}
                if piece["choices"][0].get("finish_reason"):
                    return {**_whole(piece), "text": text}
        finally:
            self._count(-1 if begun else 0)
        return {"error": "the stream stopped before its end", "text": text}

    def _count(self, change: int) -> None:
        with self._lock:
            self.open += change


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    return {
        "text": choice.get("text", ""),
        "tokens": answer["usage"]["completion_tokens"],
        "finish": choice["finish_reason"],
    }
