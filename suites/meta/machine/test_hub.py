"""A hub that is out of reach, or does not give a repository, is told before anything waits for it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from fixtures.models import MODELS
from harness.machine import requirements
from harness.machine.model_size import size_of_folder
from harness.machine.requirements import HubModel, commit_of, size_of_source
from harness.records.workload import Hub
from suites.meta.builders.inventories import CPU


def forget():
    for name in ("_hub_problem", "_file_problem", "commit_of"):
        getattr(requirements, name).cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """Serves a made-up hub whose answers are those of the dictionary that is returned: status by path."""
    statuses = {}

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(statuses.get(self.path, 404))
            self.send_header("ETag", "x")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(requirements, "_is_downloaded", lambda *_: False)
    forget()
    yield statuses
    server.shutdown()
    server.server_close()
    forget()


CONFIG = "/a/b/resolve/main/config.json"


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ({"/": 200, CONFIG: 200}, None),
        ({"/": 404, CONFIG: 200}, None),
        ({"/": 503}, "not downloaded yet, and the hub is out of reach (default endpoint: HTTP 503 "),
        ({"/": 200, CONFIG: 404}, "not downloaded yet, and the hub does not give it ("),
        ({"/": 200, CONFIG: 401}, "not downloaded yet, and the hub does not give it ("),
        ({"/": 200, CONFIG: 500}, "not downloaded yet, and the hub does not give it ("),
    ],
)
def test_model_that_the_hub_does_not_give_is_a_need(hub, statuses, told):
    hub |= statuses
    unmet = HubModel("a/b", "main").unmet(CPU, device="cpu")
    assert unmet is None if told is None else unmet.startswith(f"needs a/b@main: {told}")


def test_hub_that_nobody_serves_is_out_of_reach(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub is out of reach" in HubModel("a/b", "main").unmet(CPU, device="cpu")


def test_endpoint_that_is_none_is_out_of_reach(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "nonsense")
    assert "the hub is out of reach" in HubModel("a/b", "main").unmet(CPU, device="cpu")


def test_commit_of_a_model_is_that_which_the_hub_gives(hub):
    """A branch moves: its name says nothing about what was run."""
    hub |= {"/": 200, CONFIG: 200}
    assert commit_of("a/b", "main") == "0" * 40
    assert commit_of("a/unheard", "main") == ""


def test_size_of_a_model_of_the_hub_is_known_once_it_is_downloaded(monkeypatch):
    import huggingface_hub

    tiny = Path(MODELS[0].source.path)
    held = {("a/b", "config.json", "main"): str(tiny / "config.json")}

    def looked_up(repository, name, *, revision):
        return held.get((repository, name, revision))

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", looked_up)
    assert size_of_source(Hub("a/b")) == size_of_folder(tiny)
    assert size_of_source(Hub("a/b", "other")) is None
