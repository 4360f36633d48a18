"""Test the translation of Responses requests to chat completions."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import FunctionTool
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from reconciler.worker.dialects.responses.items import NO_PICTURE
from reconciler.worker.dialects.responses.reading import HARMLESS, STORED, read
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError
from tests.strictly import strictly


def asked(words: Any = "Hello", **keys: Any) -> Translated:
    return read({"model": "m", "input": words, **keys})


def messages(*items: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(list(items)).sent["messages"]
    return found


def reasoning(text: str, *, summary: bool = False) -> dict[str, Any]:
    kind = "summary_text" if summary else "reasoning_text"
    parts = [{"type": kind, "text": text}]
    whole: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": []}
    return whole | ({"summary": parts} if summary else {"content": parts})


def message_item(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    keys = {"type": "message", "role": "assistant", "status": "completed", "phase": "commentary"}
    return {"id": "msg_1", **keys, "content": [part]}


def called(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def result(call_id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def written(call_id: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def test_a_text_becomes_a_user_message_after_the_instructions() -> None:
    sent = asked("Hello", instructions="Be brief.", max_output_tokens=5, seed=3).sent
    assert sent == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "max_output_tokens": 5,
        "seed": 3,
    }


def test_items_of_the_model_between_two_turns_become_one_message() -> None:
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        reasoning("I call f"),
        message_item("Let me look."),
        called("a"),
        called("b", "g", '{"x": 1}'),
        result("a", "1"),
        result("b", [{"type": "input_text", "text": "2"}, {"type": "input_text", "text": "3"}]),
        reasoning("Both are there", summary=True),
        message_item("Done."),
        {"role": "user", "content": "Thanks"},
    ) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "I call f",
            "tool_calls": [written("a"), written("b", "g", '{"x": 1}')],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2\n3"},
        {"role": "assistant", "content": "Done.", "reasoning_content": "Both are there"},
        {"role": "user", "content": "Thanks"},
    ]


def test_a_late_developer_message_keeps_its_place() -> None:
    developer = {"role": "developer", "content": "x"}
    user = {"role": "user", "content": "y"}
    found = asked([developer, developer, user, developer, user], instructions="z")
    assert found.reminders == [4]
    assert asked([developer]).reminders == []


def test_two_consecutive_answers_stay_separate() -> None:
    found = messages(
        {"role": "assistant", "content": "a"}, message_item("b"), called("c"), message_item("d")
    )
    assert found == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b\n\nd", "tool_calls": [written("c")]},
    ]


def test_a_call_of_a_custom_tool_has_one_argument() -> None:
    call = {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": "*** Begin"}
    output = {"type": "custom_tool_call_output", "call_id": "a", "output": "ok"}
    assert messages(call, output) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [written("a", "patch", {"input": "*** Begin"})],
        },
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
    ]


def test_unreadable_items_of_a_history_are_reported() -> None:
    found = asked(
        [
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            result("a", [{"type": "input_image", "image_url": "data:"}]),
        ]
    )
    assert found.sent["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": NO_PICTURE},
    ]
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        *("input[0].encrypted_content", "input[1]", "input[2].output[0]"),
    ]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ("text", "input[1]"),
        ({}, "input[1]"),
        ({"id": "msg_1"}, "input[1]"),
        ({"type": "item_reference", "id": "msg_1"}, "input[1]"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[1]"),
        ({"type": "massage"}, "input[1].type"),
        ({"type": []}, "input[1].type"),
        ({"role": "tool", "content": "x"}, "input[1].role"),
        ({"role": "user"}, "input[1]"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[1].content[0]"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0].text"),
        ({"type": "function_call", "name": "f"}, "input[1]"),
        ({"type": "function_call", "name": "f", "call_id": 3}, "input[1].call_id"),
        ({"type": "function_call_output", "output": [3]}, "input[1].output[0]"),
        ({"type": "reasoning", "summary": [{}]}, "input[1].summary[0]"),
    ],
)
def test_an_invalid_item_is_refused_with_its_place(item: Any, param: str) -> None:
    with pytest.raises(RequestError) as raised:
        asked([{"role": "user", "content": "x"}, item])
    assert (raised.value.param, raised.value.status) == (param, 400)
    assert str(raised.value).startswith(param)


TOOLS: list[dict[str, Any]] = [
    {"type": "web_search"},
    {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
    {"type": "namespace", "name": "n", "description": "", "tools": []},
    {"type": "custom", "name": "g", "description": "Patch."},
    {"type": "function", "name": "h", "description": None, "parameters": None, "strict": None},
]


def test_function_and_custom_tools_are_kept_and_others_ignored() -> None:
    found = asked(tools=TOOLS)
    names = [tool["function"]["name"] for tool in found.sent["tools"]]
    assert names == ["f", "g", "h"]
    assert [warning.partition(":")[0] for warning in found.warnings] == ["tools[0]", "tools[2]"]
    assert found.sent["tools"][0]["function"] == {
        "name": "f",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert [found.names[f"tools[{index}].function"] for index in range(3)] == [
        *("tools[1]", "tools[3]", "tools[4]"),
    ]
    repeated = json.loads(found.echo["tools"])
    assert [strictly(FunctionTool, repeated[index]).strict for index in (0, 2)] == [True, False]
    assert repeated[1] == TOOLS[3]
    assert found.echo["custom"] == ["g"]


def test_the_grammar_of_a_custom_tool_is_described() -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": "start: 'a'"}
    found = asked(tools=[TOOLS[3] | {"format": form}])
    assert "start: 'a'" in found.sent["tools"][0]["function"]["description"]
    assert found.warnings[0].startswith("tools[0].format")


@pytest.mark.parametrize(
    ("choice", "chosen", "left"),
    [
        ("auto", "auto", "fgh"),
        ("none", "none", "fgh"),
        ("required", "required", "fgh"),
        ({"type": "function", "name": "f"}, {"name": "f"}, "fgh"),
        ({"type": "custom", "name": "g"}, {"name": "g"}, "fgh"),
        ({"type": "allowed_tools", "mode": "auto", "tools": TOOLS[:2]}, "auto", "f"),
        ({"type": "allowed_tools", "mode": "required", "tools": TOOLS[3:]}, "required", "gh"),
    ],
)
def test_every_tool_choice_is_translated(choice: Any, chosen: Any, left: str) -> None:
    found = asked(tools=TOOLS, tool_choice=choice)
    assert "".join(tool["function"]["name"] for tool in found.sent["tools"]) == left
    made = found.sent["tool_choice"]
    assert (made["function"] if isinstance(made, dict) else made) == chosen
    assert json.loads(found.echo["tool_choice"]) == choice
    places = [found.names[f"tools[{i}].function"] for i in range(len(left))]
    assert places == [f"tools[{ {'f': 1, 'g': 3, 'h': 4}[name] }]" for name in left]


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "x", "tools": []}}, "tool_choice.mode"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": {}}, "tools"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}] * 1001}, "tools"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": []}, "text"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"instructions": 3}, "instructions"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"include": "x"}, "include"),
        ({"stream_options": True}, "stream_options"),
        ({"n": 2}, "n"),
        ({"input": 3}, "input"),
        *(({key: {"id": "x"}}, key) for key in STORED),
    ],
)
def test_an_invalid_key_is_refused_by_its_name(keys: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as raised:
        asked(**keys) if "input" not in keys else read(keys)
    assert raised.value.param == param


def test_messages_are_refused_with_the_route_that_takes_them() -> None:
    with pytest.raises(RequestError, match="messages is a key of /v1/chat/completions"):
        read({"messages": [{"role": "user", "content": "x"}]})


def test_a_format_is_translated_to_that_of_a_chat() -> None:
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    found = asked(text={"format": form, "verbosity": "medium"})
    assert found.sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
    }
    assert json.loads(found.echo["format"]) == form
    assert found.warnings == []
    plain = asked(text={"format": {"type": "text"}}).sent["response_format"]
    assert plain == {"type": "text"}


def test_a_chat_key_keeps_the_name_that_the_client_sent() -> None:
    assert asked().names["reasoning_effort"] == "reasoning.effort"
    assert "reasoning_effort" not in asked(reasoning_effort="low").names


def test_big_integers_are_preserved() -> None:
    schema = {"type": "object", "properties": {}, "maxProperties": 10**40}
    found = asked(tools=[TOOLS[1] | {"parameters": schema}])
    assert json.loads(found.echo["tools"])[0]["parameters"] == schema


def test_a_codex_request_is_read() -> None:
    """Keys and kinds of values are those of Codex 0.171."""
    found = read(
        {
            "model": "m",
            "input": [
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "developer",
                    "content": [{"type": "input_text", "text": "You are a coding agent."}],
                },
                {
                    "type": "message",
                    "id": "msg_2",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "run ls"}],
                },
            ],
            "tools": [TOOLS[1], TOOLS[2], {"type": "web_search", "external_web_access": False}],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"summary": "auto"},
            "store": False,
            "stream": True,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "01a21a77",
            "client_metadata": {"session_id": "01a21a77"},
        }
    )
    assert found.sent == {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "You are a coding agent."},
            {"role": "user", "content": "run ls"},
        ],
        "tools": found.sent["tools"],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "stream": True,
    }
    assert found.echo["reasoning"] == {"effort": None, "summary": "auto"}
    assert len(found.warnings) == 2


def test_every_key_of_the_official_client_is_documented() -> None:
    text = Path("docs/http/responses.md").read_text("utf-8")
    section = text.partition("## `POST /v1/responses`")[2].partition("\n## ")[0]
    chat = {"model", "temperature", "top_p", "parallel_tool_calls", "moderation"}
    keys = {*ResponseCreateParamsBase.__annotations__, *HARMLESS} - chat
    assert [key for key in sorted(keys) if f"`{key}" not in section] == []
