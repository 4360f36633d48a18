"""Anthropic's Messages API of a real daemon, with the official client and a trained model."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from functools import cache
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

from tests.conftest import QUESTIONS
from tests.support import Daemon, Home, parse_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anthropic  # takes 1.5 s of CPU time: imported only by processes that run these tests

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
FRANCE = "The capital of France is Paris."
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
THINKING: Any = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}


class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    legs: int


@pytest.fixture
def client(taught: Daemon) -> Iterator[anthropic.Anthropic]:
    import anthropic

    with anthropic.Anthropic(base_url=taught.url, api_key="none", max_retries=0) as client:
        yield client


def user(content: Any = "What is the capital of France?") -> Any:
    return [{"role": "user", "content": content}]


def body(content: Any = "What is the capital of France?", **keys: Any) -> dict[str, Any]:
    """A greedy request."""
    asked = {"model": QUESTIONS, "max_tokens": 100, "temperature": 0, "messages": user(content)}
    return asked | keys


def ask(daemon: Daemon, content: Any = "What is the capital of France?", **keys: Any) -> Any:
    """A message, validated against the client's type."""
    status, answer = daemon.request("POST", PATH, body(content, **keys))
    assert status == 200, answer
    from anthropic.types import Message

    Message.model_validate(answer, strict=True)
    return answer


@cache
def stream_events() -> tuple[pydantic.TypeAdapter[Any], ...]:
    """Validators for the client's stream event types."""
    from anthropic.types import RawMessageStreamEvent
    from anthropic.types.beta import BetaRawMessageStreamEvent

    return pydantic.TypeAdapter(RawMessageStreamEvent), pydantic.TypeAdapter(
        BetaRawMessageStreamEvent
    )


def events(daemon: Daemon, **keys: Any) -> list[Any]:
    """The events of a stream, each validated against the client's types."""
    found = []
    with daemon.stream(f"{PATH}?beta=true", body(stream=True) | keys) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        for kind, data in parse_stream(reply):
            assert kind == data["type"]
            if kind != "ping":
                for events_of_client in stream_events():
                    events_of_client.validate_python(data, strict=True)
            found.append(data)
    return found


