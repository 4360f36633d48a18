"""Test the translation of messages and tools of Anthropic Messages requests."""

from typing import Any

import pytest

from reconciler.worker.dialects.messages.reading import read
from reconciler.worker.dialects.messages.signatures import of_text
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError
from reconciler.worker.request import of_keys

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}


def asked(messages: Any = HELLO, **keys: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 10, "messages": messages} | keys


def translated(messages: Any = HELLO, **keys: Any) -> Translated:
    """Translate a request, which must pass the checks of a chat completion without a warning."""
    found = read(asked(messages, **keys))
    assert of_keys(found.sent, chat=True).warnings == []
    return found


def chat(messages: Any = HELLO, **keys: Any) -> Any:
    return translated(messages, **keys).sent["messages"]


def refused(messages: Any = HELLO, **keys: Any) -> tuple[str, str | None]:
    """The error message of a refused request, and the key that it names."""
    with pytest.raises(RequestError) as error:
        of_keys(read(asked(messages, **keys)).sent, chat=True)
    assert error.value.status == 400
    return str(error.value), error.value.param


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def used(name: str, number: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": number, "name": name, "input": arguments}


def result(number: str, content: Any = "sunny", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": number, "content": content} | more


class TestMessages:
    def test_texts_and_text_blocks_become_messages(self) -> None:
        messages = [
            {"role": "user", "content": [text_block("One."), text_block("Two.")]},
            {"role": "assistant", "content": [text_block("Thr"), text_block("ee.")]},
            {"role": "user", "content": "Four."},
        ]
        assert chat(messages, system=[text_block("A."), text_block("B.")]) == [
            {"role": "system", "content": "A.\n\nB."},
            {"role": "user", "content": "One.\n\nTwo."},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": "Four."},
        ]

    def test_the_system_prompt_may_be_a_text_a_list_empty_or_a_message(self) -> None:
        assert chat(system="Be kind.")[0] == {"role": "system", "content": "Be kind."}
        for nothing in (None, "", [], [text_block("")]):
            assert chat(system=nothing) == HELLO
        first = [{"role": "system", "content": [text_block("Be kind.")]}, *HELLO]
        found = translated(first, system="Be brief.")
        assert [m["role"] for m in found.sent["messages"]] == ["system", "system", "user"]
        assert found.reminders == []

    def test_a_late_system_message_keeps_its_place(self) -> None:
        late = {"role": "system", "content": "It is night."}
        found = translated([*HELLO, late, {"role": "assistant", "content": "Hi"}, *HELLO, late])
        roles = [message["role"] for message in found.sent["messages"]]
        assert roles == ["user", "system", "assistant", "user", "system"]
        assert found.reminders == [1, 4]

    def test_the_billing_block_of_the_client_is_removed(self) -> None:
        billing = text_block(
            "x-anthropic-billing-header: cc_version=2.1.197.8a5; cc_entrypoint=cli;"
        )
        assert chat(system=[billing, text_block("Be kind.")])[0]["content"] == "Be kind."
        assert chat(system=[billing]) == HELLO

    def test_tool_calls_and_their_results_are_translated(self) -> None:
        messages = [
            *HELLO,
            {
                "role": "assistant",
                "content": [text_block("I look."), used("weather", "t1", city="Rome")],
            },
            {"role": "user", "content": [result("t1", [text_block("sunny"), text_block("warm")])]},
        ]
        function = {"name": "weather", "arguments": {"city": "Rome"}}
        assert chat(messages)[1:] == [
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"id": "t1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "sunny\nwarm", "name": "weather"},
        ]

    def test_results_precede_the_text_beside_them_in_any_order(self) -> None:
        calls = {"role": "assistant", "content": [used("a", "1"), used("b", "2")]}
        split = [
            {"role": "user", "content": [text_block("And now?"), result("1")]},
            {"role": "user", "content": [result("2"), text_block("Go on.")]},
        ]
        roles = [message["role"] for message in chat([*HELLO, calls, *split])]
        assert roles == ["user", "assistant", "tool", "tool", "user", "user"]

    def test_a_result_without_its_call_is_accepted(self) -> None:
        (message,) = chat([{"role": "user", "content": [result("t9")]}])
        assert message == {"role": "tool", "tool_call_id": "t9", "content": "sunny"}

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("no such file", "Error: no such file"),
            ([text_block("no such file")], "Error: no such file"),
            ("Error: gone", "Error: gone"),
            ("<tool_use_error>gone</tool_use_error>", "<tool_use_error>gone</tool_use_error>"),
            (None, "Error: "),
        ],
    )
    def test_the_result_of_a_failed_tool_is_marked(self, content: Any, expected: str) -> None:
        (message,) = chat([{"role": "user", "content": [result("t", content, is_error=True)]}])
        assert message["content"] == expected

    def test_reasoning_is_returned_to_the_model_and_unreadable_blocks_are_reported(self) -> None:
        thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
        secret = {"type": "redacted_thinking", "data": "x"}
        searched = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
        found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
        blocks = [thought, secret, searched, found, text_block("Hi.")]
        read_ = translated([*HELLO, {"role": "assistant", "content": blocks}, *HELLO])
        assert read_.sent["messages"][1] == {
            "role": "assistant",
            "content": "Hi.",
            "reasoning_content": "Hm.",
        }
        assert [warning.partition(":")[0] for warning in read_.warnings] == [
            "messages[1].content[2]",
            "messages[1].content[3]",
        ]

    def test_omitted_reasoning_is_read_from_its_signature(self) -> None:
        for text in ("Hm. \u00e9 \U0001f600", "half \ud83d"):
            sent = {"type": "thinking", "thinking": "", "signature": of_text(text, omitted=True)}
            blocks = [sent, text_block("Hi.")]
            found = chat([*HELLO, {"role": "assistant", "content": blocks}, *HELLO])
            assert found[1]["reasoning_content"] == text.replace("\ud83d", "?")

    @pytest.mark.parametrize(
        "signature", [None, 5, "", "EqQB", "text.%", "text./w==", of_text("Hm.", omitted=False)]
    )
    def test_other_signatures_are_ignored(self, signature: Any) -> None:
        blocks = [{"type": "thinking", "thinking": "", "signature": signature}, text_block("Hi.")]
        found = chat([*HELLO, {"role": "assistant", "content": blocks}, *HELLO])
        assert "reasoning_content" not in found[1]

    def test_texts_around_calls_are_separated_as_the_model_wrote_them(self) -> None:
        blocks = [text_block("One."), used("weather", "1"), text_block("Two.")]
        messages = [*HELLO, {"role": "assistant", "content": blocks}, *HELLO]
        assert chat(messages)[1]["content"] == "One.\n\nTwo."

    def test_empty_contents_and_repeated_roles_are_accepted(self) -> None:
        messages: Any = [
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": []},
            {"role": "user", "content": []},
            {"role": "user", "content": [text_block("")]},
            {"role": "user", "content": None},
        ]
        roles = [(m["role"], m["content"]) for m in chat(messages)]
        assert roles == [("assistant", "")] * 2 + [("user", "")] * 3

    def test_text_documents_are_included(self) -> None:
        plain = {"type": "text", "media_type": "text/plain", "data": "It is."}
        pieces = {"type": "content", "content": [text_block("It"), text_block("is.")]}
        documents = [
            {"type": "document", "source": plain, "title": "A"},
            {"type": "document", "source": pieces},
            {"type": "search_result", "source": "u", "title": "T", "content": [text_block("Yes")]},
        ]
        (message,) = chat([{"role": "user", "content": documents}])
        assert message["content"] == "A\nIt is.\n\nIt\nis.\n\nT (u)\nYes"

    @pytest.mark.parametrize(
        ("block", "words"),
        [
            ({"type": "image", "source": {"type": "url", "url": "x"}}, "images are not supported"),
            ({"type": "document", "source": {"type": "base64"}}, "documents other than text"),
            ({"type": "document"}, "documents other than text"),
            ({"type": "hologram"}, "'hologram' is not supported"),
            ({}, "'None' is not supported"),
            ({"type": "text"}, "text is missing"),
            ({"type": "text", "text": 5}, "expected a string"),
            ({"type": "tool_result"}, "tool_use_id is missing"),
        ],
    )
    def test_unsupported_content_is_refused_with_its_place(self, block: Any, words: str) -> None:
        message, param = refused([*HELLO, {"role": "user", "content": [text_block("a"), block]}])
        assert words in message
        assert param is not None
        assert param.startswith("messages[1].content[1]")
        inside = result("t", [block])
        if block.get("type") != "tool_result":
            message, param = refused([{"role": "user", "content": [inside]}])
            assert words in message
            assert str(param).startswith("messages[0].content[0].content[0]")

    def test_a_final_assistant_message_is_continued(self) -> None:
        begun = {"role": "assistant", "content": "The answer is ("}
        assert translated([*HELLO, begun]).sent["continue_final_message"] is True
        for other in ("", [used("weather", "1")]):
            last = {"role": "assistant", "content": other}
            assert "continue_final_message" not in translated([*HELLO, last]).sent


