"""Test conversations with small chat templates, each with one peculiarity."""

from typing import Any

import msgspec
import pytest
from mlx_lm.chat_templates import deepseek_v32
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken

from reconciler.worker.errors import RequestError
from reconciler.worker.prompt import Prompts
from reconciler.worker.request import parse
from tests.tiny import new_tokenizer
from tests.worker.published import WEATHER, Chat, call, result, turn, user

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<assistant>{% endif %}"
PLAIN = TURNS + ANSWER

STRICT = (
    """\
{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content | trim }}\
{% endfor %}"""
    + ANSWER
)

SYSTEM_FIRST = (
    """\
{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
{{ raise_exception('system must be first') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}\
"""
    + ANSWER
)

LAST_SYSTEM = (
    """\
{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}\
{% set ns.system = m.content %}{% endif %}{% endfor %}<system>{{ ns.system }}\
{% for m in messages %}{% if m.role in ['user', 'assistant'] %}<{{ m.role }}>{{ m.content }}\
{% endif %}{% endfor %}"""
    + ANSWER
)

CALLS = (
    """\
{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}\
CHECK<call>{{ c.function.name }}{{ ARGUMENTS }}{% endfor %}{% endfor %}"""
    + ANSWER
)

TOOLS = "{% if tools %}<tools>{{ tools | tojson }}{% endif %}"


def calls(arguments: str = "c.function.arguments | tojson", check: str = "") -> str:
    """A template with tool calls."""
    return TOOLS + CALLS.replace("ARGUMENTS", arguments).replace("CHECK", check)


SHORT_IDS = calls(
    check="{% if c.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
)
ONE_CALL = calls(
    check="{% if m.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}"
)
TWO_CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x": 2}'}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "b", "content": "second"},
    {"role": "tool", "tool_call_id": "a", "content": "first"},
]


class TestSystemTurns:
    def test_they_keep_their_place_if_the_template_accepts_them_anywhere(self) -> None:
        messages = [user("a"), turn("assistant", "b"), turn("system", "c"), user("d")]
        assert Chat(PLAIN).text(messages) == "<user>a<assistant>b<system>c<user>d<assistant>"

    def test_developer_becomes_system_unless_the_template_supports_it(self) -> None:
        messages = [turn("developer", "a"), user("b")]
        assert Chat(PLAIN).text(messages) == "<system>a<user>b<assistant>"
        knows = "{# #}{% if messages[0].role == 'developer' %}!{% endif %}" + PLAIN
        assert Chat(knows).text(messages) == "!<developer>a<user>b<assistant>"
        both = [turn("system", "s"), *messages]
        assert Chat(knows).text(both) == "<system>s<system>a<user>b<assistant>"

    @pytest.mark.parametrize("template", [SYSTEM_FIRST, LAST_SYSTEM])
    def test_they_are_merged_at_the_front(self, template: str) -> None:
        messages = [turn("system", "a"), user("b"), turn("system", "c"), turn("developer", "d")]
        assert Chat(template).text(messages) == "<system>a\n\nc\n\nd<user>b<assistant>"

    def test_without_a_system_turn_they_are_merged_into_the_first_user_turn(self) -> None:
        messages = [turn("system", "a"), user("b"), turn("assistant", "c"), turn("system", "d")]
        text = Chat(STRICT).text([*messages, user("e")])
        assert text == "<user>a\n\nd\n\nb<assistant>c<user>e<assistant>"
        assert Chat(STRICT).text(messages[:1]) == "<user>a<assistant>"


class TestRoles:
    def test_consecutive_turns_of_one_role_are_merged_if_roles_must_alternate(self) -> None:
        messages = [user("a"), user("b"), turn("assistant", "c"), turn("assistant", "d")]
        assert Chat(STRICT).text(messages) == "<user>a\n\nb<assistant>c\n\nd<assistant>"
        assert Chat(PLAIN).text(messages[:2]) == "<user>a<user>b<assistant>"

    def test_an_assistant_turn_may_be_the_first(self) -> None:
        text = Chat(STRICT).text([turn("assistant", "a"), user("b")])
        assert text == "<user><assistant>a<user>b<assistant>"

    def test_a_template_that_only_reads_content_parts_gets_parts(self) -> None:
        parts = (
            "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}"
        )
        chat = Chat(parts + "{% endfor %}" + ANSWER)
        assert chat.text([user("a")]) == "<user>a<assistant>"


