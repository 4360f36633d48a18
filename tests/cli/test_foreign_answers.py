"""Commands with proxies and other servers in place of a daemon, and during its restart.

A raw server sends the scripted bytes of each request, and then closes the connection or falls
silent.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from reconciler.cli import client as client_module
from reconciler.cli import downloads, main, reconnecting, records
from reconciler.cli.client import (
    Client,
    ConnectionLostError,
    DaemonError,
    NotFoundError,
    SilentError,
)
from reconciler.cli.reconnecting import Reconnecting, follow
from tests.cli.terminal import Terminal

Script = Callable[[int, str], bytes | None]
"""The response to a request, from its number, from 1, and its head; None closes the connection."""

OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNKED = OPEN.replace(b"Connection: close", b"Transfer-Encoding: chunked")


def response(body: bytes, status: int = 200, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


HTML = response(b"<h1>Bad Gateway</h1>", 502, "text/html")


@asynccontextmanager
async def server(script: Script, *, silent: bool = False) -> AsyncIterator[str]:
    """Serve a script and yield its URL. If `silent`, connections stay open after a response."""
    number = 0
    ending = asyncio.Event()
    connections: list[asyncio.Task[None]] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            number += 1
            writer.write(script(number, head) or b"")
            await writer.drain()
            if silent:
                await ending.wait()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.create_task(respond(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        ending.set()
        listening.close()
        await asyncio.gather(*connections)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(downloads, "INTERVAL_SECONDS", 0.0)
    for module in (client_module, records):
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.2)
    for module in (records, downloads):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "RECONNECT_SECONDS", 0.3)


async def invoke(url: str, *words: str, text: str | None = None) -> Result:
    env = {"RECONCILER_URL": url}
    running = asyncio.to_thread(CliRunner().invoke, main, words, env=env, input=text)
    return await asyncio.wait_for(running, 60)


MALFORMED = [
    HTML,
    *(response(body, 502) for body in (b"[]", b"{}", b'{"error": "bad"}', b'{"error": {}}')),
    response(b'{"error": {"message": 5}}', 500),
    response(b'{"error": "Unexpected endpoint or method."}'),  # LM Studio
    *(response(body) for body in (b"[]", b"null", b"[" * 10_000, b"\xff", b"")),
    *(OPEN + b"data: " + data + b"\n\n" for data in (b"\xff", b"hello", b"[]", b"[" * 10_000)),
    OPEN + b"id: a\rb\ndata: {}\n\n",
    b"SSH-2.0-OpenSSH\r\n",
    b"HTTP/1.1 302 X\r\nLocation: foo://x\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("answer", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.usefixtures("impatient")
async def test_the_answer_of_another_server_is_an_error(answer: bytes) -> None:
    async with server(lambda *_: answer) as url:
        for words in (("get",), ("events",)):
            if answer.startswith(OPEN) and words == ("get",):
                continue
            result = await invoke(url, *words)
            assert (result.exit_code, type(result.exception)) == (3, SystemExit), result.output
            assert f"a server other than reconciler answers at {url}" in result.stderr


@pytest.mark.usefixtures("impatient")
async def test_an_error_without_the_rest_of_its_body_is_silence() -> None:
    async with server(lambda *_: HTML[:-5], silent=True) as url:
        result = await invoke(url, "events", "-f")
    assert (result.exit_code, "nothing was received for 0.2 s" in result.stderr) == (3, True)


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_closes_each_stream_without_an_event_is_lost() -> None:
    async with server(lambda *_: CHUNKED) as url:
        result = await invoke(url, "events", "-f")
    assert (result.exit_code, result.stderr.count("reconnecting")) == (3, 1)


def events(after: int) -> bytes:
    numbers = range(after + 1, 4)
    return b": ping\r\n\r\n" + b"".join(
        f'id: r-{number}\r\nevent: e\r\ndata: {{"text": "é{number}"}}\r\n\r\n'.encode()
        for number in numbers
    )


async def followed(client: Client) -> list[str]:
    """The events of a stream, which ends when it is unknown."""
    seen = []
    with suppress(NotFoundError):
        async for _, data in follow(client, "/", endless=True):
            seen.append(data["text"])
    return seen


@pytest.mark.parametrize("head", [OPEN, CHUNKED], ids=["until-close", "chunked"])
async def test_a_stream_cut_at_any_byte_has_each_event_once(head: bytes) -> None:
    everything = events(0)

    def chunked(data: bytes) -> bytes:
        return f"{len(data):x}\r\n".encode() + data + b"\r\n" if head is CHUNKED and data else data

    async with aiohttp.ClientSession() as session:
        for cut in range(len(everything)):

            def script(number: int, request: str, cut: int = cut) -> bytes:
                _, found, last = request.partition("Last-Event-ID: r-")
                after = int(last[0]) if found else 0
                if after == 3:
                    return UNKNOWN
                data = events(after)
                return head + chunked(data[:cut] if number == 1 else data)

            async with server(script) as url:
                assert await followed(Client(url, session)) == ["é1", "é2", "é3"], cut


READY = {"type": "Ready", "status": "True", "reason": "Loaded", "message": ""}
RECORD = response(json.dumps({"name": "a", "status": {"conditions": [READY]}}).encode())
PLAN = response(b'{"refused": [], "changes": [], "actions": []}')
STOPPING = response(b'{"error": {"message": "it stops", "code": "stopping"}}', 503)
UNKNOWN = response(b'{"error": {"message": "there is none", "code": "unknown_job"}}', 404)
MANIFEST = """
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {name: a}
spec: {model: p/m}
"""


def job(status: str) -> bytes:
    sizes = {"downloaded_bytes": 1, "total_size_bytes": 2}
    return response(
        json.dumps(
            {"job_id": "j", "model": "p/m", "error": None, "status": status} | sizes
        ).encode()
    )


DURING = [
    (("wait", "a"), [RECORD], RECORD),
    (("apply", "--wait", "-f", "-"), [PLAN], RECORD),
    (("pull", "p/m"), [job("downloading")], job("completed")),
]


@pytest.mark.parametrize("problem", [HTML, STOPPING, None], ids=["proxy", "stopping", "closed"])
@pytest.mark.parametrize(("words", "before", "after"), DURING, ids=["wait", "apply", "pull"])
async def test_a_command_goes_on_after_a_restart_of_the_daemon(
    words: tuple[str, ...], before: list[bytes], after: bytes, problem: bytes | None
) -> None:
    asked = [*before, problem, problem, after]
    async with server(lambda number, _: asked[min(number, len(asked)) - 1]) as url:
        result = await invoke(url, *words, text=MANIFEST)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"lost the connection to {url}; reconnecting\n"


async def test_a_pull_resumes_a_download_that_the_restarted_daemon_does_not_know() -> None:
    asked = [job("downloading"), UNKNOWN, job("downloading"), job("completed")]
    heads: list[str] = []

    def script(number: int, head: str) -> bytes:
        heads.append(head.partition(" HTTP")[0])
        return asked[number - 1]

    async with server(script) as url:
        result = await invoke(url, "pull", "p/m")
    assert (result.exit_code, result.stdout) == (0, "p/m is downloaded: 2 B\n")
    begin, status = f"POST {downloads.ROUTE}", f"GET {downloads.ROUTE}/status/j"
    assert heads == [begin, status, begin, status]


async def test_a_refused_connection_is_a_loss_once_the_daemon_has_served() -> None:
    async with aiohttp.ClientSession() as session:
        async with server(lambda *_: RECORD) as url:
            client = Client(url, session)
            await client.get("/")
        with pytest.raises(client_module.UnreachableError) as refused:
            await client.get("/")
        await Reconnecting(client).pause(refused.value)
        with pytest.raises(client_module.UnreachableError):
            await Reconnecting(Client(url, session)).pause(refused.value)


async def test_a_daemon_that_stops_before_it_has_served_is_an_error() -> None:
    async with server(lambda *_: STOPPING) as url:
        result = await invoke(url, "load", "p/m")
    assert (result.exit_code, result.stderr) == (1, "Error: it stops\n")


@pytest.mark.usefixtures("impatient")
async def test_a_wait_on_a_silent_server_ends() -> None:
    async with server(lambda *_: b"", silent=True) as url:
        result = await invoke(url, "wait", "a", "--timeout", "0s")
    assert (result.exit_code, "nothing was received for 0.2 s" in result.stderr) == (3, True)


RESULT = {"model_instance_id": "p/m", "joined": True, "config": {}, "load_time_seconds": 1.0}


async def test_a_load_whose_stream_ends_without_a_result_is_sent_again() -> None:
    progress = (
        OPEN + b'event: progress\ndata: {"phase": "w", "bytes_read": 1, "bytes_total": 2}\n\n'
    )
    end = f"event: result\ndata: {json.dumps(RESULT | {'warnings': []})}\n\n".encode()
    async with server(lambda number, _: progress + (end if number > 1 else b"")) as url:
        result = await invoke(url, "load", "p/m")
    assert (result.exit_code, "p/m is already loaded" in result.stdout) == (0, True)


async def test_the_error_of_a_load_cannot_command_a_terminal() -> None:
    error = b'event: error\ndata: {"error": {"message": "\\u001b[31mred"}}\n\n'
    async with server(lambda *_: OPEN + error) as url:
        result = await invoke(url, "load", "p/m")
    assert (result.exit_code, result.stderr) == (1, "Error: \\x1b[31mred\n")


@pytest.mark.parametrize("loss", [ConnectionLostError("url"), SilentError("url", 40.0)])
async def test_each_loss_of_a_long_request_has_its_own_minute(
    monkeypatch: pytest.MonkeyPatch, loss: ConnectionLostError
) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("reconciler.cli.reconnecting.time", clock)
    async with aiohttp.ClientSession() as session:
        attempts = Reconnecting(Client("url", session))
        for _ in range(3):
            now += 100.0
            await attempts.pause(loss)
        for _ in range(2):
            now += 25.0
            await attempts.pause(ConnectionLostError("url"))
        now += 25.0
        with pytest.raises(ConnectionLostError):
            await attempts.pause(ConnectionLostError("url"))


async def test_only_errors_of_a_restart_are_losses() -> None:
    async with aiohttp.ClientSession() as session:
        client = Client("url", session)
        client.answered = True
        with pytest.raises(DaemonError):
            await Reconnecting(client).pause(DaemonError(503, "full", "insufficient_memory"))


EVIL = "\x1b]0;title\x07"
UNREADY = READY | {"status": "False", "message": EVIL}
EVENT = {"time": "2026-01-01T00:00:00Z", "type": "state", "name": "a", "reason": "R"}
ACTION = {"action": "Hold", "name": "a", "message": EVIL, "problem": None, "running": False}
SHOWN: list[tuple[tuple[str, ...], bytes]] = [
    (("events",), OPEN + f"data: {json.dumps(EVENT | {'message': EVIL})}\n\n".encode()),
    (
        ("plan",),
        response(
            json.dumps(
                json.loads(PLAN.split(b"\r\n\r\n")[1])
                | {"actions": [ACTION], "source_errors": [], "not_selected": {}}
            ).encode()
        ),
    ),
    (
        ("wait", "a", "--timeout", "0s"),
        response(json.dumps({"name": "a", "status": {"conditions": [UNREADY]}}).encode()),
    ),
    (
        ("pull", "p/m"),
        response(
            json.dumps(
                {
                    "status": "failed",
                    "error": {"message": EVIL},
                    "downloaded_bytes": 0,
                    "total_size_bytes": None,
                }
            ).encode()
        ),
    ),
]


@pytest.mark.parametrize(("words", "answer"), SHOWN, ids=[words[0] for words, _ in SHOWN])
async def test_no_text_of_the_daemon_can_command_a_terminal(
    tmp_path: Path, words: tuple[str, ...], answer: bytes
) -> None:
    async with server(lambda *_: answer) as url:

        def shown() -> None:
            with Terminal(tmp_path, "--url", url, *words, columns=200) as terminal:
                terminal.expect("\\x1b]0;title\\x07")

        await asyncio.to_thread(shown)


async def test_top_shows_an_error_of_the_daemon_and_goes_on(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"version": "1", "memory": None, "records": [], "instances": []}
    fine = response(json.dumps(empty).encode())
    async with server(lambda number, _: fine if number <= 3 else STOPPING) as url:

        def monitor() -> None:
            with Terminal(tmp_path, "--url", url, "top", "--interval", "0.1s") as terminal:
                terminal.expect("it stops")
                terminal.press("q")
                assert terminal.end() == 0

        await asyncio.to_thread(monitor)
