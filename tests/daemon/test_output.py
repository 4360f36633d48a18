"""Reasoning and tool calls of real checkpoints, with the real daemon."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import scripted
from tests.rendering import OWN, Template
from tests.support import Daemon
from tests.worker.test_round_trip import CASES, ENDS, TOOLS, USER, turns

CHAT = "/v1/chat/completions"

FAMILIES = {
    "harmony": "<|call|>",
    "qwen_tags": "<|im_end|>",
    "mistral_named": "<EOS>",
    "hermes": "<|im_end|>",
    "deepseek_v31": "<｜end▁of▁sentence｜>",
    "kimi": "<|im_end|>",
    "glm": "<|user|>",
    "gemma4": "<turn|>",
    "dsml": "<｜end▁of▁sentence｜>",
    "command_r7b": "<|END_OF_TURN_TOKEN|>",
    "seed": "<|im_end|>",
    "minimax": "<|im_end|>",
}
"""Our own templates with reasoning and calls, and the token that ends their turns."""

QUICK = ("harmony", "mistral_named")


def families() -> list[Any]:
    marks = {True: (), False: (pytest.mark.long,)}
    return [pytest.param(name, marks=marks[name in QUICK]) for name in FAMILIES]


def body_of(model: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    # Reasoning markers in the user's text have no effect.
    user = {"role": "user", "content": USER["content"] + " <think> <|channel|>"}
    body = {"model": model, "messages": [user], "temperature": 0, "tools": TOOLS}
    return body | {"stream": stream, "stream_options": {"include_usage": True}} | more


def made(daemon: Daemon, name: str, text: str, **more: Any) -> dict[str, Any]:
    """Load a checkpoint with that template; return the request that it answers."""
    body = body_of(name, **more)
    source = (OWN / f"{name.partition('-')[0]}.jinja").read_text("utf-8")
    end = FAMILIES[name.partition("-")[0]]
    scripted.make(Path(daemon.home.models) / "scripted" / name, source, body, text, end=end)
    daemon.load({"model": f"scripted/{name}", "instance_id": name})
    return body


def streamed(daemon: Daemon, body: dict[str, Any]) -> dict[str, Any]:
    """Assemble the message of a streamed response."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    with daemon.stream(CHAT, body | {"stream": True}) as reply:
        for line in reply:
            data = line.decode().removeprefix("data: ").strip()
            if not data.startswith("{"):
                continue
            event = json.loads(data)
            if event.get("usage"):
                message["usage"] = event["usage"]
            for choice in event["choices"]:
                delta = choice["delta"]
                message["content"] += delta.get("content") or ""
                message["reasoning_content"] += delta.get("reasoning_content") or ""
                message["tool_calls"] += delta.get("tool_calls") or []
                message["finish_reason"] = choice["finish_reason"]
    return message


def functions(message: dict[str, Any]) -> list[tuple[str, Any]]:
    called = [call["function"] for call in message.get("tool_calls") or []]
    return [(one["name"], json.loads(one["arguments"])) for one in called]


@pytest.mark.parametrize("family", families())
def test_a_turn_written_by_a_model_is_parsed_into_that_turn(shared: Daemon, family: str) -> None:
    reasoning, _, calls = CASES["reasoning and call"]
    turn = next(turns("reasoning and call"))
    _, _, text = Template(OWN / f"{family}.jinja").turn([USER], turn, TOOLS)
    text = ENDS.split(text)[0] if family != "harmony" else text.removesuffix("<|call|>")
    body = made(shared, family, text)
    status, answer = shared.request("POST", CHAT, body | {"stream": False})
    assert status == 200, answer
    choice = answer["choices"][0]
    whole = choice["message"] | {"finish_reason": choice["finish_reason"]}
    for message in (whole, streamed(shared, body)):
        assert message["finish_reason"] == "tool_calls"
        assert functions(message) == calls
        assert message["reasoning_content"] == reasoning
        assert not message["content"]
    spent = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 <= spent - len(reasoning) <= 20  # a token is a byte; markers and line breaks count
    record = shared.get(f"/api/v1/records/{family}")
    assert "output_format" not in [w["key"] for w in record["status"].get("warnings") or []]


def test_an_unknown_tool_call_format_warns_and_stays_text(shared: Daemon) -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.tool_calls }}{% endfor %}"
    source += "{% if tools %}{{ tools | tojson }}{% endif %}[assistant]"
    body, text = body_of("unknown"), "<<call weather>>"
    directory = Path(shared.home.models) / "scripted" / "unknown"
    scripted.make(directory, source, body, text)
    shared.load({"model": "scripted/unknown", "instance_id": "unknown"})
    _, answer = shared.request("POST", CHAT, body | {"stream": False})
    message = answer["choices"][0]["message"]
    assert (message["content"], message.get("tool_calls")) == (text, None)
    warnings = shared.get("/api/v1/records/unknown")["status"]["warnings"]
    assert [w["key"] for w in warnings].count("output_format") == 1


def test_with_tool_choice_none_a_call_stays_text(shared: Daemon) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    body = made(shared, "hermes-none", text, tool_choice="none")
    _, answer = shared.request("POST", CHAT, body | {"stream": False})
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in choice["message"]