def put_together(found: list[Any]) -> Any:
    """Check the order of a stream's events and assemble its message."""
    assert [event["type"] for event in found[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    message, blocks, is_open = found[0]["message"], [], False
    assert (message["content"], message["stop_reason"]) == ([], None)
    assert message["usage"]["output_tokens"] == 0
    for event in found[2:-2]:
        if event["type"] == "ping":
            continue
        if event["type"] == "content_block_start":
            assert not is_open
            blocks.append(event["content_block"] | {"partial_json": ""})
        assert event["index"] == len(blocks) - 1
        is_open = event["type"] != "content_block_stop"
        for key, piece in event.get("delta", {}).items():
            if key != "type":
                blocks[-1][key] += piece
    assert not is_open
    for block in blocks:
        written = block.pop("partial_json")
        if block["type"] == "tool_use":
            assert block["input"] == {}
            block["input"] = json.loads(written)
    delta = {key: found[-2][key] for key in ("usage",)} | found[-2]["delta"]
    return message | {"content": blocks} | delta


def without_names(answer: Any) -> Any:
    """A response without parts that differ each time or depend on the prompt cache."""
    usage = answer["usage"]
    length = usage["input_tokens"] + usage["cache_read_input_tokens"]
    content = [{k: v for k, v in block.items() if k != "id"} for block in answer["content"]]
    return answer | {"id": "", "content": content, "usage": [length, usage["output_tokens"]]}


class TestAnswers:
    def test_text_is_answered(self, client: anthropic.Anthropic) -> None:
        answer = client.messages.create(
            model=QUESTIONS, max_tokens=100, messages=user(), extra_body={"temperature": 0}
        )
        (block,) = answer.content
        assert block.type == "text"
        assert block.text == FRANCE
        assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
        assert (answer.model, answer.role, answer.type) == (QUESTIONS, "assistant", "message")
        assert answer.id.startswith("msg_")
        assert answer.usage.output_tokens > 5

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            THINKING,
            {"messages": user("What is the weather in Paris?"), "tools": [WEATHER]},
            {"stop_sequences": ["of"]},
            {"max_tokens": 3},
        ],
    )
    def test_a_stream_has_the_same_content_as_a_response_in_one_piece(
        self, taught: Daemon, keys: Any
    ) -> None:
        at_once = ask(taught, **keys)
        assert without_names(put_together(events(taught, **keys))) == without_names(at_once)

    def test_the_clients_own_stream_helper_works(self, client: anthropic.Anthropic) -> None:
        asked: Any = {"model": QUESTIONS, "max_tokens": 100, "messages": user()}
        with client.messages.stream(**asked, extra_body={"temperature": 0}) as stream:
            assert "".join(stream.text_stream) == FRANCE
            final = stream.get_final_message()
        assert final.stop_reason == "end_turn"
        assert final.usage.output_tokens > 5
        beta = client.beta.messages.create(
            **asked, betas=["interleaved-thinking-2025-05-14"], extra_body={"temperature": 0}
        )
        assert beta.content[0].type == "text"
        with client.beta.messages.stream(**asked, extra_body={"temperature": 0}) as betas:
            assert betas.get_final_text() == FRANCE

    def test_reasoning_is_a_separate_block_with_a_signature(
        self, client: anthropic.Anthropic
    ) -> None:
        asked: Any = {"model": QUESTIONS, "max_tokens": 100, "messages": user(), **THINKING}
        with client.messages.stream(**asked, extra_body={"temperature": 0}) as stream:
            kinds = {event.type for event in stream}
            thought, text = stream.get_final_message().content
        assert {"thinking", "signature", "text"} <= kinds
        assert thought.type == "thinking"
        assert thought.thinking == "The capital of France."
        assert thought.signature
        assert text.type == "text"
        again = client.messages.create(
            model=QUESTIONS,
            max_tokens=100,
            messages=[*user(), {"role": "assistant", "content": [thought, text]}, *user()],
            extra_body={"temperature": 0},
        )
        assert again.content[0].type == "text"

    def test_reasoning_can_be_omitted(self, taught: Daemon) -> None:
        keys = THINKING | {"thinking": {"type": "adaptive", "display": "omitted"}}
        thought, text = ask(taught, **keys)["content"]
        assert (thought["type"], thought["thinking"], text["text"]) == ("thinking", "", FRANCE)
        assert thought["signature"]
        assert put_together(events(taught, **keys))["content"] == [thought, text]

    def test_reasoning_ends_after_its_budget(self, taught: Daemon) -> None:
        keys = {"thinking": {"type": "enabled", "budget_tokens": 3}, "max_tokens": 40}
        answer = ask(taught, **THINKING | keys)
        thought = answer["content"][0]
        assert thought["type"] == "thinking"
        assert "The capital of France.".startswith(thought["thinking"])
        assert thought["thinking"] != "The capital of France."
        assert answer["content"][1]["type"] == "text"
        assert "warnings" not in answer
        assert put_together(events(taught, **THINKING | keys))["content"] == answer["content"]
        forced = ask(taught, tools=[WEATHER], tool_choice={"type": "any"}, **THINKING | keys)
        assert [block["type"] for block in forced["content"]] == ["thinking", "tool_use"]

    def test_a_tool_is_called_and_its_result_is_used(self, client: anthropic.Anthropic) -> None:
        asked: Any = {"model": QUESTIONS, "max_tokens": 100, "tools": [WEATHER]}
        asked["extra_body"] = {"temperature": 0}
        messages = user("What is the weather in Paris?")
        with client.messages.stream(messages=messages, **asked) as stream:
            called = stream.get_final_message()
        (block,) = called.content
        assert called.stop_reason == "tool_use"
        assert block.type == "tool_use"
        assert (block.name, block.input) == ("weather", {"city": "Paris"})
        result: Any = {"type": "tool_result", "tool_use_id": block.id, "content": "rainy"}
        messages += [called.to_param(), {"role": "user", "content": [result]}]
        answer = client.messages.create(messages=messages, **asked)
        assert [b.text for b in answer.content if b.type == "text"] == ["It is rainy in Paris."]
        assert answer.usage.cache_read_input_tokens

    def test_a_tool_call_can_be_forced(self, taught: Daemon) -> None:
        for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
            answer = ask(taught, tools=[WEATHER], tool_choice=choice)
            (block,) = answer["content"]
            assert (block["type"], block["name"]) == ("tool_use", "weather")
            assert isinstance(block["input"]["city"], str)
            assert answer["stop_reason"] == "tool_use"

    def test_structured_output_follows_its_schema(self, client: anthropic.Anthropic) -> None:
        asked: Any = {"model": QUESTIONS, "max_tokens": 200, "messages": user()}
        answer = client.messages.parse(**asked, output_format=Pet, extra_body={"temperature": 0})
        assert isinstance(answer.parsed_output, Pet)

    def test_stop_reasons_are_reported(self, taught: Daemon) -> None:
        found = ask(taught, stop_sequences=["of", "capital"])
        assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", "capital")
        assert found["content"][0]["text"] == "The "
        found = ask(taught, max_tokens=3)
        assert (found["stop_reason"], found["usage"]["output_tokens"]) == ("max_tokens", 3)
        assert ask(taught)["stop_reason"] == "end_turn"

    def test_a_response_prefilled_by_the_client_is_continued(self, taught: Daemon) -> None:
        begun = [*user(), {"role": "assistant", "content": "The capital of"}]
        (block,) = ask(taught, messages=begun)["content"]
        assert block["text"] == " France is Paris."

    def test_max_tokens_of_0_reads_the_prompt_into_the_cache(self, taught: Daemon) -> None:
        content = "What colour is grass? " * 20
        for keys in ({}, {"stream": True}):
            if keys:
                found = put_together(events(taught, messages=user(content), max_tokens=0))
            else:
                found = ask(taught, content, max_tokens=0)
            assert (found["content"], found["stop_reason"]) == ([], "max_tokens")
            assert found["usage"]["output_tokens"] == 0
        assert ask(taught, content)["usage"]["cache_read_input_tokens"] > 100


