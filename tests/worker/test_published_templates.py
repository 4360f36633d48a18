"""Test requests of every kind with 43 published chat templates; skipped if they are missing."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.server import ResponseGenerator

from reconciler.core.chat_template import takes_tools
from reconciler.worker.chat import probes, rendering
from reconciler.worker.chat.turns import description
from reconciler.worker.prompt import Prompt
from tests.worker.published import ORDINARY, TEMPLATES, UNUSUAL, WEATHER, Chat, Request, user

pytestmark = pytest.mark.skipif(not TEMPLATES, reason="the published chat templates are not here")


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture(scope="module")
def chat(path: Path) -> Chat:
    return Chat(path.read_text("utf-8"), path.stem)


@pytest.fixture(scope="module")
def prompt(chat: Chat) -> Callable[[str], Prompt]:
    """The prompt of a request by its name, rendered once."""

    @cache
    def made(name: str) -> Prompt:
        keys, _ = (ORDINARY | UNUSUAL)[name]
        made: Prompt = chat.prompt(**copy.deepcopy(keys))
        return made

    return made


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.long)])
def asked(request: pytest.FixtureRequest, path: Path) -> dict[str, Request]:
    """Requests to try: all, or the ordinary ones and a third of the others, by template."""
    turn = TEMPLATES.index(path) if request.param == "some" else None
    return ORDINARY | {
        name: one
        for number, (name, one) in enumerate(UNUSUAL.items())
        if turn is None or (number + turn) % 3 == 0
    }


def test_every_request_is_accepted_and_the_model_reads_all_of_it(
    chat: Chat, prompt: Callable[[str], Prompt], asked: dict[str, Request]
) -> None:
    lost = {}
    for name, (_, marks) in asked.items():
        text = chat.tokenizer.decode(prompt(name).tokens)
        lost[name] = [mark for mark in marks if mark not in text]
    assert {name: marks for name, marks in lost.items() if marks} == {}


def _mlx_lm_server(tokenizer: Any, keys: dict[str, Any]) -> list[int] | None:
    """The prompt that mlx_lm.server makes of a request; None if it fails."""
    arguments = SimpleNamespace(chat_template_args={})
    provider = SimpleNamespace(processor=None, cli_args=arguments)
    asked = SimpleNamespace(
        request_type="chat",
        messages=copy.deepcopy(keys["messages"]),
        tools=copy.deepcopy(keys.get("tools")),
        role_mapping=None,
    )
    server = SimpleNamespace(model_provider=provider)
    try:
        args = SimpleNamespace(chat_template_kwargs=None)
        return list(ResponseGenerator._tokenize(server, tokenizer, asked, args)[0])
    except Exception:  # noqa: BLE001  a template raises what it likes
        return None


OTHERWISE = {
    *("a developer turn", "system and developer"),  # developer turns become system turns
    *("no arguments", "a round trip with empty arguments"),  # they become an empty object
    "a continued message",  # mlx_lm.server begins another turn
}
"""Requests that are deliberately read differently."""


def test_the_prompt_equals_that_of_mlx_lm_server_if_it_loses_nothing(
    chat: Chat, prompt: Callable[[str], Prompt], asked: dict[str, Request]
) -> None:
    same = 0
    for name, (keys, marks) in asked.items():
        if name in OTHERWISE or prompt(name).described:
            continue
        theirs = _mlx_lm_server(chat.tokenizer, keys)
        if not theirs:
            continue
        text = chat.tokenizer.decode(theirs)
        if all(mark in text for mark in marks):
            assert prompt(name).tokens == theirs, name
            same += 1
    assert same > 1 or "firefunction" in chat.name  # that template always needs more variables


def test_reports_about_tools_match_the_prompt(path: Path, chat: Chat) -> None:
    source = path.read_text("utf-8")
    prompt = chat.prompt([user()], tools=[WEATHER])
    assert prompt.described is not takes_tools(source)
    text = chat.tokenizer.decode(prompt.tokens)
    assert (description([WEATHER]) in text) is prompt.described
    assert prompt.tools == (WEATHER,)
    assert chat.prompt([user()], tools=[WEATHER], tool_choice="none").tools == ()


def test_the_generation_prompt_is_the_end_of_the_prompt(path: Path, chat: Chat) -> None:
    prompt = chat.prompt([user()])
    text = chat.tokenizer.decode(prompt.tokens)
    assert text.endswith(prompt.generation)
    adds = "add_generation_prompt" in path.read_text("utf-8")
    without = chat.text([user()], add_generation_prompt=False)
    assert bool(prompt.generation) is (adds and without != text)
    assert "USERONE" not in prompt.generation


def test_our_rendering_equals_that_of_transformers(path: Path, chat: Chat) -> None:
    source = path.read_text("utf-8")
    ours = rendering.of_source(chat.tokenizer, source)
    conversations = [keys["messages"] for keys, _ in ORDINARY.values()]
    conversations += [probes._round_trip({"x": 1, "y": {"z": [1, None, "é"]}})]
    same = 0
    for messages in conversations:
        for tools in (None, [WEATHER]):
            for more in ({}, {"enable_thinking": True, "reasoning_effort": "low"}):
                asked: dict[str, Any] = {"tools": tools, "add_generation_prompt": True} | more
                try:
                    theirs = chat.tokenizer.apply_chat_template(messages, tokenize=False, **asked)
                except Exception:  # noqa: BLE001, S112  a template raises what it likes
                    continue
                assert ours(messages, **asked) == theirs
                same += 1
    assert same or "firefunction" in chat.name