class TestTools:
    def test_client_tools_become_functions(self) -> None:
        strict = TOOL | {"name": "now", "strict": True, "type": "custom", "cache_control": {}}
        found = translated(tools=[TOOL, strict], tool_choice={"type": "auto"})
        parameters = TOOL["input_schema"]
        assert found.sent["tools"] == [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "The weather in a city.",
                    "parameters": parameters,
                },
            },
            {
                "type": "function",
                "function": {
                    "name": "now",
                    "description": "The weather in a city.",
                    "strict": True,
                    "parameters": parameters,
                },
            },
        ]
        assert found.warnings == []

    def test_anthropics_server_tools_are_ignored_and_reported(self) -> None:
        found = translated(tools=[SEARCH, TOOL])
        assert [tool["function"]["name"] for tool in found.sent["tools"]] == ["weather"]
        assert found.warnings == ["tools[0]: web_search_20250305 is a tool of Anthropic's; ignored"]
        assert "tools" not in translated(tools=[SEARCH]).sent

    def test_a_deferred_tool_is_declared_at_its_reference(self) -> None:
        deferred = TOOL | {"name": "later", "defer_loading": True}
        search = TOOL | {"name": "search"}
        reference = {"type": "tool_reference", "tool_name": "later"}
        messages = [
            *HELLO,
            {"role": "assistant", "content": [used("search", "1")]},
            {"role": "user", "content": [result("1", [reference])]},
        ]
        found = translated(messages, tools=[deferred, search])
        assert [tool["function"]["name"] for tool in found.sent["tools"]] == ["search"]
        assert [tool["function"]["name"] for tool in found.deferred_tools] == ["later"]
        text = found.sent["messages"][-1]["content"]
        assert text.startswith('<functions>\n<function>{"description": "The weather in a city.", ')
        assert text.endswith("}</function>\n</functions>")
        assert found.names["tools[0].function"] == "tools[1]"
        unknown = [*messages[:2], {"role": "user", "content": [result("1", [reference])]}]
        assert "later is available" in translated(unknown).sent["messages"][-1]["content"]

    def test_tools_may_be_added_and_removed_during_a_chat(self) -> None:
        deferred = TOOL | {"name": "later", "defer_loading": True}
        reference = {"type": "tool_reference", "name": "later"}
        definition = {"type": "tool_definition", "definition": TOOL}
        changes = [
            {"type": "tool_addition", "tool": reference},
            {"type": "tool_addition", "tool": definition},
            {"type": "tool_removal", "tool": reference},
            {"type": "tool_addition", "tool": {"type": "mcp_toolset_reference"}},
        ]
        found = translated([*HELLO, {"role": "system", "content": changes}], tools=[deferred])
        text = found.sent["messages"][-1]["content"]
        assert text.count("<function>") == 2
        assert text.endswith("The tool later is not available any more.")
        assert [tool["function"]["name"] for tool in found.deferred_tools] == ["later", "weather"]
        assert found.warnings == [
            "messages[1].content[3].tool: type mcp_toolset_reference is unknown; left out"
        ]

    def test_tool_keys_without_effect_are_reported(self) -> None:
        found = translated(tools=[TOOL | {"input_examples": [{"city": "Rome"}]}])
        assert found.warnings == ["tools[0].input_examples: has no effect; ignored"]

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ({"type": "auto"}, {"tool_choice": "auto"}),
            ({"type": "any"}, {"tool_choice": "required"}),
            ({"type": "none"}, {"tool_choice": "none"}),
            (
                {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
                {
                    "tool_choice": {"type": "function", "function": {"name": "weather"}},
                    "parallel_tool_calls": False,
                },
            ),
            (
                {"type": "auto", "disable_parallel_tool_use": False},
                {"tool_choice": "auto"},
            ),
        ],
    )
    def test_every_tool_choice_is_translated(self, choice: Any, expected: Any) -> None:
        sent = translated(tools=[TOOL], tool_choice=choice).sent
        keys = ("tool_choice", "parallel_tool_calls")
        assert {key: sent[key] for key in keys if key in sent} == expected

    @pytest.mark.parametrize(
        ("keys", "param"),
        [
            ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
            ({"tools": [SEARCH, {"input_schema": {}}]}, "tools[1].name"),
            ({"tools": [TOOL | {"strict": "yes"}]}, "tools[0].strict"),
            ({"tools": [TOOL | {"description": 5}]}, "tools[0].description"),
            ({"tools": [5]}, "tools[0]"),
            ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools[0]"),
            ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
            ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
            ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
            ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ],
    )
    def test_invalid_tools_and_choices_are_refused_with_their_key(
        self, keys: Any, param: str
    ) -> None:
        message, found = refused(**keys)
        assert found == param
        assert param in message
