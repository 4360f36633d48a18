"""Test completions, from the session's tokens to the client's response."""

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from mlx_lm.utils import load_tokenizer

from reconciler.core.dialects import Dialect
from reconciler.core.protocol import MODEL_HEADER
from reconciler.demo import DEMO_MODEL
from reconciler.worker.answers import answer
from reconciler.worker.completions import TOGETHER, Completion, Piece
from reconciler.worker.dialects.writing import FORMS
from reconciler.worker.output import OutputParser, of_tokenizer
from reconciler.worker.pending import Request
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.request import RequestError, UnavailableError

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}


class Scripted:
    """A model with one session, "1", that generates a given text, and its MLX thread."""

    config = SimpleNamespace(context_length=4096)
    embedder = None

    def __init__(self, text: str) -> None:
        self.end = "stop"
        self.tokenizer: Any = load_tokenizer(DEMO_MODEL)
        self.output_format = of_tokenizer(self.tokenizer)
        self.vocabulary = len(self.tokenizer.get_vocab())
        self.preprocessor = Preprocessor(apart=False)
        self.preprocessor.bind(self.tokenizer, self.vocabulary, rewinds=False)
        self.kv_budget = SimpleNamespace(take=lambda _lease: None)
        self.script: list[int] = self.tokenizer.encode(text)
        self.cancelled: list[Request] = []

    def defaults(self, _name: str) -> dict[str, Any]:
        return {}

    def session(self, name: str) -> "Scripted":
        return {"1": self}[name]

    ends = ()

    def start(self, *requests: Request) -> None:
        for request in requests:
            self._emit(request)

    def _emit(self, request: Request) -> None:
        if self.end == "length":
            *script, last = self.script
        else:
            script, last = self.script, self.tokenizer.eos_token_id
        for token in script:
            request.emit(token, None, None)
        request.emit(last, self.end, None)

    def cancel(self, _name: str, request: Request) -> None:
        self.cancelled.append(request)

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(job())
        except Exception as error:  # noqa: BLE001  it is the asker's
            future.set_exception(error)
        return future


async def test_the_body_of_a_refused_request_is_released_at_once() -> None:
    gc.disable()  # a collection comes late, as a large body is one object
    try:
        for body in (b'{"messages": [', b'{"messages": 3}'):
            scripted = Scripted("")
            data = body + b" " * 1000
            before = sys.getrefcount(data)
            refused = Completion(scripted, scripted, "1", data)  # type: ignore[arg-type]
            with contextlib.suppress(RequestError):  # `pytest.raises` keeps its frames
                await refused.start()
                raise AssertionError(body)
            del refused
            await asyncio.sleep(0)
            assert sys.getrefcount(data) == before
    finally:
        gc.enable()


def completion(text: str, name: str = "1", **more: Any) -> tuple[Completion, Scripted]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]} | more
    scripted = Scripted(text)
    data = msgspec.json.encode(body)
    return Completion(scripted, scripted, name, data), scripted  # type: ignore[arg-type]


async def pieces_of(one: Completion) -> list[Piece]:
    await one.start()
    return [piece async for piece in one.pieces()]


@pytest.mark.parametrize("stream", [True, False])
async def test_without_parallel_calls_generation_ends_after_the_first_call(stream: bool) -> None:
    for parallel, count in ((True, 2), (False, 1)):
        more: dict[str, Any] = {
            "stream": stream,
            "parallel_tool_calls": parallel,
            "tools": [WEATHER],
        }
        one, scripted = completion(CALL + CALL, **more)
        pieces = await pieces_of(one)
        assert sum(len(piece.delta.calls) for piece in pieces) == count
        assert pieces[-1].finish_reason == "tool_calls"
        assert bool(scripted.cancelled) is not parallel


async def test_tokens_of_an_unstreamed_answer_are_sent_in_groups() -> None:
    text = "The capital of Japan is Tokyo. " * 5
    wakes = {}
    for stream in (True, False):
        one, scripted = completion(text, stream=stream)
        await one.start()
        wakes[stream] = one._news.qsize()
        assert "".join([p.delta.content async for p in one.pieces()]) == text
        assert len(scripted.script) > 2 * TOGETHER
    assert wakes[True] == len(scripted.script) + 1
    assert wakes[False] == -(-(len(scripted.script) + 1) // TOGETHER)


async def test_a_stop_ends_the_answer_even_if_more_was_generated() -> None:
    one, scripted = completion("It is Tokyo, or Kyoto.", stop="Kyoto")
    pieces = await pieces_of(one)
    assert "".join(piece.delta.content for piece in pieces) == "It is Tokyo, or "
    assert pieces[-1].finish_reason == "stop"
    assert scripted.cancelled


async def test_a_stop_within_the_last_allowed_token_is_reported_as_stop() -> None:
    one, scripted = completion("It is Tokyo", stop="Tokyo")
    scripted.end = "length"
    pieces = await pieces_of(one)
    assert "".join(piece.delta.content for piece in pieces) == "It is "
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize("fails", ["feed", "start"])
async def test_generation_stops_when_tokens_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no words")

    one, scripted = completion("It is Tokyo.")
    monkeypatch.setattr(OutputParser if fails == "feed" else scripted, fails, broken)
    request: Any = SimpleNamespace(headers={MODEL_HEADER: "m"}, match_info={"name": "1"})
    reply = await answer(request, one, FORMS[Dialect.CHAT])
    assert reply.status == 500
    assert scripted.cancelled == [one._choices[0].request]


async def test_a_request_to_an_instance_that_was_just_unloaded_can_be_retried() -> None:
    one, _ = completion("", name="2")
    with pytest.raises(UnavailableError, match="unloaded") as raised:
        await one.start()
    assert (raised.value.status, raised.value.code) == (503, "model_unloaded")
