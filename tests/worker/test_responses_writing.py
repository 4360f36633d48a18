"""Test the stream of a response whose model fails."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from openai.types.responses import ResponseStreamEvent

from reconciler.core.dialects import Dialect
from reconciler.worker.completions import Completion
from reconciler.worker.dialects.writing import FORMS
from reconciler.worker.output import OutputParser
from tests.strictly import strictly
from tests.worker.test_completions import Scripted


class Written:
    """A stream that records what is written to it."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data

    def make_signs(self, make: Callable[[], bytes]) -> None:
        self.data += make()


async def test_a_model_error_ends_a_stream_as_the_client_expects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = OutputParser.feed

    def breaking(parser: OutputParser, token: int, end: str | None) -> Any:
        if end is not None:
            raise ValueError("no words")
        return feed(parser, token, end)

    monkeypatch.setattr(OutputParser, "feed", breaking)
    scripted: Any = Scripted("It is Tokyo.")
    body = msgspec.json.encode({"model": "m", "input": "Hello", "stream": True})
    one = Completion(scripted, scripted, "1", body, dialect=Dialect.RESPONSES)
    reply: Any = Written()
    await one.start()
    await FORMS[Dialect.RESPONSES].stream(reply, one, "m")
    blocks = reply.data.decode().split("\n\n")[:-1]
    events = [json.loads(block.partition("data: ")[2]) for block in blocks]
    error = events[-2].pop("error")
    typed = [strictly(ResponseStreamEvent, event) for event in events]
    assert [event.sequence_number for event in typed] == list(range(len(typed)))
    assert [event.type for event in (*typed[:3], *typed[-2:])] == [
        *("response.created", "response.in_progress", "response.in_progress"),
        *("error", "response.failed"),
    ]
    assert (error["code"], error["message"]) == ("generation_failed", "ValueError: no words")
    failed = typed[-1].response
    assert (failed.id, failed.error.code) == (typed[0].response.id, "server_error")
    assert failed.usage.output_tokens > 0
