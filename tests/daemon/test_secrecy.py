"""Data that must not be logged at debug in either format: prompts, responses, access tokens."""

import contextlib
import json
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from reconciler.cli import log
from tests.support import Daemon, Home

MODEL = "reconciler/questions"
TOKEN = "token-zirconium-4711"
PROMPT = "prompt-ytterbium-0815"
ANSWER = "What is the capital of France?"
"""Answered by the demo's model; the log is searched for its response too."""


class Client:
    """A client that has the token."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def send(self, path: str, body: Any) -> Any:
        """Send a request and return its response for the caller to read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(self.daemon.url + path, data, headers)
        return urllib.request.urlopen(request, timeout=60)

    def chat(self, text: str, **more: Any) -> Any:
        """Send a chat and return its response for the caller to read."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
        return self.send("/v1/chat/completions", body | more)

    def refused(self, path: str, body: Any) -> str:
        """Error response to a request that cannot be answered."""
        with pytest.raises(urllib.error.HTTPError) as raised:
            self.send(path, body)
        with raised.value as error:
            return error.read().decode()

    def mumble(self) -> bytes:
        """Send HTTP with a wrong length, so that a prompt is parsed as a request."""
        address = urlsplit(self.daemon.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as wire:
            head = [
                "POST /v1/completions HTTP/1.1",
                f"Host: {address.netloc}",
                f"Authorization: Bearer {TOKEN}",
                "Content-Length: 2",
            ]
            body = f"{{}}{PROMPT} {TOKEN}\r\n\r\n{PROMPT}"
            wire.sendall("\r\n".join([*head, "", body]).encode())
            return b"".join(iter(lambda: wire.recv(4096), b""))


def rename(database: Path, old: str, new: str) -> None:
    """Rename a table of the daemon's database behind its back."""
    with sqlite3.connect(database) as db:
        db.execute(f"ALTER TABLE {old} RENAME TO {new}")
    db.close()


@pytest.fixture(params=["text", pytest.param("json", marks=pytest.mark.long)])
def client(home: Home, request: pytest.FixtureRequest) -> Iterator[Client]:
    secret = home.root / "token"
    secret.write_text(TOKEN, "utf-8")
    options = ("--log-level", "debug", "--log-format", request.param)
    with Daemon(home, "--token-file", str(secret), *options) as daemon:
        yield Client(daemon)


def test_prompts_responses_and_tokens_are_never_logged(client: Client) -> None:
    for prompt in (PROMPT, f"another {PROMPT}"):
        defaults = {"system_prompt": prompt, "chat_template_kwargs": {"a": PROMPT}}
        load: Any = {"model": MODEL, "instance_id": "prompted", "defaults": defaults}
        with client.send("/api/v1/models/load", load) as reply:
            reply.read()
    with client.send("/api/v1/models/load", {"model": MODEL, "instance_id": MODEL}) as reply:
        reply.read()
    with client.chat(ANSWER) as reply:
        answer = json.load(reply)["choices"][0]["message"]["content"].strip()
    assert len(answer) > 3
    with client.chat(PROMPT, stream=True, max_tokens=5) as reply:
        assert b"[DONE]" in reply.read()

    chat, text = "/v1/chat/completions", "/v1/completions"
    call = {"id": "1", "type": "function", "function": {"name": PROMPT, "arguments": PROMPT}}
    spoken = {"role": "assistant", "content": PROMPT, "tool_calls": [call]}
    with client.send(chat, {"model": MODEL, "messages": [spoken], "max_tokens": 2}) as reply:
        reply.read()

    # Requests that cannot be answered, each for a different reason.
    for path, body in (
        (chat, {"messages": [{"role": PROMPT, "content": PROMPT}]}),
        (chat, {"messages": [{"role": "user", "content": PROMPT * 10_000}]}),
        (text, {"prompt": PROMPT, "temperature": 99}),
        (text, {"prompt": PROMPT, "stop": {"text": PROMPT}}),
        (text, {"prompt": PROMPT, "logit_bias": {PROMPT: PROMPT}}),
    ):
        client.refused(path, {"model": MODEL} | body)
    client.refused(chat, b'{"model": "' + PROMPT.encode())
    client.refused(chat, {"model": PROMPT})
    assert b"400" in client.mumble()

    # An unexpected error in the middle of a request.
    database = client.daemon.home.state / "reconciler.db"
    rename(database, "records", "elsewhere")
    client.refused("/api/v1/models/load", {"model": MODEL, "instance_id": "b"})
    rename(database, "elsewhere", "records")

    # A worker that dies in the middle of a response.
    (worker, *_) = client.daemon.workers()
    with client.chat(PROMPT, stream=True, max_tokens=2000) as reply:
        reply.readline()
        worker.send_signal(signal.SIGABRT)
        with contextlib.suppress(HTTPException):
            reply.read()
    client.daemon.until(lambda: "worker died" in client.daemon.log())
    client.daemon.stop()

    log = client.daemon.log()
    assert "action ended" in log
    for secret in (PROMPT, TOKEN, answer):
        assert secret not in log


def test_a_traceback_contains_no_values() -> None:
    secret = "value-of-a-variable"
    for form in ("text", "json"):
        try:
            raise ValueError(len(secret))
        except ValueError as error:
            line: Any = {"event": "failed", "level": "error", "exc_info": error}
        for processor in log.chain(form, colours=False):
            line = processor(None, "error", line)
        assert "raise ValueError" in line
        assert secret not in line
