"""Test prompts of Anthropic Messages requests, and the recorded requests of Claude Code."""

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
from reconciler.worker.dialects.messages.reading import read
from reconciler.worker.errors import RequestError
from reconciler.worker.preprocessing.work import prepare
from reconciler.worker.prompt import Prompts
from reconciler.worker.request import Body, of_keys
from tests.worker.test_messages_reading import HELLO, SEARCH, TOOL, asked, text_block, translated


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
