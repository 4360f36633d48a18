"""A stream of Anthropic's Messages before its first token, as its official client sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web

from reconciler.api import early_stream
from reconciler.api.app import build
from reconciler.api.messages import PING
from reconciler.core.errors import LoadError, Problem, Reason
from tests.test_openai import Answering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import anthropic  # takes 1.5 s of CPU time: imported only if these tests run

ASKED: Any = {"model": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "a",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 0},
}
EVENTS: list[Any] = [{"type": "message_start", "message": MESSAGE}, {"type": "message_stop"}]
ANSWER = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in EVENTS]


@pytest.fixture
async def loading() -> AsyncIterator[Any]:
    """A controller whose model is loading, with continuous keep-alive pings."""
    controller: Any = Answering()
    controller.pieces = ANSWER
    controller.runner = web.AppRunner(build(controller, "127.0.0.1", None))
    await controller.runner.setup()
    await web.TCPSite(controller.runner, "127.0.0.1", 0).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0)
        yield controller
    await controller.runner.cleanup()


def url(controller: Any) -> str:
    host, port = controller.runner.addresses[0]
    return f"http://{host}:{port}"


@pytest.fixture
async def client(loading: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    import anthropic

    async with anthropic.AsyncAnthropic(
        base_url=url(loading), api_key="none", max_retries=0
    ) as client:
        yield client


async def test_keep_alive_pings_are_skipped_by_the_client(
    loading: Any, client: anthropic.AsyncAnthropic
) -> None:
    async with (
        ClientSession() as session,
        session.post(f"{url(loading)}/v1/messages", json=ASKED | {"stream": True}) as reply,
    ):
        assert (reply.status, reply.content_type) == (200, "text/event-stream")
        assert await reply.content.readexactly(3 * len(PING)) == 3 * PING
        loading.ready()
        assert (await reply.read()).replace(PING, b"") == b"".join(ANSWER)
    stream = await client.messages.create(**ASKED, stream=True)
    assert [event.type async for event in stream] == ["message_start", "message_stop"]


async def test_the_client_raises_a_failed_load(
    loading: Any, client: anthropic.AsyncAnthropic
) -> None:
    import anthropic

    stream = await client.messages.create(**ASKED, stream=True)  # returns at the first ping
    loading.loading.set_exception(LoadError(Problem(Reason.LOAD_FAILED, "no such layer")))
    with pytest.raises(anthropic.APIStatusError, match="no such layer") as error:
        _ = [event async for event in stream]
    body: Any = error.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "api_error")
    assert body["error"]["code"] == "model_load_failed"


async def test_the_client_raises_a_workers_refusal(
    loading: Any, client: anthropic.AsyncAnthropic
) -> None:
    import anthropic

    refusal = b'{"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}'
    loading.status, loading.content_type, loading.pieces = 400, "application/json", [refusal]
    stream = await client.messages.create(**ASKED, stream=True)
    loading.ready()
    with pytest.raises(anthropic.APIStatusError, match="invalid_request_error"):
        _ = [event async for event in stream]


async def test_an_immediate_error_has_its_own_status(
    loading: Any, client: anthropic.AsyncAnthropic
) -> None:
    import anthropic

    loading.loading.set_exception(LoadError(Problem(Reason.NOT_LOADED, "a is not loaded")))
    with pytest.raises(anthropic.NotFoundError, match="a is not loaded"):
        await client.messages.create(**ASKED)
