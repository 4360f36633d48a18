"""LM Studio's inference routes on a real daemon, checked against its documented examples."""

import json
import math
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.conftest import QUESTIONS
from tests.support import Daemon, parse_stream

CHAT, V0_CHAT, V0_TEXT = "/api/v1/chat", "/api/v0/chat/completions", "/api/v0/completions"

NUMBER, STRING = {"type": "number"}, {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    """Schema of an object with these keys and no others; keys that end in _ are optional."""
    return {
        "type": "object",
        "required": [key for key in properties if not key.endswith("_")],
        "additionalProperties": False,
        "properties": {key.removesuffix("_"): value for key, value in properties.items()},
    }


RESULT = closed(
    model_instance_id=STRING,
    output={
        "type": "array",
        "items": closed(type={"enum": ["message", "reasoning"]}, content=STRING),
    },
    stats=closed(
        input_tokens=NUMBER,
        total_output_tokens=NUMBER,
        reasoning_output_tokens=NUMBER,
        tokens_per_second=NUMBER,
        time_to_first_token_seconds=NUMBER,
        model_load_time_seconds_=NUMBER,
    ),
    warnings_={"type": "array", "items": STRING},
)
"""LM Studio's documentation, "Chat with a model", without parts that need tools or stored chats."""

NAMED = closed(type=STRING, model_instance_id=STRING)
TEXT = closed(type=STRING, content=STRING)
ALONE = closed(type=STRING)
PROGRESS = closed(type=STRING, progress={"type": "number", "minimum": 0, "maximum": 1})

EVENTS = {
    "chat.start": NAMED,
    "model_load.start": NAMED,
    "model_load.end": closed(type=STRING, model_instance_id=STRING, load_time_seconds=NUMBER),
    "prompt_processing.start": ALONE,
    "prompt_processing.progress": PROGRESS,
    "prompt_processing.end": ALONE,
    "reasoning.start": ALONE,
    "reasoning.delta": TEXT,
    "reasoning.end": ALONE,
    "message.start": ALONE,
    "message.delta": TEXT,
    "message.end": ALONE,
    "chat.end": closed(type=STRING, result=RESULT),
}
"""LM Studio's documentation, "Streaming events"."""

FACTS = {
    "stats": closed(
        tokens_per_second=NUMBER,
        time_to_first_token=NUMBER,
        generation_time=NUMBER,
        stop_reason=STRING,
    ),
    "model_info": closed(
        arch=STRING,
        quant={"type": ["string", "null"]},
        format={"const": "mlx"},
        context_length={"type": "integer"},
    ),
    "runtime": closed(
        name=STRING, version=STRING, supported_formats={"type": "array", "items": STRING}
    ),
}
"""LM Studio's documentation, "REST API v0"."""


def holds(schema: dict[str, Any], value: Any) -> None:
    assert [error.message for error in Draft202012Validator(schema).iter_errors(value)] == [], value


def ask(daemon: Daemon, path: str, body: dict[str, Any]) -> Any:
    status, answer = daemon.request("POST", path, {"model": QUESTIONS, "temperature": 0} | body)
    assert status == 200, answer
    return answer


def events(daemon: Daemon, body: dict[str, Any]) -> list[tuple[str, Any]]:
    asked = {"model": QUESTIONS, "temperature": 0, "stream": True} | body
    with daemon.stream(CHAT, asked) as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        return list(parse_stream(reply))


def test_a_chat_has_lm_studios_own_form(taught: Daemon) -> None:
    question = "What is the capital of France?"
    for asked in (question, [{"type": "text", "content": question}]):
        answer = ask(taught, CHAT, {"input": asked, "system_prompt": "Be kind."})
        holds(RESULT, answer)
        message = {"type": "message", "content": "The capital of France is Paris."}
        assert answer["output"] == [message]
        assert answer["model_instance_id"] == QUESTIONS
        assert answer["stats"]["tokens_per_second"] > 0
        assert "model_load_time_seconds" not in answer["stats"]


def test_chat_events_are_in_order_and_add_up(taught: Daemon) -> None:
    body = {"input": "What is the capital of France?", "reasoning": "low"}
    sent = events(taught, body)
    for kind, data in sent:
        assert data["type"] == kind
        holds(EVENTS[kind], data)
    kinds = [kind for kind, _ in sent]
    once = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    progress = ["prompt_processing.progress"] * ("prompt_processing.progress" in once)
    assert once == [
        *("chat.start", "prompt_processing.start", *progress, "prompt_processing.end"),
        *("reasoning.start", "reasoning.delta", "reasoning.end"),
        *("message.start", "message.delta", "message.end", "chat.end"),
    ]
    result = sent[-1][1]["result"]
    for output in result["output"]:
        deltas = [data["content"] for k, data in sent if k == f"{output['type']}.delta"]
        assert "".join(deltas) == output["content"]
    whole = ask(taught, CHAT, body)
    assert result["output"] == whole["output"]
    assert [output["type"] for output in whole["output"]] == ["reasoning", "message"]
    assert 0 < whole["stats"]["reasoning_output_tokens"] < whole["stats"]["total_output_tokens"]


def test_a_chat_that_loads_its_model_streams_the_load_events(shared: Daemon) -> None:
    name = "lm-studio-idle"
    shared.load({"model": "tiny/llama", "instance_id": name, "idle_ttl_seconds": 1})
    shared.until(lambda: name not in shared.loaded())
    sent = events(shared, {"model": name, "input": "hi", "max_output_tokens": 3})
    kinds = [kind for kind, _ in sent]
    assert kinds[:4] == [
        *("chat.start", "model_load.start", "model_load.end", "prompt_processing.start")
    ]
    seconds = sent[2][1]["load_time_seconds"]
    assert sent[-1][1]["result"]["stats"]["model_load_time_seconds"] == seconds > 0


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"integrations": ["mcp/x"]}, "unsupported_parameter", "integrations"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"input": [{"type": "image", "data_url": "data:,"}]}, "unsupported_parameter", "input"),
        ({"input": 5}, "invalid_value", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"inputs": "x"}, "unrecognized_keys", "inputs"),
        ({"reasoning": "a lot"}, "invalid_value", "reasoning"),
        ({"max_output_tokens": 0.5}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"repeat_penalty": 100}, "invalid_value", "repeat_penalty"),
    ],
)
def test_unsupported_keys_are_refused_by_name(
    taught: Daemon, more: dict[str, Any], code: str, param: str
) -> None:
    body = {"model": QUESTIONS, "input": "x"} | more
    status, answer = taught.request("POST", CHAT, body)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, code, param)
    assert param in answer["error"]["message"]


