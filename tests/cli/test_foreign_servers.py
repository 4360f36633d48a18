"""Commands whose server is no reconciler, or one of another version: one line, no traceback."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner, Result

from reconciler.cli import client, completing, main, reconnecting

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {name: a}
spec: {model: m}
"""

DEEP = b"[" * 100_000 + b"]" * 100_000


def http(
    body: bytes, kind: str = "application/json", status: str = "200 OK", more: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Connection: close\r\n\r\n"
    return head.encode() + body


def answer(value: Any, status: str = "200 OK") -> bytes:
    return http(json.dumps(value).encode(), status=status)


def events(body: bytes) -> bytes:
    return http(body, "text/event-stream")


ANSWERS = {
    "an empty object": answer({}),
    "a list": answer([]),
    "null": answer(None),
    "lists of other items": answer(
        {k: [1, None, "x", {}] for k in ("records", "models", "sources", "instances", "history")}
    ),
    "deep JSON": http(DEEP),
    "half an object": http(b"{"),
    "invalid text": http(b'{"a":"\xff"}'),
    "a long number": http(b'{"a":' + b"9" * 5000 + b"}"),
    "an error without a message": answer({}, "500 X"),
    "an error that is text": answer({"error": "x"}, "400 X"),
    "an error that is a list": answer([], "404 X"),
    "an error that is a number": answer({"error": {"message": 5}}, "409 X"),
    "an endless redirection": http(b"", status="302 X", more="Location: /\r\n"),
    "a redirection to nowhere": http(b"", status="302 X", more="Location: ftp://x/\r\n"),
    "no HTTP": b"SSH-2.0-OpenSSH_9\r\n",
    "a status of letters": b"HTTP/1.1 abc\r\n\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "a broken chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "broken gzip": http(b"xxxx", more="Content-Encoding: gzip\r\n"),
    "half of the body": http(b"{", more="Content-Length: 100\r\n"),
    "events of broken JSON": events(b"data: {\n\n"),
    "events of other values": events(b"data: null\n\ndata: 5\n\ndata: []\n\ndata: {}\n\n"),
    "events of invalid text": events(b"data: \xff\n\n"),
    "events of deep JSON": events(b"data: " + DEEP + b"\n\n"),
    "a line without end": events(b"x" * (4_200_000)),
}

COMMANDS = (
    ("ls",),
    ("ps",),
    ("show", "m"),
    ("get", "a"),
    ("export",),
    ("describe", "a"),
    ("plan",),
    ("diff", "-f", "MANIFEST"),
    ("sources",),
    ("history",),
    ("logs", "a"),
    ("logs", "a", "-f"),
    ("events",),
    ("estimate", "m"),
    ("run", "m", "hi"),
    ("bench", "a"),
    ("top", "--once"),
)


@contextmanager
def server(data: bytes) -> Iterator[str]:
    """Address of a server that sends these bytes for each request, whatever it is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def respond() -> None:
            while True:
                try:
                    wire, _ = listening.accept()
                except OSError:
                    return
                with wire:
                    try:
                        wire.recv(65536)
                        wire.sendall(data)
                        wire.shutdown(socket.SHUT_WR)
                        while wire.recv(65536):
                            pass
                    except OSError:
                        pass

        thread = threading.Thread(target=respond)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def run(url: str, *arguments: str) -> Result:
    return CliRunner(env={"RECONCILER_URL": url}).invoke(main, arguments)


@pytest.fixture(autouse=True)
def _no_reconnection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "RECONNECT_SECONDS", 0.0)


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_of_another_server_is_an_error_in_one_line(tmp_path: Path, kind: str) -> None:
    manifest = tmp_path / "a.yaml"
    manifest.write_text(MANIFEST, "utf-8")
    with server(ANSWERS[kind]) as url:
        for command in COMMANDS:
            result = run(url, *(str(manifest) if c == "MANIFEST" else c for c in command))
            assert result.exception is None or isinstance(result.exception, SystemExit), command
            if result.exit_code:
                *lost, line = result.stderr.splitlines()
                assert all("lost the connection" in one for one in lost), command
                assert line.startswith("Error: "), command
                assert len(line) < 500


def test_the_error_names_the_address_and_the_place() -> None:
    with server(ANSWERS["an empty object"]) as url:
        result = run(url, "ls")
    assert result.exit_code == 3
    assert f"at {url};" in result.stderr
    assert "one of another version, answers (KeyError in models.py:" in result.stderr


def test_a_long_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1_000_000)
    with server(http(b" " * 2_000_000)) as url:
        result = run(url, "ls")
    assert result.exit_code == 3
    assert "an answer of more than 1000000 bytes came" in result.stderr


@pytest.mark.parametrize("command", [("ls",), ("events", "-f"), ("run", "m", "hi")])
def test_a_silent_server_is_given_up(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(client, "SECONDS", 0.1)
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        result = run(f"http://127.0.0.1:{listening.getsockname()[1]}", *command)
    assert result.exit_code == 3
    assert "nothing was received for 0.1 s" in result.stderr


NODES = (
    ("status",),
    ("status", "-o", "wide"),
    ("endpoints",),
    ("endpoints", "--format", "haproxy"),
    ("endpoints", "--format", "prometheus"),
)


@pytest.mark.parametrize("command", NODES, ids=" ".join)
@pytest.mark.parametrize(
    "kind", ["an empty object", "a list", "lists of other items", "deep JSON", "no HTTP"]
)
def test_a_node_of_another_form_is_a_problem_of_its_own(
    tmp_path: Path, kind: str, command: tuple[str, ...]
) -> None:
    healthy: dict[str, Any] = {
        "version": "1",
        "memory": None,
        "labels": {},
        "sources": [],
        "records": [
            {
                "name": "chat",
                "spec": {"model": "m"},
                "status": {
                    "conditions": [
                        {"type": "Ready", "status": "True", "reason": "Loaded", "message": ""}
                    ]
                },
            }
        ],
    }
    inventory = tmp_path / "fleet.yaml"
    with server(ANSWERS[kind]) as bad, server(answer(healthy)) as good:
        nodes = [{"name": "sick", "url": bad}, {"name": "well", "url": good}]
        inventory.write_text(json.dumps({"nodes": nodes}), "utf-8")
        result = CliRunner().invoke(main, ["fleet", *command, "--inventory", str(inventory)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "well" in result.stdout or good.removeprefix("http://") in result.stdout
    assert "a server other than reconciler" in result.output


@pytest.mark.parametrize("kind", ANSWERS)
def test_nothing_is_completed_from_another_server(kind: str) -> None:
    with server(ANSWERS[kind]) as url:
        context = click.Context(click.Command("get"), info_name="get")
        context.params = {"url": url}
        context.set_parameter_source("url", ParameterSource.COMMANDLINE)
        assert completing.names(context, click.Argument(["name"]), "") == []