class TestTools:
    def test_tools_are_described_in_text_if_the_template_takes_none(self) -> None:
        chat = Chat(PLAIN)
        prompt = chat.prompt([turn("system", "a"), user("b")], tools=[WEATHER])
        text = chat.tokenizer.decode(prompt.tokens)
        assert text.startswith("<system>a\n\n# Tools\n")
        assert '{"name": "weather", "description": "Look at the sky"' in text
        assert '<tool_call>\n{"name": "NAME", "arguments": {"KEY": "VALUE"}}\n</tool_call>' in text
        assert text.endswith("<user>b<assistant>")
        assert (prompt.described, prompt.tools) == (True, (WEATHER,))
        assert Chat(STRICT).text([user("b")], tools=[WEATHER]).startswith("<user># Tools\n")

    def test_earlier_calls_are_described_in_the_same_form(self) -> None:
        text = Chat(STRICT).text([user("a"), call(content="b"), result("c"), user("d")])
        written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
        answer = "<tool_response>\nc\n</tool_response>"
        assert text == f"<user>a<assistant>b\n{written}<user>{answer}\n\nd<assistant>"

    def test_tool_choice_none_removes_the_tools(self) -> None:
        for template in (PLAIN, calls()):
            prompt = Chat(template).prompt([user()], tools=[WEATHER], tool_choice="none")
            assert (prompt.tools, prompt.described) == ((), False)
            assert prompt.tokens == Chat(template).prompt([user()]).tokens

    def test_tools_are_undefined_or_empty_as_the_template_requires(self) -> None:
        template = "{% if tools is defined %}{{ tools | length }} tools{% endif %}" + PLAIN
        assert Chat(template).text([user("a")]) == "<user>a<assistant>"
        assert Chat(template).text([user("a")], tools=[WEATHER]).startswith("<user>a") is False
        listed = "{{ tools | tojson }}" + PLAIN.replace("m.content", "m.content + tools[:0] | join")
        assert Chat(listed).text([user("a")]).startswith("[]<user>")

    def test_tools_are_an_empty_list_if_a_template_iterates_over_them(self) -> None:
        text = Chat("{% for t in tools %}{{ t.function.name }}{% endfor %}" + PLAIN)
        assert text.text([user("a")]) == "<user>a<assistant>"
        assert text.text([user("a")], tools=[WEATHER]) == "weather<user>a<assistant>"

    @pytest.mark.parametrize(
        ("template", "shown"),
        [
            ("{% if xml_tools %}{{ xml_tools | tojson }}{% endif %}" + PLAIN, '[{"type": '),
            ("{{ datetime[:0] + functions }}" + PLAIN, '[{"name": "weather", '),
            ("{% if messages[0].tools %}{{ messages[0]['tools'] }}{% endif %}" + PLAIN, '[{"name"'),
        ],
    )
    def test_tools_are_passed_under_any_name_that_a_template_reads(
        self, template: str, shown: str
    ) -> None:
        chat = Chat(template)
        prompt = chat.prompt([user("a")], tools=[WEATHER])
        assert chat.tokenizer.decode(prompt.tokens).startswith(shown)
        assert not prompt.described
        assert chat.text([user("a")]).endswith("<user>a<assistant>")

    def test_a_separate_template_for_tools_is_used_for_tools(self) -> None:
        chat = Chat({"default": PLAIN, "tool_use": "USE" + calls()})
        assert chat.text([user("a")]) == "<user>a<assistant>"
        assert chat.text([user("a")], tools=[WEATHER]).startswith("USE<tools>")

    def test_missing_tool_fields_are_filled_in_if_a_template_reads_them(self) -> None:
        reads = "{% for t in tools or [] %}{{ t.function.parameters.properties.keys() | list }}"
        reads += "{{ t.function.name }}{% endfor %}"
        bare = {"type": "function", "function": {"name": "f", "description": None}}
        assert Chat(reads + PLAIN).text([user("a")], tools=[bare]) == "[]f<user>a<assistant>"
        assert '"function": {"name": "f"}}]' in Chat(calls()).text([user("a")], tools=[bare])

    @pytest.mark.parametrize(
        "parameters",
        [
            {"type": "object"},
            {},
            {"type": "object", "properties": []},
            {"type": "object", "properties": {"x": {"type": "string"}}, "required": None},
            {"type": "object", "properties": {"x": {"type": ["null", "string"]}}},
            {"type": "object", "properties": {"x": {"type": "string", "description": None}}},
            {"type": "object", "properties": {"x": True}},
        ],
    )
    def test_a_schema_is_simplified_if_a_template_requires_it(self, parameters: Any) -> None:
        reads = """\
{% for t in tools or [] %}<tool>{{ t.function.name }}\
{% for k, v in t.function.parameters.properties.items() %}<{{ k + ':' + (v.type or 'any') }}\
{% if 'description' in v %}{{ ' ' + v.description }}{% endif %}>{% endfor %}\
{{ t.function.parameters.required | join(',') }}{% endfor %}"""
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        prompt = Chat(reads + PLAIN).prompt([user("a")], tools=[tool])
        assert not prompt.described