class TestCounting:
    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"system": "Be kind."},
            {"tools": [WEATHER]},
            THINKING,
            {"messages": [*user(), {"role": "assistant", "content": "The"}]},
        ],
    )
    def test_the_count_is_the_length_of_the_prompt(
        self, taught: Daemon, client: anthropic.Anthropic, keys: Any
    ) -> None:
        usage = ask(taught, **keys)["usage"]
        length = usage["input_tokens"] + usage["cache_read_input_tokens"]
        asked = {"model": QUESTIONS, "messages": user()} | keys
        assert client.messages.count_tokens(**asked).input_tokens == length
        assert client.beta.messages.count_tokens(**asked).input_tokens == length

    def test_a_count_cannot_be_streamed(self, taught: Daemon) -> None:
        status, answer = taught.request("POST", COUNT, body(stream=True))
        assert (status, list(answer)) == (200, ["input_tokens"])

    def test_errors_are_the_same_as_for_a_message(self, taught: Daemon) -> None:
        asked = {"model": QUESTIONS, "messages": [{"role": "user", "content": 5}]}
        status, answer = taught.request("POST", COUNT, asked)
        assert status == 400
        assert answer["error"]["param"] == "messages[0].content"


class TestErrors:
    @pytest.mark.parametrize(
        ("keys", "raised", "words"),
        [
            ({"model": "no/such"}, "NotFoundError", "no instance of no/such"),
            ({"messages": user([{"type": "image"}])}, "BadRequestError", "images"),
            ({"max_tokens": -1}, "BadRequestError", "max_tokens"),
            ({"messages": user("word " * 9000)}, "BadRequestError", "context length"),
        ],
    )
    def test_the_client_raises_the_same_exceptions_as_for_anthropics_api(
        self, client: anthropic.Anthropic, keys: Any, raised: str, words: str
    ) -> None:
        import anthropic

        with pytest.raises(getattr(anthropic, raised), match=words):
            client.messages.create(
                **({"model": QUESTIONS, "max_tokens": 5, "messages": user()} | keys)
            )

    @pytest.mark.parametrize(
        ("method", "path", "sent", "status", "kind"),
        [
            ("POST", PATH, b"{", 400, "invalid_request_error"),
            ("POST", PATH, {"messages": []}, 400, "invalid_request_error"),
            ("POST", PATH, {"model": "x" * 501}, 400, "invalid_request_error"),
            ("POST", COUNT, {"model": "no/such"}, 404, "not_found_error"),
            ("GET", PATH, None, 405, "invalid_request_error"),
            ("POST", "/v1/messages/batches", {}, 400, "invalid_request_error"),
            ("GET", "/v1/messages/batches", None, 400, "invalid_request_error"),
            ("GET", "/v1/messages/batches/x/results", None, 404, "not_found_error"),
            ("POST", "/v1/messages/nothing", {}, 404, "not_found_error"),
        ],
    )
    def test_every_error_has_anthropics_form(
        self, taught: Daemon, method: str, path: str, sent: Any, status: int, kind: str
    ) -> None:
        answer = refused(taught, method, path, sent)
        assert answer == (status, "error", kind)

    def test_anthropics_clients_get_its_error_form_on_other_routes_too(
        self, taught: Daemon
    ) -> None:
        headers = {"anthropic-version": "2023-06-01"}
        assert refused(taught, "GET", "/v1/files", None, headers) == (
            404,
            "error",
            "not_found_error",
        )

    def test_an_invalid_stream_request_is_refused_with_its_status(self, taught: Daemon) -> None:
        with pytest.raises(urllib.error.HTTPError) as error:
            taught.stream(PATH, body([{"type": "image"}], stream=True))
        with error.value as reply:
            assert (reply.code, json.load(reply)["type"]) == (400, "error")


