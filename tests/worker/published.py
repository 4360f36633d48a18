"""Chat templates as their publishers ship them, if present, and requests to try them with."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from reconciler.worker.prompt import Prompts
from reconciler.worker.request import parse
from tests.tiny import VOCABULARY, new_tokenizer

DIRECTORY = Path(__file__).parents[3] / "shared" / "chat-templates"
"""The templates belong to their publishers and are not part of this repository."""

TEMPLATES = sorted(DIRECTORY.glob("*.jinja"))

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look at the sky",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where"}},
            "required": ["city"],
        },
    },
}


def user(content: Any = "USERONE") -> dict[str, Any]:
    return {"role": "user", "content": content}


def call(arguments: Any = '{"city": "Oslo"}', **more: Any) -> dict[str, Any]:
    """An assistant message with one call."""
    function = {"name": "weather", "arguments": arguments}
    calls = [{"id": "call_abc123", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls} | more


def result(content: str = "RESULTONE") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_abc123", "content": content}


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


Request = tuple[dict[str, Any], tuple[str, ...]]
"""Keys of a request, and texts of it that the model must read."""

ORDINARY: dict[str, Request] = {
    "a user turn": ({"messages": [user()]}, ("USERONE",)),
    "a system turn": ({"messages": [turn("system", "SYSONE"), user()]}, ("SYSONE", "USERONE")),
    "a developer turn": (
        {"messages": [turn("developer", "SYSONE"), user()]},
        ("SYSONE", "USERONE"),
    ),
    "a late system turn": (
        {
            "messages": [
                user(),
                turn("assistant", "ANSWER"),
                turn("system", "SYSONE"),
                user("USERTWO"),
            ]
        },
        ("SYSONE", "USERONE", "ANSWER", "USERTWO"),
    ),
    "tools": ({"messages": [user()], "tools": [WEATHER]}, ("USERONE", "weather", "city")),
    "a round trip": (
        {"messages": [user(), call(), result()], "tools": [WEATHER]},
        ("USERONE", "weather", "Oslo", "RESULTONE"),
    ),
    "a round trip with empty arguments": (
        {"messages": [user(), call(""), result()], "tools": [WEATHER]},
        ("USERONE", "weather", "RESULTONE"),
    ),
    "parts": (
        {
            "messages": [
                user([{"type": "text", "text": "USERONE"}, {"type": "text", "text": "USERTWO"}])
            ]
        },
        ("USERONEUSERTWO",),
    ),
    "a call without content": (
        {"messages": [user(), call(content=None), result()], "tools": [WEATHER]},
        ("USERONE", "weather", "Oslo", "RESULTONE"),
    ),
}
"""Requests that any client sends."""


def _two_calls() -> list[dict[str, Any]]:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        for i, arguments in enumerate(('{"city": "Oslo"}', '{"city": "Rome"}'))
    ]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": f"SKY{i}"} for i in (1, 0)]
    return [user(), {"role": "assistant", "content": None, "tool_calls": calls}, *results]


_LONG = [
    *(user(), call(), result(), turn("assistant", "ANSWER"), user("USERTWO")),
    *(call('{"city": "Rome"}'), result("RESULTTWO")),
]

UNUSUAL: dict[str, Request] = {
    "calls without tools": (
        {"messages": [user(), call(), result()]},
        ("USERONE", "weather", "Oslo", "RESULTONE"),
    ),
    "two calls": (
        {"messages": _two_calls(), "tools": [WEATHER]},
        ("Oslo", "Rome", "SKY0", "SKY1"),
    ),
    "arguments that are no JSON": (
        {"messages": [user(), call("Oslo, please"), result()], "tools": [WEATHER]},
        ("Oslo, please", "RESULTONE"),
    ),
    "arguments that are an object": (
        {"messages": [user(), call({"city": "Oslo"}), result()], "tools": [WEATHER]},
        ("Oslo", "RESULTONE"),
    ),
    "no arguments": (
        {"messages": [user(), call(None), result()], "tools": [WEATHER]},
        ("weather", "RESULTONE"),
    ),
    "the assistant first": (
        {"messages": [turn("assistant", "ANSWER"), user()]},
        ("ANSWER", "USERONE"),
    ),
    "two user turns": ({"messages": [user(), user("USERTWO")]}, ("USERONE", "USERTWO")),
    "system and developer": (
        {"messages": [turn("system", "SYSONE"), turn("developer", "SYSTWO"), user()]},
        ("SYSONE", "SYSTWO", "USERONE"),
    ),
    "a user turn after a result": (
        {"messages": [user(), call(), result(), user("USERTWO")], "tools": [WEATHER]},
        ("Oslo", "RESULTONE", "USERTWO"),
    ),
    "an agent's second round": (
        {"messages": _LONG, "tools": [WEATHER]},
        ("USERONE", "Oslo", "RESULTONE", "ANSWER", "USERTWO", "Rome", "RESULTTWO"),
    ),
    "a tool with nothing but a name": (
        {"messages": [user()], "tools": [{"type": "function", "function": {"name": "weather"}}]},
        ("USERONE", "weather"),
    ),
    "text, reasoning and a call": (
        {
            "messages": [user(), call(content="BESIDE", reasoning_content="THOUGHT"), result()],
            "tools": [WEATHER],
        },
        ("Oslo", "RESULTONE"),
    ),
    "calls without ids": (
        {
            "messages": [
                user(),
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
                    ],
                },
                turn("tool", "RESULTONE"),
            ],
            "tools": [WEATHER],
        },
        ("Oslo", "RESULTONE"),
    ),
    "a result without its call": (
        {"messages": [user(), result(), user("USERTWO")], "tools": [WEATHER]},
        ("USERONE", "RESULTONE", "USERTWO"),
    ),
    "a continued message": (
        {"messages": [user(), turn("assistant", "ANSWER")], "continue_final_message": True},
        ("USERONE", "ANSWER"),
    ),
    "a refusal": (
        {
            "messages": [
                user(),
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "NEVER"}]},
                user("USERTWO"),
            ]
        },
        ("USERONE", "NEVER", "USERTWO"),
    ),
    "a system turn alone": ({"messages": [turn("system", "SYSONE")]}, ("SYSONE",)),
    "a legacy function call": (
        {
            "messages": [
                user(),
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                },
                {"role": "function", "name": "weather", "content": "RESULTONE"},
            ],
            "tools": [WEATHER],
        },
        ("Oslo", "RESULTONE"),
    ),
}
"""Requests that some clients send, and conversations as they grow."""


def tokenizer(template: str | dict[str, str]) -> Any:
    """A real mlx-lm tokenizer with the given chat template."""
    plain = copy.copy(_plain())
    plain.chat_template = template
    return TokenizerWrapper(plain)


@cache
def _plain() -> Any:
    plain = new_tokenizer()
    plain.bos_token = "<|begin|>"
    return plain


class Chat:
    """A chat template that requests are rendered with."""

    def __init__(self, template: str | dict[str, str], name: str = "") -> None:
        self.name = name
        self.tokenizer = tokenizer(template)
        # The token `<|begin|>` is added to the vocabulary.
        self.prompts = Prompts(self.tokenizer, VOCABULARY + 1)

    def prompt(self, messages: list[Any], **more: Any) -> Any:
        """Render the prompt of a request. Raises `RequestError`."""
        body = {"model": "m", "messages": messages} | more
        return self.prompts.build(parse(json.dumps(body).encode(), chat=True), chat=True)

    def text(self, messages: list[Any], **more: Any) -> str:
        """Render the prompt of a request as text."""
        return str(self.tokenizer.decode(self.prompt(messages, **more).tokens))