class TestCalls:
    def test_arguments_are_an_object(self) -> None:
        for sent in ('{"x": 1}', {"x": 1}, '"{\\"x\\": 1}"'):
            text = Chat(calls()).text([user("a"), call(sent), result("b")])
            assert text == '<user>a<assistant><call>weather{"x": 1}<tool>b<assistant>'
        for empty in ("", " ", None, "{}"):
            text = Chat(calls()).text([user("a"), call(empty), result("b")])
            assert "<call>weather{}<tool>" in text

    def test_arguments_are_text_if_a_template_requires_text(self) -> None:
        text = Chat(calls("c.function.arguments + ''")).text([user("a"), call(), result("b")])
        assert '<call>weather{"city": "Oslo"}<tool>' in text

    def test_arguments_that_are_not_json_are_wrapped_if_an_object_is_required(self) -> None:
        messages = [user("a"), call("say {hi"), result("b")]
        assert '<call>weather"say {hi"' in Chat(calls()).text(messages)
        pairs = "c.function.arguments.items() | list | tojson"
        assert '<call>weather[["arguments", "say {hi"]]' in Chat(calls(pairs)).text(messages)

    def test_call_ids_have_nine_characters_if_the_template_requires_it(self) -> None:
        template = SHORT_IDS.replace("<call>", "{{ c.id }}|").replace(
            "<{{ m.role }}>", "<{{ m.role }}>{{ m.tool_call_id }}|"
        )
        text = Chat(template).text([user("a"), call(), result("b")])
        _, sent, back, _ = (part.split("|")[0] for part in text.split(">")[1:])
        id_ = text.partition("<assistant>|")[2].partition("|")[0]
        assert len(id_) == 9
        assert back == id_ != sent
        named = call(tool_calls=[{"id": "abcDEF123", "function": {"name": "f"}}])
        assert "abcDEF123|f{}" in Chat(template).text([user("a"), named, result("b")])

    def test_each_of_several_calls_has_its_own_turn_and_result(self) -> None:
        text = Chat(ONE_CALL).text([user("a"), TWO_CALLS, *RESULTS, user("z")])
        assert text == (
            '<user>a<assistant><call>f{"x": 1}<tool>first'
            '<assistant><call>g{"x": 2}<tool>second<user>z<assistant>'
        )

    def test_a_result_without_its_call_becomes_a_user_turn_if_it_would_be_lost(self) -> None:
        needs = calls().replace(
            "{% for m in messages %}",
            "{% for m in messages %}{% if m.role == 'tool' and not (loop.index0 and"
            " messages[loop.index0 - 1].tool_calls) %}{{ raise_exception('no call') }}{% endif %}",
        )
        chat = Chat(needs)
        prompt = chat.prompt([user("a"), result("b")], tools=[WEATHER])
        text = chat.tokenizer.decode(prompt.tokens)
        assert text.endswith("<user>a<user><tool_response>\nb\n</tool_response><assistant>")
        assert not prompt.described
        assert Chat(calls()).text([user("a"), result("b")]) == "<user>a<tool>b<assistant>"

    def test_a_template_that_reads_only_results_gets_calls_in_the_text(self) -> None:
        reads = TOOLS + "{# <|tool_call|> #}" + PLAIN
        text = Chat(reads).text([user("a"), call(), result("b")], tools=[WEATHER])
        written = '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]'
        assert text.endswith(f"<user>a<assistant>{written}<tool>b<assistant>")

    def test_reasoning_is_passed_under_any_name(self) -> None:
        for sent in ("reasoning_content", "reasoning", "thinking"):
            for read in ("reasoning_content", "thinking"):
                template = PLAIN.replace("{{ m.content", f"{{{{ m.{read} }}}}{{{{ m.content")
                messages = [user("a"), turn("assistant", "b") | {sent: "why "}]
                assert "<assistant>why b" in Chat(template).text(messages)


class TestContinuing:
    def test_the_answer_continues_at_the_end_of_the_last_message(self) -> None:
        template = PLAIN.replace("{{ m.content }}", "{{ m.content }}<end>")
        messages = [user("a"), turn("assistant", "b ")]
        for keys in ({"continue_final_message": True}, {}):
            more = {} if keys else {"prefix": True}
            prompt = Chat(template).prompt([messages[0], messages[1] | more], **keys)
            assert Chat(template).tokenizer.decode(prompt.tokens) == "<user>a<end><assistant>b "
            assert prompt.generation == "b "

    def test_the_generation_prompt_can_be_omitted(self) -> None:
        prompt = Chat(PLAIN).prompt([user("a")], add_generation_prompt=False)
        assert Chat(PLAIN).tokenizer.decode(prompt.tokens) == "<user>a"
        assert prompt.generation == ""

    @pytest.mark.parametrize(
        ("messages", "keys"),
        [
            ([user("a")], {"continue_final_message": True}),
            (
                [user("a"), turn("assistant", "b")],
                {"continue_final_message": True, "add_generation_prompt": True},
            ),
        ],
    )
    def test_a_conversation_that_cannot_be_continued_is_refused(
        self, messages: Any, keys: Any
    ) -> None:
        with pytest.raises(RequestError, match="continue_final_message"):
            Chat(PLAIN).prompt(messages, **keys)