def test_ignored_keys_are_listed(taught: Daemon) -> None:
    body = {"input": "Hello", "store": True, "context_length": 77, "max_output_tokens": 3}
    answer = ask(taught, CHAT, body)
    holds(RESULT, answer)
    assert [words.partition(":")[0] for words in answer["warnings"]] == ["context_length", "store"]
    assert "warnings" not in ask(taught, CHAT, {"input": "Hello", "store": False})


def test_a_response_in_openais_form_has_statistics(taught: Daemon) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = ask(taught, V0_CHAT, {"messages": messages})
    for key, schema in FACTS.items():
        holds(schema, answer[key])
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["stats"]["stop_reason"] == "eosFound"
    made = answer["stats"]["tokens_per_second"] * answer["stats"]["generation_time"]
    assert math.isclose(made, answer["usage"]["completion_tokens"])
    assert answer["model_info"]["arch"] == taught.get(f"/api/v0/models/{QUESTIONS}")["arch"]
    for more, reason in (
        ({"max_tokens": 3}, "maxPredictedTokensReached"),
        ({"stop": "France"}, "stopStringFound"),
    ):
        cut = ask(taught, V0_CHAT, {"messages": messages} | more)
        assert cut["stats"]["stop_reason"] == reason
    text = ask(taught, V0_TEXT, {"prompt": "x", "max_tokens": 3})
    assert text["object"] == "text_completion"
    holds(FACTS["stats"], text["stats"])


def test_a_stream_in_openais_form_ends_with_statistics(taught: Daemon) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": QUESTIONS, "messages": messages, "stream": True}
    with taught.stream(V0_CHAT, body) as reply:
        lines = [line.strip() for line in reply if line.strip()]
    assert lines[-1] == b"data: [DONE]"
    last = json.loads(lines[-2].removeprefix(b"data: "))
    assert last["choices"] == []
    for key, schema in FACTS.items():
        holds(schema, last[key])


def test_the_v0_list_of_models_has_the_documented_form(taught: Daemon) -> None:
    taught.load({"model": "tiny/llama", "instance_id": "v0-named"})
    rows = {row["id"]: row for row in taught.get("/api/v0/models")["data"]}
    assert rows[QUESTIONS]["state"] == "loaded"
    assert rows["tiny/mamba"]["state"] == "not-loaded"
    assert rows["tiny/llama-4bit"]["quantization"] == "4bit"
    assert rows["v0-named"]["loaded_context_length"]
    assert taught.get(f"/api/v0/models/{QUESTIONS}") == rows[QUESTIONS]
    status, answer = taught.request("GET", "/api/v0/models/nobody/knows")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_the_list_of_models_includes_reasoning_options(taught: Daemon) -> None:
    rows = {row["key"]: row for row in taught.get("/api/v1/models")["models"]}
    reasoning = rows[QUESTIONS]["capabilities"]["reasoning"]
    assert reasoning == {"allowed_options": ["low", "medium", "high"], "default": "medium"}
    assert "reasoning" not in rows["tiny/mamba"]["capabilities"]
