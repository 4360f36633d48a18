"""The process that searches a hub, run without a daemon."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support import environment

Requests = list[tuple[str, str | None]]
"""Paths and tokens."""


@contextmanager
def hub(content: bytes | None) -> Iterator[tuple[str, Requests]]:
    """A hub that answers every search with `content`, or closes the connection if it is None."""
    requests: Requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path.partition("?")[0], self.headers["Authorization"]))
            if content is not None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            serving.join()


def search(endpoint: str, *words: str) -> Any:
    """The line that a search prints."""
    command = [sys.executable, "-m", "reconciler.models.search", *words]
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "", "HF_TOKEN": "hf_secret"}
    environ, pipe = environment(**variables), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environ) as process:
        assert process.stdout is not None
        return json.loads(process.stdout.readline())


def test_a_hub_that_does_not_answer_is_asked_once() -> None:
    """It was asked six times, with pauses of 25 s in total."""
    with hub(None) as (url, requests):
        assert search(url, "a", "3")["error"] == "hub_unreachable"
    assert requests == [("/api/models", "Bearer hf_secret")]


def test_an_answer_that_is_not_a_hubs_is_an_error() -> None:
    with hub(b'[{"id": 5}]') as (url, _):
        found = search(url, "a", "3")
    assert found["error"] == "hub_unreachable"
    assert "Expected `str`, got `int`" in found["message"]


def test_an_answer_of_more_models_than_were_asked_for_is_cut() -> None:
    models = [{"id": f"a/{n}", "lastModified": "2026-01-02T03:04:05.000Z"} for n in range(5)]
    with hub(json.dumps(models).encode()) as (url, _):
        found = search(url, "a", "2", "mlx")["models"]
    assert [model["model"] for model in found] == ["a/0", "a/1"]
    assert found[0]["updated_at"] == "2026-01-02T03:04:05+00:00"