def test_a_tokenizer_may_lack_special_tokens() -> None:
    chat = Chat("{{ pad_token + unk_token + messages[0].content }}")
    assert chat.tokenizer.pad_token is None
    assert chat.text([user("a")]) == "a"


class TestGeneration:
    def test_it_is_the_text_that_the_template_adds(self) -> None:
        assert Chat(PLAIN).prompt([user("<assistant>")]).generation == "<assistant>"

    def test_it_is_complete_if_the_template_otherwise_ends_differently(self) -> None:
        template = TURNS + "{% if add_generation_prompt %}<|asked|>\n{% else %}<|end|>{% endif %}"
        assert Chat(template).prompt([user("a")]).generation == "<|asked|>\n"


class TestReasoning:
    def test_every_request_key_sets_every_template_switch(self) -> None:
        template = "{{ enable_thinking }}{{ thinking }}{{ reasoning_effort }}" + PLAIN
        for keys, shown in (
            ({"reasoning_effort": "none"}, "FalseFalsenone"),
            ({"reasoning_effort": "high"}, "TrueTruehigh"),
            ({"reasoning": {"effort": "low"}}, "TrueTruelow"),
            ({"enable_thinking": True}, "TrueTrue"),
            ({"think": False}, "FalseFalse"),
            ({"think": "medium"}, "TrueTruemedium"),
            ({"reasoning": "off"}, "FalseFalse"),
            ({"thinking": {"type": "disabled"}}, "FalseFalse"),
            ({"chat_template_kwargs": {"thinking": 5}, "think": False}, "False5"),
        ):
            assert Chat(template).text([user("a")], **keys).startswith(f"{shown}<user>"), keys

    def test_a_model_without_a_switch_causes_a_warning_and_no_refusal(self) -> None:
        (warning,) = Chat(PLAIN).prompt([user("a")], reasoning_effort="low").warnings
        assert warning.startswith("reasoning_effort: this model does not reason")
        assert Chat(PLAIN).prompt([user("a")], reasoning_effort="none").warnings == ()


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """Prompts of a model whose chat template is code."""
    tokenizer = new_tokenizer()
    tokenizer.chat_template = None
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("<think>", "</think>")])
    wrapped = TokenizerWrapper(tokenizer, chat_template=deepseek_v32.apply_chat_template)
    return Prompts(wrapped, len(tokenizer))


def test_variables_that_a_template_does_not_use_are_reported() -> None:
    chat = Chat("{% if style %}{{ style }}{% endif %}" + PLAIN)
    sent = {"style": "terse", "stile": "x", "enable_thinking": False}
    (warning,) = chat.prompt([user("a")], chat_template_kwargs=sent).warnings
    assert warning.startswith("chat_template_kwargs.stile: ")


class TestCode:
    """Test DeepSeek V3.2's template, a function of mlx-lm that refuses unknown arguments."""

    @pytest.mark.parametrize(
        ("keys", "thinks"),
        [
            ({}, True),
            ({"reasoning_effort": "high"}, True),
            ({"reasoning_effort": "none"}, False),
            ({"enable_thinking": False}, False),
            ({"thinking": {"type": "disabled"}}, False),
        ],
    )
    def test_reasoning_is_switched_on_and_off(
        self, prompts: Prompts, keys: dict[str, Any], *, thinks: bool
    ) -> None:
        body = {"messages": [user("a")]} | keys
        prompt = prompts.build(parse(msgspec.json.encode(body)), chat=True)
        assert prompt.generation.endswith("<think>") is thinks
        assert prompt.warnings == ()

    @pytest.mark.parametrize("front", [[], [turn("system", "Be brief.")]])
    def test_tools_are_included_with_and_without_a_system_turn(
        self, prompts: Prompts, front: list[Any]
    ) -> None:
        body = {"messages": [*front, user("a")], "tools": [WEATHER]}
        prompt = prompts.build(parse(msgspec.json.encode(body)), chat=True)
        assert WEATHER["function"]["name"] in prompts._tokenizer.decode(prompt.tokens)
        assert not prompt.described
