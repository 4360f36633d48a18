"""OpenAI's routes on a controller that tests step by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, web
from structlog.testing import capture_logs

from reconciler.api import early_stream
from reconciler.api.app import build
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.protocol import Reply

COMMENT = b": keep-alive\n\n"

STREAM = {"model": "a", "stream": True}


class Answering:
    """A controller whose only instance answers in two chunks once a test calls `ready`."""

    stopping = False
    machine = None

    def __init__(self) -> None:
        self.runner: web.AppRunner
        self.ended = False
        self.cut = False
        """True if the client's connection is to break after the first chunk."""
        self.loading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.starting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the worker has begun its response."""
        self.status, self.content_type = 200, "text/event-stream"
        self.pieces = [b"data: 1\n\n", b"data: 2\n\n"]

    def ready(self) -> None:
        self.loading.set_result(None)
        self.starting.set_result(None)

    def records_of(self, _model: str) -> tuple[()]:
        return ()

    def serves(self, _model: str) -> bool:
        return False

    def facts(self, _name: str) -> None:
        return None

    async def ready_for(self, model: str, _idle_ttl_seconds: int | None = None) -> str:
        await self.loading
        return model

    @asynccontextmanager
    async def request(self, *_: object) -> AsyncIterator[Reply]:
        await self.starting
        try:
            yield Reply(self.status, self.content_type, self._chunks())
        finally:
            self.ended = True

    async def _chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
            if self.cut:
                for connection in self.runner.server.connections:  # type: ignore[union-attr]
                    connection.transport.abort()  # type: ignore[union-attr]


@pytest.fixture
async def controller() -> AsyncIterator[Answering]:
    controller: Any = Answering()
    controller.runner = web.AppRunner(build(controller, "127.0.0.1", None))
    await controller.runner.setup()
    await web.TCPSite(controller.runner, "127.0.0.1", 0).start()
    yield controller
    await controller.runner.cleanup()


@asynccontextmanager
async def asked(
    controller: Answering, body: Any, path: str = "/v1/completions"
) -> AsyncIterator[ClientResponse]:
    host, port = controller.runner.addresses[0]
    url = f"http://{host}:{port}{path}"
    async with ClientSession() as client, client.post(url, json=body) as reply:
        yield reply


async def rest(reply: ClientResponse) -> bytes:
    """The rest of a response, without comments."""
    return (await reply.read()).replace(COMMENT, b"")


async def test_a_client_that_disconnects_during_a_write_is_not_an_error(
    controller: Answering,
) -> None:
    controller.cut = True
    controller.ready()
    with capture_logs() as logs:
        async with asked(controller, {"model": "a"}) as reply:
            assert await reply.content.readany() == b"data: 1\n\n"
        await controller.runner.cleanup()
    assert controller.ended
    assert logs == []


async def test_a_stream_has_keep_alive_comments_while_its_model_loads(
    controller: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    async with asked(controller, STREAM) as reply:
        assert (reply.status, reply.content_type) == (200, "text/event-stream")
        assert await reply.content.readexactly(2 * len(COMMENT)) == 2 * COMMENT
        controller.loading.set_result(None)  # the worker is busy and does not respond yet
        assert await reply.content.readexactly(2 * len(COMMENT)) == 2 * COMMENT
        controller.starting.set_result(None)
        assert await rest(reply) == b"data: 1\n\ndata: 2\n\n"
    assert controller.ended


async def test_a_stream_without_delay_is_copied_unchanged(controller: Answering) -> None:
    controller.ready()
    async with asked(controller, STREAM) as reply:
        assert reply.headers["X-Reconciler-Instance"] == "a"
        assert await reply.read() == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("body", [{"model": "a"}, {"model": "a", "stream": False}])
async def test_a_request_without_a_stream_gets_no_keep_alive_comments(
    controller: Answering, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    controller.content_type, controller.pieces = "application/json", [b"{}"]
    waiting = asyncio.create_task(_whole(controller, body))
    async with asked(controller, STREAM) as another:
        await another.content.readexactly(3 * len(COMMENT))
        controller.ready()
        assert await waiting == (200, "application/json", b"{}")


async def _whole(controller: Answering, body: Any) -> tuple[int, str, bytes]:
    async with asked(controller, body) as reply:
        return reply.status, reply.content_type, await reply.read()


async def test_an_error_after_the_first_keep_alive_comment_is_an_event(
    controller: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    problem = Problem(Reason.LOAD_FAILED, "no weights")
    async with asked(controller, STREAM) as reply:
        await reply.content.readexactly(len(COMMENT))
        controller.loading.set_exception(LoadError(problem))
        ending = await rest(reply)
    error = json.loads(ending.removeprefix(b"data: "))["error"]
    assert (reply.status, error["code"], error["message"]) == (
        200,
        "model_load_failed",
        "no weights",
    )


async def test_a_workers_refusal_after_the_first_keep_alive_comment_is_an_event(
    controller: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    controller.status, controller.content_type = 400, "application/json"
    controller.pieces = [b'{"error": {"code"', b': "invalid_value"}}']
    async with asked(controller, STREAM) as reply:
        await reply.content.readexactly(len(COMMENT))
        controller.ready()
        assert await rest(reply) == b'data: {"error": {"code": "invalid_value"}}\n\n'


async def test_an_error_before_the_first_keep_alive_comment_has_its_status(
    controller: Answering,
) -> None:
    controller.loading.set_exception(LoadError(Problem(Reason.NOT_LOADED, "it is not")))
    async with asked(controller, STREAM) as reply:
        assert (reply.status, reply.content_type) == (404, "application/json")


async def test_a_client_that_disconnects_while_waiting_is_not_an_error(
    controller: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    with capture_logs() as logs:
        async with asked(controller, STREAM) as reply:
            await reply.content.readexactly(len(COMMENT))
        controller.loading.set_exception(LoadError(Problem(Reason.STOPPING, "the daemon stops")))
        await controller.runner.cleanup()
    assert logs == []


@pytest.mark.parametrize(
    ("path", "key", "nothing"),
    [
        ("/api/chat", "messages", {"message": {"role": "assistant", "content": ""}}),
        ("/api/generate", "prompt", {"response": ""}),
    ],
)
async def test_an_ollama_client_gets_empty_messages_while_the_model_loads(
    controller: Answering, monkeypatch: pytest.MonkeyPatch, path: str, key: str, nothing: Any
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    body = {"model": "a:latest", key: "something"}
    problem = Problem(Reason.LOAD_FAILED, "no weights")
    async with asked(controller, body, path) as reply:
        assert (reply.status, reply.content_type) == (200, "application/x-ndjson")
        for _ in range(3):
            line = json.loads(await reply.content.readline())
            assert line.pop("created_at")
            assert line == {"model": "a:latest", "done": False} | nothing
        controller.loading.set_exception(LoadError(problem))
        lines = [line async for line in reply.content]
    assert json.loads(lines[-1]) == {"error": "no weights"}
    assert all(line.startswith(b" ") for line in lines[:-1])


async def test_an_error_in_lm_studios_chat_is_an_event_of_its_format(
    controller: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
    body = {"model": "a", "input": "x", "stream": True}
    controller.status, controller.content_type = 400, "application/json"
    controller.pieces = [b'{"error": {"type": "invalid_request"}}']
    for ends in ("daemon", "worker"):
        async with asked(controller, body, "/api/v1/chat") as reply:
            await reply.content.readexactly(len(COMMENT))
            if ends == "worker":
                controller.ready()
            else:
                problem = Problem(Reason.LOAD_FAILED, "no weights")
                controller.loading.set_exception(LoadError(problem))
            ending = await rest(reply)
        controller.loading = asyncio.get_running_loop().create_future()
        assert ending.startswith(b"event: error\ndata: ")
        data = json.loads(ending.partition(b"data: ")[2])
        assert data["type"] == "error"
        assert data["error"]["type"] in ("model_load_failed", "invalid_request")
