"""A server that answers as `transformers serve` does, with what it is told to do wrong: `python FILE PORT [WRONG]`.

It answers each prompt by its own letters in capitals, one per token. Its log says what the real one's says.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PACE = 0.002
"""Seconds per token."""
LOOK = 0.2
"""Seconds within which a client that leaves at once is seen to be gone."""
ONE = 2
"""Which request is the only one to be answered: the first of the day, behind the one that comes before it."""
KEPT: list[bytearray] = []
COUNT = threading.Lock()
SERVED = [0]
LAST = ["nothing"]


def letters(prompt: str, tokens: int) -> str:
    """The right answer."""
    return (prompt.upper() * (tokens // len(prompt) + 1))[:tokens]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wrong = ""

    def do_GET(self) -> None:
        self._json({"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.wrong == "never_sees_the_gone" and not asked["stream"] and self._is_gone():
            return
        sys.stderr.write(f"[Request received] Model: made up, CB: {self.wrong != 'other_engine'}\n")
        with COUNT:
            SERVED[0] += 1
            number = SERVED[0]
            prompt, LAST[0] = (LAST[0] if self.wrong == "swaps" else asked["prompt"]), asked["prompt"]
        if self.wrong == "answers_none" or (self.wrong == "answers_one" and number != ONE):
            self._json({"error": "made up"}, 500)
            return
        self._misbehave(number)
        text = letters(prompt, asked["max_tokens"])
        if asked["stream"]:
            self._stream(text)
        else:
            time.sleep(PACE * len(text))
            self._json({"choices": [_choice(text, "length")], "usage": {"completion_tokens": len(text)}})

    def _is_gone(self) -> bool:
        """Whether the client disconnects within a moment, as the real server sees before it reads a request."""
        return bool(select.select([self.connection], [], [], LOOK)[0])

    def _misbehave(self, number: int) -> None:
        if self.wrong == "forgets" and number % 50 == 0:
            time.sleep(3600)
        if self.wrong == "leaks":
            KEPT.append(bytearray(os.urandom(2**20)))
        if self.wrong == "fails" and number % 50 == 0:
            raise ValueError("made up")

    def _stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for letter in text:
            time.sleep(PACE)
            self._event({"choices": [_choice(letter, None)]})
        if self.wrong == "cuts":
            text = text[:-1]
        self._event({"choices": [_choice("", "length")], "usage": {"completion_tokens": len(text)}})
        self.close_connection = True

    def _event(self, event: dict) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _json(self, answer: dict, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _choice(text: str, finish: str | None) -> dict:
    return {"index": 0, "text": text, "finish_reason": finish}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address) -> None:
        """Clients that are gone are no news."""


if __name__ == "__main__":
    port, Handler.wrong = int(sys.argv[1]), (sys.argv[2:] or [""])[0]
    if Handler.wrong == "orphans":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Server(("127.0.0.1", port), Handler).serve_forever()
