"""Test the translation of Anthropic Messages requests to chat completions."""

import copy
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlx_lm.utils import load_tokenizer

from reconciler.core.dialects import Dialect
from reconciler.demo import DEMO_MODEL
from reconciler.worker.dialects.messages.reading import read, read_to_count
from reconciler.worker.dialects.messages.signatures import of_text
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError
from reconciler.worker.preprocessing.work import prepare
from reconciler.worker.prompt import Prompts
from reconciler.worker.request import Body, of_keys

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


class TestKeys:
    def test_sampling_and_stops_are_translated(self) -> None:
        keys: Any = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 7, "stream": True}
        sent = translated(stop_sequences=["a", "b"], **keys).sent
        assert {key: sent[key] for key in keys} == keys
        assert (sent["stop"], sent["max_tokens"], sent["model"]) == (["a", "b"], 10, "m")

    @pytest.mark.parametrize(
        ("keys", "param"),
        [
            ({"temperature": 1.5}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_p": 2}, "top_p"),
            ({"top_k": -1}, "top_k"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"stop_sequences": "a"}, "stop_sequences"),
            ({"stop_sequences": [""]}, "stop_sequences[0]"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
            ({"messages": [{"content": "a"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
            ({"system": 5}, "system"),
            ({"system": [{"type": "image"}]}, "system[0]"),
            ({"thinking": {"type": "sometimes"}}, "thinking.type"),
            ({"thinking": True}, "thinking"),
            ({"output_config": {"effort": "none"}}, "output_config.effort"),
            ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ],
    )
    def test_an_invalid_value_is_refused_with_its_key(self, keys: Any, param: str) -> None:
        message, found = refused(**keys)
        assert found == param
        assert message.startswith(param)

    @pytest.mark.parametrize("key", ["max_tokens", "messages"])
    def test_required_keys_must_be_present(self, key: str) -> None:
        body = asked()
        del body[key]
        with pytest.raises(RequestError, match=f"^{key} is missing") as error:
            read(body)
        assert (error.value.code, error.value.param) == ("missing_required_parameter", key)

    def test_keys_that_clients_always_send_pass_and_others_are_reported(self) -> None:
        keys: Any = {
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "cache_control": {"type": "ephemeral"},
            "container": None,
            "mcp_servers": [],
        }
        assert translated(**keys).warnings == []
        found = translated(mcp_servers=[{"name": "x"}], output_config={"task_budget": {}}, magic=1)
        assert found.warnings == [
            "mcp_servers: has no effect here; ignored",
            "magic: has no effect here; ignored",
            "output_config.task_budget: has no effect here; ignored",
        ]

    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            ({}, {}),
            ({"thinking": {"type": "adaptive"}}, {}),
            ({"thinking": {"type": "enabled"}}, {"enable_thinking": True}),
            ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
            ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
            (
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
                {"reasoning_effort": "max"},
            ),
            (
                {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
                {"enable_thinking": False},
            ),
        ],
    )
    def test_reasoning_is_enabled_as_requested(self, keys: Any, expected: Any) -> None:
        sent = translated(**keys).sent
        found = {k: sent[k] for k in ("enable_thinking", "reasoning_effort") if k in sent}
        assert found == expected

    def test_a_budget_applies_only_if_reasoning_is_enabled(self) -> None:
        enabled = {"type": "enabled", "budget_tokens": 2000}
        assert translated(thinking=enabled).sent["thinking_budget"] == 2000
        for other in ({"type": "adaptive"}, {"type": "disabled"}, {"type": "enabled"}):
            assert translated(thinking=other).sent.get("thinking_budget") is None

    def test_a_schema_is_read_from_both_keys(self) -> None:
        form = {"type": "json_schema", "schema": {"type": "object"}}
        for keys in ({"output_config": {"format": form}}, {"output_format": form}):
            body = of_keys(translated(**keys).sent, chat=True)
            assert body.constraint is not None
            assert body.constraint.is_json
        message, param = refused(output_config={"format": form}, output_format=form)
        assert param == "output_format"
        assert "exclude each other" in message

    def test_zero_max_tokens_warms_the_prompt_cache(self) -> None:
        found = translated(max_tokens=0)
        assert (found.sent["max_tokens"], found.echo["max_tokens"]) == (1, 0)

    def test_a_token_count_needs_no_max_tokens_and_has_the_same_prompt(self) -> None:
        body = asked(system="Be kind.", tools=[TOOL], thinking={"type": "adaptive"})
        whole = read(body).sent
        del body["max_tokens"]
        counted = read_to_count(body).sent
        assert counted["messages"] == whole["messages"]
        assert counted["tools"] == whole["tools"]


class Prepared:
    """Render requests as the preprocessing process does, with a given template."""

    def __init__(self, template: str | None = None) -> None:
        tokenizer = load_tokenizer(DEMO_MODEL)
        if template is not None:
            tokenizer.chat_template = template
        self.tokenizer = tokenizer
        self.prompts = Prompts(tokenizer, len(tokenizer.get_vocab()), rewinds=True)

    def body(self, body: Any) -> Body:
        return prepare(self.prompts, msgspec.json.encode(body), {}, None, Dialect.MESSAGES)[0]

    def text(self, body: Any) -> str:
        _, prompt = prepare(self.prompts, msgspec.json.encode(body), {}, None, Dialect.MESSAGES)
        return str(self.tokenizer.decode(prompt.tokens))


@pytest.fixture(scope="module")
def anywhere() -> Prepared:
    return Prepared()


STRICT = """\
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('system') }}{% endif %}
{%- if message.role not in ('system', 'user', 'assistant') %}{{ raise_exception('role') }}\
{% endif %}
{%- if not loop.first and message.role == loop.previtem.role %}{{ raise_exception('twice') }}\
{% endif %}<{{ message.role }}>{{ message.content }}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
"""A template that takes one system turn, at the front, and alternating roles."""


EFFORT = """\
{{ reasoning_effort }}{% if reasoning_effort == 'xhigh' %}!{% endif %}
{%- for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"""
"""A template that writes an effort, including one that most templates do not have."""

PLAIN = """\
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('system') }}{% endif %}
{%- if message.role != 'tool' %}<{{ message.role }}>{{ message.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
"""A template that takes one system turn, at the front, roles in any order, and no tools."""


class TestPrompts:
    def test_a_late_system_message_is_rendered_where_it_was_sent(self, anywhere: Prepared) -> None:
        late = {"role": "system", "content": "It is night."}
        body = asked([*HELLO, late], system="Be kind.")
        text = anywhere.text(body)
        assert text.index("Hello") < text.index("<|im_start|>system\nIt is night.")
        strict = Prepared(STRICT).text(body)
        reminder = "<system-reminder>\nIt is night.\n</system-reminder>"
        assert strict == f"<system>Be kind.<user>Hello\n\n{reminder}<assistant>"

    def test_errors_name_the_keys_that_the_client_sent(self, anywhere: Prepared) -> None:
        bad = {"type": "object", "not": {}}
        form = {"type": "json_schema", "schema": bad}
        strict = TOOL | {"strict": True, "input_schema": bad}
        for keys, name in (
            ({"output_config": {"format": form}}, "output_config.format"),
            ({"output_format": form}, "output_format"),
            ({"tools": [SEARCH, TOOL, strict]}, "tools[2].input_schema"),
        ):
            with pytest.raises(RequestError) as error:
                anywhere.body(asked(**keys))
            assert error.value.param == name
            assert str(error.value).startswith(f"{name} cannot be enforced")

    @pytest.mark.parametrize(
        ("effort", "expected", "warned"),
        [("low", "low", False), ("xhigh", "xhigh!", False), ("max", "high", True)],
    )
    def test_an_effort_that_the_model_does_not_support_becomes_the_nearest(
        self, effort: str, expected: str, warned: bool
    ) -> None:
        sent = msgspec.json.encode(asked(output_config={"effort": effort}))
        prepared = Prepared(EFFORT)
        _, prompt = prepare(prepared.prompts, sent, {}, None, Dialect.MESSAGES)
        assert prepared.tokenizer.decode(prompt.tokens).startswith(f"{expected}<user>")
        words = "output_config.effort: this model does not support max; high is used"
        assert prompt.warnings == ((words,) if warned else ())

    def test_warnings_name_the_keys_that_the_client_sent(self) -> None:
        _, prompt = prepare(
            Prepared(STRICT).prompts,
            msgspec.json.encode(asked(output_config={"effort": "low"})),
            {},
            None,
            Dialect.MESSAGES,
        )
        assert [w.partition(":")[0] for w in prompt.warnings] == ["output_config.effort"]


def recorded(version: str) -> Any:
    """The last request of a `claude -p` that read a file, with its texts replaced; keys, blocks
    and tools are as Claude Code sent them."""
    name = f"claude_code_{version.replace('.', '_')}.json"
    return json.loads(Path(__file__).with_name(name).read_text("utf-8"))


@pytest.fixture(scope="module", params=["2.1.197", "2.1.332"])
def claude_code(request: pytest.FixtureRequest) -> Any:
    return recorded(request.param)


class TestClaudeCode:
    def test_its_request_is_read_without_a_warning(self, claude_code: Any) -> None:
        found = translated(**claude_code)
        assert found.warnings == []
        assert found.reminders == [2]
        assert "x-anthropic-billing-header" not in json.dumps(found.sent)
        assert found.sent["reasoning_effort"] == "high"
        assert found.sent["stream"] is True

    def test_a_request_with_all_its_tools_is_read(self) -> None:
        sent = translated(**recorded("2.1.197")).sent
        roles = [message["role"] for message in sent["messages"]]
        assert roles == ["system", "user", "system", "assistant", "tool"]
        assert len(sent["tools"]) == 24

    def test_a_request_with_deferred_tools_is_read(self) -> None:
        found = translated(**recorded("2.1.332"))
        roles = [message["role"] for message in found.sent["messages"]]
        assert roles == ["system", "user", "system", "assistant", "tool", "assistant", "tool"]
        assert found.echo["omits_thinking"]
        assert found.sent["messages"][3]["reasoning_content"] == "I look for it."
        offered = [tool["function"]["name"] for tool in found.sent["tools"]]
        deferred = [tool["function"]["name"] for tool in found.deferred_tools]
        assert deferred == ["Monitor", "WebFetch", "DeferredToolPlaceholder"]
        assert len(offered) == 11
        assert not set(offered) & set(deferred)
        first, *lines, last = found.sent["messages"][4]["content"].splitlines()
        assert (first, last) == ("<functions>", "</functions>")
        assert [json.loads(line[10:-11])["name"] for line in lines] == ["WebFetch", "Monitor"]

    def test_the_prompt_of_a_turn_begins_with_that_of_the_turn_before(
        self, anywhere: Prepared, claude_code: Any
    ) -> None:
        second = anywhere.text(claude_code)
        first = anywhere.text(claude_code | {"messages": claude_code["messages"][:2]})
        before = first.rpartition("<|im_start|>assistant")[0]
        assert len(before) > 1000
        assert second.startswith(before)

    @pytest.mark.parametrize("template", [PLAIN, STRICT])
    def test_prompts_share_their_beginning_also_if_the_template_takes_no_tools(
        self, claude_code: Any, template: str
    ) -> None:
        prepared = Prepared(template)
        messages = claude_code["messages"]
        texts = [
            prepared.text(claude_code | {"messages": messages[:end]})
            for end in range(2, len(messages) + 1, 2)
        ]
        assert len(texts) > 1
        for before, after in pairwise(texts):
            assert after.startswith(before.removesuffix("<assistant>"))

    def test_conversations_share_the_system_prompt(
        self, anywhere: Prepared, claude_code: Any
    ) -> None:
        billing, *rest = claude_code["system"]
        other = text_block(
            "x-anthropic-billing-header: cc_version=2.1.197.b07; cc_is_subagent=true;"
        )
        assert billing["text"] != other["text"]
        assert anywhere.text(claude_code | {"system": [other, *rest]}) == anywhere.text(claude_code)


ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", [], {}, [[]], [{}], [5], {"type": "x"})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside a value, except inside schemas."""
    yield path
    if "input_schema" in path:
        return
    pairs: Any = enumerate(value) if isinstance(value, list) else ()
    for key, inner in value.items() if isinstance(value, dict) else pairs:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], odd)
    return changed


def refusal(body: Any) -> RequestError | None:
    try:
        of_keys(read(body).sent, chat=True)
    except RequestError as error:
        return error
    return None


def test_any_odd_value_is_accepted_or_refused_with_its_place(claude_code: Any) -> None:
    body = asked(
        **claude_code | {"tools": claude_code["tools"][-3:], "tool_choice": {"type": "any"}}
    )
    body |= {"thinking": {"type": "enabled", "budget_tokens": 5}, "stop_sequences": ["a"]}
    refusals = [
        error
        for path in list(places(body))[1:]
        for odd in ODD
        if (error := refusal(replaced(body, path, odd))) is not None
    ]
    assert len(refusals) > 300
    for error in refusals:
        assert error.param is None or error.param.partition("[")[0] in str(error)
        assert len(str(error)) < 1100


def test_whole_numbers_may_be_written_as_floats() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024.0}
    call = used("weather", "1", degrees=21.0)
    messages = [HELLO[0], {"role": "assistant", "content": [call]}]
    sent = translated(messages, max_tokens=2000.0, top_k=5.0, thinking=thinking).sent
    assert (sent["max_tokens"], sent["top_k"]) == (2000, 5)
    # Text that a model reads is not changed.
    assert '"degrees": 21.0' in json.dumps(sent["messages"][1])
    assert refused(max_tokens=1.5)[1] == "max_tokens"
