"""Test chat templates that fail, never end or use too much memory, and too long prompts."""

import threading
from typing import Any

import pytest

from reconciler.worker.chat import bounded, rendering
from reconciler.worker.errors import RequestError
from reconciler.worker.request import parse
from tests.worker.published import WEATHER, Chat, user
from tests.worker.test_templates import PLAIN

EXTENDING = "{% set x = [1] %}{% for i in range(99) %}{% set _ = x.extend(x) %}{% endfor %}"

GROWING = """\
{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}"""
"""A number that grows until memory is exhausted."""


class TestHostileTemplates:
    @pytest.mark.parametrize(
        "template",
        [
            "{% for",
            "{{ 1 / 0 }}",
            "{{ messages | no_such_filter }}",
            "{{ 'x' * 99999999999 }}",
            "{{ 9 ** 9 ** 9 }}",
            GROWING,
            GROWING.replace("n=9", "n='x'").replace("ns.n * ns.n", "ns.n + ns.n"),
            GROWING.replace("n=9", "n='x'").replace("ns.n * ns.n", "ns.n ~ ns.n"),
            "{{ 'x'.ljust(99999999999) }}",
            "{{ 'x' | center(99999999999) }}",
            "{{ [1] * 99999999999 }}",
            "{{ messages | tojson(indent=99999999999) }}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{{ ''.__class__.__mro__ }}",
            "{{ raise_exception('not today') }}",
            "{{ range(999999999) | list }}",
            "{{ '%999999999s' % 'x' }}",
            "{{ '%*s' % (999999999, 'x') }}",
            "{{ '%999999999s' | format('x') }}",
            "{{ '{:>999999999}'.format('x') }}",
            "{{ '{:>{w}}'.format('x', w=999999999) }}",
            "{% for i in range(99999) %}{{ 'a' * 1000000 }}{% endfor %}",
            pytest.param(EXTENDING, marks=pytest.mark.long),
        ],
    )
    def test_they_fail_only_their_own_requests(self, template: str) -> None:
        chat = Chat(template)
        with pytest.raises(RequestError, match="chat template") as raised:
            chat.prompt([user("a")], tools=[WEATHER])
        assert (raised.value.status, raised.value.param) == (400, "messages")
        assert len(str(raised.value)) < 1000

    def test_an_endless_template_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rendering, "SECONDS", 0.2)
        loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        chat = Chat(loop)
        with pytest.raises(RequestError, match="did not finish within"):
            chat.prompt([user("a")])
        for thread in threading.enumerate():
            if thread.name == "bounded":
                thread.join(60)
                assert not thread.is_alive()

    def test_all_renderings_of_a_request_share_a_time_limit(self) -> None:
        chat = Chat(PLAIN)
        chat.prompt([user("a")])  # detects what the template accepts
        with bounded.budget(0.0), pytest.raises(RequestError, match="used up the time limit"):
            chat.prompt([user("a")])
        assert chat.prompt([user("a")]).tokens

    def test_reserved_variables_cannot_be_set_by_a_request(self) -> None:
        for name in ("chat_template", "tokenize", "tools", "return_dict", "messages", "_x"):
            with pytest.raises(RequestError, match=name) as raised:
                Chat(PLAIN).prompt([user("a")], chat_template_kwargs={name: True})
            assert raised.value.param == "chat_template_kwargs"


def test_a_prompt_that_is_certainly_too_long_is_refused_before_it_is_tokenised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    chat = Chat(PLAIN)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    body = parse(b'{"messages": [{"role": "user", "content": "%s"}]}' % (b"long" * 9000))
    assert chat.prompts.build(body, 40_000, chat=True).tokens
    monkeypatch.setattr(type(chat.tokenizer), "encode", never, raising=False)
    with pytest.raises(RequestError, match="context length") as raised:
        chat.prompts.build(body, 50, chat=True)
    assert raised.value.code == "context_length_exceeded"