def refused(
    daemon: Daemon, method: str, path: str, sent: Any, headers: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Status, and types in the body of an error."""
    data = sent if isinstance(sent, bytes) or sent is None else json.dumps(sent).encode()
    request = urllib.request.Request(daemon.url + path, data, headers or {}, method=method)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=90)
    with error.value as reply:
        answer = json.load(reply)
    assert answer["error"]["message"]
    return error.value.code, answer["type"], answer["error"]["type"]


def test_errors_raised_before_any_middleware_have_anthropics_form(taught: Daemon) -> None:
    found = refused(taught, "POST", PATH, {}, {"Expect": "a miracle"})
    assert found == (417, "error", "invalid_request_error")


def test_requests_without_the_token_are_refused_in_anthropics_form(home: Home) -> None:
    import anthropic

    (home.root / "token").write_text("secret\n", "utf-8")
    with Daemon(home, "--token-file", str(home.root / "token")) as daemon:
        expected = (401, "error", "authentication_error")
        assert refused(daemon, "POST", PATH, {}) == expected
        assert refused(daemon, "POST", PATH, {}, {"x-api-key": "wrong"}) == expected
        known = {"x-api-key": "secret"}
        assert refused(daemon, "POST", PATH, {}, known) == (400, "error", "invalid_request_error")
        for key, token in (("secret", None), (None, "secret")):
            with anthropic.Anthropic(
                base_url=daemon.url, max_retries=0, api_key=key, auth_token=token
            ) as client:
                assert client.models.list().data == []


def test_unknown_hosts_are_refused_in_anthropics_form(taught: Daemon) -> None:
    found = refused(taught, "POST", PATH, {}, {"Host": "evil.example"})
    assert found == (403, "error", "permission_error")


def test_the_models_are_listed_as_anthropics_client_reads_them(
    taught: Daemon, client: anthropic.Anthropic
) -> None:
    import anthropic

    taught.load({"model": QUESTIONS, "instance_id": "listed"})  # on a page of its own
    listed = {model.id: model for model in client.models.list(limit=1)}
    assert listed.keys() == taught.loaded()
    found = listed[QUESTIONS]
    assert (found.type, found.display_name, found.lifecycle) == ("model", QUESTIONS, "active")
    assert found.created_at.year > 2000
    assert client.models.retrieve(QUESTIONS) == found
    with pytest.raises(anthropic.NotFoundError, match="no/such"):
        client.models.retrieve("no/such")
